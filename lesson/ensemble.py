"""Several trainings of one model, whose predictions are averaged: the seed's share of the error averages out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lesson.checks import DataError, shown
from lesson.collab import CollabLearner
from lesson.learner import Learner


class Ensemble:
    """Learners that are trained alike and predict their mean (claim 1).

    Each is trained in a thread of its own, as many at a time as there are cores. The bits are those of training them
    one after the other, unless a model draws from torch's own generator, as nn.Dropout does; the lesson's models do
    not. The native trainers compute beside each other; other models take turns in Python.

    Args:
        learners: with one loss and the same validation rows; made with different seeds, or they are all the same.

    Raises:
        DataError: there are no learners, two have one model, or they validate on different rows.

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
        if len({id(learn.model) for learn in self.learners}) < len(self.learners):
            raise DataError("learners: two have the same model, which two threads would train at the same time")
        first = self.learners[0]
        for learn in self.learners[1:]:
            if learn.data.valid is first.data.valid:
                continue
            ours, theirs = first.data.valid[:], learn.data.valid[:]
            if len(ours) != len(theirs) or not all(map(torch.equal, ours, theirs)):
                raise DataError("learners: they validate on different rows, so a mean of their predictions is of none")

    def fit(self, epochs: int, *args: Any, **how: Any) -> None:
        """`Learner.fit` of each.

        Raises:
            DataError: an argument is wrong.
            DivergenceError: one of them diverged.
        """
        self._each("fit", epochs, *args, **how)

    def fit_one_cycle(self, epochs: int, *args: Any, **how: Any) -> None:
        """`Learner.fit_one_cycle` of each; errors as for `fit`."""
        self._each("fit_one_cycle", epochs, *args, **how)

    def _each(self, train: str, *args: Any, **how: Any) -> None:
        threads, workers = torch.get_num_threads(), min(len(self.learners), os.cpu_count() or 1)
        try:
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                done = [pool.submit(getattr(learn, train), *args, **how) for learn in self.learners]
                for one in done:
                    one.result()
        finally:
            torch.set_num_threads(threads)

    def get_preds(self) -> tuple[Tensor, Tensor]:
        """The means of the predictions of the validation rows, and the targets."""
        predicted, targets = zip(*(learn.get_preds() for learn in self.learners), strict=True)
        return torch.stack(predicted).mean(0), targets[0]

    def validate(self) -> float:
        """The loss of the mean predictions on the validation rows."""
        return float(self.learners[0].loss_func(*self.get_preds()).item())

    def predict(self, *pair: Any) -> Any:
        """The mean of what each learner predicts, for `CollabLearner.predict`'s arguments.

        Raises:
            DataError: a learner is of another kind, whose predictions may be labels, which have no mean.
        """
        found = []
        for learn in self.learners:
            if not isinstance(learn, CollabLearner):
                raise DataError(f"predict: {type(learn).__name__} is no CollabLearner; average its `get_preds()`")
            found.append(learn.predict(*pair))
        return torch.stack(found).mean(0) if isinstance(found[0], Tensor) else sum(found) / len(found)
