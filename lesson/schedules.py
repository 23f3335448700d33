"""Learning rate and momentum, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lesson import checks


class Schedule(NamedTuple):
    """A rate and a momentum for each step, float64[steps]; without a momentum the optimizer keeps its own."""

    lr: np.ndarray
    momentum: np.ndarray | None


Policy = Callable[[int, float], Schedule]  # of the number of steps and the highest rate


def epochs_for(steps: int, rows: int, bs: int = 64) -> int:
    """The number of epochs that comes nearest to a number of steps, at least one: for trainings of equal length.

    Args:
        steps: the number of steps.
        rows: training rows.
        bs: rows per batch.

    >>> epochs_for(2_000, rows=4_000), epochs_for(2_000, rows=1_000_000)
    (32, 1)
    """
    return max(1, round(steps / -(-rows // bs)))


def cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Half a cosine, float64[steps]: it begins at `start` and would reach `end` one step after the last."""
    start, end, steps = checks.number("start", start), checks.number("end", end), checks.whole("steps", steps)
    return end + (start - end) / 2 * (1 + np.cos(np.pi * np.arange(steps) / max(steps, 1)))


def one_cycle(
    steps: int,
    lr_max: float,
    moms: tuple[float, float] = (0.95, 0.85),
    div_factor: float = 25.0,
    pct_start: float = 0.3,
) -> Schedule:
    """The one-cycle policy (Smith 2018) as in fastai v1: the rate goes low-high-low, momentum mirrors it (claim 76).

    The rate starts at lr_max / div_factor, reaches lr_max after `pct_start` of the steps, and ends at
    lr_max / (div_factor · 10⁴), which is lr_max / 250,000 by default; both parts follow a cosine.

    Args:
        steps: the number of steps.
        lr_max: the highest rate.
        moms: momentum at both ends, and where the rate is highest.
        div_factor: lr_max over the first rate.
        pct_start: the share of steps in which the rate rises.

    Raises:
        DataError: an argument is wrong.

    >>> lr, momentum = one_cycle(1000, lr_max=5e-3)
    >>> [float(lr[step].round(6)) for step in (0, 300, 999)]
    [0.0002, 0.005, 0.0]
    """
    steps, lr_max = checks.whole("steps", steps, least=1), checks.number("lr_max", lr_max, above=0)
    outer, inner = (checks.below_one("moms", momentum) for momentum in checks.pair("moms", moms))
    div_factor = checks.number("div_factor", div_factor, above=0)
    pct_start = checks.number("pct_start", pct_start, above=0, below=1)
    up = int(steps * pct_start)
    up, down = max(1, up), max(1, steps - up)  # as in fastai, also where there are too few steps for both parts
    low, final = lr_max / div_factor, lr_max / (div_factor * 1e4)
    return Schedule(
        np.concatenate([cosine(low, lr_max, up), cosine(lr_max, final, down)])[:steps],
        np.concatenate([cosine(outer, inner, up), cosine(inner, outer, down)])[:steps],
    )


def annealed(steps: int, lr: float, moms: tuple[float, float] = (0.95, 0.85)) -> Schedule:
    """One-cycle without its first part: the rate only falls, from `lr`, and the momentum only rises (claims 74, 78).

    Args:
        steps: the number of steps.
        lr: the first rate.
        moms: the last and the first momentum, in the order of `one_cycle`.

    >>> annealed(4, 0.1).lr.round(3)
    array([0.1  , 0.085, 0.05 , 0.015])
    """
    steps, lr = checks.whole("steps", steps, least=1), checks.number("lr", lr, above=0)
    outer, inner = (checks.below_one("moms", momentum) for momentum in checks.pair("moms", moms))
    return Schedule(cosine(lr, lr / (25 * 1e4), steps), cosine(inner, outer, steps))


def warmed_up(
    steps: int, lr: float, moms: tuple[float, float] = (0.95, 0.85), div_factor: float = 25.0, pct_start: float = 0.3
) -> Schedule:
    """One-cycle without its second part: after `pct_start` of the steps rate and momentum stay the same (claim 78).

    Args:
        steps: the number of steps.
        lr: the highest rate.
        moms: the first and the last momentum.
        div_factor: lr over the first rate.
        pct_start: the share of steps in which the rate rises.

    >>> warmed_up(4, 0.1, pct_start=0.5).lr.round(3)
    array([0.004, 0.052, 0.1  , 0.1  ])
    """
    cycle = one_cycle(steps, lr, moms, div_factor, pct_start)
    up = max(1, int(steps * pct_start))
    assert cycle.momentum is not None
    rise, fall = (np.full(steps - up, float(value)) for value in (lr, moms[1]))
    return Schedule(np.concatenate([cycle.lr[:up], rise]), np.concatenate([cycle.momentum[:up], fall]))


def constant(steps: int, lr: float, momentum: float | None = None) -> Schedule:
    """The same rate and momentum at every step.

    >>> constant(3, 0.1).lr
    array([0.1, 0.1, 0.1])
    """
    steps, lr = checks.whole("steps", steps, least=1), checks.number("lr", lr, above=0)
    return Schedule(
        np.full(steps, lr), None if momentum is None else np.full(steps, checks.below_one("momentum", momentum))
    )
