"""The door: every file of the results folder is read here, once, and checked before anything is drawn from it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
from pandas.api import types
from pyarrow import parquet

from reports.benchmarks import lookup_evidence
from reports.charts import LARGEST
from reports.study import Study
from studies.evidence.benchmarks import Benchmarks, read_benchmarks
from studies.evidence.peers import PeerResults, read_peers
from studies.evidence.schema import ResultsError, Summary, read_bytes
from studies.evidence.verdicts import Ledger, read_ledger

INDEX_PAGE, BENCHMARKS_PAGE, PEERS_PAGE = "index.html", "benchmarks.html", "peers.html"
LONGEST_NAME = 50  # of a page: with four bytes a character it still is a file's name

Holds = Callable[[pd.Series], bool]


@dataclass(frozen=True)
class Missing:
    """A part that is not there: what, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Inputs:
    """Everything the pages are made from. `problems` are sentences about what could not be used."""

    results: Path
    ledger: Ledger
    studies: list[Study]
    benchmarks: Benchmarks | None
    problems: list[str] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    peers: PeerResults | None = None


def gather(results: Path) -> Inputs:
    """Read everything in `results`, and say what is broken or missing.

    Raises:
        ResultsError: there is no such folder.
    """
    problems: list[str] = []
    measured = read_if_there(results / "benchmarks.json", read_benchmarks, problems)
    others = read_if_there(results / "peers.json", read_peers, problems)
    evidence = lookup_evidence(measured) if measured else None
    ledger = read_ledger(results, [evidence] if evidence else [])
    studies: list[Study] = []
    taken = {INDEX_PAGE, BENCHMARKS_PAGE, PEERS_PAGE}
    for path, summary in ledger.summaries.items():
        studies.append(read_study(path, summary, page_name(path.parent, results, taken)))
        taken.add(studies[-1].page.casefold())
    missing: list[Missing] = []
    if not studies:
        missing.append(Missing("No study has results yet.", "tox run -e report"))
    if measured is None:
        missing.append(Missing("There are no benchmarks that can be read.", "tox run -e bench"))
    problems = [*ledger.problems, *problems, *(problem for one in studies for problem in one.problems)]
    return Inputs(results, ledger, studies, measured, problems, missing, others)


Read = TypeVar("Read")


def read_if_there(path: Path, read: Callable[[Path], Read], problems: list[str]) -> Read | None:
    """What `read` makes of a file; None where there is none, or where it becomes one of `problems`."""
    if not os.path.lexists(path):  # a link that leads nowhere is there, and a problem
        return None
    try:
        return read(path)
    except ResultsError as error:
        problems.append(str(error))
        return None


def page_name(folder: Path, results: Path, taken: set[str]) -> str:
    """A page's file name: wd_sweep.html for wd_sweep/, wd_sweep-mydata.html for mydata/wd_sweep/.

    `taken` are names in small letters: not every file system tells Index.html from index.html.
    """
    parts = folder.relative_to(results).parts or (folder.resolve().name,)
    stem = re.sub(r"[^\w.-]+", "-", "-".join([parts[-1], *parts[:-1]]))[:LONGEST_NAME]
    again = 2
    name = f"{stem}.html"
    while name.casefold() in taken:
        name, again = f"{stem}-{again}.html", again + 1
    return name


# The tables beside a summary


def is_text(values: pd.Series) -> bool:
    """Text in every row."""
    return types.is_string_dtype(values) and bool(values.notna().all())


def is_kind(values: pd.Series) -> bool:
    """What a run was made for."""
    return is_text(values) and bool(values.isin(["run", "again", "tuning"]).all())


def is_whole(values: pd.Series) -> bool:
    """A whole number in every row."""
    return types.is_integer_dtype(values) and bool(values.notna().all())


def is_counted(values: pd.Series) -> bool:
    """1, 2, 3 or further up in every row."""
    return is_whole(values) and bool((values > 0).all())


def is_truth(values: pd.Series) -> bool:
    """True or false in every row."""
    return types.is_bool_dtype(values) and bool(values.notna().all())


def is_number(values: pd.Series) -> bool:
    """A number in every row that has anything: infinite where a run diverged."""
    numeric = types.is_numeric_dtype(values) and not types.is_bool_dtype(values)
    return numeric or bool(values.isna().all())


def is_drawable(values: pd.Series) -> bool:
    """A number that can be averaged and drawn in every row that has anything."""
    return is_number(values) and bool((values.dropna().astype(float).abs() < LARGEST).all())


HOLDS: dict[Holds, str] = {
    is_text: "text in every row",
    is_kind: "run, again or tuning in every row",
    is_whole: "a whole number in every row",
    is_counted: "a whole number from 1 on in every row",
    is_truth: "true or false in every row",
    is_number: "numbers",
    is_drawable: f"finite numbers below {LARGEST:g}",
}
RUNS: dict[str, Holds] = {"arm": is_text, "kind": is_kind, "seed": is_whole, "diverged": is_truth}
CURVES: dict[str, Holds] = {"arm": is_text, "kind": is_kind, "seed": is_whole, "epoch": is_counted}
CURVES |= {"train_loss": is_number, "valid_loss": is_number}


def read_study(path: Path, summary: Summary, page: str) -> Study:
    """Read the tables beside a `summary.json`; one that cannot be used becomes a problem on the page."""
    problems: list[str] = []

    def table(name: str, columns: Mapping[str, Holds], once: list[str]) -> pd.DataFrame | None:
        beside = path.parent / name
        try:
            return read_table(beside, columns, once, summary)
        except ResultsError as error:
            problems.append(
                f"{beside} cannot be used ({error}): its charts are left out. "
                f"This makes it anew: {summary.provenance.command}"
            )
            return None

    measured = dict.fromkeys([summary.metric, *summary.measures], is_drawable)
    runs = table("runs.parquet", RUNS | measured, ["arm", "kind", "seed"])
    curves = table("curves.parquet", CURVES, ["arm", "kind", "seed", "epoch"])
    return Study(page, path.parent, summary, runs, curves, problems)


def read_table(path: Path, columns: Mapping[str, Holds], once: list[str], summary: Summary) -> pd.DataFrame:
    """Read a Parquet file and check the columns that are drawn.

    Args:
        path: the file.
        columns: what each column must hold.
        once: the columns that tell rows apart, but for those of tuning.
        summary: of the study whose table it is.

    Raises:
        ResultsError: it cannot be read, or does not hold that. Other columns are left behind.
    """
    try:
        table = parquet.read_table(pa.BufferReader(read_bytes(path)))
        table.validate(full=True)
    except FileNotFoundError as error:
        raise ResultsError("it is not there") from error
    except OSError as error:
        raise ResultsError(f"it cannot be read: {error.strerror or error}") from error
    except (ValueError, pa.ArrowException) as error:
        raise ResultsError(f"it is no Parquet file: {error}") from error
    if lacking := sorted(columns.keys() - set(table.column_names)):
        raise ResultsError(f"it lacks the columns {', '.join(lacking)}")
    if twice := [name for name in columns if table.column_names.count(name) > 1]:
        raise ResultsError(f"it has the column {twice[0]} twice")
    frame = table.select(list(columns)).replace_schema_metadata().to_pandas()  # its types alone say what it holds
    for name, holds in columns.items():
        if not holds(frame[name]):
            raise ResultsError(f"its column {name} does not hold {HOLDS[holds]}")
    judged = frame[frame["kind"] != "tuning"]
    if unknown := sorted(set(judged["arm"]) - summary.arms.keys()):
        raise ResultsError(f"the summary has no arm {unknown[0]!r}")
    if judged.duplicated(once).any():
        raise ResultsError(f"it has two rows of one {', '.join(once)}")
    return frame
