"""The page of the items: their biases, a map of their factors, the nearest of a few; from `learn.export`'s file."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from reports.figures import films
from reports.pages import Page
from reports.read import Inputs
from studies.evidence.parts import LARGEST
from studies.evidence.schema import ResultsError, read_bytes

PLACE = 35
FILE = "films.parquet"
LISTED, ENDS, OF, NEAR = 15, 6, 6, 4  # items: by bias, at an end of the map; whose nearest are shown, and how many
END = 0.1  # the share of the map's items that an end's genres are counted in
AGAIN = f"Write it again: learn.export('results/{FILE}')"
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
    try:
        table = parquet.read_table(pa.BufferReader(read_bytes(path)))
        table.validate(full=True)
        if twice := [name for name in COLUMNS if table.column_names.count(name) != 1]:
            raise ResultsError(f"{path}: it needs one column {twice[0]}. {AGAIN}")
        about = json.loads((table.schema.metadata or {}).get(b"dotbias", b"{}"))
        columns = table.select(list(COLUMNS)).cast(pa.schema(COLUMNS.items()))
        items = columns.replace_schema_metadata().to_pandas()
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror or error}). {AGAIN}") from error
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ResultsError(f"{path}: not a file of items ({' '.join(str(error).split())[:200]}). {AGAIN}") from error
    if wrong := _wrong(items, about):
        raise ResultsError(f"{path}: {wrong}. {AGAIN}")
    names = items["title"].where(items["title"].fillna("").str.strip() != "", items["item"])
    items["name"] = names.map(partial(shortened, most=100))
    items["short"] = names.map(partial(shortened, most=26))
    said = [about.get(key) if isinstance(about.get(key), str) else None for key in ("name", "citation", "terms")]
    return Films(items, said[0] or "data without a name", *said[1:])


def _wrong(items: pd.DataFrame, about: Any) -> str:
    """What is wrong with the contents; nothing if all is well."""
    if not isinstance(about, dict):
        return "its description is no JSON object"
    if items.empty:
        return "it has no items"
    if items["item"].isna().any():
        return "an item has no id"
    for name in ("bias", "mean", "count"):
        if not (items[name].astype(float).abs() < LARGEST).all():
            return f"its column {name} does not hold finite numbers below {LARGEST:g}"
    for name in ("factors", "components"):
        lists = items[name].dropna()
        if len(set(lists.map(len))) > 1 or not all((np.abs(numbers) < LARGEST).all() for numbers in lists):
            return f"its column {name} does not hold lists of one length, of finite numbers below {LARGEST:g}"
    if items["factors"].isna().any():
        return "an item has no factors"
    return ""


def shortened(text: str, most: int) -> str:
    """A title on one line, of at most `most` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def mapped(items: pd.DataFrame) -> pd.DataFrame:
    """The items on the map, with their first two components; none if there are fewer than two components."""
    there = items[items["components"].notna()].reset_index(drop=True)
    components = np.array(there["components"].tolist())
    if components.ndim != 2 or components.shape[1] < 2:
        return there[:0].assign(first=0.0, second=0.0)
    return there.assign(first=components[:, 0], second=components[:, 1])


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


def nearest(items: pd.DataFrame) -> list[tuple[str, list[tuple[str, float]]]]:
    """The most rated items on the map, each with the items there of the largest cosine."""
    there = items[items["components"].notna()].sort_values("count", ascending=False, kind="stable")
    factors = np.array(there["factors"].tolist())
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    units = np.divide(factors, lengths, out=np.zeros_like(factors), where=lengths > 0)
    names, found = there["name"].tolist(), []
    for row in range(min(OF, len(names))):
        cosines = units @ units[row]
        order = [other for other in np.argsort(-cosines, kind="stable") if other != row][:NEAR]
        found.append((names[row], [(names[other], float(cosines[other])) for other in order]))
    return found


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
        "chart": films.chart(there, words) if len(there) > 1 else None,
        "ends": ends,
        "mapped": len(there),
        "nearest": nearest(items) if len(items) > 1 else [],
    }
