"""Reads every file of the results folder, once, and checks it before anything is drawn."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import pyarrow as pa
from pandas.api import types
from pyarrow import parquet

from studies.evidence.ledger import Ledger, read_ledger
from studies.evidence.parts import LARGEST
from studies.evidence.schema import CURVES, RUNS, ResultsError, Summary, digest_of, read_bytes

INDEX_PAGE = "index.html"
PAGES = Path(__file__).parent / "pages"  # its files name the other pages
LONGEST_NAME = 60  # of a page, in characters: at four bytes each still a valid file name

Holds = Callable[[pd.Series], bool]
Read = TypeVar("Read")


@dataclass(frozen=True)
class Study:
    """One folder of results: the summary, its runs and curves if they could be read, and the page's name."""

    page: str
    folder: Path
    summary: Summary
    runs: pd.DataFrame | None
    curves: pd.DataFrame | None
    problems: list[str] = field(default_factory=list)


class Missing(NamedTuple):
    """Results that are missing, and the command that makes them."""

    what: str
    command: str


@dataclass
class Inputs:
    """Everything the pages are made from. `problems` are sentences about files that cannot be used."""

    results: Path
    ledger: Ledger
    studies: list[Study]
    problems: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)

    def file(self, name: str, read: Callable[[Path], Read]) -> Read | None:
        """The result of `read` on a file of the results folder, cached; None if the file is missing or a problem."""
        if name not in self.files:
            self.files[name] = None
            if os.path.lexists(self.results / name):  # a broken link counts as a file, and is a problem
                try:
                    self.files[name] = read(self.results / name)
                except ResultsError as error:
                    self.problems.append(str(error))
        found: Read | None = self.files[name]
        return found


def gather(results: Path) -> Inputs:
    """Read the ledger and every study in `results`, and collect what is broken or missing.

    Raises:
        ResultsError: the folder does not exist.
    """
    ledger = read_ledger(results)
    inputs = Inputs(results, ledger, [], list(ledger.problems))
    taken = {INDEX_PAGE, *(f"{file.stem}.html" for file in PAGES.glob("*.py"))}
    for path, summary in ledger.summaries.items():
        study = read_study(path, summary, page_name(path.parent, results, taken))
        taken.add(study.page.casefold())
        inputs.studies.append(study)
        inputs.problems += study.problems
    if not inputs.studies:
        inputs.missing.append(Missing("No study has results yet.", "tox run -e report"))
    if not any(part.exact for row in ledger.rows for part in row.parts):
        inputs.missing.append(Missing("No exact check has been run yet.", "python -m studies.exact"))
    return inputs


def page_name(folder: Path, results: Path, taken: set[str]) -> str:
    """A page's file name: wd_sweep-movielens-quick.html for wd_sweep/movielens/quick/.

    `taken` has names in lower case: on some file systems Index.html is index.html.
    """
    parts = folder.relative_to(results).parts or (folder.resolve().name,)
    stem = re.sub(r"[^\w.-]+", "-", "-".join(parts))[:LONGEST_NAME]
    number = 2
    name = f"{stem}.html"
    while name.casefold() in taken:
        name, number = f"{stem}-{number}.html", number + 1
    return name


# The tables beside a summary


def is_text(values: pd.Series) -> bool:
    """Text in every row."""
    return types.is_string_dtype(values) and bool(values.notna().all())


def is_kind(values: pd.Series) -> bool:
    """A run's kind in every row."""
    return is_text(values) and bool(values.isin(["run", "repeat", "tuning"]).all())


def is_whole(values: pd.Series) -> bool:
    """A whole number in every row."""
    return types.is_integer_dtype(values) and bool(values.notna().all())


def is_truth(values: pd.Series) -> bool:
    """True or false in every row."""
    return types.is_bool_dtype(values) and bool(values.notna().all())


def is_number(values: pd.Series) -> bool:
    """A number or nothing in every row; infinite if a run diverged."""
    numeric = types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
    return numeric or bool(values.isna().all())


def is_drawable(values: pd.Series) -> bool:
    """Nothing, or a number that can be averaged and drawn, in every row."""
    return is_number(values) and bool((values.dropna().astype(float).abs() < LARGEST).all())


HOLDS: dict[Holds, str] = {
    is_text: "text in every row",
    is_kind: "run, repeat or tuning in every row",
    is_whole: "a whole number in every row",
    is_truth: "true or false in every row",
    is_number: "numbers",
    is_drawable: f"finite numbers below {LARGEST:g}",
}
OF_RUNS: dict[str, Holds] = {"arm": is_text, "kind": is_kind, "seed": is_whole, "diverged": is_truth}
OF_CURVES: dict[str, Holds] = {"arm": is_text, "kind": is_kind, "seed": is_whole}
OF_CURVES |= {"x": is_drawable, "curve": is_text, "value": is_number}


def read_study(path: Path, summary: Summary, page: str) -> Study:
    """Read the tables beside a `summary.json`; a table that cannot be used becomes a problem on the page.

    A summary without either table, as results are published, is no problem: a note says that they are not there.
    """
    problems: list[str] = []
    if not any(os.path.lexists(path.parent / name) for name in (RUNS, CURVES)):
        note = f"The runs and the curves are not in this folder. {summary.provenance.command} makes them again."
        published = summary.model_copy(update={"notes": [*summary.notes, note]})
        return Study(page, path.parent, published, None, None, problems)

    def table(name: str, columns: Mapping[str, Holds], once: list[str]) -> pd.DataFrame | None:
        beside = path.parent / name
        try:
            return read_table(beside, columns, once, summary)
        except ResultsError as error:
            problems.append(
                f"{beside} cannot be used ({error}): its charts are left out. "
                f"To make it again: {summary.provenance.command}"
            )
            return None

    measured = {f"metric.{metric}": is_drawable for metric in summary.metrics}
    runs = table(RUNS, OF_RUNS | measured, ["arm", "kind", "seed"])
    curves = table(CURVES, OF_CURVES, ["arm", "kind", "seed", "curve", "x"])
    return Study(page, path.parent, summary, runs, curves, problems)


def read_table(path: Path, columns: Mapping[str, Holds], once: list[str], summary: Summary) -> pd.DataFrame:
    """Read a Parquet file and check the columns that are drawn.

    Args:
        path: the file.
        columns: what each column must hold.
        once: the columns that identify a row; tuning rows may repeat them.
        summary: the study's summary.

    Raises:
        ResultsError: it cannot be read, is of another result than the summary, or a column does not hold that. Other
            columns are dropped.
    """
    try:
        stored = read_bytes(path)
    except FileNotFoundError as error:
        raise ResultsError("it is missing") from error
    except OSError as error:
        raise ResultsError(f"it cannot be read: {error.strerror or error}") from error
    if path.name in summary.tables and summary.tables[path.name] != digest_of(stored):
        raise ResultsError("it belongs to another result than the summary beside it")
    try:
        table = parquet.read_table(pa.BufferReader(stored))
        table.validate(full=True)
    except (ValueError, OSError, pa.ArrowException) as error:  # OSError: bytes that Thrift cannot decode
        raise ResultsError(f"it is not a Parquet file: {error}") from error
    if lacking := sorted(columns.keys() - set(table.column_names)):
        raise ResultsError(f"it lacks the columns {', '.join(lacking)}")
    if twice := [name for name in columns if table.column_names.count(name) > 1]:
        raise ResultsError(f"it has the column {twice[0]} twice")
    frame = table.select(list(columns)).replace_schema_metadata().to_pandas()  # pandas' metadata may be wrong
    for name, holds in columns.items():
        if not holds(frame[name]):
            raise ResultsError(f"its column {name} does not hold {HOLDS[holds]}")
    judged = frame[frame["kind"] != "tuning"]
    if unknown := sorted(set(judged["arm"]) - summary.arms.keys()):
        raise ResultsError(f"the summary has no arm {unknown[0]!r}")
    if judged.duplicated(once).any():
        raise ResultsError(f"two rows have the same {', '.join(once)}")
    return frame
