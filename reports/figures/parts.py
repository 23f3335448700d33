"""Every part with its interval, on one axis, in margins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from reports import numbers, words
from reports.figures import drawing
from reports.figures.drawing import FAINT, INK, SERIES, SOFT, Chart
from reports.read import Study
from studies.evidence.schema import Found

SECTION, PLACE = "parts", 10
LINEAR = 2.0  # margins on either side that the axis shows at one scale
COLORS = {"yes": SERIES[2], "no": SERIES[1], "inconclusive": SOFT}
MARKERS = {"yes": "o", "no": "X", "inconclusive": "D"}


def charts(study: Study) -> list[Chart]:
    """One chart, if several parts or rivals have a margin and an estimate."""
    summary = study.summary
    rows: list[tuple[str, str, float, float, float]] = []
    for part in summary.parts:
        against: list[tuple[str, Found]] = [
            (f"against {words.name_of(summary, rival.arm)}", rival) for rival in part.rivals
        ]
        for label, one in against or [(part.says, part)]:
            if part.margin and one.estimate is not None:
                low, high = -np.inf if one.low is None else one.low, np.inf if one.high is None else one.high
                name = f"{part.part}: {label}" if part.part else label
                m = part.margin
                rows.append((name, one.outcome, one.estimate / m, low / m, high / m))
    if len(rows) < 2:
        return []
    found = pd.DataFrame(rows, columns=["part", "outcome", "estimate", "95 % from", "to"])
    lines = [
        f"{name}: {numbers.figures(estimate)} {numbers.figures_interval((low, high))}, {outcome}"
        for name, outcome, estimate, low, high in rows
    ]
    return [
        drawing.chart(
            "parts",
            "Every part with its interval, in margins",
            "; ".join(lines),
            "The unit is a part’s own margin, the smallest effect worth knowing; the gray band reaches one margin to "
            "either side. Right of 0 supports the part. Circles: yes; crosses: no; diamonds: inconclusive. The scale "
            f"is logarithmic beyond {LINEAR:g} margins.",
            found.astype(object),
            lambda figure, wide: draw(figure, found, wide),
            lambda _wide: 70 + 34 * len(found),
        )
    ]


def draw(figure: Figure, found: pd.DataFrame, wide: bool) -> None:
    """One row per part: `estimate`, and its interval from `95 % from` to `to`."""
    axes: Any = figure.subplots()
    ends = found[["estimate", "95 % from", "to"]].to_numpy(dtype=float)
    reach = max(1.5 * LINEAR, 1.3 * np.abs(ends[np.isfinite(ends)]).max())
    axes.axvspan(-1, 1, color=FAINT, alpha=0.28, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for row, (_, outcome, estimate, low, high) in enumerate(found.itertuples(index=False)):
        axes.hlines(row, max(low, -reach), min(high, reach), COLORS[outcome], linewidth=3)
        axes.plot(estimate, row, MARKERS[outcome], color=COLORS[outcome], markersize=8)
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.0)
    axes.set_xlim(-reach, reach)
    ticks = [tick for tick in (-100, -10, -2, -1, 0, 1, 2, 10, 100) if abs(tick) <= reach]
    if not wide:
        ticks = [tick for tick in ticks if abs(tick) != 1]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.number(value, 0)))
    axes.set_yticks(range(len(found)), [drawing.wrapped(name, 34 if wide else 20) for name in found["part"]])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set(xlabel="margins", ylabel="")
    drawing.rows_without_axis(axes)
