"""Time to target: how many seeds have reached it after so many steps, and how far each arm is behind the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from reports import numbers, words
from reports.arms import by_seed, name_of, shown_arms, title_of
from reports.figures import drawing
from reports.figures.drawing import Chart
from reports.read import Study

SECTION, PLACE = "arms", 15
LINES = 6


def charts(study: Study) -> list[Chart]:
    """Two charts for each metric that is a logarithm of the time or steps to a target."""
    return [
        chart
        for metric, used in study.summary.metrics.items()
        if used.to_target and not by_seed(study, metric).isna().all(axis=None)
        for chart in of_metric(study, metric)
    ]


def of_metric(study: Study, metric: str) -> list[Chart]:
    """How many seeds have reached the target by then, and the performance profile (Dolan & Moré 2002)."""
    summary, table = study.summary, by_seed(study, metric)
    title = words.LOGARITHM.sub("", title_of(summary, metric)).removeprefix("the ")  # the axis is logarithmic
    needed = 10 ** table.rename(columns=lambda arm: name_of(summary, arm))
    behind = needed.div(needed.min(axis=1), axis=0)[needed.notna().any(axis=1)]
    shown = [name_of(summary, arm) for arm in shown_arms(summary, LINES)]
    reached = [str(arm) for arm in needed if needed[arm].notna().any()]
    shown = shown if set(shown) & set(reached) else reached[:LINES]
    missed = "; ".join(f"{arm}: {int(n)} of {len(needed)}" for arm, n in needed.isna().sum().items() if n)
    misses = f" Runs that missed it or diverged: {missed}." if missed else " No run missed it."
    return [
        chart_of(
            f"to-target-{metric}",
            f"Seeds that reach the target: {title}",
            needed,
            shown,
            title,
            misses,
        ),
        chart_of(
            f"behind-{metric}",
            f"Performance profile: {title}",
            behind,
            shown,
            "times as many as the best arm of the seed",
            " A line that is higher further to the left is better; its start is the share of seeds in which the arm "
            f"is the best.{misses}",
        ),
    ]


def chart_of(name: str, title: str, values: pd.DataFrame, shown: list[str], label: str, caption: str) -> Chart:
    """A chart of the share of seeds at or below each value, an arm a line."""
    by_arm = {str(arm): steps(values[arm]) for arm in values}
    shares = pd.concat(by_arm, names=["arm"]).reset_index("arm")
    data = shares.rename(columns={"at": label, "share": "share of seeds"})
    drawn = shares[shares["arm"].isin(shown)]
    middles = values.fillna(np.inf).median()
    medians = (
        f"{arm}: {'more than half missed it or diverged' if np.isinf(n) else numbers.setting(n, 3)}"
        for arm, n in middles.items()
    )
    left_out = values.shape[1] - len(shown)
    caption = f"The share of seeds at or below each value.{caption}"
    caption += f" {left_out} of {values.shape[1]} arms are only in the data." if left_out > 0 else ""
    end = 1.15 * float(np.nanmax(values))
    return drawing.chart(
        name,
        title,
        f"medians, {label}: " + "; ".join(medians),
        caption,
        data,
        lambda figure, wide: draw(figure, drawn, label, end, 3 if wide else 1),
        lambda wide: 330 if wide else 330 + 24 * len(shown),
    )


def steps(values: pd.Series) -> pd.DataFrame:
    """Where the share of seeds rises: `at`, `share`. Missing values are above every other."""
    found = values.dropna().sort_values()
    return pd.DataFrame({"at": found, "share": np.arange(1, len(found) + 1) / len(values)}).drop_duplicates(
        "at", keep="last"
    )


def draw(figure: Figure, shares: pd.DataFrame, label: str, end: float, columns: int) -> None:
    """One line of steps per arm: `arm`, `at`, `share`."""
    axes, colors = figure.subplots(), drawing.palette(shares["arm"])
    start = float(shares["at"].min())
    ends = [shares]
    for arm, line in shares.groupby("arm", sort=False):
        ends.append(pd.DataFrame({"arm": arm, "at": [line["at"].min(), end], "share": [0.0, line["share"].max()]}))
    look: Any = {"hue": "arm", "style": "arm", "palette": colors, "dashes": True}
    whole = pd.concat(ends).sort_values(["at", "share"], kind="stable")
    sns.lineplot(whole, x="at", y="share", **look, estimator=None, sort=False, drawstyle="steps-post", ax=axes)
    drawing.logarithmic(figure, "x")
    axes.set(xlabel=label, ylabel="share of seeds", xlim=(start / 1.15, end), ylim=(0, 1.04))
    drawing.decades(axes.xaxis, 6)
    drawing.legend_above(figure, axes, "outside upper left", columns)
