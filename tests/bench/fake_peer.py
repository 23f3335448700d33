"""A peer that learns the mean rating, or misbehaves as its settings say."""

import sys

import numpy as np
from protocol import serve


def prepare(ratings, settings):
    if "refuses" in settings:
        sys.exit(settings["refuses"])
    return ratings


def train(ratings, seed, epochs, settings, after_epoch):
    for epoch in range(1, epochs + 1):
        sys.stdout.write("a library talks\n")
        if (seed, epoch) == tuple(settings.get("dies", ())):
            sys.exit("out of memory")
        guess = ratings.ratings.mean() + settings.get("off", 0) + seed
        after_epoch(lambda users, _, guess=guess: np.full(len(users) - settings.get("lacks", 0), guess), epoch)


if __name__ == "__main__":
    serve(prepare, train, ["numpy"], lambda ratings: [7, 7, *ratings.users.tolist()])
