"""The page of the items: their biases, a map of their factors, the nearest of a few; from `learn.export`'s file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from reports.factors import mapped, named, nearest, not_lists, not_numbers, read, said
from reports.figures import map as map_of
from reports.pages import Page
from reports.read import Inputs
from studies.evidence.schema import ResultsError

PLACE = 35
FILE = "films.parquet"
LISTED, ENDS = 15, 6  # items: by bias, at an end of the map
END = 0.1  # the share of the map's items that an end's genres are counted in
AGAIN = f"Write it again: learn.export('results/{FILE}')"
CAPTION = (
    "Each point is an item; the same people like near points, whether the items are good or bad. Titles go to the most "
    "rated items and to those at the ends, as far as they fit. The axes have no unit."
)
COLUMNS = {
    "item": pa.string(),
    "title": pa.string(),
    "bias": pa.float64(),
    "factors": pa.list_(pa.float64()),
    "mean": pa.float64(),
    "count": pa.int64(),
    "genres": pa.list_(pa.string()),
    "components": pa.list_(pa.float64()),
}


class Films(NamedTuple):
    """The items of a file, best first, with name and short besides the file's columns; and the data's description."""

    items: pd.DataFrame
    data: str
    citation: str | None
    terms: str | None


class End(NamedTuple):
    """One end of a component: the items there, and the genres that are more frequent there than overall."""

    titles: list[str]
    genres: list[tuple[str, float, float]]


def plan(inputs: Inputs) -> list[Page]:
    """One page, if there is a file."""
    found = inputs.file(FILE, read_films)
    if found is None:
        return []
    context = partial(context_of, found)
    about = {"data": found.data}
    return [Page("films.html", "Biases and factors", "films.html.j2", inputs.results / FILE, context, about=about)]


def read_films(path: Path) -> Films:
    """Read and check a file of `learn.export`.

    Raises:
        ResultsError: it cannot be read, or a column is missing or does not hold what it should.
    """
    items, about = read(path, COLUMNS, AGAIN)
    if items["item"].isna().any():
        raise ResultsError(f"{path}: an item has no id. {AGAIN}")
    if wrong := not_numbers(items, ("bias", "mean", "count")) or not_lists(items):
        raise ResultsError(f"{path}: {wrong}. {AGAIN}")
    items = named(items, items["title"].where(items["title"].fillna("").str.strip() != "", items["item"]))
    return Films(items, *said(about))


def end_of(items: pd.DataFrame, component: str, up: bool) -> End:
    """One end of the map, described from the data alone."""
    ranked = items.sort_values(component, ascending=not up, kind="stable")
    genres = ranked["genres"].map(lambda of: set() if of is None else {one for one in of if one})
    there = genres[: max(ENDS, round(END * len(items)))]
    shares = [
        (genre, float(np.mean([genre in of for of in there])), float(np.mean([genre in of for of in genres])))
        for genre in sorted(set().union(*there))
    ]
    more = sorted((share for share in shares if share[1] >= share[2] + 0.1), key=lambda share: share[2] - share[1])
    return End(ranked["name"][:ENDS].tolist(), more[:3])


def context_of(found: Films) -> dict[str, Any]:
    """The variables of the template."""
    items = found.items.sort_values("bias", ascending=False, kind="stable")
    there = mapped(items)
    best, worst = items.iloc[0], items.iloc[-1]
    half = min(LISTED, len(items) // 2)
    ends = {
        component: (end_of(there, component, up=False), end_of(there, component, up=True))
        for component in ("first", "second")
        if len(there) > 1
    }
    words = "; ".join(f"{name} component: from {a.titles[0]} to {b.titles[0]}" for name, (a, b) in ends.items())
    answer = f"There is one item: “{best['name']}”."
    if len(items) > 1:
        answer = f"Apart from taste, the model rates “{best['name']}” highest and “{worst['name']}” lowest."
    return {
        "answer": answer,
        "found": found,
        "count": len(items),
        "listed": [("Highest biases", items[:half]), ("Lowest biases", items[::-1][:half])] if half else [],
        "chart": map_of.chart("map", "A map of the items", there, words, CAPTION) if len(there) > 1 else None,
        "ends": ends,
        "mapped": len(there),
        "nearest": nearest(items) if len(items) > 1 else [],
    }
