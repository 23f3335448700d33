"""One training in MovieLens 20M's shape, in its own process: its time and memory.

    python -m bench.movielens_20m "native deferred" --batch 4096

138,000 users, 27,000 items, 20 million ratings drawn with Zipf popularity of both; the lesson's model, five epochs of
one-cycle; for eager PyTorch, only the first EAGER_STEPS. Prints JSON: seconds, steps, the mean squared error on
held-out ratings, and the peak of memory above the ratings and the loaded libraries, with 160 MB for an epoch's order.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import torch

from bench.eager import Y_RANGE
from bench.training import EPOCHS, LR, MODES, drawn_ratings, training
from kernels.dot_bias import embedding_dot_bias
from lesson.schedules import Schedule, one_cycle

TABLES = (138_000, 27_000)
RATINGS, HELD_OUT = 20_000_000, 100_000
EAGER_STEPS = 30  # all of them would take most of an hour, and no more memory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.movielens_20m", description="Train once; print JSON.")
    parser.add_argument("implementation", choices=["eager", *MODES])
    parser.add_argument("--batch", type=int, default=4096, help="ratings per step (4096)")
    arguments = parser.parse_args()
    if not 1 <= arguments.batch <= RATINGS:
        parser.error(f"--batch {arguments.batch}: choose a number from 1 to {RATINGS:,}")
    print(json.dumps(train(arguments.implementation, arguments.batch)))


def train(implementation: str, batch: int) -> dict[str, float]:
    ratings = drawn_ratings(RATINGS + HELD_OUT, TABLES)
    epochs, schedule = EPOCHS, one_cycle(EPOCHS * -(-RATINGS // batch), LR)
    if implementation == "eager":
        epochs, schedule = 1, Schedule(*(rates[:EAGER_STEPS] for rates in schedule))
    training(implementation, 2, one_cycle(200, LR))[1](drawn_ratings(400))  # compiles
    before = forget_peak()
    began = time.perf_counter()
    tables, epoch = training(implementation, batch, schedule, TABLES)
    for _ in range(epochs):
        epoch(tuple(column[:RATINGS] for column in ratings))
    seconds = time.perf_counter() - began
    peak = memory()["HWM"]
    users, items, stars = (column[RATINGS:] for column in ratings)
    with torch.no_grad():
        scores = embedding_dot_bias(users, items, *(table.squeeze() for table in tables()), Y_RANGE)
    return {
        "seconds": seconds,
        "steps": len(schedule.lr),
        "loss": (scores - stars).square().mean().item(),
        "memory_bytes": peak - before,
    }


def forget_peak() -> int:
    """Reset the peak of memory (Linux); returns the bytes in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory()["RSS"]


def memory() -> dict[str, int]:
    """Bytes of this process in memory: RSS now, HWM at the peak."""
    status = Path("/proc/self/status").read_text()
    return {name: 1024 * int(size) for name, size in re.findall(r"Vm(RSS|HWM):\s+(\d+) kB", status)}


if __name__ == "__main__":
    main()
