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
from typing import Any, NamedTuple

import numpy as np


class Ratings(NamedTuple):
    """Triples: int64[n] users and items, numbered from 1 (0: training never saw it), float32[n] ratings."""

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray


Predict = Callable[[np.ndarray, np.ndarray], Any]
AfterEpoch = Callable[[Predict, int], None]


def serve(
    prepare: Callable[[Ratings, dict[str, Any]], Any],
    train: Callable[[Any, int, int, dict[str, Any], AfterEpoch], None],
    packages: Sequence[str],
    epoch_rows: Callable[[Any], Sequence[Any]] | None = None,
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
    """
    # A library's output must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    ratings_path, predictions_path, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    with np.load(ratings_path, allow_pickle=False) as file:
        training = Ratings(*(file[f"train_{name}"] for name in Ratings._fields))
        valid = file["valid_users"], file["valid_items"]
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
