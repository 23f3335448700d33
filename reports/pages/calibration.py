"""The page of the calibration: how often the rules that judge studies are wrong, on simulated studies."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from reports import numbers
from reports.figures import calibration
from reports.pages import Page
from reports.read import Inputs
from studies.evidence.schema import Positive, Record, Share, Size, Whole, read_json

PLACE = 50
FILE = "calibration.json"
UNHELD = "best, by differences"  # not held to the bar: rivals of one arm are never independent
SAMPLING = 4  # standard errors above the bar that the simulation's noise explains


class Cell(Record):
    """One form on one shape, at one number of seeds: coverage, and the shares of false outcomes."""

    shape: str
    mirrored: bool
    n: Positive
    interval: str
    form: str
    coverage: Share
    false_yes: Share
    false_no: Share

    @property
    def worst(self) -> float:
        """The larger share."""
        return max(self.false_yes, self.false_no)


class Source(Record):
    """The code that made it."""

    commit: str | None
    dirty: bool | None
    versions: dict[str, str]


class Calibration(Record):
    """The contents of `calibration.json`."""

    schema_version: Literal[1]
    studies: Positive
    seed: Whole
    margin: Size
    rivals: Positive
    bar: Share
    barred: list[str]
    provenance: Source
    cells: list[Cell]

    @property
    def tolerated(self) -> float:
        """The bar, plus the noise of simulating this many studies."""
        return self.bar + SAMPLING * math.sqrt(self.bar * (1 - self.bar) / self.studies)

    def held(self, cell: Cell) -> bool:
        """Whether a cell is held to the bar; the others are only shown."""
        return cell.shape in self.barred and cell.form != UNHELD

    def above(self, cell: Cell) -> bool:
        """Whether a cell exceeds the bar by more than chance explains."""
        return cell.worst > self.tolerated


class Line(NamedTuple):
    """The worst cells of a shape at one number of seeds."""

    shape: str
    n: int
    coverage: float
    yes: Cell
    no: Cell
    above: int
    cells: int
    barred: bool


def read_calibration(path: Path) -> Calibration:
    """Read and check a `calibration.json`.

    Raises:
        ResultsError: the file cannot be read, is not JSON, or a field is missing, unknown or wrong.
    """
    return read_json(path, Calibration, "calibration", "Run python -m studies.calibration again.")


def plan(inputs: Inputs) -> list[Page]:
    """One page, if there is a calibration."""
    found = inputs.file(FILE, read_calibration)
    if found is None:
        return []
    about = {"commit": found.provenance.commit, "dirty": found.provenance.dirty}
    context = partial(context_of, found)
    return [Page("calibration.html", "Calibration", "calibration.html.j2", inputs.results / FILE, context, about=about)]


def lines(found: Calibration) -> list[Line]:
    """The worst cells of each shape and number of seeds, in the file's order."""
    rows = []
    for shape, n in dict.fromkeys((cell.shape, cell.n) for cell in found.cells):
        own = [cell for cell in found.cells if (cell.shape, cell.n) == (shape, n)]
        yes, no = max(own, key=lambda cell: cell.false_yes), max(own, key=lambda cell: cell.false_no)
        above = sum(map(found.above, own))
        coverage = min(cell.coverage for cell in own)
        rows.append(Line(shape, n, coverage, yes, no, above, len(own), shape in found.barred))
    return rows


def answer(found: Calibration) -> str:
    """How often the rules are wrong, in one sentence."""
    if not found.cells:
        return "Nothing was simulated."
    bad = [cell for cell in found.cells if found.above(cell)]
    bar = f"more often than {numbers.setting(found.bar)}"
    total = numbers.counted(len(found.cells), "cell")
    if not bad:
        return f"In none of {total} are the rules wrong {bar}."
    worst = max(bad, key=lambda cell: cell.worst)
    held = sum(map(found.held, bad)) or "none"
    return (
        f"In {len(bad)} of {total} the rules are wrong {bar}, {held} of them held to it; at worst "
        f"{numbers.number(worst.worst)}: form “{worst.form}”, numbers “{worst.shape}”, {worst.n} seeds."
    )


def context_of(found: Calibration) -> dict[str, Any]:
    """The variables of the calibration page's template."""
    return {
        "answer": answer(found),
        "found": found,
        "unheld": UNHELD,
        "lines": lines(found),
        "chart": calibration.chart(found) if found.cells else None,
    }
