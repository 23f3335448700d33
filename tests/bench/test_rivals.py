"""What `bench.rivals` says of steps other than dense AdamW's."""

from __future__ import annotations

import numpy as np
import pytest

from bench import rivals
from lesson.schedules import Schedule

ROWS = 300


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(rivals, "STEPS", 60)
    monkeypatch.setattr(rivals, "BATCH", 16)
    monkeypatch.setattr(rivals, "names", lambda: [rivals.DENSE, "torch SparseAdam", "GS-Scale-like", "deferred folded"])


def test_deferred_steps_are_as_near_to_dense_ones_as_torchs_rounding_and_skipped_rows_are_far():
    for wd in (0.0, 0.1):
        found = rivals.distances(ROWS, wd)
        assert found["deferred folded"] <= 1.5 * found[rivals.DENSE] < 1e-4
        assert found["torch SparseAdam"] > 0.05
        assert found["GS-Scale-like"] > 10 * found["deferred folded"]


def test_gs_scales_steps_are_dense_adams_if_nothing_changes_and_eps_is_negligible(monkeypatch):
    constant = Schedule(np.full(60, 1e-3), np.full(60, 0.9))
    monkeypatch.setattr(rivals, "one_cycle", lambda steps, lr: constant)
    monkeypatch.setattr(rivals, "EPS", 1e-12)
    found = rivals.distances(ROWS, 0.0)
    assert found["GS-Scale-like"] < 2 * found[rivals.DENSE] + 1e-5
