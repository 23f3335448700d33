"""Time of a training step against the rows of the tables, and from where deferred steps are faster."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from reports import numbers
from reports.figures import drawing
from reports.figures.drawing import SOFT, Chart
from reports.timings import plain, span
from studies.evidence.benchmarks import Timing

DEFERRED, DENSE = "native deferred", "native dense"


def crossing(timings: list[Timing]) -> tuple[float, str] | None:
    """From how many rows on deferred steps are faster than our dense steps, as a number and in words; None if never.

    `timings` share one batch size. Between two measured sizes the ratio is interpolated as a power of the rows.
    """
    pairs = sorted((t.rows, t.ratio) for t in timings if (t.implementation, t.baseline) == (DEFERRED, DENSE) and t.rows)
    slower = [place for place, (_, ratio) in enumerate(pairs) if ratio >= 1]
    if not pairs or slower[-1:] == [len(pairs) - 1]:
        return None
    after, below_1 = pairs[slower[-1] + 1] if slower else pairs[0]
    if not slower:
        return after, f"in the smallest tables already ({after:,} rows)"
    before, above_1 = pairs[slower[-1]]
    share = math.log(above_1) / math.log(above_1 / below_1)
    rows = before * (after / before) ** share
    digits = 1 - math.floor(math.log10(rows))
    return rows, f"from some {round(rows, digits):,.0f} rows on (measured at {before:,} and {after:,})"


def by_batch(timings: list[Timing]) -> dict[int, list[Timing]]:
    """Timings of each batch, the smallest first."""
    batches = sorted({t.batch for t in timings if t.batch})
    return {batch: [t for t in timings if t.batch == batch] for batch in batches}


def scale_words(timings: list[Timing]) -> str:
    """Where deferred steps begin to pay, and what they bring in the largest tables, batch by batch."""
    said = []
    for batch, own in by_batch(timings).items():
        found = crossing(own)
        where = f"are faster than our own dense ones {found[1]}" if found else "are not faster than our own dense ones"
        text = f"At batch {batch:,} deferred steps {where}"
        largest = max(t.rows or 0 for t in own)
        ratios = [
            f"{numbers.times(t.ratio, t.ratio_low, t.ratio_high)} "
            f"{numbers.times_interval(t.ratio_low, t.ratio_high, t.ratio)} the time of {t.baseline}"
            for t in own
            if t.implementation == DEFERRED and t.rows == largest
        ]
        said.append(f"{text}; at {largest:,} rows they take {' and '.join(ratios)}." if ratios else f"{text}.")
    return " ".join(said)


def step_times(timings: list[Timing]) -> pd.DataFrame:
    """Microseconds a step as charts draw them, a row an implementation, batch and rows.

    The interval is that of the ratio, in the baseline's time; a baseline has none.
    """
    found: dict[tuple[str, int, int], tuple[float, float, float]] = {}
    # What was measured against eager comes first: one yardstick for all lines.
    ours = sorted(timings, key=lambda t: t.baseline == DENSE)
    for timing, is_baseline in [*((t, False) for t in ours), *((t, True) for t in ours)]:
        if timing.rows and timing.batch and (theirs := timing.baseline_s):
            name = plain(timing.baseline if is_baseline else timing.implementation)
            times = (timing.seconds, timing.ratio_low * theirs, timing.ratio_high * theirs)
            found.setdefault((name, timing.batch, timing.rows), (theirs, math.nan, math.nan) if is_baseline else times)
    rows = [(*key, *(1e6 * value for value in values)) for key, values in sorted(found.items())]
    return pd.DataFrame(rows, columns=["implementation", "batch", "rows", "µs a step", "95 % from", "to"])


def chart(timings: list[Timing]) -> Chart | None:
    """Time of a step against the rows of the tables, a line an implementation, a panel a batch."""
    times = step_times(timings)
    if times.empty:
        return None
    epochs = span(sorted({t.steps for t in timings if t.implementation == DEFERRED and t.steps}))
    marks = {batch: found[0] for batch, own in by_batch(timings).items() if (found := crossing(own))}
    text = scale_words(timings)
    return drawing.chart(
        "scale",
        "Time of a training step against the rows of the tables",
        text,
        f"{text} Eager is PyTorch with fused AdamW. In a deferred step is its share of the flush that ends an epoch, "
        f"here of {epochs} steps. Bars: 95 % intervals of the ratio, in the baseline’s time.",
        times.astype(object),
        lambda figure, wide: draw(figure, times, marks, wide),
        lambda wide: 420 if wide else 120 + 290 * times["batch"].nunique(),
    )


def draw(figure: Figure, times: pd.DataFrame, marks: dict[int, float], wide: bool) -> None:
    """`µs a step` against `rows`, a line an `implementation`, a panel a `batch`, with the crossovers in `marks`."""
    panels = {batch: times[times["batch"] == batch] for batch in sorted(times["batch"].unique().tolist())}
    shape = (1, len(panels)) if wide else (len(panels), 1)
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    colors = drawing.palette(sorted(times["implementation"].unique()))
    look: Any = {"x": "rows", "y": "µs a step", "hue": "implementation", "style": "implementation", "palette": colors}
    look |= {"hue_order": list(colors), "style_order": list(colors), "markers": True, "errorbar": None}
    drawing.logarithmic(figure, "x", "y")
    drawing.room_around(grid[0, 0], times["rows"])
    for axes, (batch, panel) in zip(grid.flat, panels.items(), strict=True):
        sns.lineplot(panel, **look, linewidth=1.8, markersize=7, legend=axes is grid[0, 0] and "full", ax=axes)
        edges = panel["rows"], panel["95 % from"], panel["to"]
        axes.vlines(*edges, [colors[name] for name in panel["implementation"]], linewidth=1.2)
        if batch in marks:
            axes.axvline(marks[batch], color=SOFT, linewidth=1, linestyle=":")
            place: Any = {"xytext": (4, -2), "textcoords": "offset points", "xycoords": axes.get_xaxis_transform()}
            axes.annotate("deferred faster →", (marks[batch], 1), **place, va="top", color=SOFT, fontsize=11)
        axes.set(title=f"batch {batch:,}", xlabel="", ylabel="")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: numbers.number(value, 0)))
    figure.supxlabel("rows of all tables together", fontsize=12)
    figure.supylabel("microseconds a step", fontsize=12)
    drawing.legend_above(figure, grid[0, 0], "outside upper left", 3 if wide else 1)
