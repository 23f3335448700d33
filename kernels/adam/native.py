"""One dense Adam or AdamW step for a CPU, compiled by Numba: one pass over memory, on torch's number of threads."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

MIN_SHARE = 1 << 17  # parameters a thread must have before a second one pays


@numba.njit(nogil=True, cache=True, fastmath={"contract", "nsz"}, error_model="numpy")
def step_flat(param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, constants: Any) -> None:
    """One step over flat arrays; `constants` as `step_constants` gives them, in the arrays' dtype."""
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = constants
    for n in range(param.shape[0]):
        g = grad[n] + l2 * param[n]
        m = beta1 * exp_avg[n] + rest1 * g
        v = beta2 * exp_avg_sq[n] + rest2 * g * g
        exp_avg[n] = m
        exp_avg_sq[n] = v
        param[n] = param[n] * keep - rate * m / (np.sqrt(v) * scale + eps)


def step_constants(
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int, decoupled: bool
) -> tuple[float, ...]:
    """What a step is made of, computed in double: what `step_flat` unpacks."""
    return (
        1 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else weight_decay,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        1 / math.sqrt(1 - beta2**step),
        eps,
        lr / (1 - beta1**step),
    )


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="adam")


def step_(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    decoupled: bool,
) -> None:
    """See `kernels.adam.adam_step_`."""
    arrays = [tensor.detach().view(-1).numpy() for tensor in (param, grad.contiguous(), exp_avg, exp_avg_sq)]
    constants = np.array(step_constants(lr, beta1, beta2, eps, weight_decay, step, decoupled), dtype=arrays[0].dtype)
    size = len(arrays[0])
    threads = min(torch.get_num_threads(), size // MIN_SHARE)
    if threads < 2:
        step_flat(*arrays, constants)
        return
    cuts = [size * share // threads for share in range(threads + 1)]
    parts = [[array[low:high] for array in arrays] for low, high in pairwise(cuts)]
    list(_pool(threads).map(lambda part: step_flat(*part, constants), parts))
