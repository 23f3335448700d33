"""A runner's side of the conversation: requests come on stdin, answers go to stdout, one line of JSON each.

It runs in every peer's own environment, so it imports only NumPy and the standard library. It measures the time, so no
peer times itself; no peer computes its own error either, because only predictions leave it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Ratings(NamedTuple):
    """Triples: int64[n] users and items, numbered from 1 (0: training never saw it), float32[n] ratings."""

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray


class Rows(NamedTuple):
    """Rows of ratings without the ratings: int64[n] users and films, numbers of rows of `About`, and Unix seconds."""

    users: np.ndarray
    films: np.ndarray
    seconds: np.ndarray


class About(NamedTuple):
    """What is known about every user and film, those without a training rating too.

    int64[users] ages, text[users] sexes, occupations and zip codes; bool[films, 18] genres, int64[films] years of
    release, 0 if unknown.
    """

    ages: np.ndarray
    sexes: np.ndarray
    occupations: np.ndarray
    zips: np.ndarray
    genres: np.ndarray
    years: np.ndarray


class Everything(NamedTuple):
    """The training rows with float32[n] ratings, and what is known about users and films."""

    rows: Rows
    ratings: np.ndarray
    about: About


Predict = Callable[..., Any]
AfterEpoch = Callable[[Predict, int], None]


def read(path: str, everything: bool = False) -> tuple[Ratings | Everything, tuple[Any, ...]]:
    """The training ratings, and the validation rows that `Predict` is called with, which never have their ratings.

    Args:
        path: the file of triples; the one with times and about users and films is beside it.
        everything: whether both are asked for: `Everything` and `Rows`, or `Ratings`, users and items.
    """
    with np.load(path, allow_pickle=False) as file:
        training = Ratings(*(file[f"train_{name}"] for name in Ratings._fields))
        valid = file["valid_users"], file["valid_items"]
    if not everything:
        return training, valid
    with np.load(Path(path).with_name("everything.npz"), allow_pickle=False) as file:
        known, asked = (Rows(*(file[f"{part}_{name}"] for name in Rows._fields)) for part in ("train", "valid"))
        return Everything(known, training.ratings, About(*(file[name] for name in About._fields))), (asked,)


def serve(
    prepare: Callable[[Any, dict[str, Any]], Any],
    train: Callable[[Any, int, int, dict[str, Any], AfterEpoch], None],
    packages: Sequence[str],
    epoch_rows: Callable[[Any], Sequence[Any]] | None = None,
    everything: bool = False,
) -> None:
    """Answer requests until stdin ends.

    The arguments on the command line are the file of ratings, the file for predictions, and the settings as JSON. The
    first answer says that the runner is ready. A request {"seed": 1, "epochs": 5} begins a fit, and is answered after
    its first epoch; {} lets it go on; {"done": true} answers the last one.

    Args:
        prepare: turns the training ratings and the settings into the library's own data; not timed.
        train: a fit, from the data of `prepare`, a seed, the number of epochs and the settings. After each epoch (or at
            the end, if the library trains in one call) it calls its last argument with a function that predicts the
            ratings of users and items, and with the number of epochs done. Timed between those calls.
        packages: the distributions whose versions matter.
        epoch_rows: the rows of one epoch in the order of training, hashable, to see how many are distinct.
        everything: whether `prepare` gets `Everything` in place of `Ratings`, and predictions are of `Rows`.
    """
    # A library's output must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    ratings_path, predictions_path, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    training, valid = read(ratings_path, everything)
    prepared = prepare(training, settings)
    drawn = None
    if epoch_rows is not None:
        rows = epoch_rows(prepared)
        drawn = {"rows": len(rows), "distinct": len(set(rows))}
    answer(versions={name: importlib.metadata.version(name) for name in packages}, drawn=drawn)

    for line in sys.stdin:
        request = json.loads(line)
        seconds, began = 0.0, time.perf_counter()

        def after_epoch(predict: Predict, epochs: int) -> None:
            nonlocal seconds, began
            seconds += time.perf_counter() - began
            np.save(predictions_path, np.asarray(predict(*valid), dtype=np.float64))
            answer(epochs=epochs, seconds=seconds)
            if not sys.stdin.readline():
                sys.exit()
            began = time.perf_counter()

        train(prepared, request["seed"], request["epochs"], settings, after_epoch)
        answer(done=True)
