"""RMSE against seconds of training, one line per library."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from reports import numbers
from reports.figures import drawing
from reports.figures.drawing import SOFT, Chart
from studies.evidence.peers import TARGET, PeerResults

HIGHEST = 0.97
TITLES = {
    "one": "RMSE on the validation rows against seconds of training",
    "fresh": "RMSE against seconds of training, on fresh splits",
    "fifths": "RMSE against seconds of training, on u1 to u5",
    "everything": "RMSE against seconds of training, on u1 with everything that is known",
}


def chart(results: PeerResults, words: str) -> Chart | None:
    """RMSE against seconds of training; `words` describe it."""
    rows = [
        {"peer": peer.title, "seed": row.seed, "epochs": point.epochs, "seconds": point.seconds, "rmse": point.rmse}
        for peer in results.peers
        for row in peer.rows
        for point in row.points
        if point.rmse is not None
    ]
    if not rows:
        return None
    seeds = pd.DataFrame(rows)
    means = seeds.groupby(["peer", "epochs"], sort=False)[["seconds", "rmse"]].mean().reset_index()
    cut = f" Above {HIGHEST} values are cut off." if is_cut(seeds) else ""
    count, one = means["peer"].nunique(), results.splits == "one"
    marks = (
        f"One mark per epoch, or per fit if a library trains in one call; thin lines: each seed. Dotted: {TARGET}."
        if one
        else f"Marks: means over the {'seeds' if results.splits == 'everything' else 'splits'}."
    )
    return drawing.chart(
        "quality" if one else f"quality-{results.splits}",
        TITLES[results.splits],
        words,
        f"Left and low is better. {marks}{cut}",
        means.rename(columns={"seconds": "seconds, mean", "rmse": "RMSE, mean"}).astype({"epochs": object}),
        lambda figure, wide: draw(figure, seeds, TARGET if one else None, 3 if wide else 1),
        lambda wide: 420 + 22 * (-(-count // 3) if wide else count),
    )


def is_cut(seeds: pd.DataFrame) -> bool:
    """Whether few values are above HIGHEST: the first epochs of some libraries, which would flatten all others."""
    above = int((seeds["rmse"] > HIGHEST).sum())
    return 0 < above < len(seeds) / 2


def draw(figure: Figure, seeds: pd.DataFrame, target: float | None, columns: int) -> None:
    """RMSE against seconds of training: `peer`, `seed`, `epochs`, `seconds`, `rmse`; one thin line per seed."""
    axes = figure.subplots()
    drawing.logarithmic(figure, "x")
    drawing.room_around(axes, seeds["seconds"])
    means = seeds.groupby(["peer", "epochs"], sort=False, observed=True)[["seconds", "rmse"]].mean().reset_index()
    look: Any = {"x": "seconds", "y": "rmse", "hue": "peer", "palette": drawing.palette(means["peer"]), "ax": axes}
    thin: Any = {"units": "seed", "estimator": None, "linewidth": 0.6, "alpha": 0.4, "legend": False}
    sns.lineplot(seeds, **look, **thin, sort=False)
    marks: Any = {"style": "peer", "markers": True, "dashes": True, "markersize": 8}
    sns.lineplot(means, **look, **marks, errorbar=None, linewidth=1.8, sort=False)
    if target is not None:
        axes.axhline(target, color=SOFT, linewidth=1, linestyle=":")
        axes.text(1, target, f"{target:.3f}", transform=axes.get_yaxis_transform(), ha="right", va="bottom", color=SOFT)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.setting(float(value))))
    axes.set(xlabel="seconds of training (logarithmic)", ylabel="RMSE on validation rows")
    if is_cut(seeds):
        axes.set_ylim(top=HIGHEST)
    drawing.legend_above(figure, axes, "outside upper left", columns)
