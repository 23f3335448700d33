"""dotbias: the lesson's model and schedule, trained by the native trainer, as `lesson.collab_learner` trains it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from protocol import serve

from lesson.collab import fused_trainer, seeded_model
from lesson.learner import stream
from lesson.schedules import one_cycle


def prepare(ratings, settings):
    return [torch.from_numpy(column) for column in ratings]


def trained(columns, size, seed, epochs, settings) -> Iterator[Any]:
    """The trainer after each epoch; `size` is the numbers of rows of the two tables."""
    users, items, stars = columns
    batches = -(-len(stars) // settings["bs"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # trunc_normal_ is many small operations, each of which would wait for the other threads
    model = seeded_model(settings["n_factors"], *size, tuple(settings["y_range"]), seed)
    torch.set_num_threads(threads)
    schedule = one_cycle(epochs * batches, settings["lr"], pct_start=settings["pct_start"])
    trainer = fused_trainer(model, schedule, wd=settings["wd"])
    order = stream(seed, "order")
    for _ in range(epochs):
        trainer.epoch(users, items, stars, torch.randperm(len(stars), generator=order), settings["bs"])
        yield trainer


def table_sizes(columns):
    """The numbers of rows of the two tables; row 0 is for ids that training never saw."""
    return [int(ids.max()) + 1 for ids in columns[:2]]


def train(columns, seed, epochs, settings, after_epoch):
    for epoch, trainer in enumerate(trained(columns, table_sizes(columns), seed, epochs, settings), 1):
        after_epoch(lambda *ids, trainer=trainer: trainer.scores(*map(torch.from_numpy, ids)), epoch)


def epoch_rows(columns):
    return torch.randperm(len(columns[0]), generator=stream(0, "order")).tolist()


if __name__ == "__main__":
    serve(prepare, train, ["torch", "numba"], epoch_rows)
