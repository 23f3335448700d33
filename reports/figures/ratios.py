"""Ratios to a baseline with intervals, block by block of conditions."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from reports import numbers
from reports.figures import drawing
from reports.figures.drawing import INK, SERIES, SOFT, Chart
from reports.timings import baselines, drawn, implementation, table, title, varying, words
from studies.evidence.benchmarks import Timing


def chart(group: str, timings: list[Timing]) -> Chart:
    """The ratios of a group, block by block of conditions."""
    keys = varying(timings)
    against = baselines(timings)
    return drawing.chart(
        f"ratios-{group}",
        f"{title(group)}: time over the time of {against}",
        "; ".join(f"{words(t, keys)} {implementation(t)}: {numbers.times(t.ratio)}" for t in timings),
        f"Circles: faster than {against}; crosses: slower; diamonds: inconclusive. Bars: 95 % intervals of the ratio.",
        table(timings, keys),
        lambda figure, _wide: draw(figure, drawn(timings, keys), f"time ÷ time of {against}"),
        lambda _wide: 60 + 22 * len(timings) + 28 * len({words(t, keys) for t in timings}),
    )


def draw(figure: Figure, timings: pd.DataFrame, label: str) -> None:
    """Ratios with intervals on a logarithmic axis, one row per `implementation`, one panel per `where`."""
    panels = dict(list(timings.groupby("where", sort=False)))
    heights = [len(panel) + 1 for panel in panels.values()]  # and the title
    grid = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    drawing.logarithmic(figure, "x")
    for axes, (where, panel) in zip(grid, panels.items(), strict=True):
        axes.axvline(1, color=INK, linewidth=1)
        names = list(dict.fromkeys(panel["implementation"]))
        for name, ratio, low, high in panel[["implementation", "ratio", "low", "high"]].itertuples(index=False):
            color, marker = look_of(low, high)
            axes.hlines(names.index(name), low, high, color, linewidth=3)
            axes.plot(ratio, names.index(name), marker, color=color, markersize=8)
        axes.set_yticks(range(len(names)), [drawing.wrapped(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(where, color=SOFT)
        axes.set(xlabel="", ylabel="")
        drawing.rows_without_axis(axes)
        if axes is not grid[-1]:
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(axis="x", length=0)
    left, right = grid[0].get_xlim()
    grid[0].set_xlim(min(left, 0.6), max(right, 1.7))
    drawing.ratio_axis(grid[0].xaxis)
    grid[-1].set_xlabel(label)


def look_of(low: float, high: float) -> tuple[str, str]:
    """Color and marker of a ratio: faster, slower, or neither by its interval."""
    if high < 1:
        return SERIES[2], "o"
    return (SERIES[1], "X") if low > 1 else (SOFT, "D")
