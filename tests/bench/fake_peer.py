"""A peer that learns the mean rating, or misbehaves as its settings say."""

import sys
from pathlib import Path

import numpy as np
import protocol
from protocol import serve


class Clock:
    """Goes on by a second an epoch, and by a hundred a prediction."""

    now = 0.0

    def perf_counter(self):
        return self.now


CLOCK = Clock()


def prepare(ratings, settings):
    if "refuses" in settings:
        sys.exit(settings["refuses"])
    if "clock" in settings:
        protocol.time = CLOCK
    return ratings


def train(ratings, seed, epochs, settings, after_epoch):
    def predict(users, guess):
        CLOCK.now += 100
        return np.full(len(users) - settings.get("lacks", 0), guess)

    for epoch in range(1, epochs + 1):
        sys.stdout.write("a library talks\n")
        if (seed, epoch) == tuple(settings.get("dies", ())):
            sys.exit("out of memory")
        if "log" in settings:
            with Path(settings["log"]).open("a") as log:
                log.write(f"{settings['who']} {seed} {epoch}/{epochs}\n")
        CLOCK.now += settings.get("epoch_seconds", 1)
        guess = ratings.ratings.mean() + settings.get("off", 0) + seed
        after_epoch(lambda users, _, guess=guess: predict(users, guess), epoch)


if __name__ == "__main__":
    serve(prepare, train, ["numpy"], lambda ratings: [7, 7, *ratings.users.tolist()])
