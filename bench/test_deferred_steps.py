"""Adam's step of a batch on a GPU: the rows it reads, with the steps they missed, against the whole table's.

"triton dense" moves every row, with or without a gradient. In the rows that the batch reads, replay runs the missed
steps and fold does them as one; both include resetting, for the next call, which steps were missed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.eager import WIDTH
from bench.harness import DEVICE, Case, Check, rounding_bound, why_not_timed
from kernels.adam import FASTAI
from kernels.steps import constants as step_constants

pytestmark = [pytest.mark.benchmark(group="deferred_steps"), pytest.mark.gpu]

IMPLEMENTATIONS = ["triton dense", "triton replay", "triton fold"]
READ = 1_024  # rows a batch reads
ROWS = {"smoke": [27_000], "default": [27_000, 165_000], "full": [27_000, 165_000, 1_650_000]}
T, LONGEST = 250, 50  # the batch's step, and the largest number of missed steps
# At a higher rate, one gradient brings the weights to a standstill in some 20,000 calls.
SETTINGS = {"lr": 5e-4, **FASTAI._asdict(), "weight_decay": 0.1}


def cases(profile: str) -> list[Case]:
    return [
        Case("deferred_step", implementation, "triton dense", "step", batch=READ, width=WIDTH, params=rows * WIDTH)
        for rows in ROWS[profile]
        for implementation in IMPLEMENTATIONS
    ]


def test_deferred_steps(case, compare):
    if reason := why_not_timed(case.implementation):
        pytest.skip(reason)
    tables, read, missed = problem(case.params // WIDTH, READ)
    stepped, step = step_of(case.implementation, tables, read, missed)
    compare(
        step,
        step_of(case.baseline, tables, read, missed)[1],
        lambda: accuracy(case.implementation, tables, read, missed),
        bytes_=28 * (case.params if case.implementation == "triton dense" else READ * WIDTH),
        moves=lambda: stepped[:1],  # the averages come to a standstill: each call has the same gradient
    )


def problem(rows: int, read: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weight, gradient and averages of a table; the rows that the batch reads; how many steps each has missed."""
    generator = torch.Generator().manual_seed(0)
    weight, grad, mean, square = (0.1 * torch.randn(4, rows, WIDTH, generator=generator)).unbind()
    ids = torch.randperm(rows, generator=generator)[:read]
    return [weight, grad, mean, square.square()], ids, torch.randint(LONGEST + 1, (read,), generator=generator)


def step_of(
    implementation: str, tables: list[Tensor], read: Tensor, missed: Tensor
) -> tuple[list[Tensor], Callable[[], object]]:
    """A copy of weight and averages, and the call that steps them."""
    from kernels.optimizers import triton_deferred as deferred  # not every platform has Triton
    from kernels.optimizers import triton_kernels as dense

    weight, grad, mean, square = (table.to(DEVICE, copy=True) for table in tables)
    if implementation == "triton dense":
        return [weight, mean, square], lambda: dense.step_(
            "adam", [weight], [grad], [mean], [square], **SETTINGS, step=T
        )
    constants = [step_constants("adam", **SETTINGS, step=t, decay="decoupled") for t in range(1, T + 1)]
    steps, moments = deferred.step_table(constants, weight), None
    if implementation == "triton fold":
        moments = deferred.new_moments(T, FASTAI.beta2, DEVICE)
        for t in range(T - 1 - LONGEST, T):
            deferred.add_step_(moments, constants[t - 1], t, max(0, T - 2 - LONGEST))
    read, before = read.to(DEVICE), (T - 1 - missed).to(DEVICE, torch.int32)
    last, grads = torch.zeros(len(weight), dtype=torch.int32, device=DEVICE), grad[read]

    def step() -> None:
        last[read] = before
        deferred.step_rows_(
            "adam", read, last, weight, mean, square, steps, T, step=constants[-1], grads=grads, moments=moments,
            eps=FASTAI.eps,
        )  # fmt: skip

    return [weight, mean, square], step


def accuracy(implementation: str, tables: list[Tensor], read: Tensor, missed: Tensor) -> dict[str, Check]:
    """Compare the rows that are read with a loop over their steps in float64."""
    found, step = step_of(implementation, tables, read, missed)
    step()
    beta1, beta2, eps = FASTAI
    w, grad, m, v = (table[read].double() for table in tables)
    magnitude, lr = w.abs(), SETTINGS["lr"]
    for t in range(T - LONGEST, T + 1):
        misses = (t >= T - missed)[:, None] if implementation != "triton dense" else torch.tensor(False)
        now = misses | torch.tensor(t == T)
        g = grad if t == T else torch.zeros_like(grad)
        m = torch.where(now, beta1 * m + (1 - beta1) * g, m)
        v = torch.where(now, beta2 * v + (1 - beta2) * g**2, v)
        moved = lr / (1 - beta1**t) * m / ((v / (1 - beta2**t)).sqrt() + eps)
        w = torch.where(now, w * (1 - lr * SETTINGS["weight_decay"]) - moved, w)
        magnitude = magnitude + torch.where(now, moved.abs() + lr / (1 - beta1**t) * (1 - beta1) * g.abs(), 0)
    terms = 10 * (missed[:, None] + 1)  # ten roundings per step between a gradient and its weight
    return {"weight": Check(found[0][read.to(DEVICE)], w, rounding_bound(terms, magnitude))}
