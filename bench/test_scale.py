"""A training step of the lesson's model as its tables grow from 2.6 thousand rows to 2.6 million.

A dense step moves every row, a deferred one the rows that its batch reads; other rows wait until they are read, or for
the flush at the end of an epoch. A step is timed as a share of an epoch, so that it includes its share of the flush:
an epoch has as many dense steps as fit in a third of a second, or DEFERRED_STEPS deferred ones. The ratio of users to
items is that of MovieLens 100k; both have Zipf popularity. Accuracy is checked on the same code in MovieLens 100k's
tables: in the largest a float64 trajectory would take longer than all timings.
"""

from __future__ import annotations

import time
from functools import partial

import pytest

from bench.eager import WIDTH
from bench.harness import Case
from bench.training import MOVIELENS, small_accuracy, warm_epoch

pytestmark = pytest.mark.benchmark(group="scale")

EVERY = [2_627, 8_300, 26_000, 83_000, 165_000, 500_000, 1_650_000, 2_600_000]
# The rows at each batch.
GRID: dict[str, dict[int, list[int]]] = {
    "smoke": {1_024: [2_627, 26_000]},
    "default": {1_024: [2_627, 8_300, 26_000, 165_000]},
    "full": {64: [2_627, 26_000, 260_000], 1_024: EVERY},
}
# Against eager PyTorch; and deferred against our own dense steps, for what deferral alone brings.
PAIRS = [("native dense", "eager"), ("native deferred", "eager"), ("native deferred", "native dense")]
DEFERRED_STEPS = 1_000


def cases(profile: str) -> list[Case]:
    pairs = PAIRS[2:] if profile == "smoke" else PAIRS
    return [
        Case("training", ours, theirs, "step", rows=rows, batch=batch, width=WIDTH, params=rows * (WIDTH + 1))
        for batch, sizes in GRID[profile].items()
        for rows in sizes
        for ours, theirs in pairs
    ]


def test_scale(case, compare):
    users = round(case.rows * MOVIELENS[0] / sum(MOVIELENS))
    tables = (users, case.rows - users)
    steps = tuple(steps_a_call(name, case.rows) for name in (case.implementation, case.baseline))
    (weights, run), (_, baseline) = (
        warm_epoch(name, case.batch, tables, epoch_steps)
        for name, epoch_steps in zip((case.implementation, case.baseline), steps, strict=True)
    )
    check = partial(small_accuracy, case.implementation)
    clock = time.perf_counter  # on the CPU, even if there is a GPU
    compare(run, baseline, check, clock=clock, steps=steps, moves=weights)


def steps_a_call(implementation: str, rows: int) -> int:
    return DEFERRED_STEPS if implementation == "native deferred" else max(4, min(100, 1_300_000 // rows))
