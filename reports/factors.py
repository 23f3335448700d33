"""Items with factors, as `learn.export` writes them: read, placed on a map, and those that are near others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from studies.evidence.parts import LARGEST
from studies.evidence.schema import ResultsError, read_bytes

OF, NEAR = 6, 4  # items: whose nearest are shown, and how many


def read(path: Path, columns: Mapping[str, pa.DataType], again: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A file's columns, and the description of its data.

    Args:
        path: the file.
        columns: that it must have, by name.
        again: how to write it again, for errors.

    Raises:
        ResultsError: it cannot be read, has no rows, or a column is missing or of another type.
    """
    try:
        table = parquet.read_table(pa.BufferReader(read_bytes(path)))
        table.validate(full=True)
        if twice := [name for name in columns if table.column_names.count(name) != 1]:
            raise ResultsError(f"{path}: it needs one column {twice[0]}. {again}")
        about = json.loads((table.schema.metadata or {}).get(b"dotbias", b"{}"))
        items = table.select(list(columns)).cast(pa.schema(columns.items())).replace_schema_metadata().to_pandas()
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror or error}). {again}") from error
    except (ValueError, TypeError, RecursionError, pa.ArrowException) as error:
        raise ResultsError(f"{path}: not a file of items ({' '.join(str(error).split())[:200]}). {again}") from error
    if not isinstance(about, dict):
        raise ResultsError(f"{path}: its description is no JSON object. {again}")
    if items.empty:
        raise ResultsError(f"{path}: it has no items. {again}")
    return items, about


def said(about: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """The data's name, citation and terms, as far as they are texts."""
    name, citation, terms = (
        about.get(key) if isinstance(about.get(key), str) else None for key in ("name", "citation", "terms")
    )
    return name or "data without a name", citation, terms


def named(items: pd.DataFrame, names: pd.Series) -> pd.DataFrame:
    """The items with their names on one line, as `name` and, for a drawing, `short`."""
    return items.assign(name=names.map(partial(shortened, most=100)), short=names.map(partial(shortened, most=26)))


def not_numbers(items: pd.DataFrame, columns: Sequence[str]) -> str:
    """Which column does not hold numbers that can be drawn; nothing if all do."""
    for name in columns:
        if not (items[name].astype(float).abs() < LARGEST).all():
            return f"its column {name} does not hold finite numbers below {LARGEST:g}"
    return ""


def not_lists(items: pd.DataFrame) -> str:
    """What is wrong with factors and components, which are lists of one length each; nothing if all is well."""
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


def nearest(items: pd.DataFrame) -> list[tuple[str, list[tuple[str, float]]]]:
    """The most rated items on the map, each with the items there of the largest cosine."""
    there = items[items["components"].notna()].sort_values("count", ascending=False, kind="stable")
    if there.empty:
        return []
    factors = np.array(there["factors"].tolist())
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    units = np.divide(factors, lengths, out=np.zeros_like(factors), where=lengths > 0)
    names, found = there["name"].tolist(), []
    for row in range(min(OF, len(names))):
        cosines = units @ units[row]
        order = [other for other in np.argsort(-cosines, kind="stable") if other != row][:NEAR]
        found.append((names[row], [(names[other], float(cosines[other])) for other in order]))
    return found
