"""The tuning trials: a map of the first metric over two numeric settings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports import numbers
from reports.arms import name_of, shown_arms, sweep_of, title_of
from reports.figures import drawing
from reports.figures.drawing import INK, SERIES, Chart
from reports.read import Study
from reports.words import capital

SECTION, PLACE = "tuning", 10
PANELS = 6
SHADES = 5


class Map(NamedTuple):
    """Trials on a map.

    Attributes:
        trials: `panel`, `x`, `y`, `value` (NaN if it diverged) and `chosen`, one row per trial.
        x: the setting along x.
        y: the setting along y.
    """

    trials: pd.DataFrame
    x: str
    y: str


def charts(study: Study) -> list[Chart]:
    """One chart, if trials differ in two numeric settings."""
    summary, found = study.summary, map_of(study)
    if found is None or found.trials["value"].notna().sum() == 0:
        return []
    trials, better = found.trials, summary.metrics[summary.metric].better or "lower"
    metric, x, y = title_of(summary, summary.metric), name_of(summary, found.x), name_of(summary, found.y)
    write = numbers.writer(trials["value"].min(), trials["value"].max())
    chosen = trials[trials["chosen"]]
    return [
        drawing.chart(
            "tuned",
            f"{capital(metric)} over {x} and {y}",
            "; ".join(
                f"chosen{f' for {panel}' if panel else ''}: {x} {numbers.setting(at_x)}, "
                f"{y} {numbers.setting(at_y)}, {metric} {write(value)}"
                for panel, at_x, at_y, value, _ in chosen.itertuples(index=False)
            ),
            "One dot per trial on the tuning seeds; the stronger its color, the better: from "
            f"{write(worst(trials, better))} to {write(best(trials, better))}. A ring marks the choice, a cross "
            "a trial that diverged.",
            table(trials).rename(columns={"panel": "arm", "x": x, "y": y, "value": metric}).astype(object),
            lambda figure, wide: draw(figure, trials, (x, y), better, 3 if wide else 1),
            lambda wide: 60 + 260 * -(-trials["panel"].nunique() // (3 if wide else 1)),
        )
    ]


def table(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials as the data of the figure; a single panel has no name."""
    return trials if trials["panel"].any() else trials.drop(columns="panel")


def best(trials: pd.DataFrame, better: str) -> float:
    """The best value of all trials."""
    return float(trials["value"].min() if better == "lower" else trials["value"].max())


def worst(trials: pd.DataFrame, better: str) -> float:
    """The worst value of all trials."""
    return float(trials["value"].max() if better == "lower" else trials["value"].min())


def map_of(study: Study) -> Map | None:
    """The trials by swept value and tuned setting, or by two tuned settings with one panel per arm; else None."""
    summary, sweep = study.summary, sweep_of(study.summary)
    tuned = list(dict.fromkeys(key for tuning in summary.tuning for key in tuning.chosen))
    if not tuned or (len(tuned) < 2 and sweep is None):
        return None
    panels = shown_arms(summary, PANELS)
    rows = []
    for tuning in summary.tuning:
        swept = sweep.places.get(tuning.arm) if sweep else None
        by_sweep = len(tuned) == 1
        if (by_sweep and swept is None) or (not by_sweep and tuning.arm not in panels):
            continue
        for trial in tuning.trials:
            place = (swept, trial.get(tuned[0])) if by_sweep else (trial.get(tuned[0]), trial.get(tuned[1]))
            if None in place:
                continue
            chosen = all(trial.get(key) == value for key, value in tuning.chosen.items())
            panel = (sweep.lines[tuning.arm] if sweep else "") if by_sweep else name_of(summary, tuning.arm)
            rows.append((panel, *place, trial.get(summary.metric), chosen))
    trials = pd.DataFrame(rows, columns=["panel", "x", "y", "value", "chosen"]).astype({"value": float})
    axes = (sweep.setting, tuned[0]) if len(tuned) == 1 and sweep else tuple(tuned[:2])
    return None if trials.empty else Map(trials, *axes)


def draw(figure: Figure, trials: pd.DataFrame, labels: tuple[str, str], better: str, columns: int) -> None:
    """A panel for each of `panel`; shades are fifths of all trials by rank."""
    panels = list(dict.fromkeys(trials["panel"]))[:PANELS]
    columns = min(columns, len(panels))
    grid = figure.subplots(-(-len(panels) // columns), columns, sharex=True, sharey=True, squeeze=False)
    rank = trials["value"].rank(pct=True, ascending=better == "higher", method="max")  # the best have 1
    shade = np.ceil(SHADES * rank) / SHADES
    for axes, panel in zip(grid.flat, panels, strict=False):
        own = trials["panel"] == panel
        known, lost = own & trials["value"].notna(), own & trials["value"].isna()
        for alpha in sorted(shade[known].unique()):
            these = trials[known & (shade == alpha)]
            axes.scatter(these["x"], these["y"], s=70, color=SERIES[0], alpha=0.12 + 0.88 * alpha**2, linewidth=0)
        axes.scatter(trials.loc[lost, "x"], trials.loc[lost, "y"], s=45, marker="x", color=SERIES[1], linewidth=1.4)
        chosen = trials[own & trials["chosen"]]
        axes.scatter(chosen["x"], chosen["y"], s=190, facecolor="none", edgecolor=INK, linewidth=1.6)
        axes.set_title(drawing.wrapped(panel))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    first = grid[0, 0]
    spans(first, "x", trials["x"])
    spans(first, "y", trials["y"])
    first.margins(0.12)
    figure.supxlabel(labels[0], fontsize=12)
    figure.supylabel(labels[1], fontsize=12)


def spans(axes, axis: str, values: pd.Series) -> None:  # type: ignore[no-untyped-def]
    """Make an axis logarithmic if values span a decade."""
    positive = values[values > 0]
    if positive.empty or positive.max() < 10 * positive.min():
        return
    if (values == 0).any():
        axes.set(**{f"{axis}scale": "symlog"})
        getattr(axes, f"set_{axis}scale")("symlog", linthresh=positive.min(), linscale=0.4)
    else:
        axes.set(**{f"{axis}scale": "log"})
        getattr(axes, f"{axis}axis").set_major_locator(LogLocator(subs=(1,), numticks=6))
    at = getattr(axes, f"{axis}axis")
    at.set_minor_locator(NullLocator())
    at.set_major_formatter(FuncFormatter(lambda value, _: numbers.setting(float(value))))
