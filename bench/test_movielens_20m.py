"""Training in MovieLens 20M's shape: a step against eager PyTorch, and a whole training with its memory.

Steps take turns as in other benchmarks. A whole training is too long for that: `bench/movielens_20m.py` runs it once,
in its own process, whose memory is the training's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bench.eager import WIDTH
from bench.harness import Case
from bench.movielens_20m import RATINGS, TABLES
from bench.training import EPOCHS, small_accuracy, warm_epoch

pytestmark = [
    pytest.mark.benchmark(group="movielens_20m"),
    pytest.mark.skipif(sys.platform != "linux", reason="a process's peak of memory is read from Linux's /proc"),
]

STEPS = (500, 8)  # a call
BATCHES = {"smoke": [], "default": [], "full": [4_096]}


def cases(profile: str) -> list[Case]:
    rows = sum(TABLES)
    return [
        Case("training", "native deferred", "eager", "step", rows=rows, batch=batch, params=rows * (WIDTH + 1))
        for batch in BATCHES[profile]
    ]


def test_movielens_20m(case, compare, benchmark):
    (weights, run), (_, baseline) = (
        warm_epoch(name, case.batch, TABLES, steps)
        for name, steps in zip((case.implementation, case.baseline), STEPS, strict=True)
    )
    check = partial(small_accuracy, case.implementation)
    compare(run, baseline, check, clock=time.perf_counter, steps=STEPS, moves=weights)
    if benchmark.disabled:
        return
    whole = in_a_fresh_process(case.implementation, case.batch)
    eager = in_a_fresh_process(case.baseline, case.batch)
    benchmark.extra_info.update(
        ratings=RATINGS,
        epochs=EPOCHS,
        training_s=whole["seconds"],
        memory_bytes=whole["memory_bytes"],
        baseline_memory_bytes=eager["memory_bytes"],
    )


def in_a_fresh_process(implementation: str, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.movielens_20m", implementation, f"--batch={batch}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)
