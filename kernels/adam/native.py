"""One dense Adam or AdamW step for a CPU, compiled by Numba: one pass over memory, on torch's number of threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..native import compiled
from ..steps import constants

MIN_SHARE = 1 << 17  # the fewest parameters per thread: below, another thread costs more than it saves


@compiled
def step_flat(param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, constants: Any) -> None:
    """One step of flat arrays. `constants` are those of `kernels.steps`, in the arrays' dtype."""
    keep, l2, beta1, rest1, beta2, rest2, scale, eps, rate = constants
    for n in range(param.shape[0]):
        pull = l2 * param[n] if l2 != 0 else l2  # an infinite weight, such as a mask's, stays as it is
        g = grad[n] + pull
        m = beta1 * exp_avg[n] + rest1 * g
        v = beta2 * exp_avg_sq[n] + rest2 * g * g
        exp_avg[n] = m
        exp_avg_sq[n] = v
        param[n] = param[n] * keep - rate * m / (np.sqrt(v) * scale + eps)


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process has no threads
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
    grad = grad.to(param.dtype).contiguous()
    arrays = [tensor.detach().view(-1).numpy() for tensor in (param, grad, exp_avg, exp_avg_sq)]
    of_step = constants(
        "adam", lr=lr, step=step, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
        decay="decoupled" if decoupled else "l2",
    )  # fmt: skip
    c = np.array(of_step, dtype=arrays[0].dtype)
    size = len(arrays[0])
    threads = min(torch.get_num_threads(), size // MIN_SHARE)
    if threads < 2:
        step_flat(*arrays, c)
        return
    cuts = [size * share // threads for share in range(threads + 1)]
    parts = [[array[low:high] for array in arrays] for low, high in pairwise(cuts)]
    list(_pool(threads, os.getpid()).map(lambda part: step_flat(*part, c), parts))
