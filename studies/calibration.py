"""`python -m studies.calibration`: how often the rules that judge studies are wrong, on simulated studies.

A study's numbers are drawn with a known mean, at which a form's "yes" or "no" is only just false: 0 or the margin.
Every shape is drawn as it is and mirrored. The file has all cells, including the bad ones. 20,000 studies take ten
minutes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import typer

from studies.evidence.outcomes import LEVEL, deciding_intervals, rules
from studies.evidence.outside import printable, without_password
from studies.evidence.parts import Form
from studies.evidence.provenance import commit, versions
from studies.evidence.schema import write_text
from studies.evidence.statistics import Floats
from studies.evidence.usage import Command

SEEDS = (10, 20, 40)
OVERLAP = 1 / 9  # splits of 90 % and 10 %
MARGIN = 2.0  # standard deviations: wide enough for every outcome to be possible
RIVALS = 5
BAR = 0.05
BARRED = ("normal", "shared baseline", "heavy tails", "exponential", "overlapping splits")
CHUNK = 2_000

Draw = Callable[[np.random.Generator, tuple[int, int, int]], Floats]
FormName = Literal[
    "superior", "superior by m", "noninferior", "equivalent", "different", "best", "best, by differences"
]


def _shared_baseline(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    studies, _, n = shape
    return (rng.normal(size=shape) - rng.normal(size=(studies, 1, n))) / math.sqrt(2)


def _rare_bad_seeds(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    share, size = 0.08, 6.0
    d = rng.normal(size=shape) + size * (rng.random(shape) < share)
    return (d - share * size) / math.sqrt(1 + share * (1 - share) * size**2)


def _overlapping(errors: Draw) -> Draw:
    """Numbers that share a component over a study's seeds: their correlation is the validation rows' share."""

    def draw(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
        correlation = OVERLAP / (1 + OVERLAP)
        shared = rng.normal(size=(*shape[:2], 1))
        return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * errors(rng, shape)

    return draw


def _normal(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return rng.normal(size=shape)


def _exponential(rng: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    return rng.exponential(size=shape) - 1


# float64[studies, rivals, n] of mean 0 and standard deviation 1
SHAPES: dict[str, Draw] = {
    "normal": _normal,
    "shared baseline": _shared_baseline,
    "heavy tails": lambda rng, shape: rng.standard_t(3, size=shape) / math.sqrt(3),
    "gamma": lambda rng, shape: (rng.gamma(4, size=shape) - 4) / 2,
    "exponential": _exponential,
    "lognormal": lambda rng, shape: (rng.lognormal(size=shape) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e),
    "rare bad seeds": _rare_bad_seeds,
    "overlapping splits": _overlapping(_normal),
    "overlapping splits, exponential": _overlapping(_exponential),
}


@dataclass(frozen=True)
class Cell:
    """One form on one shape.

    Attributes:
        shape: the distribution of the numbers.
        mirrored: whether their signs are flipped.
        n: seeds per study.
        interval: which of the deciding intervals.
        form: the question. For "best" the arms have the shape, and differences share an arm; "by differences" gives
            each rival's difference the shape, independent of the others', which is harsher than arms can be.
        coverage: share of intervals that contain the mean.
        false_yes: share of studies that say "yes" when it is only just false; for "different", on the worse side.
        false_no: share that say "no" when it is only just false.
    """

    shape: str
    mirrored: bool
    n: int
    interval: str
    form: FormName
    coverage: float
    false_yes: float
    false_no: float


def calibrate(studies: int, seed: int = 0, shapes: tuple[str, ...] = tuple(SHAPES)) -> list[Cell]:
    """Every form on every shape.

    Args:
        studies: how many to simulate for each shape and number of seeds.
        seed: the simulation's seed.
        shapes: names among `SHAPES`.
    """
    return [cell for shape in shapes for n in SEEDS for cell in _cells(shape, n, studies, seed)]


def _cells(shape: str, n: int, studies: int, seed: int) -> list[Cell]:
    overlap = OVERLAP if shape.startswith("overlapping") else None
    rng = np.random.default_rng([seed, n, list(SHAPES).index(shape)])
    ends: list[Floats] = []
    for first in range(0, studies, CHUNK):
        x = SHAPES[shape](rng, (min(CHUNK, studies - first), RIVALS + 1, n))
        of_arms = (x[:, :1] - x[:, 1:]) / math.sqrt(2)
        ends.append(np.stack([_ends(d, overlap) for d in (x[:, 1:], of_arms)]))
    both = np.concatenate(ends, axis=3)
    cells = []
    for mirrored in (False, True):
        differences, arms = -both[:, :, ::-1] if mirrored else both
        low, high = differences[0]
        shares = _false(low[:, 0], high[:, 0])
        shares |= {"best": _false_of_best(arms), "best, by differences": _false_of_best(differences)}
        for form, (false_yes, false_no) in shares.items():
            cells.append(
                Cell(
                    shape=shape,
                    mirrored=mirrored,
                    n=n,
                    interval="t or bootstrap t" if overlap is None else "corrected t",
                    form=form,
                    coverage=float(((low <= 0) & (high >= 0)).mean()),
                    false_yes=false_yes,
                    false_no=false_no,
                )
            )
    return cells


def _ends(d: Floats, overlap: float | None) -> Floats:
    """float[2, 2, studies, rivals]: the ends of the deciding intervals, at their level and at Holm's first."""
    numbers = d.reshape(-1, d.shape[-1])
    levels = LEVEL, 1 - (1 - LEVEL) / RIVALS
    return np.stack([deciding_intervals(numbers, overlap, level)[:2] for level in levels]).reshape(2, 2, *d.shape[:2])


def _false(low: Floats, high: Floats) -> dict[FormName, tuple[float, float]]:
    """Shares of false "yes" and "no" by form; the ends are float[studies], about a mean of 0."""
    m = MARGIN

    def said(form: Form, outcome: str, *means: float, by: bool = False) -> float:
        """The share of studies that say `outcome`, at the worst of the means."""
        return max(float((_outcomes(form, low + mean, high + mean, by) == outcome).mean()) for mean in means)

    return {
        "superior": (said("superior", "yes", 0), said("superior", "no", m)),
        "superior by m": (said("superior", "yes", m, by=True), said("superior", "no", m, by=True)),
        "noninferior": (said("noninferior", "yes", -m), said("noninferior", "no", -m)),
        "equivalent": (said("equivalent", "yes", -m, m), said("equivalent", "no", -m, m)),
        "different": (max(float((low > 0).mean()), float((high < 0).mean())), said("different", "no", -m, m)),
    }


def _false_of_best(ends: Floats) -> tuple[float, float]:
    """Shares of a false "yes", one rival being better by the margin, and of a false "no", all of them just so."""
    (low, _), (_, strict_high) = ends
    better = np.arange(RIVALS) == 0
    return float((low > np.where(better, 0, -MARGIN)).all(1).mean()), float((strict_high < 0).any(1).mean())


def _outcomes(form: Form, low: Floats, high: Floats, by: bool) -> Any:
    found = rules(form, low, high, MARGIN, by=by)
    return np.select([holds for holds, _, _ in found], [outcome for _, outcome, _ in found], "inconclusive")


def broken(cells: list[Cell], studies: int) -> list[Cell]:
    """The cells of shapes with a bar that exceed it by more than chance explains.

    Rivals' differences that are skewed and independent have no bar, because real rivals share an arm. They are shown.
    """
    chance = 4 * math.sqrt(BAR * (1 - BAR) / studies)
    barred = [cell for cell in cells if cell.shape in BARRED and cell.form != "best, by differences"]
    return [cell for cell in barred if max(cell.false_yes, cell.false_no) > BAR + chance]


def table(cells: list[Cell]) -> str:
    """Coverage and the worst shares of false outcomes over forms and mirror images, by shape and seeds."""
    lines = [f"{'shape':32} {'n':>3}  coverage  false yes  false no   worst form"]
    for shape, n in dict.fromkeys((cell.shape, cell.n) for cell in cells):
        own = [cell for cell in cells if (cell.shape, cell.n) == (shape, n)]
        yes, no = max(cell.false_yes for cell in own), max(cell.false_no for cell in own)
        worst = max(own, key=lambda cell: max(cell.false_yes, cell.false_no)).form
        lines.append(f"{shape:32} {n:3}     {own[0].coverage:.3f}      {yes:.3f}     {no:.3f}   {worst}")
    return "\n".join(lines)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(cls=Command, help=__doc__)
def main(
    studies: Annotated[int, typer.Option(min=100, help="Simulated studies per shape and number of seeds.")] = 20_000,
    out: Annotated[Path, typer.Option(help="The file for the results.")] = Path("results/calibration.json"),
    seed: Annotated[int, typer.Option(min=0, help="The simulation's seed.")] = 0,
) -> None:
    """Simulate, print the table, write the file."""
    try:  # now, not after ten minutes
        _require_replaceable(out, studies)
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        _fail(out, error)
    cells: list[Cell] = []
    for shape in SHAPES:
        typer.echo(f"{shape} …", err=True)
        cells += calibrate(studies, seed, (shape,))
    head, dirty = commit()
    content = {
        "schema_version": 1,
        "studies": studies,
        "seed": seed,
        "margin": MARGIN,
        "rivals": RIVALS,
        "bar": BAR,
        "barred": BARRED,
        "provenance": {"commit": head, "dirty": dirty, "versions": versions()},
        "cells": [asdict(cell) for cell in cells],
    }
    try:
        _require_replaceable(out, studies)
        write_text(out, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        _fail(out, error)
    typer.echo(f"{table(cells)}\n{out}")
    if bad := broken(cells, studies):
        worst = max(bad, key=lambda cell: max(cell.false_yes, cell.false_no))
        typer.echo(f"{len(bad)} cells above {BAR}; the worst: {worst}", err=True)
        raise typer.Exit(1)


def _require_replaceable(out: Path, studies: int) -> None:
    """Refuse to replace a calibration of more studies, or another program's file."""
    if not os.path.lexists(out):
        return
    try:
        content = json.loads(out.read_text(encoding="utf-8"))
        there = int(content["studies"]) if "cells" in content else None
    except (ValueError, TypeError, KeyError, OverflowError):
        there = None
    if there is None or there > studies:
        what = "is no calibration" if there is None else f"has {there:,} studies, this would have {studies:,}"
        typer.echo(
            f"error: {printable(without_password(str(out)))} {what}: it is kept; name another file with --out", err=True
        )
        raise typer.Exit(2)


def _fail(out: Path, error: OSError) -> NoReturn:
    typer.echo(f"error: --out {printable(without_password(str(out)))}: cannot be written ({error.strerror})", err=True)
    raise typer.Exit(2) from error


if __name__ == "__main__":
    app(prog_name="python -m studies.calibration")
