"""Parts of the lesson that calculation decides: one function per part of a claim.

A check returns whether its part holds, and the figure that shows it. Some parts of the lesson are false: then the check
expects "false", which is asserted like the rest. Each file is a topic; each function decorated with `exact` is a check.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Found(NamedTuple):
    """Whether a part holds, and the figure for readers."""

    holds: bool
    figure: str


Function = Callable[[], Found]


@dataclass(frozen=True)
class Check:
    """A part of a claim, and the function that decides it.

    Attributes:
        part: "19", "51a", or "slip 15".
        expected: the known answer.
        by_construction: it is about fastai's code, which ours is ported from, so that the port agrees proves nothing.
        source: where the figure or the code comes from.
        run: decides whether it holds.
    """

    part: str
    expected: bool
    by_construction: bool
    source: str | None
    run: Function

    @property
    def name(self) -> str:
        """The function, such as "decay.under_plain_sgd_an_l2_penalty_is_weight_decay"."""
        return f"{self.run.__module__.rpartition('.')[2]}.{self.run.__name__}"

    @property
    def says(self) -> str:
        """The sentence that holds, or does not: the first line of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]


CHECKS: dict[str, Check] = {}


def exact(
    part: str, expected: bool = True, *, by_construction: bool = False, source: str | None = None
) -> Callable[[Function], Function]:
    """Register a check.

    Args:
        part: the part of a claim that it decides, such as "51a", or "slip 15".
        expected: whether the part holds.
        by_construction: whether it is a fact about fastai's code; then the source must be cited.
        source: the code or the figures it follows.

    Raises:
        ValueError: the part has a check already, or a source is missing.
    """

    def register(run: Function) -> Function:
        if part in CHECKS:
            raise ValueError(f"{part}: {CHECKS[part].name} already checks it; give {run.__name__} another part")
        if by_construction and not source:
            raise ValueError(f"{part}: {run.__name__} holds by construction; cite the code that it follows")
        CHECKS[part] = Check(part, expected, by_construction, source, run)
        return run

    return register


def checks() -> list[Check]:
    """All checks, in the order of the claims; errors of the notes come last."""
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")
    return sorted(CHECKS.values(), key=_place)


def _place(check: Check) -> tuple[bool, int, str]:
    number = re.search(r"\d+", check.part)
    return check.part.startswith("slip"), int(number[0]) if number else 0, check.part
