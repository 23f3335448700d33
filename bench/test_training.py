"""An epoch of the lesson's model: native code against eager PyTorch with its fused AdamW, on the CPU.

The ratings are drawn, in MovieLens 100k's shape, so that nothing has to be fetched. `bench/test_scale.py` has larger
tables.
"""

from __future__ import annotations

import time
from functools import partial

import pytest

from bench.eager import WIDTH
from bench.harness import Case
from bench.training import CALLS, LR, MOVIELENS, accuracy, drawn_ratings, training
from kernels.adam import FASTAI
from lesson.schedules import constant

pytestmark = pytest.mark.benchmark(group="training")

RATINGS = 90_000  # nine tenths of MovieLens 100k
BATCHES = {"smoke": [64], "default": [64, 512], "full": [64, 512, 4_096]}
# `eager` against itself shows what a ratio is worth here: too long for the smoke profile.
IMPLEMENTATIONS = {
    "smoke": ["native"],
    "default": ["eager", "native", "native dense"],
    "full": ["eager", "native", "native dense"],
}


def cases(profile: str) -> list[Case]:
    return [
        Case(
            "training", implementation, "eager", "epoch", batch=batch, width=WIDTH, params=sum(MOVIELENS) * (WIDTH + 1)
        )
        for batch in BATCHES[profile]
        for implementation in IMPLEMENTATIONS[profile]
    ]


def test_training(case, compare):
    ratings = drawn_ratings(RATINGS)
    schedule = constant(CALLS * -(-RATINGS // case.batch), LR, FASTAI.beta1)
    run, baseline = (
        partial(training(implementation, case.batch, schedule)[1], ratings)
        for implementation in (case.implementation, case.baseline)
    )
    compare(
        run,
        baseline,
        lambda: accuracy(case.implementation, case.batch, ratings),
        clock=time.perf_counter,  # on the CPU, wherever a GPU may be
    )
