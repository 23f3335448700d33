"""The lesson's optimizers side by side: one step over MovieLens 100k's four tables, relative to fused AdamW.

`lesson` is `lesson.optimizers`, composed of small steps that are easy to read and change; torch's are built for speed.
`triton` is `kernels.optimizers`: the four tables in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.eager import ITEMS, USERS, WIDTH
from bench.harness import DEVICE, Case, Check, rounding_bound, why_not_timed
from kernels.adam import FASTAI
from lesson import optimizers

pytestmark = pytest.mark.benchmark(group="optimizers")

LR, WD = 5e-3, 0.1
BETAS = {"betas": (FASTAI.beta1, FASTAI.beta2), "eps": FASTAI.eps}
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], Callable[..., Any], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {}, optimizers.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, optimizers.Momentum, {"momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, {"alpha": 0.99}, optimizers.RMSprop, {"alpha": 0.99}),
    "Adam": (torch.optim.Adam, BETAS, optimizers.Adam, {}),
    "AdamW": (torch.optim.AdamW, BETAS | {"weight_decay": WD}, optimizers.AdamW, {"weight_decay": WD}),
}
TORCH = {"torch fused": {"fused": True}, "torch foreach": {"foreach": True}, "torch loop": {"foreach": False}}
BASELINE = ("AdamW", "torch fused")
# Numbers per parameter that a step must move: it reads gradient, parameter and averages, and writes back.
NUMBERS = {"SGD": 3, "momentum": 5, "RMSprop": 5, "Adam": 7, "AdamW": 7}


def cases(profile: str) -> list[Case]:  # noqa: ARG001 - so small that every profile has them all
    return [
        Case(op, implementation, "torch fused AdamW", "step", params=(USERS + ITEMS) * (WIDTH + 1))
        for op in OPTIMIZERS
        for implementation in [*TORCH, "lesson", "triton"]
    ]


def test_optimizers(case, compare):
    if case.implementation == "torch fused" and "fused" not in signature(OPTIMIZERS[case.op][0]).parameters:
        pytest.skip(f"torch.optim.{OPTIMIZERS[case.op][0].__name__} has no fused step")
    if reason := why_not_timed(case.implementation):
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(0)
    shapes = [(USERS, WIDTH), (ITEMS, WIDTH), (USERS, 1), (ITEMS, 1)]
    tables = [0.1 * torch.randn(shape, generator=generator) for shape in shapes]
    grads = [0.1 * torch.randn(shape, generator=generator) for shape in shapes]
    compare(
        optimizer_on(case.op, case.implementation, tables, grads)[1],
        optimizer_on(*BASELINE, tables, grads)[1],
        lambda: accuracy(case, tables, grads),
        bytes_=4 * NUMBERS[case.op] * case.params,
    )


def optimizer_on(
    op: str, implementation: str, tables: list[Tensor], grads: list[Tensor], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Callable[[], object]]:
    """Copies of the tables as parameters, and the step that moves them."""
    params = [torch.nn.Parameter(table.to(DEVICE, dtype, copy=True)) for table in tables]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.to(DEVICE, dtype)
    torchs, torch_settings, lessons, lesson_settings = OPTIMIZERS[op]
    if implementation == "lesson":
        return params, lessons(params, LR, **lesson_settings).step
    if implementation == "triton":
        return params, triton_step(op, params)
    return params, torchs(params, LR, **torch_settings, **TORCH[implementation]).step


def triton_step(op: str, params: list[Tensor]) -> Callable[[], object]:
    """A call that steps the parameters by one kernel, counting its steps."""
    from kernels.optimizers.triton_kernels import step_  # not every platform has Triton

    weights, steps = [param.detach() for param in params], count(1)
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    optimizer = {"AdamW": "adam"}.get(op, op.lower())
    settings = {"lr": LR, "weight_decay": WD if op == "AdamW" else 0.0}
    if op == "RMSprop":
        settings["eps"] = 1e-8  # torch's

    def step() -> None:
        grads = [param.grad for param in params]
        step_(optimizer, weights, grads, means, squares, step=next(steps), **settings)

    return step


def accuracy(case: Case, tables: list[Tensor], grads: list[Tensor]) -> dict[str, Check]:
    """Compare three steps with torch's plain loop in float64; from the second on, the averages count."""
    params, step = optimizer_on(case.op, case.implementation, tables, grads)
    exact, exact_step = optimizer_on(case.op, "torch loop", tables, grads, torch.float64)
    for _ in range(3):
        step()
        exact_step()
    names = ["user_weight", "item_weight", "user_bias", "item_bias"]
    checks = {}
    for name, param, expected, table in zip(names, params, exact, tables, strict=True):
        expected = expected.detach().cpu()
        # An update may be a small difference of large terms; the table's largest update has the terms' size.
        magnitude = table.double().abs() + (expected - table).abs().max()
        checks[name] = Check(param, expected, rounding_bound(8, magnitude))
    return checks
