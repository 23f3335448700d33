"""dotbias: the lesson's model and schedule, trained by the native trainer, as `lesson.collab_learner` trains it."""

from __future__ import annotations

import torch
from protocol import serve

from lesson.collab import fused_trainer, seeded_model
from lesson.learner import stream
from lesson.schedules import one_cycle


def prepare(ratings, settings):
    return [torch.from_numpy(column) for column in ratings]


def train(columns, seed, epochs, settings, after_epoch):
    users, items, stars = columns
    size = [int(ids.max()) + 1 for ids in (users, items)]
    batches = -(-len(stars) // settings["bs"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # trunc_normal_ is many small operations, each of which would wait for the other threads
    model = seeded_model(settings["n_factors"], *size, tuple(settings["y_range"]), seed)
    torch.set_num_threads(threads)
    schedule = one_cycle(epochs * batches, settings["lr"], pct_start=settings["pct_start"])
    trainer = fused_trainer(model, schedule, wd=settings["wd"])
    order = stream(seed, "order")
    for epoch in range(1, epochs + 1):
        trainer.epoch(users, items, stars, torch.randperm(len(stars), generator=order), settings["bs"])
        after_epoch(lambda *ids: trainer.scores(*map(torch.from_numpy, ids)), epoch)


def epoch_rows(columns):
    return torch.randperm(len(columns[0]), generator=stream(0, "order")).tolist()


if __name__ == "__main__":
    serve(prepare, train, ["torch", "numba"], epoch_rows)
