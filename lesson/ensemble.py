"""Several trainings of one model, whose predictions are averaged: the seed's share of the error averages out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lesson.checks import DataError, shown
from lesson.collab import CollabLearner
from lesson.data import CollabData
from lesson.learner import Epoch, Learner
from lesson.schedules import one_cycle


class Ensemble:
    """Learners that are trained alike and predict their mean (claim 1).

    Each is trained in a thread of its own, as many at a time as there are cores. The bits are those of training them
    one after the other with one thread of torch, unless a model draws from torch's own generator, as nn.Dropout does;
    the lesson's models do not. The native trainers compute beside each other; other models take turns in Python.

    Args:
        learners: with one loss and the same validation rows; made with different seeds, or they are all the same.

    Raises:
        DataError: there are no learners, two share parameters, or they validate on different rows.

    >>> from lesson import collab_learner, load_movielens
    >>> data = load_movielens()
    >>> team = Ensemble([collab_learner(data, 40, data.y_range, 0.08, seed=seed, quiet=True) for seed in range(4)])
    >>> team.fit_one_cycle(5, 5e-3)
    >>> team.validate() < min(learn.history[-1].valid_loss for learn in team.learners)
    True
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = list(learners)
        if not self.learners or not all(isinstance(learn, Learner) for learn in self.learners):
            raise DataError(f"learners={shown(learners)}: pass a list of learners, at least one")
        numbers = [tensor for learn in self.learners for tensor in _numbers(learn)]
        if len(set(map(id, numbers))) < len(numbers):
            raise DataError("learners: two have the same model or layer, which two threads would train at once")
        first = self.learners[0]
        for learn in self.learners[1:]:
            if learn.data.valid is first.data.valid:
                continue
            ours, theirs = _validation(first.data), _validation(learn.data)
            if len(ours) != len(theirs) or not all(map(np.array_equal, ours, theirs)):
                raise DataError("learners: they validate on different rows, so a mean of their predictions is of none")

    def fit(self, epochs: int, lr: float | slice = 3e-3) -> None:
        """`Learner.fit` of each. If one fails, or at Ctrl-C, the others stop after their epoch.

        Raises:
            DataError: an argument is wrong.
            DivergenceError: one of them diverged; a note says which.
        """
        self._train(lambda learn: learn.epochs(epochs, lr))

    def fit_one_cycle(self, epochs: int, lr: float | slice = 5e-3, **how: Any) -> None:
        """`Learner.fit_one_cycle` of each, with its arguments; errors as for `fit`."""
        self._train(lambda learn: learn.epochs(epochs, lr, partial(one_cycle, **how)))

    def _train(self, begin: Callable[[Learner], Iterator[Epoch]]) -> None:
        stopped = threading.Event()

        def train(learn: Learner) -> None:
            for _ in begin(learn):
                if stopped.is_set():
                    return

        threads, workers = torch.get_num_threads(), min(len(self.learners), os.cpu_count() or 1)
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        running = [pool.submit(train, learn) for learn in self.learners]
        try:
            ended, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
        for place, one in enumerate(running):
            if one in ended and (error := one.exception()) is not None:
                error.add_note(f"in learner {place} of the ensemble")
                raise error

    def get_preds(self) -> tuple[Tensor, Tensor]:
        """The means of the predictions of the validation rows, and the targets."""
        predicted, targets = zip(*(learn.get_preds() for learn in self.learners), strict=True)
        return torch.stack(predicted).mean(0), targets[0]

    def validate(self) -> float:
        """The loss of the mean predictions on the validation rows."""
        return float(self.learners[0].loss_func(*self.get_preds()).item())

    def predict(self, user: Any, item: Any) -> Any:
        """The mean of what each learner predicts, for `CollabLearner.predict`'s arguments.

        Raises:
            DataError: a learner is of another kind, whose predictions may be labels, which have no mean.
        """
        found = []
        for learn in self.learners:
            if not isinstance(learn, CollabLearner):
                raise DataError(f"predict: {type(learn).__name__} is no CollabLearner; average its `get_preds()`")
            found.append(learn.predict(user, item))
        return torch.stack(found).mean(0) if isinstance(found[0], Tensor) else sum(found) / len(found)


def _validation(data: Any) -> list[np.ndarray]:
    """The columns of the validation rows: of ratings with the ids, whose row numbers depend on the training rows."""
    if not isinstance(data, CollabData):
        return [column.numpy() for column in data.valid[:]]
    ratings, rows = data.ratings, data.valid_rows
    return [ratings.user_ids[ratings.user[rows]], ratings.item_ids[ratings.item[rows]], data.valid.ratings.numpy()]


def _numbers(learn: Learner) -> list[Tensor]:
    """The model's parameters and buffers, each once."""
    return [*learn.model.parameters(), *learn.model.buffers()]
