"""The distance from the float64 trajectory, on few ratings."""

from __future__ import annotations

import pytest

from bench import distance, training
from bench.harness import InaccurateError

TABLES = (90, 50)


@pytest.mark.slow  # test_gates checks the same in a shorter training
def test_native_code_is_as_near_the_float64_trajectory_as_eager():
    # 500 steps: folding begins with the hundredth.
    table = distance.distances(training.drawn_ratings(1_600, TABLES), TABLES, batch=16)
    of_eager = table.set_index("implementation")["of eager"]
    assert list(of_eager.index) == ["native", "native replay", "eager", "eager float64"]
    assert (of_eager <= 1.5).all()
    assert of_eager["eager"] == 1
    assert of_eager["eager float64"] < 1e-4
    assert (table["distance"] > 0).all()


def test_nothing_is_shown_where_the_float64_trajectories_are_two(monkeypatch):
    right = training.fused_trainer
    monkeypatch.setattr(training, "fused_trainer", lambda *args, **kwargs: right(*args, **(kwargs | {"eps": 1.1e-5})))
    with pytest.raises(InaccurateError, match=r"eager float64 is .* from native float64"):
        distance.distances(training.drawn_ratings(160, TABLES), TABLES, batch=16)
