from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from studies.lab import timing
from studies.lab.timing import InTurns, bytes_of, peak_growth, seconds_of


class Clock:
    """Time that passes only when something says that it took some."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def does(self, name: str, *seconds: float) -> Callable[[], None]:
        """A call that takes so long the first time, the second time and so on; the last holds for all others."""
        left = list(seconds)

        def call() -> None:
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call

    def trains(self, name: str, *seconds: float) -> Iterator[str]:
        """A training whose epochs take so long."""
        for number, took in enumerate(seconds, start=1):
            self.does(name, took)()
            yield f"{name}{number}"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_two_trainings_take_turns_and_either_goes_first_in_every_other_turn(clock: Clock) -> None:
    turns = InTurns(clock.trains("a", 3, 3, 3), clock.trains("b", 1, 2, 4))
    assert list(turns) == [("a1", "b1"), ("a2", "b2"), ("a3", "b3")]
    assert clock.log == ["a", "b", "b", "a", "a", "b"]
    assert turns.seconds == ([3, 3, 3], [1, 2, 4])
    assert turns.ratio == 1.5  # the median of 3, 1.5 and 0.75


def test_what_is_done_between_turns_is_not_timed(clock: Clock) -> None:
    turns = InTurns(clock.trains("a", 1, 1), clock.trains("b", 2, 2))
    for _ in turns:
        clock.now += 100
    assert turns.seconds == ([1, 1], [2, 2])


@pytest.mark.parametrize("lengths", [(2, 1), (1, 2), (3, 2), (2, 3), (0, 1), (1, 0)])
def test_trainings_of_different_lengths_are_refused(lengths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="one of the two trainings has more epochs than the other"):
        list(InTurns(*(iter(range(length)) for length in lengths)))


def test_the_seconds_of_a_call_are_those_of_its_best_round_and_calls_take_turns(clock: Clock) -> None:
    calls = {"a": clock.does("a", 9, 1, 5, 4, 6), "b": clock.does("b", 9, 1, 2, 2, 2)}  # the first two are no rounds
    assert seconds_of(calls, rounds=3) == {"a": 4, "b": 2}
    assert clock.log == ["a", "a", "b", "b"] + ["a", "b"] * 3


def test_a_turn_is_as_many_calls_as_take_long_enough_to_be_timed(clock: Clock) -> None:
    calls = {"short": clock.does("short", 0.25), "long": clock.does("long", 8.0)}
    assert seconds_of(calls, rounds=2, at_least=1.0) == {"short": 0.25, "long": 8.0}
    assert clock.log[4:] == (["short"] * 4 + ["long"]) * 2


def test_bytes_are_what_a_call_allocates_whether_freed_again_or_not() -> None:
    x = torch.ones(1000)
    assert bytes_of(lambda: (x + x)[:1].clone()) == 4000 + 4  # the sum within, and the result
    assert bytes_of(lambda: [torch.zeros(500, dtype=torch.float64) for _ in range(3)]) == 3 * 4000
    assert bytes_of(lambda: x[:10].view(2, 5)) == 0
    assert bytes_of(lambda: x.add_(x)) == 0


def test_bytes_that_one_operation_allocates_and_frees_count() -> None:
    x, weight = torch.ones(8, 6), torch.ones(6, 5, requires_grad=True)
    product, gradient = 4 * 8 * 5, 4 * 6 * 5
    # To multiply by it, the backward of the product writes out the sum's gradient, of which there is one number.
    assert bytes_of(lambda: torch.autograd.grad((x @ weight).sum(), weight)) >= 2 * product + gradient


def test_the_peak_of_a_fresh_process_is_what_the_call_adds_to_it() -> None:
    held = bytearray(b"1" * 300_000_000)  # this process's own memory is no part of it
    found = peak_growth("tests.studies.memory", "bytes_held", "50000000")
    assert found == pytest.approx(50_000_000, abs=2_000_000)
    assert peak_growth("tests.studies.memory", "bytes_held", "1") < 1_000_000
    del held
