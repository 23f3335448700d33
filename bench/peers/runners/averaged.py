"""dotbias: the mean of many trainings of the lesson's model, with settings chosen on some of the training rows.

An average of trainings needs less decay and a shorter warm-up than one training: the mean takes away what each training
has made of its own seed (claim 1). The choice is part of the timed fit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from ours import prepare, table_sizes, trained
from protocol import serve


def train(columns, seed, epochs, settings, after_epoch):
    size, stars = table_sizes(columns), columns[2]
    low, high = float(stars.min()), float(stars.max())
    order = torch.randperm(len(stars), generator=torch.Generator().manual_seed(seed))
    held, rest = order.tensor_split([int(settings["held"] * len(stars))])

    def one(rows, candidate, number):
        chosen = [column[rows] for column in columns]
        its = settings | candidate
        *_, trainer = trained(chosen, size, 1000 * seed + number, min(epochs, its["epochs"]), its)
        return trainer

    def scores(trainers, users, items):
        return torch.stack([trainer.scores(users, items) for trainer in trainers])

    def error(trainers):
        """The squared error that a mean of all `models` would have: that of a few has more of the seeds' variance."""
        found = scores(trainers, *(column[held] for column in columns[:2]))
        surplus = found.var(0).mean() * (1 / len(trainers) - 1 / settings["models"])
        return float(torch.mean((found.mean(0) - stars[held]) ** 2) - surplus)

    candidates, every = settings["candidates"], torch.arange(len(stars))
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        tried = [
            [pool.submit(one, rest, candidate, number) for number in range(settings["tried"])]
            for candidate in candidates
        ]
        errors = [error([future.result() for future in futures]) for futures in tried]
        best = candidates[errors.index(min(errors))]
        final = [pool.submit(one, every, best, number) for number in range(settings["models"])]
        trainers = [future.result() for future in final]
    after_epoch(lambda *ids: scores(trainers, *map(torch.from_numpy, ids)).mean(0).clamp(low, high), epochs)


if __name__ == "__main__":
    serve(prepare, train, ["torch", "numba"])
