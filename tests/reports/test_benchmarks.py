"""The benchmarks' page: what it concludes, and what it does not show."""

import pytest

from reports import benchmarks
from reports.__main__ import gather, render
from tests.reports.made_up import made_up_benchmarks


@pytest.fixture
def read(tmp_path, write_benchmarks):
    def read_raw(raw):
        write_benchmarks(tmp_path, raw)
        return benchmarks.read_benchmarks(tmp_path / "benchmarks.json")

    return read_raw


def with_ratios(change):
    """The made-up file with `change(row's extra_info)` applied to every one-hot row."""
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        if "one" in row["extra_info"]["implementation"]:
            change(row["extra_info"])
    return raw


def test_the_claim_depends_where_one_hot_wins_a_corner(read):
    evidence = benchmarks.lookup_evidence(read(made_up_benchmarks()))
    assert evidence.claim == 26
    assert evidence.verdict == "depends"
    assert "takes 1,120× the lookup’s time at 10,000 classes, batch 4,096, forward" in evidence.text
    assert "0.17× [0.16×, 0.18×] at 10 classes, batch 64, forward+backward" in evidence.text


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(1.5, 3, "holds"), (0.5, 0.9, "fails"), (0.9, 1.1, "inconclusive")]
)
def test_the_claim_follows_the_intervals(read, low, high, verdict):
    raw = with_ratios(lambda info: info.update(ratio=(low + high) / 2, ratio_low=low, ratio_high=high))
    assert benchmarks.lookup_evidence(read(raw)).verdict == verdict


def test_a_ratio_below_one_whose_interval_is_not_wins_nothing(read):
    raw = with_ratios(
        lambda info: info.update(ratio=max(info["ratio"], 0.95), ratio_high=max(info["ratio_high"], 1.05))
    )
    found = read(raw)
    assert benchmarks.lookup_evidence(found).verdict == "holds"
    assert benchmarks.answer(found).startswith("Yes:")


def test_the_answer_names_the_ratio_at_large_and_where_one_hot_wins(read):
    assert benchmarks.answer(read(made_up_benchmarks())) == (
        "It depends: a one-hot product takes up to 1,120× the lookup’s time (10,000 classes, batch 4,096, forward), "
        "yet wins at 10 classes, batch 64, forward+backward with 0.17×."
    )


def test_without_lookup_rows_there_is_no_evidence_and_no_failure(read):
    raw = made_up_benchmarks()
    raw["benchmarks"] = [row for row in raw["benchmarks"] if row["group"] == "adam"]
    found = read(raw)
    assert benchmarks.lookup_evidence(found) is None
    assert "not measured" in benchmarks.answer(found)


def test_what_failed_its_accuracy_check_shows_no_time_and_no_ratio(read, tmp_path):
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        if row["extra_info"]["implementation"] == "wrong":
            row["stats"]["median"], row["extra_info"]["ratio"] = 123.456, 0.0123
    assert [name for name, _ in read(raw).inaccurate] == ["test_adam[wrong-step-107700]"]
    page = render(gather(tmp_path))["benchmarks.html"]
    assert "Failed the accuracy check" in page
    assert "index 3: 0 instead of 0.003" in page
    assert "2 min" not in page
    assert "0.01×" not in page


def test_what_was_not_timed_is_said_with_its_reason(read, tmp_path):
    info = {"op": "lookup", "implementation": "one_hot_matmul"}
    raw = made_up_benchmarks() | {
        "not_timed": [
            {"fullname": "bench/a.py::test_a[large]", "extra_info": info, "reason": "it takes 40 GiB"},
            {"fullname": "bench/a.py::test_a[bad]", "extra_info": info | {"accurate": False, "accuracy": "NaN"}},
        ]
    }
    found = read(raw)
    assert ("test_a[large]", "it takes 40 GiB") in found.not_timed
    assert ("test_a[bad]", "NaN") in found.inaccurate
    assert "it takes 40 GiB" in render(gather(tmp_path))["benchmarks.html"]


def test_groups_come_in_order_and_unknown_ones_last(read):
    raw = made_up_benchmarks()
    raw["benchmarks"][0]["group"] = "new_group"
    titles = [group["title"] for group in benchmarks.context(read(raw))["groups"]]
    assert titles == ["One-hot product against lookup", "Embedding-dot-bias", "The Adam step", "new group"]
