"""Any content of a file is either reported as a problem of that file or drawn: nothing raises, no other page is lost.

Every field of the made-up files is replaced by every kind of value, and all that `reports.read` accepts is drawn.
"""

import copy
import json
import math
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from reports.pages import render
from reports.pages.calibration import read_calibration
from reports.read import gather, read_study
from studies.evidence.benchmarks import read_benchmarks
from studies.evidence.peers import read_peers
from studies.evidence.schema import ResultsError, Summary, read_summary
from tests.reports.made_up import made_up_benchmarks, made_up_calibration, sweep
from tests.reports.test_peers import made_up, results

READERS = {
    "summary.json": read_summary,
    "benchmarks.json": read_benchmarks,
    "peers.json": read_peers,
    "calibration.json": read_calibration,
}
# Of another type than what they replace, so that no door may let them in.
WRONG = {
    bool: ["x", 1, [], {}, 0.5],
    int: ["x", "1", True, [], {}, 0.5, math.nan, math.inf, -math.inf, 10**30],
    float: ["x", "0.5", True, [], {}, math.nan, math.inf, -math.inf],
    str: [1, 0.5, True, [], {}],
    list: ["x", 1, None, {}],
    dict: ["x", 1, None, []],
    type(None): [1, 0.5, [], {}],
}
# Of the right type, or nothing at all: the door decides.
ODD = [None, "", "\u202eabc", "a\x00b", "a\nb", "x" * 300, 0, -1, 7.5, 1e308, -1e-308, False, [None], {"x": 1}, 10**15]


def everything_made_up():
    """The three JSON files, as small as they can be with every field, and the tables."""
    summary, runs, curves = sweep(3, {0.0: 0.938, 0.01: 0.928, 0.1: 0.895}, tuned={"lr": [0.001, 0.002, 0.005, 0.01]})
    rows = {row["group"]: row for row in made_up_benchmarks()["benchmarks"] if row["extra_info"]["accurate"]}
    not_timed = [{"fullname": "a::b", "group": "lookup", "extra_info": {"op": "lookup"}, "reason": "too large"}]
    measured = made_up_benchmarks() | {"benchmarks": list(rows.values()), "not_timed": not_timed}
    drawn, fits = {"rows": 9, "distinct": 6}, [[(1, 1.0, 0.91), (2, 2.0, 0.89)]] * 2
    peers = results(
        made_up("dotbias-quick", [[(1, 0.1, 0.89)]] * 2),
        made_up("cornac", [[(20, 0.05, 0.902)]] * 2, epochs=[20]),
        made_up("fastai", fits, drawn=drawn, versions={"fastai": "2.8"}),
        made_up("fastai-distinct", fits, drawn=drawn),
        made_up("dotbias", fits),
    )
    calibration = made_up_calibration()
    texts = {
        "calibration.json": calibration | {"cells": calibration["cells"][:4]},
        "summary.json": summary.model_dump(mode="json"),
        "benchmarks.json": measured,
        "peers.json": peers.model_dump(mode="json"),
    }
    return texts, {"runs.parquet": runs, "curves.parquet": curves}


FILES, TABLES = everything_made_up()
SUMMARY = Summary.model_validate(FILES["summary.json"])


def places(node, path=()):
    """The path of every value; of a list's, and of a dictionary's that hold the same, the first alone."""
    yield path
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    alike = (
        isinstance(node, list)
        or len({tuple(v) if isinstance(v, dict) else id(v) for v in (node[key] for key in keys)}) == 1
    )
    for key in keys[:1] if alike else keys:
        yield from places(node[key], (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


def replaced(node, path, value):
    """A copy with another value at `path`."""
    if not path:
        return value
    whole = copy.deepcopy(node)
    at(whole, path[:-1])[path[-1]] = value
    return whole


def without(node, path):
    """A copy without what is at `path`."""
    whole = copy.deepcopy(node)
    del at(whole, path[:-1])[path[-1]]
    return whole


def is_free(name, path):
    """Whether nobody reads what stands there, or anything may: pytest-benchmark's own fields, and settings."""
    if name == "benchmarks.json":
        unread = ("not_timed", 0, "extra_info", "op"), ("not_timed", 0, "group")
        return path[-1] in ("min", "rounds", "accuracy") or path in unread
    return "settings" in path[:-1]


MAY_BE_NULL = {"interval", "interval_corrected", "noise_floor", "baseline", "backend", "n_train", "n_valid", "smallest"}
MAY_BE_NULL |= {
    "better",
    "mean",
    "sd",
    "difference",
    "estimate",
    "low",
    "high",
    "margin",
    "terms",
    "citation",
    "fewest",
}


def is_right(path, value):
    """Whether it may be null, is 1 or 2 in another guise, or one of several types may stand there."""
    if value is None:
        return path[-1] in MAY_BE_NULL
    number_or_null = path[-1] == "difference" or "trials" in path
    return path[-1] in ("schema_version", "smallest") or (number_or_null and isinstance(value, (int, float)))


ROWS = FILES["benchmarks.json"]["benchmarks"]
PLACES = {name: list(places(whole)) for name, whole in FILES.items()}
# Rows of benchmarks differ in what they have.
PLACES["benchmarks.json"] += [("benchmarks", i, *path) for i in range(1, len(ROWS)) for path in places(ROWS[i])]


def write_everything(folder):
    """All made-up files; the study in a folder of its own."""
    (folder / "wd_sweep").mkdir(parents=True)
    for name, whole in FILES.items():
        path_of(folder, name).write_text(json.dumps(whole))
    for name, frame in TABLES.items():
        frame.to_parquet(path_of(folder, name))
    return folder


def path_of(folder, name):
    return folder / "wd_sweep" / name if name in ("summary.json", *TABLES) else folder / name


def refusal(name, path):
    """What the reader says of a file, None where it lets it in."""
    try:
        READERS[name](path)
    except ResultsError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READERS)
def test_a_value_of_another_type_is_refused_in_every_field(tmp_path, name):
    path, let_in = tmp_path / name, []
    for place in PLACES[name]:
        for value in WRONG[type(at(FILES[name], place))]:
            path.write_text(json.dumps(replaced(FILES[name], place, value)))
            said = refusal(name, path)
            if said is None:
                let_in.append((place, value))
            else:
                assert said.startswith(f"{path}: not a ")
                assert "\n" not in said
    assert [(place, value) for place, value in let_in if not (is_free(name, place) or is_right(place, value))] == []


@pytest.mark.parametrize("name", READERS)
def test_a_field_that_is_not_there_is_refused_or_not_needed(tmp_path, name):
    path = tmp_path / name
    for place in PLACES[name]:
        if place:
            path.write_text(json.dumps(without(FILES[name], place)))
            assert (refusal(name, path) or f"{path}: not a ").startswith(f"{path}: not a ")


CONTRAST, ARM, PART = ("contrasts", 0), ("arms", "wd=0.01"), ("parts", 0)
TIMED = ("benchmarks", 0)
INFO = (*TIMED, "extra_info")
PEER = ("peers", 0)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        *(("summary.json", (*CONTRAST, p), value) for p in ("p", "p_holm") for value in (7.5, -0.1, None)),
        ("summary.json", (*CONTRAST, "probability_of_improvement"), 1.5),
        ("summary.json", (*CONTRAST, "n"), -5),
        ("summary.json", (*CONTRAST, "diverged"), [11, 0]),
        ("summary.json", (*CONTRAST, "interval"), [0.2, -0.1]),
        ("summary.json", (*CONTRAST, "interval"), [0.2, 0.3]),
        ("summary.json", (*CONTRAST, "difference"), 0.5),
        ("summary.json", (*CONTRAST, "arm"), "wd=7"),
        ("summary.json", (*CONTRAST, "arm"), "wd=0.1"),
        ("summary.json", (*PART, "outcome"), "maybe"),
        ("summary.json", (*PART, "reason"), "good"),
        ("summary.json", (*PART, "low"), 9.0),
        ("summary.json", (*PART, "estimate"), 9.0),
        ("summary.json", (*PART, "metric"), "elsewhere"),
        ("summary.json", (*PART, "weights"), {"wd=7": 1.0}),
        ("summary.json", (*PART, "margin"), -1),
        ("summary.json", (*ARM, "n"), -5),
        ("summary.json", (*ARM, "diverged"), 4),
        ("summary.json", (*ARM, "n_train"), 0),
        ("summary.json", ("arms",), {}),
        ("summary.json", ("metrics",), {}),
        ("summary.json", ("baseline",), "wd=7"),
        ("summary.json", ("measures", "train_rmse", "arms"), {}),
        ("summary.json", ("measures", "train_rmse", "arms", "wd=0"), {"mean": 0.4, "n": 3, "interval": [0.2, 0.1]}),
        ("summary.json", ("noise_floor", "arm"), "wd=7"),
        ("summary.json", ("noise_floor", "interval"), [0.2, -0.2]),
        ("summary.json", ("provenance", "seconds"), 0),
        ("summary.json", ("provenance", "threads"), -1),
        ("calibration.json", ("bar",), 1.5),
        ("calibration.json", ("cells", 0, "coverage"), -0.1),
        ("calibration.json", ("cells", 0, "n"), 0),
        *(("benchmarks.json", (*INFO, ratio), -1) for ratio in ("ratio", "ratio_low", "ratio_high")),
        *(("benchmarks.json", (*INFO, key), None) for key in ("ratio", "ratio_low", "ratio_pairs", "baseline")),
        *(("benchmarks.json", (*INFO, size), 0) for size in ("width", "classes", "batch", "ratio_pairs")),
        ("benchmarks.json", (*TIMED, "stats", "median"), 0),
        ("benchmarks.json", ("commit_info", "id"), 7),
        ("peers.json", (*PEER, "rows", 0, "points", 0, "seconds"), 0),
        ("peers.json", (*PEER, "rows", 0, "points", 0, "rmse"), -1),
        ("peers.json", (*PEER, "rows", 0, "points", 0, "epochs"), 0),
        ("peers.json", (*PEER, "rows", 0, "points"), []),
        ("peers.json", (*PEER, "title"), "cornac"),
        ("peers.json", ("peers", 2, "drawn", "distinct"), 10),
    ],
)
def test_a_value_out_of_its_range_is_refused(tmp_path, name, place, value):
    path = tmp_path / name
    path.write_text(json.dumps(FILES[name]))
    READERS[name](path)
    path.write_text(json.dumps(replaced(FILES[name], place, value)))
    with pytest.raises(ResultsError, match=f"^{path}: not a "):
        READERS[name](path)


# Columns of `n` rows, and which of the tables' columns may hold such things.
MEASURED = "metric.valid_rmse metric.train_rmse"
COLUMNS = {
    "text": (lambda n: [f"x{i}" for i in range(n)], "curve"),
    "numbers": (lambda n: np.linspace(0, 1, n), f"{MEASURED} value x"),
    "numbers and nothing": (lambda n: [None, *np.linspace(0, 1, n - 1)], f"{MEASURED} value x"),
    "nothing": (lambda n: [None] * n, f"{MEASURED} value x"),
    "infinite": (lambda n: [math.inf] * n, "value"),
    "1e308": (lambda n: [1e308] * n, "value"),
    "truth": (lambda n: [True] * n, "diverged"),
    "truth and nothing": (lambda n: [None, *[True] * (n - 1)], ""),
    "lists": (lambda n: [[0.5]] * n, ""),
    "dates": (lambda n: [date(2026, 11, 22)] * n, ""),
    "times": (lambda n: pd.to_datetime(["2026-11-22"] * n), ""),
    "bytes": (lambda n: [b"run"] * n, ""),
    "categories": (lambda n: pd.Categorical(["run"] * n), ""),
}
READ = {"arm", "kind", "seed", "diverged", "x", "curve", "value", *MEASURED.split()}


@pytest.mark.parametrize(("name", "column"), [(name, column) for name, frame in TABLES.items() for column in frame])
def test_a_column_of_a_table_holds_what_it_must_or_its_charts_are_left_out(tmp_path, name, column):
    for table, frame in TABLES.items():
        frame.to_parquet(tmp_path / table)
    frame, path = TABLES[name], tmp_path / name
    for what, (values, may) in COLUMNS.items():
        frame.assign(**{column: values(len(frame))}).to_parquet(path)
        problems = read_study(tmp_path / "summary.json", SUMMARY, "wd_sweep.html").problems
        if column == "x" and what in ("numbers and nothing", "nothing"):
            continue  # a second row of one place: that has a test of its own
        if column in may.split() or column not in READ:
            assert problems == [], (what, problems)
        else:
            assert len(problems) == 1, what
            assert problems[0].startswith(f"{path} cannot be used ("), problems
            assert "python -m studies.wd_sweep" in problems[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda runs: pd.concat([runs, runs.head(1)]), "two rows have the same arm, kind, seed"),
        (lambda runs: runs.assign(arm=runs["arm"].replace("wd=0", "wd=7")), "the summary has no arm 'wd=7'"),
        (lambda runs: runs.drop(columns="arm"), "lacks the columns arm"),
        (lambda runs: runs[[]], "lacks the columns arm"),
        (lambda runs: runs.assign(**{"metric.valid_rmse": 1e300}), "metric.valid_rmse does not hold finite numbers"),
        (lambda runs: runs.assign(kind="walk"), "kind does not hold run, repeat or tuning"),
    ],
)
def test_a_table_that_does_not_fit_its_summary_is_not_drawn(tmp_path, change, problem):
    TABLES["curves.parquet"].to_parquet(tmp_path / "curves.parquet")
    change(TABLES["runs.parquet"]).to_parquet(tmp_path / "runs.parquet")
    read = read_study(tmp_path / "summary.json", SUMMARY, "wd_sweep.html")
    assert problem in read.problems[0]
    assert read.runs is None


def test_a_table_whose_bytes_are_damaged_costs_no_other_page(tmp_path):
    for name, frame in TABLES.items():
        frame.to_parquet(tmp_path / name)
    whole = (tmp_path / "runs.parquet").read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    (tmp_path / "runs.parquet").write_bytes(whole[:end] + bytes(len(whole) - 8 - end) + whole[-8:])
    (problem,) = read_study(tmp_path / "summary.json", SUMMARY, "wd_sweep.html").problems
    assert "it is not a Parquet file" in problem


def test_a_password_in_a_file_is_not_shown(tmp_path):
    changed = replaced(FILES["summary.json"], ("looks",), "postgresql://me:hunter2@host/db")
    (tmp_path / "summary.json").write_text(json.dumps(changed))
    said = refusal("summary.json", tmp_path / "summary.json")
    assert "field looks: " in said
    assert "hunter2" not in said


def test_what_another_library_noted_in_a_table_is_not_asked(tmp_path):
    for name, frame in TABLES.items():
        table = pa.Table.from_pandas(frame).replace_schema_metadata({"pandas": '{"index_columns": ["nowhere"]'})
        parquet.write_table(table, tmp_path / name)
    assert read_study(tmp_path / "summary.json", SUMMARY, "wd_sweep.html").problems == []


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_with_any_content_of_a_file_every_other_page_is_drawn(tmp_path_factory, no_drawing, data):
    name = data.draw(st.sampled_from(sorted(FILES)))
    place = data.draw(st.sampled_from(PLACES[name]))
    value = data.draw(st.sampled_from(ODD + WRONG[type(at(FILES[name], place))]))
    folder = write_everything(tmp_path_factory.mktemp("odd"))
    path = path_of(folder, name)
    path.write_text(json.dumps(replaced(FILES[name], place, value)))

    pages = render(gather(folder))

    others = {"wd_sweep.html", "benchmarks.html", "peers.html", "calibration.html"} - {
        f"{path.stem}.html",
        f"{path.parent.name}.html",
    }
    assert {"index.html", *others} <= set(pages.html)
    assert all("could not be drawn" not in pages.html[page] for page in others)
    assert "claim-85" in pages.html["index.html"]
    if said := refusal(name, path):
        assert said in pages.problems
    for problem in pages.problems:
        assert str(path) in problem


@pytest.mark.parametrize("broken", ["study", "benchmarks", "peers", "calibration", "ledger"])
def test_a_page_that_cannot_be_drawn_costs_no_other_and_says_why(tmp_path, no_drawing, monkeypatch, broken):
    def fail(*_):
        raise ZeroDivisionError("one in a million <b>")

    monkeypatch.setattr(f"reports.pages.{broken}.context_of", fail)
    pages = render(gather(write_everything(tmp_path)))
    page = {"study": "wd_sweep.html", "ledger": "index.html"}.get(broken, f"{broken}.html")
    assert set(pages.html) == {"index.html", "wd_sweep.html", "benchmarks.html", "peers.html", "calibration.html"}
    (problem,) = pages.problems
    assert problem.startswith(str(tmp_path))
    assert "ZeroDivisionError: one in a million <b>" in problem
    for name, text in pages.html.items():
        assert ("ZeroDivisionError: one in a million &lt;b&gt;" in text) == (name in (page, "index.html"))
        assert ("This page could not be drawn" in text) == (name == page)
        assert text.count("<nav") == 1


def test_a_summary_alone_is_published_and_no_problem_but_one_table_is_missed(tmp_path):
    read = read_study(tmp_path / "summary.json", SUMMARY, "wd_sweep.html")
    assert read.problems == []
    assert read.summary.notes[-1].startswith("The runs and the curves are not in this folder.")
    TABLES["runs.parquet"].to_parquet(tmp_path / "runs.parquet")
    (problem,) = read_study(tmp_path / "summary.json", SUMMARY, "wd_sweep.html").problems
    assert problem.startswith(f"{tmp_path / 'curves.parquet'} cannot be used (")
