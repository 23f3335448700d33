"""dotbias: the mean of many trainings of the lesson's model, whose weight decay is chosen on some of the training rows.

An average of trainings needs less decay than one training: the mean takes away what each training has made of its own
seed (claim 1). How much less depends on the data, so the choice is part of the timed fit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import torch
from ours import prepare, table_sizes, trained
from protocol import serve


def train(columns, seed, epochs, settings, after_epoch):
    size, stars = table_sizes(columns), columns[2]
    low, high = float(stars.min()), float(stars.max())
    order = torch.randperm(len(stars), generator=torch.Generator().manual_seed(seed))
    held, rest = order.tensor_split([int(settings["held"] * len(stars))])

    def one(rows, wd, number):
        chosen = [column[rows] for column in columns]
        *_, trainer = trained(chosen, size, 1000 * seed + number, epochs, settings | {"wd": wd})
        return trainer

    def mean(trainers, users, items):
        return torch.stack([trainer.scores(users, items) for trainer in trainers]).mean(0).clamp(low, high)

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        tried = list(product(settings["wd"], range(settings["tried"])))
        trainers = list(pool.map(lambda each: one(rest, *each), tried))
        errors = {}
        for wd in settings["wd"]:
            those = [trainer for trainer, each in zip(trainers, tried, strict=True) if each[0] == wd]
            predicted = mean(those, *(column[held] for column in columns[:2]))
            errors[wd] = float(torch.mean((predicted - stars[held]) ** 2))
        best = min(errors, key=errors.__getitem__)
        every = torch.arange(len(stars))
        trainers = list(pool.map(lambda number: one(every, best, number), range(settings["models"])))
    after_epoch(lambda *ids: mean(trainers, *map(torch.from_numpy, ids)), epochs)


if __name__ == "__main__":
    serve(prepare, train, ["torch", "numba"])
