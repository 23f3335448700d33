"""The rate finder: a mock training with an exponentially growing rate (Smith 2015, as in fastai v1)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lesson import checks
from lesson.checks import DataError
from lesson.schedules import Schedule

if TYPE_CHECKING:
    from lesson.learner import Learner

BETA, EXPLODED = 0.98, 4  # fastai's: of the smoothing, and how many times the smallest loss ends the search
SKIP_START, SKIP_END = 10, 5  # steps without a say in the suggestion: warming up, and exploding


@dataclass(frozen=True, eq=False)
class FoundRates:
    """What the rate finder saw.

    Attributes:
        lrs: float64[steps], the rate of each step.
        losses: float64[steps], the loss of each step's batch, before the step.
        smooth_losses: float64[steps], their running average.
    """

    lrs: np.ndarray
    losses: np.ndarray
    smooth_losses: np.ndarray

    @property
    def suggestion(self) -> float | None:
        """The rate where the smooth loss falls most steeply per step, as fastai v1 suggests.

        The first 10 and the last 5 steps do not count. None if fewer than two steps are left. If losses of single
        batches differ much, the steepest place may be chance, at a rate far too small: look at the plot.
        """
        kept = slice(SKIP_START, len(self.lrs) - SKIP_END)
        losses = self.smooth_losses[kept]
        return float(self.lrs[kept][np.gradient(losses).argmin()]) if len(losses) > 1 else None

    def plot(self) -> Any:
        """Draw the smooth loss by rate, and the suggestion; returns matplotlib's Axes."""
        from lesson import plots

        return plots.found_rates(self.lrs, self.smooth_losses, self.suggestion)


def smoothed(losses: np.ndarray, beta: float = BETA) -> np.ndarray:
    """Exponentially weighted means of losses float64[steps], corrected for their start at zero (claim 68).

    A loss that is not finite has no mean, and later means leave it out.

    >>> smoothed(np.array([3.0, 3.0, 3.0])).round(12)
    array([3., 3., 3.])
    """
    mean, known, means = 0.0, 0, []
    for loss in losses:
        if not math.isfinite(loss):
            means.append(math.nan)
            continue
        known += 1
        mean = beta * mean + (1 - beta) * loss
        means.append(mean / (1 - beta**known))
    return np.array(means)


def lr_find(learn: Learner, start: float = 1e-7, end: float = 10, steps: int = 100) -> FoundRates:
    """Train a copy of the model with a rate that grows by equal ratios, until the loss explodes.

    The learner stays as it is, to the bit: parameters, buffers, record, and random streams. The copy sees the batches
    that the learner's next training will see. The search ends early once the smooth loss is above four times its
    smallest value, or is not a number.

    Args:
        learn: any learner; frozen layers stay frozen, and all layer groups have the same rate.
        start: the first rate.
        end: the last one.
        steps: the number of rates.

    Raises:
        DataError: an argument is wrong, or every layer is frozen.
    """
    start = checks.number("start", start, above=0)
    end, steps = checks.number("end", end, above=start), checks.whole("steps", steps, least=2)
    mock = copy.copy(learn)
    mock.model, mock.layer_groups, mock.loss_func = copy.deepcopy((learn.model, learn.layer_groups, learn.loss_func))
    schedule = Schedule(np.geomspace(start, end, steps), None)
    optimizer = mock.opt_func(mock._param_groups([end] * len(mock.layer_groups)))
    losses: list[float] = []
    streams = torch.random.fork_rng([learn.device] if learn.device.type == "cuda" else [])
    with streams, mock._training(optimizer, schedule) as train:
        batches = _batches(learn)
        smallest = np.inf
        while len(losses) < steps:
            losses += train(next(batches)).tolist()
            smooth = smoothed(np.array(losses))[-1]
            smallest = min(smallest, smooth)
            if not smooth - smallest <= (EXPLODED - 1) * abs(smallest):  # a loss may be negative
                break
    if not np.isfinite(losses[0]):
        raise DataError(f"the first loss is {losses[0]}: no rate can help; look at the data and the model")
    return FoundRates(schedule.lr[: len(losses)], np.array(losses), smoothed(np.array(losses)))


def _batches(learn: Learner) -> Iterator[Tensor]:
    """Row numbers of the batches of the next epochs, without end; the learner's own stream stays where it is."""
    order = torch.Generator()
    order.set_state(learn._order.get_state())
    while True:
        yield from torch.randperm(len(learn.data.train), generator=order).split(learn.bs)
