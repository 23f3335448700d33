"""The nine constants of an optimizer's step, computed in double precision and used by every implementation.

Step t updates each element's weight w, running mean m and mean square v from its gradient, with the step's constants:

    g ← gradient + L2·w
    SGD       w ← w·KEEP − RATE·g
    MOMENTUM  m ← BETA1·m + REST1·g,  w ← w·KEEP − RATE·m
    RMSPROP   v ← BETA2·v + REST2·g², w ← w·KEEP − RATE·g/(√v·SCALE + EPS)
    ADAM      m and v as above,       w ← w·KEEP − RATE·m/(√v·SCALE + EPS)
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

Optimizer = Literal["sgd", "momentum", "rmsprop", "adam"]
Decay = Literal["none", "l2", "decoupled", "fully decoupled"]


class Kind(NamedTuple):
    """Which state a kind of step keeps: 1 if it does, else None.

    None has a type of its own, so Numba compiles each kind of step separately, without the code of the others.
    """

    mean: int | None
    square: int | None


SGD, MOMENTUM, RMSPROP, ADAM = Kind(None, None), Kind(1, None), Kind(None, 1), Kind(1, 1)
KINDS: dict[Optimizer, Kind] = {"sgd": SGD, "momentum": MOMENTUM, "rmsprop": RMSPROP, "adam": ADAM}
KEEP, L2, BETA1, REST1, BETA2, REST2, SCALE, EPS, RATE = range(9)


class Constants(NamedTuple):
    """The constants of one step, or arrays with those of several."""

    keep: Any  # 1 − lr·wd if decay is decoupled, 1 − wd if fully decoupled, else 1
    l2: Any  # wd if decay is added to the gradient, else 0
    beta1: Any
    rest1: Any  # 1 − β1; 1 for momentum, as in torch
    beta2: Any
    rest2: Any  # 1 − β2
    scale: Any  # 1/√(1 − β2^t), Adam's correction of the root; else 1
    eps: Any
    rate: Any  # lr, for Adam over 1 − β1^t


def constants(
    optimizer: Optimizer, *, lr: Any, step: Any = 1, beta1: Any = 0.0, beta2: Any = 1.0, eps: Any = 0.0,
    weight_decay: Any = 0.0, decay: Decay = "none",
) -> Constants:  # fmt: skip
    """The constants of step t = `step` ≥ 1. Bias corrections use this step's betas, as torch does under a schedule.

    >>> constants("sgd", lr=0.5, weight_decay=0.1, decay="decoupled").keep
    0.95

    Args:
        optimizer: "sgd"; "momentum" as torch's SGD with momentum; "rmsprop"; "adam".
        lr: learning rate. Like the other numbers, a float, or an array with one for each of several steps.
        step: t.
        beta1: μ of "momentum", β1 of "adam".
        beta2: decay of the mean square; torch's alpha for "rmsprop".
        eps: added to the root of the mean square.
        weight_decay: `wd` of the lesson.
        decay: how weights decay: "l2" adds wd·w to the gradient, "decoupled" subtracts lr·wd·w from the weight, "fully
            decoupled" subtracts wd·w.
    """
    adam = optimizer == "adam"
    if optimizer in ("sgd", "rmsprop"):
        beta1 = 0.0
    if optimizer in ("sgd", "momentum"):
        beta2 = 1.0  # no mean square
    return Constants(
        keep={"decoupled": 1 - lr * weight_decay, "fully decoupled": 1 - weight_decay}.get(decay, 1.0),
        l2=weight_decay if decay == "l2" else 0.0,
        beta1=beta1,
        rest1=1 - beta1 if adam else 1.0,
        beta2=beta2,
        rest2=1 - beta2,
        scale=(1 - beta2**step) ** -0.5 if adam else 1.0,
        eps=eps,
        rate=lr / (1 - beta1**step) if adam else lr,
    )


def stacked(of_each: Constants, steps: int) -> np.ndarray:
    """The constants of several steps in an array, float64[steps, 9]."""
    return np.stack([np.broadcast_to(constant, steps) for constant in of_each], axis=1)
