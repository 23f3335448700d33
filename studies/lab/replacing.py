"""Checks what a run may replace: never a result that holds more, never a file that another program wrote."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from studies.evidence.outcomes import MIN_SEEDS
from studies.evidence.schema import CURVES, RUNS, SUMMARY, ResultsError, Summary, read_summary
from studies.lab.spec import Study, counted

OUR_COLUMNS = {"key", "arm", "kind", "seed"}  # of both tables


class ReplaceError(RuntimeError):
    """The folder's files are not this study's results on this data: the message says what they are and what to do."""


@dataclass(frozen=True)
class Extent:
    """How much a result holds.

    Attributes:
        profile: the profile's name.
        seeds: that its arms trained on.
        trials: choices of the tuned settings tried for each arm; 0 if nothing was tuned.
        arms: their names, without the untuned copy of the baseline.
        fewest: seeds of the arm that has the fewest, because some of its runs failed.
    """

    profile: str
    seeds: int
    trials: int
    arms: frozenset[str]
    fewest: int

    @classmethod
    def of(cls, summary: Summary) -> Extent:
        """The extent of a result."""
        by_default = {by_default_name(str(summary.baseline), tuned.chosen) for tuned in summary.tuning}
        return cls(
            profile=summary.profile,
            seeds=len(summary.provenance.seeds),
            trials=min((len(tuning.trials) for tuning in summary.tuning), default=0),
            arms=frozenset(summary.arms.keys() - by_default),
            fewest=summary.seeds,
        )

    def exceeds(self, other: Extent) -> bool:
        """Whether it holds anything that the other, of the same profile, lacks.

        A smoke run, with too few seeds for a verdict, never exceeds a result that has one.
        """
        if self.seeds < MIN_SEEDS <= other.seeds:
            return False
        more = self.seeds > other.seeds or self.fewest > other.fewest or self.trials > other.trials
        return more or not self.arms <= other.arms

    def __str__(self) -> str:
        tuned = f"tuned by {counted(self.trials, 'trial')} per arm" if self.trials else "nothing tuned"
        return f"profile {self.profile}, {counted(self.seeds, 'seed')}, {tuned}, {counted(len(self.arms), 'arm')}"


def by_default_name(baseline: str, tuned: Iterable[str]) -> str:
    """The name of the baseline with untuned settings, shown beside the tuned baseline."""
    return f"{baseline}, {' and '.join(tuned)} as by default"


def require_replaceable(folder: Path, study: Study, checksum: str, extent: Extent, advice: str) -> None:
    """Check that writing a result of this extent to a folder loses nothing.

    Args:
        folder: the study's results.
        study: the declaration.
        checksum: of the data.
        extent: of the result to be written.
        advice: ends the error message: what the user can do.

    Raises:
        ReplaceError: the folder has a result of this study and data that holds more, or something else.
    """
    is_first = not os.path.lexists(folder / SUMMARY)
    for path in (folder / RUNS, folder / CURVES):
        if path.is_dir() or (is_first and os.path.lexists(path) and not _is_our_table(path)):
            raise ReplaceError(f"{path} is not a study's table; {advice}")
    if is_first:
        return
    try:
        earlier = read_summary(folder / SUMMARY)
    except ResultsError as error:
        raise ReplaceError(f"{error.wrong} It is not a result of this study; {advice}") from None
    if earlier.study != study.name:
        raise ReplaceError(f"{folder} holds results of another study, {earlier.study}; {advice}")
    if earlier.data.checksum != checksum:
        theirs = ", ".join([earlier.data.name, *(f"{count:,} {what}" for what, count in earlier.data.size.items())])
        raise ReplaceError(f"{folder} holds results for other data ({theirs}); {advice}")
    there = Extent.of(earlier)
    if there.exceeds(extent):
        lacking = f", without {', '.join(sorted(there.arms - extent.arms))}" if there.arms - extent.arms else ""
        raise ReplaceError(f"{folder} holds more ({there}) than this run would write ({extent}{lacking}); {advice}")


def _is_our_table(path: Path) -> bool:
    try:
        if not path.is_file():  # opening a pipe would block forever
            return False
        with path.open("rb") as file:
            return set(pyarrow.parquet.read_schema(file).names) >= OUR_COLUMNS
    except (OSError, pyarrow.ArrowException):
        return False
