"""Paired differences from the baseline, seed by seed, with intervals, the noise floor and the margin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import numbers, words
from reports.arms import by_seed, name_of, noise_pairs, title_of
from reports.figures import drawing
from reports.figures.drawing import FAINT, INK, SERIES, SOFT, Chart
from reports.read import Study
from studies.evidence.parts import Metric
from studies.evidence.schema import Contrast, NoiseFloor

SECTION, PLACE = "arms", 20


def charts(study: Study) -> list[Chart]:
    """One chart, if arms are compared with a baseline."""
    summary, table = study.summary, by_seed(study, study.summary.metric)
    by_arm = {contrast.arm: contrast for contrast in summary.contrasts if contrast.baseline == summary.baseline}
    found: dict[str, Contrast | NoiseFloor] = {}
    pairs: dict[str, pd.Series] = {}
    for arm in filter(by_arm.get, summary.arms):
        label = name_of(summary, arm)
        found[label] = by_arm[arm]
        if {arm, summary.baseline} <= set(table):
            pairs[label] = table[arm] - table[summary.baseline]
    if not found or summary.baseline is None:
        return []
    floor = summary.noise_floor
    if floor is not None:
        label = f"{name_of(summary, floor.arm)} repeat"
        found[label], pairs[label] = floor, noise_pairs(study)

    ones, nothing = list(found.values()), (np.nan, np.nan)
    contrasts = pd.DataFrame({"arm": list(found), "noise": [isinstance(one, NoiseFloor) for one in ones]})
    contrasts["difference"] = pd.Series([one.difference for one in ones], dtype=float)
    contrasts[["low", "high"]] = [one.interval or nothing for one in ones]
    contrasts[["lowest", "highest"]] = [getattr(one, "interval_corrected", None) or nothing for one in ones]
    by_pair = pd.DataFrame(pairs)
    data = contrasts[["arm", "difference"]].rename(columns={"difference": "mean"})
    data = data.join(by_pair.T.add_prefix("seed "), on="arm")
    metric, base = title_of(summary, summary.metric), name_of(summary, summary.baseline)
    margin, better = margin_of(study), summary.metrics[summary.metric].better
    good = "" if better is None else f" ({'left' if better == 'lower' else 'right'}: better)"
    spread = words.spread(floor)

    def draw_at(figure: Figure, wide: bool) -> None:
        where = f"{metric} − {metric} at {base}" if wide else "difference"
        seeds = by_pair.melt(var_name="arm", value_name="difference").dropna()
        draw(figure, contrasts, seeds, margin, spread, f"{where}{good}")

    wider = " thin bar: for similar data;" if contrasts["lowest"].notna().any() else ""
    caption = f"Thick bar: 95 % interval for this data set;{wider} dots: seeds."
    if margin is not None:
        caption += f" Gray band: differences below the margin, ±{numbers.setting(margin, 3)}."
    if floor is not None:
        caption += (
            f" Last row, the noise floor: {name_of(summary, floor.arm)} run twice on the same splits with another "
            "initialization and order. Dotted lines: where 95 % of such pairs fall. Arms that share their "
            "initialization and order differ by less than such pairs."
        )
    writes = [numbers.writer(one.difference, bounds=one.interval) for one in ones]
    return [
        drawing.chart(
            "paired",
            f"Paired differences from {base}",
            "; ".join(
                f"{name}: {write(one.difference)} {numbers.interval_of(one.interval, write)}"
                for (name, one), write in zip(found.items(), writes, strict=True)
            ),
            caption,
            data,
            draw_at,
            lambda _wide: 74 + 34 * len(found),
        )
    ]


def margin_of(study: Study) -> float | None:
    """The margin of the first metric; a margin in per cent is a share of the baseline's mean."""
    summary = study.summary
    declared = summary.metrics[summary.metric]
    mean = summary.arms[summary.baseline].metrics.get(summary.metric) if summary.baseline else None
    if declared.smallest is None or mean is None or mean.mean is None:
        return None
    try:
        margin = Metric(declared.title, declared.better, declared.smallest).margin(mean.mean)
    except ValueError:
        return None
    return margin if margin > 0 else None


def draw(
    figure: Figure,
    contrasts: pd.DataFrame,
    seeds: pd.DataFrame,
    margin: float | None,
    spread: float | None,
    label: str,
) -> None:
    """Paired differences, one row per arm.

    Args:
        figure: the figure to draw on.
        contrasts: `arm`, `difference`, its interval `low` to `high`, the wider one `lowest` to `highest`, and
            `noise`: whether the row is the noise floor. NaN where there is none.
        seeds: `arm` and `difference`, one row per pair of runs.
        margin: drawn as a band around 0.
        spread: half the range of 95 % of A/A pairs.
        label: of the axis.
    """
    axes = figure.subplots()
    if margin is not None:
        axes.axvspan(-margin, margin, color=FAINT, alpha=0.28, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    if spread is not None:
        for side in (-spread, spread):
            axes.axvline(side, color=SERIES[1], linewidth=1, linestyle=":")
    rows = {arm: row for row, arm in enumerate(contrasts["arm"])}
    below = seeds["arm"].map(rows).astype(float) + 0.27
    sns.scatterplot(seeds, x="difference", y=below, s=9, color=SOFT, alpha=0.7, linewidth=0, ax=axes)
    colors = [SERIES[int(noise)] for noise in contrasts["noise"]]
    axes.hlines(contrasts.index, contrasts["lowest"], contrasts["highest"], colors, linewidth=1.2)
    axes.hlines(contrasts.index, contrasts["low"], contrasts["high"], colors, linewidth=4.5)
    look: Any = {"palette": SERIES[:2], "markers": ["o", "D"], "hue_order": [False, True], "style_order": [False, True]}
    sns.scatterplot(
        contrasts, x="difference", y=contrasts.index, hue="noise", style="noise", **look, s=55, legend=False, ax=axes
    )
    for row in contrasts.index[contrasts["difference"].isna()]:
        axes.text(0, row, "  failed: see the table", va="center", color=SOFT)
    axes.set_yticks(contrasts.index, [drawing.wrapped(arm) for arm in contrasts["arm"]])
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.set(xlabel=label, ylabel="")
    axes.locator_params(axis="x", nbins=7 if 72 * figure.get_figwidth() > drawing.NARROW else 4)
    drawing.rows_without_axis(axes)
