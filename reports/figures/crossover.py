"""Time of one-hot products over the lookup’s, against the number of classes."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports.figures import drawing
from reports.figures.drawing import INK, SOFT, Chart
from reports.timings import corner, drawn, one_hot, table
from studies.evidence.benchmarks import Benchmarks


def chart(benchmarks: Benchmarks) -> Chart | None:
    """Ratio to the lookup against the number of classes, by pass, implementation and batch."""
    corners = [t for t in one_hot(benchmarks) if t.classes and t.batch]
    if not corners:
        return None
    widths = sorted({t.width for t in corners if t.width})
    width = 40 if 40 in widths else widths[len(widths) // 2] if widths else None
    corners = [t for t in corners if t.width == width]

    corners.sort(key=lambda t: (t.stage, t.batch or 0))
    wins = "; ".join(corner(t) for t in corners if t.ratio_high < 1)
    return drawing.chart(
        "crossover",
        "Time of one-hot products over the lookup’s, against the number of classes",
        f"Corners in which one-hot is faster: {wins or 'none'}.",
        f"Below the line one-hot is faster. {f'Width {width}. ' if width else ''}Bars: 95 % intervals of the ratio.",
        table(corners, ["stage", "batch", "classes"]),
        lambda figure, wide: draw(figure, drawn(corners, ["stage"]), wide),
        lambda wide: 430 if wide else 180 + 260 * len({t.stage for t in corners}),
    )


def draw(figure: Figure, timings: pd.DataFrame, wide: bool) -> None:
    """Ratio against `classes`, a panel for each `where`; color tells `implementation`, marker and dashes `batch`."""
    panels = dict(list(timings.groupby("where", sort=False)))
    shape = (1, len(panels)) if wide else (len(panels), 1)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    colors = drawing.palette(timings["implementation"])
    look: Any = {"x": "classes", "y": "ratio", "hue": "implementation", "style": "batch", "palette": colors}
    look |= {"style_order": timings["batch"].unique(), "markers": True, "errorbar": None, "linewidth": 1.8}
    drawing.logarithmic(figure, "x", "y")
    drawing.room_around(grid[0, 0], timings["classes"])
    for axes, (where, panel) in zip(grid.flat, panels.items(), strict=True):
        axes.axhline(1, color=INK, linewidth=1)
        sns.lineplot(panel, **look, legend=axes is grid[0, 0] and "full", ax=axes)
        edges = panel["classes"], panel["low"], panel["high"]
        axes.vlines(*edges, [colors[name] for name in panel["implementation"]], linewidth=1.2)
        axes.set(title=where, xlabel="", ylabel="")
        classes = sorted(timings["classes"].unique())
        axes.set_xticks(classes, [f"{n:,}" for n in classes])
        right = axes.get_yaxis_transform()
        axes.text(1, 0.9, "one-hot faster ↓", transform=right, ha="right", va="top", color=SOFT, fontsize=11)
    low, high = grid[0, 0].get_ylim()
    grid[0, 0].set_ylim(min(low, 0.25), max(high, 4))
    for axes in grid.flat:
        drawing.ratio_axis(axes.yaxis)
    figure.supxlabel("classes (rows of the table)", fontsize=12)
    figure.supylabel("time ÷ the lookup’s time", fontsize=12)
    drawing.legend_above(figure, grid[0, 0], "outside upper left", 2 if wide else 1)
