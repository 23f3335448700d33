"""The distance from the float64 trajectory, on few ratings."""

from __future__ import annotations

import pytest
import torch

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


@pytest.mark.parametrize(("apart", "shown"), [(1e-9, True), (1e-8, False)])
def test_nothing_is_shown_where_the_float64_trajectories_are_two(monkeypatch, apart, shown):
    def trained(implementation, *, dtype=torch.float32, **_):
        error = {"native": 2e-6, "native replay": 4e-6, "eager": 4e-6, "native dense": 0.0}[implementation]
        if implementation == "eager" and dtype == torch.float64:
            error = apart
        return torch.tensor([1 + error], dtype=torch.float64)

    monkeypatch.setattr(distance, "trained", trained)
    ratings = training.drawn_ratings(160, TABLES)
    if shown:
        table = distance.distances(ratings, TABLES, batch=16)
        assert table["of eager"].tolist() == pytest.approx([0.5, 1, 1, 2.5e-4])
        return
    with pytest.raises(InaccurateError, match=r"eager float64 is 1e-08 from native float64"):
        distance.distances(ratings, TABLES, batch=16)
