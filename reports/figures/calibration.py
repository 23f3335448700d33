"""Shares of false outcomes by shape and number of seeds, one dot per form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

from reports import numbers
from reports.figures import drawing
from reports.figures.drawing import INK, SERIES, Chart

if TYPE_CHECKING:
    from reports.pages.calibration import Calibration


def chart(found: Calibration) -> Chart:
    """One panel per number of seeds, one row per shape."""
    cells = pd.DataFrame([cell.model_dump() for cell in found.cells])
    worst = cells.groupby(["shape", "n"], sort=False)[["false_yes", "false_no"]].max()
    seeds = sorted(cells["n"].unique())
    return drawing.chart(
        "calibration",
        "Shares of studies with a false outcome",
        "; ".join(
            f"{shape}, {n} seeds: false yes {numbers.number(yes)}, false no {numbers.number(no)}"
            for shape, n, yes, no in worst.reset_index().itertuples(index=False)
        ),
        f"A mark for each form and each side of a shape. Circles: “yes” where it is only just false; crosses: “no” "
        f"where it is only just false. The line: {numbers.setting(found.bar)}.",
        worst.rename(columns={"false_yes": "worst false yes", "false_no": "worst false no"}).reset_index(),
        lambda figure, wide: draw(figure, cells, found.bar, wide),
        lambda wide: 90 + 24 * cells["shape"].nunique() * (1 if wide else len(seeds)) + (0 if wide else 60),
    )


def draw(figure: Figure, cells: pd.DataFrame, bar: float, wide: bool) -> None:
    """`false_yes` and `false_no` by `shape` and `n`."""
    seeds, shapes = sorted(cells["n"].unique()), list(dict.fromkeys(cells["shape"]))
    shape = (1, len(seeds)) if wide else (len(seeds), 1)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    for axes, n in zip(grid.flat, seeds, strict=True):
        own = cells[cells["n"] == n]
        rows = own["shape"].map(shapes.index)
        axes.axvline(bar, color=INK, linewidth=0.9, linestyle=":")
        axes.scatter(own["false_yes"], rows - 0.16, s=26, color=SERIES[0], alpha=0.6, linewidth=0)
        axes.scatter(own["false_no"], rows + 0.16, s=26, color=SERIES[1], alpha=0.7, marker="x", linewidth=1.3)
        axes.set_title(f"{n} seeds")
        axes.set_yticks(range(len(shapes)), [drawing.wrapped(name, 34) for name in shapes])
        axes.set_ylim(len(shapes) - 0.5, -0.5)
        axes.set_xlim(left=-0.02 * max(own["false_yes"].max(), own["false_no"].max()) - 0.002)
        axes.locator_params(axis="x", nbins=4)
        drawing.rows_without_axis(axes)
    figure.supxlabel("share of simulated studies", fontsize=12)
