"""One AdamW step over the four tables of an embedding-dot-bias model: every backend, and torch.optim's three.

A dense step reads parameter, gradient and two averages and writes three of them: 28 bytes per parameter. For tables
larger than the caches this is the limit, and torch's fused step is near it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench.eager import ITEMS, USERS, WIDTH
from bench.harness import DEVICE, Case, Check, rounding_bound, why_not_timed
from kernels.adam import FASTAI, adam_step_, native
from kernels.backends import BACKENDS

pytestmark = [pytest.mark.benchmark(group="adam"), pytest.mark.gpu]

# `torch fused` against itself shows the noise of ratios; "native direct" is the native kernel without
# torch.library around it.
TORCH = {"torch fused": {"fused": True}, "torch foreach": {"foreach": True}, "torch loop": {"foreach": False}}
IMPLEMENTATIONS = [*TORCH, *BACKENDS, "native direct"]

# Users and items of MovieLens 100k, ten times that, MovieLens 20M, and five times that.
ROWS = [(USERS, ITEMS), (10_000, 17_000), (138_493, 26_744), (700_000, 100_000)]
SIZES = {"smoke": ROWS[:2], "default": ROWS[:3], "full": ROWS}

LR, WD, STEP = 5e-4, 0.1, 10  # at a higher rate, one gradient brings the weights to a standstill in some 20,000 calls

States = list[list[Tensor]]  # parameter, gradient, exp_avg and exp_avg_sq of each table


def cases(profile: str) -> list[Case]:
    return [
        Case("adam_step", implementation, "torch fused", "step", params=sum(rows) * (WIDTH + 1))
        for rows in SIZES[profile]
        for implementation in IMPLEMENTATIONS
    ]


def test_adam(case, compare):
    if reason := why_not_timed(case.implementation):
        pytest.skip(reason)
    states = table_states(case.params)
    stepped, step = adam_on(case.implementation, states)
    compare(
        step,
        adam_on(case.baseline, states)[1],
        lambda: accuracy(one_step(case.implementation, states), states),
        bytes_=28 * case.params,
        flops=15 * case.params,
        moves=lambda: [param for param, *_ in stepped],
    )


def table_states(params: int) -> States:
    """Four tables after some steps."""
    users, items = next(rows for rows in ROWS if sum(rows) * (WIDTH + 1) == params)
    generator = torch.Generator().manual_seed(0)
    states = []
    for shape in [(users, WIDTH), (items, WIDTH), (users,), (items,)]:
        param, grad, mean, square = (torch.randn(4, *shape, generator=generator) * 0.1).unbind()
        states.append([param, grad, mean, square.square()])
    return states


def adam_on(implementation: str, states: States) -> tuple[States, Callable[[], object]]:
    """A copy of the tables, and the step that moves it."""
    states = [[tensor.to(DEVICE, copy=True) for tensor in state] for state in states]
    if implementation in TORCH:
        options = TORCH[implementation]
        params = [torch.nn.Parameter(param) for param, *_ in states]
        optimizer = torch.optim.AdamW(params, LR, (FASTAI.beta1, FASTAI.beta2), FASTAI.eps, weight_decay=WD, **options)
        for param, (_, grad, mean, square) in zip(params, states, strict=True):
            param.grad = grad
            step = torch.tensor(STEP - 1.0, device=DEVICE if options.get("fused") else "cpu")
            optimizer.state[param] = {"step": step, "exp_avg": mean, "exp_avg_sq": square}
        return states, optimizer.step

    settings = {"lr": LR, **FASTAI._asdict(), "weight_decay": WD, "step": STEP, "decoupled": True}

    def step_all() -> None:
        for state in states:
            if implementation == "native direct":
                native.step_(*state, **settings)
            else:
                adam_step_(*state, **settings, backend=implementation)

    return states, step_all


def one_step(implementation: str, states: States) -> States:
    """The tables one step later."""
    stepped, step = adam_on(implementation, states)
    step()
    return stepped


def accuracy(stepped: States, states: States) -> dict[str, Check]:
    """Compare one step with its formula in float64; the constants that a step multiplies by are rounded too."""
    beta1, beta2, eps = FASTAI
    checks = {}
    for name, state, (param, _, mean, square) in zip(
        ("user_weight", "item_weight", "user_bias", "item_bias"), states, stepped, strict=True
    ):
        old, grad, old_mean, old_square = (tensor.double() for tensor in state)
        exact_mean = beta1 * old_mean + (1 - beta1) * grad
        mean_terms = beta1 * old_mean.abs() + (1 - beta1) * grad.abs()
        exact_square = beta2 * old_square + (1 - beta2) * grad**2
        scale = LR / (1 - beta1**STEP) / ((exact_square / (1 - beta2**STEP)).sqrt() + eps)
        exact = old * (1 - LR * WD) - scale * exact_mean
        checks[f"{name}.exp_avg"] = Check(mean, exact_mean, rounding_bound(3, mean_terms))
        checks[f"{name}.exp_avg_sq"] = Check(square, exact_square, rounding_bound(3, exact_square))
        bound = rounding_bound(2, old.abs()) + rounding_bound(8, scale * mean_terms)
        checks[name] = Check(param, exact, bound)
    return checks
