"""A comparison with other libraries as a finding: numbers of the same kind as a study's."""

from __future__ import annotations

import math

import pytest

from studies.evidence.peers import REFERENCE_EPOCHS, Peer, Point, Row, faster_to_target


def peer(name: str, seconds: float, rmse: float | None = 0.8, rounds: int = 8) -> Peer:
    points = [Point(epochs=REFERENCE_EPOCHS, seconds=seconds, rmse=rmse)]
    rows = [Row(seed=seed, round="r", commit=None, points=points) for seed in range(rounds)]
    return Peer(name=name, title=name.title(), settings={}, epochs=[REFERENCE_EPOCHS], note="", rows=rows)


def test_a_peer_that_is_there_in_a_tenth_of_the_time_is_faster_by_one_in_the_logarithm() -> None:
    found = faster_to_target(peer("ours", 1.0), peer("cornac", 10.0))
    assert found is not None
    assert (found.estimate, found.low, found.high) == pytest.approx((1, 1, 1))
    assert (found.part, found.outcome, found.weights) == ("", "yes", {"cornac": 1, "ours": -1})


def test_one_that_never_gets_there_is_infinitely_slower() -> None:
    found = faster_to_target(peer("ours", 1.0, rmse=math.pi), peer("cornac", 10.0))
    assert found is not None
    assert (found.outcome, found.reason, found.missed, found.estimate) == ("no", "worse by more than m", 8, None)


def test_without_turns_taken_together_there_is_nothing_to_find() -> None:
    assert faster_to_target(peer("ours", 1.0, rounds=0), peer("cornac", 10.0)) is None
