"""Limits that fail a run of benchmarks."""

import doctest
from types import SimpleNamespace

import pytest

from bench import limits
from bench.limits import TIMED, Gate, Limit


def row(**info):
    return {"fullname": "bench/a.py::b", "seconds": 2e-3, "extra_info": info}


@pytest.mark.parametrize(
    ("text", "info", "broken"),
    [
        ("ratio>1.05", {"ratio": 1.2, "ratio_low": 1.1, "ratio_high": 1.3}, True),
        ("ratio>1.05", {"ratio": 1.2, "ratio_low": 1.0, "ratio_high": 1.3}, False),  # it may be noise
        ("ratio<.5", {"ratio": 0.4, "ratio_low": 0.3, "ratio_high": 0.45}, True),
        ("ratio < 0.5", {"ratio": 0.4, "ratio_low": 0.3, "ratio_high": 0.6}, False),
        ("seconds>1e-3", {}, True),
        ("seconds>3e-3", {}, False),
        ("memory_bytes>1000", {"memory_bytes": 1001}, True),
        ("memory_bytes>1000", {}, False),
        ("floor_fraction<.9", {"floor_fraction": 0.5}, True),
    ],
)
def test_a_row_breaks_a_limit_with_its_whole_interval(text, info, broken):
    assert Limit.of(text).broken_by(row(**info)) is broken


@pytest.mark.parametrize(
    "text", ["", "ratio", "ratio>", "ratio=1", "speed>1", "ratio>1.05 or 1", "ratio>nan", "ratio>-1", "ratio>1e400"]
)
def test_another_text_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"write it as ratio>1\.05, with one of ratio, seconds"):
        Limit.of(text)


def test_what_is_broken_or_not_measured_at_all_is_said_with_the_number_as_given():
    gate = Gate([Limit.of("memory_bytes>123456789"), Limit.of("seconds>1e-3")])
    assert gate.failures([row(), row(memory_bytes=123456790)]) == [
        "memory_bytes>123456789: bench/a.py::b",
        "seconds>0.001: bench/a.py::b",
        "seconds>0.001: bench/a.py::b",
    ]
    assert gate.failures([row()])[0] == "memory_bytes>123456789: no benchmark measured its memory_bytes"
    assert len(gate.failures([])) == 2


@pytest.mark.parametrize(
    ("status", "rows", "ends"),
    [(0, [], 1), (0, [row(ratio_low=1.2)], 1), (0, [row(ratio_low=1.0)], 0), (2, [], 2)],
)
def test_a_run_that_keeps_its_limits_passes_and_one_that_measures_nothing_does_not(status, rows, ends):
    config = SimpleNamespace(stash={TIMED: rows}, getoption={"collectonly": False}.get)
    session = SimpleNamespace(config=config, exitstatus=status)
    Gate([Limit.of("ratio>1.05")]).pytest_sessionfinish(session)
    assert session.exitstatus == ends


def test_its_example_runs():
    assert doctest.testmod(limits).failed == 0
