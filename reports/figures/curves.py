"""Curves over a run, one panel per arm: every seed, and the mean."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.arms import name_of, shown_arms
from reports.figures import drawing
from reports.figures.drawing import SERIES, Chart
from reports.read import Study
from reports.words import capital, listed
from studies.evidence.parts import LARGEST

SECTION, PLACE = "curves", 10
PANELS = 8  # more would not be readable
POINTS = 9_000  # over all lines of a drawing, to keep the page small
DASHES: list[Any] = ["-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (2, 2))]
PARTS_OF_DATA = r"\b(train(ing)?|valid(ation)?|test)\b"


def charts(study: Study) -> list[Chart]:
    """A chart for each kind of curve; curves of training and of validation rows share one."""
    curves = study.curves
    if curves is None or curves.empty:
        return []
    curves = curves[curves["kind"] == "run"]
    kinds: dict[str, list[str]] = {}
    for curve in curves["curve"].unique():
        kinds.setdefault(kind_of(study, curve), []).append(curve)
    found = (of_kind(study, curves, place, kind, names) for place, (kind, names) in enumerate(kinds.items()))
    return [chart for chart in found if chart]


def kind_of(study: Study, curve: str) -> str:
    """What a curve measures, on any rows: loss for training loss and for validation loss."""
    said = readable(study, curve)
    return " ".join(re.sub(PARTS_OF_DATA, "", said).split()) or said


def readable(study: Study, curve: str) -> str:
    """A curve's display name."""
    return study.summary.names.get(curve, curve.replace("_", " "))


def of_kind(study: Study, curves: pd.DataFrame, place: int, kind: str, names: list[str]) -> Chart | None:
    """The chart of the curves `names`, which share an axis; `place` makes its name unique on the page."""
    summary = study.summary
    curves = curves[curves["curve"].isin(names)]
    arms = [arm for arm in shown_arms(summary, PANELS) if arm in set(curves["arm"])]
    curves = curves[curves["arm"].isin(arms)].astype({"value": float})
    curves["value"] = curves["value"].where(curves["value"].abs() < LARGEST)
    if curves["value"].isna().all():
        return None
    curves["arm"] = pd.Categorical(curves["arm"], arms).rename_categories(lambda arm: name_of(summary, arm))
    curves["curve"] = curves["curve"].map(lambda curve: readable(study, curve))
    lines = curves.groupby(["arm", "curve", "seed"], observed=True).ngroups
    curves = curves[curves["x"].isin(thinned(curves["x"], max(5, POINTS // lines)))]
    few = curves[curves["x"].isin(thinned(curves["x"], 20))]
    found = few.pivot_table("value", ["arm", "x"], "curve", ["mean", "min", "max"], dropna=False, observed=True)
    data = pd.DataFrame(
        {
            f"{curve}{', ' + words if words else ''}": found[how, curve]
            for curve in dict.fromkeys(curves["curve"])
            for how, words in (("mean", ""), ("min", "lowest"), ("max", "highest"))
        }
    )
    x = name_of(summary, summary.x)
    left_out = len(summary.arms) - len(arms)
    return drawing.chart(
        f"curves-{place}-{kind}",
        f"{capital(kind)} against {x}",
        f"A panel for each of {len(arms)} arms, with {listed(list(dict.fromkeys(curves['curve'])))}.",
        "Thin lines are seeds, thick ones their mean."
        + (f" {left_out} of {len(summary.arms)} arms are left out." if left_out else ""),
        data.rename_axis(index={"x": x}).reset_index(),
        lambda figure, wide: draw(figure, curves, (x, kind), columns(len(arms), wide)),
        lambda wide: 70 + 150 * -(-len(arms) // columns(len(arms), wide)),
    )


def columns(panels: int, wide: bool) -> int:
    """The number of panels side by side that fills the rows."""
    rows = -(-panels // (4 if wide else 2))
    return -(-panels // rows)


def thinned(places: pd.Series, most: int) -> np.ndarray:
    """At most `most` of the places, evenly spread, with the first and the last."""
    there = np.sort(places.unique())
    return there[np.unique(np.linspace(0, len(there) - 1, min(most, len(there))).round().astype(int))]


def draw(figure: Figure, curves: pd.DataFrame, labels: tuple[str, str], across: int) -> None:
    """One panel per arm: `arm` (categories), `seed`, `x`, `curve`, `value`."""
    arms = curves["arm"].cat.categories
    grid = figure.subplots(-(-len(arms) // across), across, sharex=True, sharey=True, squeeze=False)
    by_place = curves.pivot_table("value", "x", ["arm", "curve", "seed"], dropna=False, observed=True)
    names = list(dict.fromkeys(curves["curve"]))
    there = set(zip(curves["arm"], curves["curve"], strict=True))
    for place, (axes, arm) in enumerate(zip(grid.flat, arms, strict=False)):
        for i, name in enumerate(names):
            if (arm, name) not in there:
                continue
            lines = by_place[arm, name]
            look: Any = {"color": SERIES[i % len(SERIES)], "linestyle": DASHES[i % len(DASHES)]}
            gap = lines.reindex([*lines.index, np.nan])  # NaN after each seed: drawing all seeds as one line is fast
            axes.plot(np.tile(gap.index, lines.shape[1]), gap.to_numpy().ravel("F"), **look, linewidth=0.6, alpha=0.45)
            axes.plot(lines.index, lines.mean(axis=1), **look, linewidth=2.2, label=name)
        axes.set(title=drawing.wrapped(arm))
        axes.tick_params(labelbottom=place + across >= len(arms))
    for axes in grid.flat[len(arms) :]:
        axes.set_visible(False)
    # A few extreme runs should not flatten all others.
    low, high = robust_range(curves["value"])
    if high > low:
        grid[0, 0].set_ylim(low - 0.04 * (high - low), high + 0.03 * (high - low))
    grid[0, 0].locator_params(axis="x", nbins=5, integer=bool((curves["x"] % 1 == 0).all()))
    figure.supxlabel(labels[0], fontsize=12)
    figure.supylabel(labels[1], fontsize=12)
    if len(names) > 1:
        drawing.legend_above(figure, grid[0, 0], "outside upper right", 2)


def robust_range(values: pd.Series) -> tuple[float, float]:
    """The range of the values, without those far outside the range of nearly all."""
    low, high = values.quantile(0.03), values.quantile(0.97)
    reach = 0.6 * (high - low)
    return max(values.min(), low - reach), min(values.max(), high + reach)
