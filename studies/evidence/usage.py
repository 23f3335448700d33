"""Usage errors of commands, without passwords."""

from __future__ import annotations

from typing import Any

import typer.core
import typer.exceptions

from studies.evidence.outside import printable, without_password


class Command(typer.core.TyperCommand):
    """A command whose usage errors mask a password given in a wrong place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as typer does."""
        try:
            return super().parse_args(ctx, args)
        except typer.exceptions.TyperException as error:
            error.message = printable(without_password(error.message))
            raise
