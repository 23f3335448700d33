"""dotbias: the lesson's model and schedule, trained by the native trainer, as `lesson.collab_learner` trains it."""

from __future__ import annotations

import torch
from protocol import serve

from kernels import FASTAI
from kernels.trainer import Trainer
from lesson.learner import stream
from lesson.models import EmbeddingDotBias
from lesson.schedules import one_cycle


def prepare(ratings, settings):
    return [torch.from_numpy(column) for column in ratings]


def train(columns, seed, epochs, settings, after_epoch):
    users, items, stars = columns
    size = [int(ids.max()) + 1 for ids in (users, items)]
    batches = -(-len(stars) // settings["bs"])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # trunc_normal_ is many small operations, each of which would wait for the other threads
    model = EmbeddingDotBias(settings["n_factors"], *size, generator=stream(seed, "initialization"))
    torch.set_num_threads(threads)
    schedule = one_cycle(epochs * batches, settings["lr"], pct_start=settings["pct_start"])
    trainer = Trainer(
        *(table.detach() for table in model.tables()),
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=settings["wd"],
        beta2=FASTAI.beta2,
        eps=FASTAI.eps,
        y_range=tuple(settings["y_range"]),
    )
    order = stream(seed, "order")
    for epoch in range(1, epochs + 1):
        trainer.epoch(users, items, stars, torch.randperm(len(stars), generator=order), settings["bs"])
        after_epoch(lambda *ids: trainer.scores(*map(torch.from_numpy, ids)), epoch)


def epoch_rows(columns):
    return torch.randperm(len(columns[0]), generator=stream(0, "order")).tolist()


if __name__ == "__main__":
    serve(prepare, train, ["torch", "numba"], epoch_rows)
