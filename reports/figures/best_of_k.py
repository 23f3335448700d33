"""Expected best of the first k tuning trials."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import numbers
from reports.arms import name_of, shown_arms, title_of
from reports.figures import drawing
from reports.figures.drawing import Chart
from reports.read import Study

SECTION, PLACE = "tuning", 20
LINES = 6


def charts(study: Study) -> list[Chart]:
    """One chart, if arms were tuned."""
    summary = study.summary
    by_arm = {tuning.arm: tuning.best_of_k for tuning in summary.tuning if tuning.best_of_k}
    curves = {name_of(summary, arm): by_arm[arm] for arm in summary.arms if arm in by_arm}
    if not curves:
        return []
    shown = [name for arm in shown_arms(summary, LINES) if (name := name_of(summary, arm)) in curves]
    data = pd.DataFrame({label: pd.Series(values) for label, values in curves.items()})
    data.insert(0, "k", range(1, len(data) + 1))
    long = data[["k", *shown]].melt("k", var_name="arm", value_name="best").dropna()
    write = numbers.writer(*(values[-1] for values in curves.values()))
    label = f"expected best {title_of(summary, summary.metric)}"
    left_out = len(curves) - len(shown)
    return [
        drawing.chart(
            "best-of-k",
            "Expected best result of the first k tuning trials",
            "; ".join(f"{label}: {write(values[-1])} after {len(values)}" for label, values in curves.items()),
            "The result of tuning with fewer trials, averaged over all choices of k of them. These are the "
            "tuning seeds, so results are better than on fresh ones."
            + (f" {left_out} of {len(curves)} arms are only in the data." if left_out else ""),
            data,
            lambda figure, wide: draw(figure, long, label, 3 if wide else 1),
            lambda wide: 350 if wide else 330 + 24 * len(shown),
        )
    ]


def draw(figure: Figure, curves: pd.DataFrame, label: str, columns: int) -> None:
    """One line per arm: `arm`, `k`, `best`."""
    axes, colors = figure.subplots(), drawing.palette(curves["arm"])
    look: Any = {"hue": "arm", "style": "arm", "palette": colors, "markers": True, "dashes": True}
    sns.lineplot(curves, x="k", y="best", **look, errorbar=None, linewidth=1.8, ax=axes)
    axes.set(xlabel="tuning trials, k", ylabel=label)
    axes.locator_params(axis="x", nbins=8, integer=True)
    drawing.legend_above(figure, axes, "outside upper left", columns)
