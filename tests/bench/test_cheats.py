"""Implementations that cheat: each is fast, and right when it is first asked. None gets a time."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
import torch

from bench import harness
from bench.harness import Check, InaccurateError, compare, rounding_bound
from tests.bench.test_harness import FLOOR, SMOKE, Benchmark, Machine


def times_two(x):
    return 2 * x


def cached(x, answers):
    if "known" not in answers:
        answers["known"] = 2 * x
    return answers["known"]


def signed(x, answers):
    answers.setdefault("known", 2 * x)
    return answers["known"].abs() * x.sign()


def drifting(x, state):
    state["calls"] = state.get("calls", 0) + 1
    return 2 * x if state["calls"] < 20 else 2 * x + 1e-3


def mutating(x, state):
    out = 2 * x
    state["calls"] = state.get("calls", 0) + 1
    if state["calls"] == 20:
        x += 1e-3
    return out


def reusing(x, memory):
    out = memory.setdefault("out", torch.empty_like(x))
    return torch.mul(x, 2, out=out)


def later(x, state):
    out = torch.zeros_like(x)
    thread = threading.Timer(0.01, lambda: torch.mul(x, 2, out=out))
    thread.daemon = True
    thread.start()
    return out


def gated(cheat):
    """The harness's comparison of a cheat with the honest function."""
    machine, benchmark = Machine(), Benchmark()
    x, state = torch.linspace(1, 2, 5), {}

    def run():
        machine.now += 1e-4
        return cheat(x, state)

    def baseline():
        machine.now += 1e-3
        return times_two(x)

    def check():
        return {"out": Check(run(), exact := 2 * x.double(), rounding_bound(1, exact.abs()))}

    compare(benchmark, SMOKE, FLOOR, run, baseline, check, clock=machine.clock, inputs=[x])
    return benchmark.extra_info


@pytest.mark.parametrize(
    ("cheat", "said"),
    [
        (cached, r"out\[\d\] is .* and should be -"),
        (signed, r"out\[\d\] is .* and should be -"),
        (drifting, r"out\[\d\] is .* and should be"),
        (mutating, "a call changes its input 0"),
        (reusing, "a later call overwrites out of an earlier one"),
        (later, r"out\[0\] is 0 and should be 2"),
    ],
)
def test_a_cheat_is_refused(cheat, said):
    with pytest.raises(InaccurateError, match=said):
        gated(cheat)


def test_remembered_ids_are_refused():
    machine, benchmark, known = Machine(), Benchmark(), {}
    ids, table = torch.tensor([0, 2, 1]), torch.eye(3)

    def run():
        machine.now += 1e-4
        return table[known.setdefault(ids.data_ptr(), ids.clone())]

    def check():
        exact = table.double()[ids]
        return {"rows": Check(run(), exact, rounding_bound(1, exact.abs()))}

    with pytest.raises(InaccurateError, match="rows"):
        compare(benchmark, SMOKE, FLOOR, run, run, check, clock=machine.clock, inputs=[ids, table])
    assert ids.tolist() == [0, 2, 1]


@pytest.mark.parametrize("calls", [3, 10**9])
def test_steps_that_stop_after_some_calls_are_refused(calls):
    machine, benchmark, table, made = Machine(), Benchmark(), torch.zeros(3), []

    def run():
        machine.now += 1e-4
        made.append(1)
        if len(made) <= calls:
            table.add_(1)

    def check():
        return {"out": Check(torch.ones(3), torch.ones(3, dtype=torch.float64), torch.zeros(3))}

    timed = partial(compare, benchmark, SMOKE, FLOOR, run, run, check, clock=machine.clock, moves=lambda: [table])
    if calls == 3:
        with pytest.raises(InaccurateError, match="a call after the timing does not move tensor 0"):
            timed()
        assert "ratio" not in benchmark.extra_info
    else:
        timed()
        assert benchmark.extra_info["ratio"] == 1


def test_what_is_refused_after_the_timing_says_so_and_has_no_ratio():
    machine, benchmark = Machine(), Benchmark()
    x, known = torch.ones(3), torch.full((3,), 2.0)

    def run():
        machine.now += 1e-4
        return known

    def check():
        return {"out": Check(run(), exact := 2 * x.double(), rounding_bound(1, exact.abs()))}

    with pytest.raises(InaccurateError):
        compare(benchmark, SMOKE, FLOOR, run, run, check, clock=machine.clock, inputs=[x])
    assert benchmark.extra_info["accurate"] is False
    assert benchmark.extra_info["accuracy"].startswith("after the timing: out[0] is 2 and should be -2")
    assert "ratio" not in benchmark.extra_info
    assert torch.equal(x, torch.ones(3))  # the inputs are as they were


def test_an_honest_implementation_passes():
    assert gated(lambda x, _: times_two(x))["ratio"] == pytest.approx(0.1)


def test_a_clock_that_is_patched_later_is_not_the_harnesss(monkeypatch):
    real = harness.CLOCK
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    assert real is None or real() > 0
