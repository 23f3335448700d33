"""Data that every run makes itself: random ids and tables, functions of one variable."""

from __future__ import annotations

from lesson.data.origin import Origin


class Made:
    """Nothing to read: each run draws the data from its seed."""

    origin = Origin("data made by each run", "made")

    def learnable(self, seeds: int) -> list[str]:  # noqa: ARG002 - as other data have it
        """Notes before the first run: none."""
        return []
