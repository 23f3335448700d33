"""The page of a net for tables: a map of each category's embedding; from `learn.export`'s file."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from reports.factors import mapped, named, nearest, not_lists, not_numbers, read, said
from reports.figures import map as map_of
from reports.figures.drawing import Chart
from reports.numbers import counted
from reports.pages import Page
from reports.read import Inputs
from studies.evidence.schema import ResultsError

PLACE = 37
FILE = "embeddings.parquet"
FEWEST, MOST = 3, 12  # values of a category that has a map; maps on the page
AGAIN = f"Write it again: learn.export('results/{FILE}')"
CAPTION = (
    "Each point is a value; the net treats near points alike. Names go to the most frequent values and to those at the "
    "ends, as far as they fit. The axes have no unit."
)
COLUMNS = {
    "category": pa.string(),
    "value": pa.string(),
    "count": pa.int64(),
    "factors": pa.list_(pa.float64()),
    "components": pa.list_(pa.float64()),
}


class Embeddings(NamedTuple):
    """The rows of a file by category, with name and short besides the file's columns; and the data's description."""

    categories: dict[str, pd.DataFrame]
    target: str | None
    data: str
    citation: str | None
    terms: str | None


class Shown(NamedTuple):
    """A category on the page."""

    name: str
    values: int
    mapped: int
    width: int
    chart: Chart
    nearest: list[tuple[str, list[tuple[str, float]]]]


def plan(inputs: Inputs) -> list[Page]:
    """One page, if there is a file."""
    found = inputs.file(FILE, read_embeddings)
    if found is None:
        return []
    context = partial(context_of, found)
    about = {"data": found.data}
    return [
        Page("embeddings.html", "Maps of embeddings", "embeddings.html.j2", inputs.results / FILE, context, about=about)
    ]


def read_embeddings(path: Path) -> Embeddings:
    """Read and check a file of `learn.export`.

    Raises:
        ResultsError: it cannot be read, or a column is missing or does not hold what it should.
    """
    rows, about = read(path, COLUMNS, AGAIN)
    if rows[["category", "value"]].isna().any(axis=None):
        raise ResultsError(f"{path}: a row has no category or no value. {AGAIN}")
    categories = {}
    for category, part in rows.groupby("category", sort=False):
        if wrong := not_numbers(part, ("count",)) or not_lists(part):
            raise ResultsError(f"{path}, category {category}: {wrong}. {AGAIN}")
        categories[str(category)] = named(part.reset_index(drop=True), part["value"].reset_index(drop=True))
    target = about.get("target")
    return Embeddings(categories, target if isinstance(target, str) else None, *said(about))


def context_of(found: Embeddings) -> dict[str, Any]:
    """The variables of the template."""
    maps = {category: mapped(rows) for category, rows in found.categories.items()}
    maps = {category: rows for category, rows in maps.items() if len(rows) >= FEWEST}
    shown = [
        Shown(
            category,
            len(found.categories[category]),
            len(rows),
            len(found.categories[category]["factors"].iloc[0]),
            map_of.chart(f"map-{place}", f"A map of {category}", rows, words_of(rows), CAPTION),
            nearest(found.categories[category]),
        )
        for place, (category, rows) in enumerate(itertools.islice(maps.items(), MOST))
    ]
    left = [category for category in found.categories if category not in {one.name for one in shown}]
    return {
        "answer": f"The net has learned {counted(len(found.categories), 'embedding')}.",
        "found": found,
        "shown": shown,
        "left": left,
    }


def words_of(rows: pd.DataFrame) -> str:
    """A map in words: what lies at its ends."""
    said = []
    for component in ("first", "second"):
        names = rows.sort_values(component, kind="stable")["name"].tolist()
        said.append(f"{component} component: from {names[0]} to {names[-1]}")
    return "; ".join(said)
