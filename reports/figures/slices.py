"""Every trial of a search by one setting at a time."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import numbers
from reports.figures import drawing
from reports.figures.drawing import SERIES, SOFT, Chart
from studies.evidence.tuning import Tuning

WORST = 0.9  # trials beyond this quantile are far from all others, and would press these together


def chart(found: Tuning) -> Chart | None:
    """A panel for each setting; None if nothing was tried beside the first trial."""
    trials = pd.DataFrame([trial.settings | {"rmse": trial.rmse} for trial in found.trials if trial.rmse is not None])
    if len(trials) < 2:
        return None
    top = trials["rmse"].quantile(WORST)
    shown = trials[trials["rmse"] <= top]
    best = numbers.writer(*trials["rmse"])(trials["rmse"].min())
    return drawing.chart(
        "slices",
        "Error of each trial, by one setting at a time",
        f"{len(trials)} trials; the lowest RMSE is {best}",
        "Each point is a trial trained on all splits of the search; the large one is the choice, the line the lesson’s "
        f"setting. The worst tenth, above {numbers.number(float(top), 4)}, is only in the data.",
        trials,
        lambda figure, wide: draw(figure, shown, found, 3 if wide else 1),
        lambda wide: 220 * math.ceil(len(found.settings) / (3 if wide else 1)),
    )


def draw(figure: Figure, trials: pd.DataFrame, found: Tuning, columns: int) -> None:
    """One panel per setting."""
    names = list(found.settings)
    grid = figure.subplots(math.ceil(len(names) / columns), columns, sharey=True, squeeze=False).flatten()
    best = found.best | {"rmse": trials["rmse"].min()}
    for axes, name in zip(grid, names, strict=False):
        sns.scatterplot(trials, x=name, y="rmse", color=SERIES[0], s=22, alpha=0.7, linewidth=0, ax=axes)
        axes.plot(best[name], best["rmse"], "D", color=SERIES[1], markersize=9)
        axes.axvline(found.lesson[name], color=SOFT, linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(found.settings[name].low / 1.1, found.settings[name].high * 1.1)
        drawing.decades(axes.xaxis, 4)
        axes.xaxis.set_minor_locator(drawing.NullLocator())
        axes.set(xlabel=found.settings[name].title, ylabel="RMSE")
    for axes in grid[len(names) :]:
        axes.set_visible(False)
