"""An epoch of the lesson's model: native code against eager PyTorch with its fused AdamW, on the CPU.

The ratings are drawn, in MovieLens 100k's shape, so that nothing has to be fetched; the full profile has the same
number in tables of 165 thousand and of 1.65 million rows. There most rows are never read: the trainer decays them when
the tables are read, and "native flushed" reads them after each epoch. "native skip", "native hugectr" and "native
caffe2" treat rows that a batch does not read as other optimizers do. They are not dense Adam, so each is compared with
its own float64 trajectory, in a separate group. The native trainer is timed there over five epochs in a row, as in the
lesson. `bench/test_scale.py` has tables in which every row has been read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from torch import Tensor

from bench.eager import WIDTH
from bench.harness import Case
from bench.training import APPROXIMATE, CALLS, EPOCHS, LR, MOVIELENS, Ratings, Tables, accuracy, drawn_ratings, training
from kernels.adam import FASTAI
from lesson.schedules import constant

pytestmark = pytest.mark.benchmark(group="training")

RATINGS = 90_000  # nine tenths of MovieLens 100k
LARGER: Tables = (60_000, 105_000)
LARGEST: Tables = (600_000, 1_050_000)
# `eager` against itself shows the noise of ratios; it takes too long for the smoke profile.
GRID: dict[str, list[tuple[Tables, int, list[str]]]] = {
    "smoke": [(MOVIELENS, 64, ["native"])],
    "default": [(MOVIELENS, batch, ["eager", "native", "native dense"]) for batch in (64, 512)],
    "full": [
        *((MOVIELENS, batch, ["eager", "native", "native dense"]) for batch in (64, 512, 4_096)),
        (LARGER, 1_024, ["native", "native flushed", *APPROXIMATE]),
        (LARGEST, 1_024, ["native", "native flushed"]),
    ],
}


def cases(profile: str) -> list[Case]:
    return [
        Case(
            "approximate training" if implementation in APPROXIMATE else "training",
            implementation,
            "eager",
            "epoch",
            batch=batch,
            width=WIDTH,
            params=sum(tables) * (WIDTH + 1),
        )
        for tables, batch, implementations in GRID[profile]
        for implementation in implementations
    ]


def test_training(case, compare):
    tables = next(tables for tables in (MOVIELENS, LARGER, LARGEST) if sum(tables) * (WIDTH + 1) == case.params)
    ratings = drawn_ratings(RATINGS, tables)
    # In larger tables an epoch finds the caches as the previous epoch left them, not as eager did: so time a few.
    epochs = 1 if tables == MOVIELENS else EPOCHS
    weights, run = epochs_of(case.implementation, case.batch, tables, ratings, epochs)
    compare(
        run,
        epochs_of(case.baseline, case.batch, tables, ratings, 1)[1],
        # As in `small_accuracy`, a float64 trajectory in the larger tables would take longer than all timings.
        partial(accuracy, case.implementation.removesuffix(" flushed"), case.batch, drawn_ratings(RATINGS)),
        clock=time.perf_counter,  # on the CPU, even if there is a GPU
        steps=(epochs, 1),
        moves=weights,
    )


def epochs_of(
    implementation: str, batch: int, tables: Tables, ratings: Ratings, epochs: int
) -> tuple[Callable[[], Sequence[Tensor]], Callable[[], object]]:
    name = implementation.removesuffix(" flushed")
    schedule = constant(CALLS * epochs * -(-RATINGS // batch), LR, FASTAI.beta1)
    weights, epoch = training(name, batch, schedule, tables)

    def run() -> None:
        for _ in range(epochs):
            epoch(ratings)
            if name != implementation:
                weights()

    return weights, run
