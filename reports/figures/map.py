"""A map of items: two principal components of their factors, with names where they fit."""

from __future__ import annotations

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from reports.figures import drawing
from reports.figures.drawing import FAINT, SERIES, Chart

LABELS = {True: 45, False: 16}  # at most, on a wide and a narrow screen
TRIED = 250


def chart(kind: str, title: str, items: pd.DataFrame, words: str, caption: str) -> Chart:
    """The map.

    Args:
        kind: its name on the page.
        title: above it.
        items: name, short, count, and the components `first` and `second`.
        words: describe it for those who do not see it.
        caption: below it.
    """
    return drawing.chart(
        kind,
        title,
        words,
        caption,
        items.nlargest(TRIED, "count")[["name", "first", "second", "count"]],
        lambda figure, wide: draw(figure, items, wide),
        lambda wide: 620 if wide else 520,
    )


def draw(figure: Figure, items: pd.DataFrame, wide: bool) -> None:
    """Points, and titles that do not touch each other."""
    axes = figure.subplots()
    sns.scatterplot(items, x="first", y="second", ax=axes, s=14, color=FAINT, linewidth=0, alpha=0.5, legend=False)
    axes.set(xlabel="first component", ylabel="second component")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.09 if wide else 0.16, 0.05)
    figure.draw_without_rendering()
    boxes: list[Bbox] = []
    frame = axes.get_window_extent()
    ends = [items[column].rank(method="first", ascending=up) for column in ("first", "second") for up in (True, False)]
    place = pd.concat([*ends, items["count"].rank(method="first", ascending=False)], axis=1).min(axis=1)
    rows: Any = items.assign(place=place).nsmallest(TRIED, "place").itertuples()
    for row in rows:
        if len(boxes) == LABELS[wide]:
            break
        label = axes.annotate(
            row.short,
            (row.first, row.second),
            (0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=11,
        )
        text = label.get_window_extent()
        box = Bbox([[text.x0 - 2, text.y0 - 7], [text.x1 + 2, text.y1 + 1]])  # with the point below
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        if not inside or any(box.overlaps(other) for other in boxes):
            label.remove()
            continue
        boxes.append(box)
        axes.plot(row.first, row.second, "o", color=SERIES[0], markersize=4)
