"""The first metric against the swept value: how sensitive it is."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import numbers
from reports.arms import Sweep, by_seed, name_of, sweep_of, title_of
from reports.figures import drawing
from reports.figures.drawing import FAINT, SOFT, Chart
from reports.read import Study
from reports.words import capital

SECTION, PLACE = "arms", 10
LINES = 6  # as many as have a color of their own


def charts(study: Study) -> list[Chart]:
    """One chart, if a setting has three or more values."""
    summary, sweep = study.summary, sweep_of(study.summary)
    table = by_seed(study, summary.metric)
    if sweep is None or table.empty or table.notna().to_numpy().sum() == 0:
        return []
    arms = [arm for arm in sweep.places if arm in table]
    table = table[arms]
    mean, setting, metric = table.mean(), name_of(summary, sweep.setting), title_of(summary, summary.metric)
    better = summary.metrics[summary.metric].better
    write = numbers.writer(*mean)
    at = numbers.setting
    known = mean.dropna()
    if better is None or known.empty:
        title = f"{capital(metric)} against {setting}"
        marks = {}
    else:
        best = str(known.idxmin() if better == "lower" else known.idxmax())
        extreme = "lowest" if better == "lower" else "highest"
        title = f"{capital(metric)} is {extreme} at {setting} {at(sweep.places[best])}"
        marks = {best: f"{extreme}: {write(mean[best])}"}
        baseline = summary.baseline
        if baseline is not None and baseline in known and baseline != best:
            marks[baseline] = write(mean[baseline])
    lines = list(dict.fromkeys(sweep.lines[arm] for arm in arms))
    runs = table.melt(ignore_index=False, var_name="arm", value_name="metric").reset_index()
    runs["value"], runs["line"] = runs["arm"].map(sweep.places), runs["arm"].map(sweep.lines)
    several = len(lines) > 1
    caption = (
        "Thin lines are seeds: a seed has the same data and initialization in every arm. Thick lines are their means."
    )
    if table.isna().to_numpy().any():
        caption += " Lines skip runs that failed or are missing."
    if len(lines) > LINES:
        lines = lines[:LINES]
        caption += f" Only the first {LINES} lines are drawn; the data has the others."
    data = pd.concat([table, mean.to_frame("mean").T]).rename(columns=lambda arm: name_of(summary, arm))
    return [
        drawing.chart(
            "swept",
            title,
            "; ".join(f"{name_of(summary, arm)}: {write(mean[arm])}" for arm in arms),
            caption,
            data.rename_axis("seed").reset_index().astype(object),
            lambda figure, wide: draw(figure, runs[runs["line"].isin(lines)], sweep, marks, (setting, metric), wide),
            lambda wide: (330 if wide else 290) + (26 * len(lines) if several and not wide else 40 * several),
        )
    ]


def draw(
    figure: Figure, runs: pd.DataFrame, sweep: Sweep, marks: dict[str, str], labels: tuple[str, str], wide: bool
) -> None:
    """One thin line per seed, a thick line for their mean, a color for each `line`.

    Args:
        figure: the figure to draw on.
        runs: `arm`, `seed`, `value`, `metric` and `line`, one row per run.
        sweep: the swept setting.
        marks: words beside an arm's mean.
        labels: of both axes.
        wide: whether the screen is wide.
    """
    axes = figure.subplots()
    lines = list(dict.fromkeys(runs["line"]))
    colors = drawing.palette(lines)
    for place, line in enumerate(lines):
        own = runs[runs["line"] == line]
        thin = FAINT if len(lines) == 1 else colors[line]
        look: Any = {"x": "value", "y": "metric", "ax": axes}
        sns.lineplot(own, **look, units="seed", estimator=None, color=thin, linewidth=0.7, alpha=0.6)
        marker = drawing.MARKERS[place % len(drawing.MARKERS)]
        sns.lineplot(own, **look, errorbar=None, color=colors[line], linewidth=2.4, marker=marker, label=line or None)
    axes.margins(y=0.16)
    drawing.value_axis(axes, sorted(set(sweep.places.values())))
    ends = min(sweep.places.values()), max(sweep.places.values())
    for place, (arm, words) in enumerate(marks.items()):
        value, below = sweep.places[arm], place == 0
        seeds = runs.loc[runs["arm"] == arm, "metric"]
        side = {ends[0]: "left", ends[1]: "right"}.get(value, "center")  # inside the axes at both of their ends
        axes.annotate(
            words,
            (value, seeds.min() if below else seeds.max()),
            xytext=({"left": 6, "right": -6}.get(side, 0), -22 if below else 22),
            textcoords="offset points",
            ha=side,
            va="center",
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.8, "shrinkB": 5},
        )
    axes.set(xlabel=labels[0], ylabel=labels[1])
    keep = numbers.settings([sweep.places[arm] for arm in marks])
    drawing.thin_labels(figure, axes, keep)
    if len(lines) > 1:
        drawing.legend_above(figure, axes, "outside upper left", 3 if wide else 1)
    elif legend := axes.get_legend():
        legend.remove()
