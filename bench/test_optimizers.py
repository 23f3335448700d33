"""The lesson's optimizers side by side: one step over MovieLens 100k's four tables, relative to fused AdamW.

`lesson` is `lesson.optimizers`, composed of small steps that are easy to read and change; torch's are built for speed.
`torch compiled` takes its rate as a 0-D tensor, so a schedule that changes the rate at every step compiles once.
`bitsandbytes 8-bit` (Dettmers et al. 2022) keeps its averages in eight bits. `triton` is `kernels.optimizers`: the four
tables in one launch.

A time says what a step costs. What it buys is `train loss`: the mean squared error of drawn ratings after a hundred
steps of one-cycle at the optimizer's best rate. `state` is the size of what the optimizer keeps between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from inspect import signature
from itertools import count
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from bench.eager import ITEMS, USERS, WIDTH, EmbeddingDotBias, popular
from bench.harness import DEVICE, Case, Check, rounding_bound, why_not_timed
from kernels.adam import FASTAI
from lesson import optimizers
from lesson.schedules import one_cycle

pytestmark = [pytest.mark.benchmark(group="optimizers"), pytest.mark.gpu]

LR, WD = 5e-4, 0.1  # at a higher rate, one gradient brings the weights to a standstill in some 20,000 calls
BETAS = {"betas": (FASTAI.beta1, FASTAI.beta2), "eps": FASTAI.eps}
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], Callable[..., Any], dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {}, optimizers.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}, optimizers.Momentum, {"momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, {"alpha": 0.99}, optimizers.RMSprop, {"alpha": 0.99}),
    "Adam": (torch.optim.Adam, BETAS, optimizers.Adam, {}),
    "AdamW": (torch.optim.AdamW, BETAS | {"weight_decay": WD}, optimizers.AdamW, {"weight_decay": WD}),
}
TORCH = {"torch fused": {"fused": True}, "torch foreach": {"foreach": True}, "torch loop": {"foreach": False}}
EIGHT_BIT = {"momentum": "SGD8bit", "RMSprop": "RMSprop8bit", "Adam": "Adam8bit", "AdamW": "AdamW8bit"}
BASELINE = ("AdamW", "torch fused")
# Numbers per parameter that a step must move: it reads gradient, parameter and averages, and writes back.
NUMBERS = {"SGD": 3, "momentum": 5, "RMSprop": 5, "Adam": 7, "AdamW": 7}

RATINGS, BATCH, STEPS = 40_000, 4_096, 100
# The best of 1, 3, 10, 30 … for STEPS steps of torch's loop; tests/bench/test_gates.py compares them with their
# neighbors.
BEST_LR = {"SGD": 30.0, "momentum": 10.0, "RMSprop": 0.03, "Adam": 0.03, "AdamW": 0.03}


def cases(profile: str) -> list[Case]:
    # A compilation takes seconds: the smoke profile compiles none.
    compiled = [] if profile == "smoke" else ["torch compiled"]
    return [
        Case(op, implementation, "torch fused AdamW", "step", params=(USERS + ITEMS) * (WIDTH + 1))
        for op in OPTIMIZERS
        for implementation in [*TORCH, *compiled, "bitsandbytes 8-bit", "lesson", "triton"]
    ]


def test_optimizers(case, compare, benchmark):
    if reason := why_not(case):
        pytest.skip(reason)
    tables, grads = drawn_tables()
    params, step = optimizer_on(case.op, case.implementation, tables, grads)
    compare(
        step,
        optimizer_on(*BASELINE, tables, grads)[1],
        lambda: accuracy(case, tables, grads),
        bytes_=4 * NUMBERS[case.op] * case.params,
        moves=lambda: params,
    )
    if case.implementation != "triton":  # it has no optimizer of torch's kind around it
        optimizer, loss = trained(case.op, case.implementation, BEST_LR[case.op])
        benchmark.extra_info.update(train_loss=loss, state_bytes=state_bytes(optimizer))


def why_not(case: Case) -> str | None:
    """Why a case cannot be timed; None if it can."""
    op, implementation = case.op, case.implementation
    if implementation == "torch fused" and "fused" not in signature(OPTIMIZERS[op][0]).parameters:
        return f"torch.optim.{OPTIMIZERS[op][0].__name__} has no fused step"
    if implementation == "bitsandbytes 8-bit":
        if op not in EIGHT_BIT:
            return "plain SGD has no averages to keep in eight bits"
        try:
            import bitsandbytes  # noqa: F401
        except ImportError:
            return "bitsandbytes is not installed here: tox run -e rivals"
    return why_not_timed(implementation)


def drawn_tables() -> tuple[list[Tensor], list[Tensor]]:
    """The model's four tables and their gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(USERS, WIDTH), (ITEMS, WIDTH), (USERS, 1), (ITEMS, 1)]
    tables = [0.1 * torch.randn(shape, generator=generator) for shape in shapes]
    return tables, [0.1 * torch.randn(shape, generator=generator) for shape in shapes]


def optimizer_on(
    op: str, implementation: str, tables: list[Tensor], grads: list[Tensor], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Callable[[], object]]:
    """Copies of the tables as parameters, and the step that moves them."""
    params = [torch.nn.Parameter(table.to(DEVICE, dtype, copy=True)) for table in tables]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.to(DEVICE, dtype)
    if implementation == "triton":
        return params, triton_step(op, params)
    return params, made(op, implementation, params, LR).step


class Made(NamedTuple):
    """An optimizer, its step, and what changes its rate."""

    optimizer: torch.optim.Optimizer
    step: Callable[[], object]
    set_lr: Callable[[float], object]


def made(op: str, implementation: str, params: list[torch.nn.Parameter], lr: float) -> Made:
    """The optimizer as one of its implementations makes it."""
    torchs, torch_settings, lessons, lesson_settings = OPTIMIZERS[op]
    if implementation == "torch compiled":
        rate = torch.tensor(lr, dtype=torch.float64, device=DEVICE)
        optimizer = torchs(params, rate, **torch_settings)
        torch.compiler.reset()  # compile each case separately, not for settings that vary
        return Made(optimizer, torch.compile(optimizer.step), rate.fill_)
    if implementation == "bitsandbytes 8-bit":
        optimizer = eight_bit(op, params, lr)
    elif implementation == "lesson":
        optimizer = lessons(params, lr, **lesson_settings)
    else:
        optimizer = torchs(params, lr, **torch_settings, **TORCH[implementation])
    return Made(optimizer, optimizer.step, lambda lr: optimizer.param_groups[0].update(lr=lr))


def eight_bit(op: str, params: list[torch.nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """The optimizer of bitsandbytes; tables of fewer than 4,096 numbers keep 32 bits, as is its default."""
    import bitsandbytes

    settings = OPTIMIZERS[op][1]
    return getattr(bitsandbytes.optim, EIGHT_BIT[op])(params, lr, **settings)


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


def trained(op: str, implementation: str, lr: float) -> tuple[torch.optim.Optimizer, float]:
    """Train the lesson's model on drawn ratings by STEPS steps of one-cycle.

    Returns:
        The optimizer after the last step, and the mean squared error of all ratings.
    """
    generator = torch.Generator().manual_seed(0)
    users, items = (popular(rows, RATINGS, generator) for rows in (USERS, ITEMS))
    planted = [0.5 * torch.randn(rows, WIDTH // 8, generator=generator) for rows in (USERS, ITEMS)]
    planted += [0.3 * torch.randn(rows, 1, generator=generator) for rows in (USERS, ITEMS)]
    ratings = EmbeddingDotBias.of(planted)(users, items) + 0.9 * torch.randn(RATINGS, generator=generator)
    batches = torch.randint(RATINGS, (STEPS, BATCH), generator=generator).to(DEVICE)
    users, items, ratings = users.to(DEVICE), items.to(DEVICE), ratings.to(DEVICE)

    model = EmbeddingDotBias.of(drawn_tables()[0]).to(DEVICE).requires_grad_()
    optimizer, step, set_lr = made(op, implementation, list(model.parameters()), lr)
    for i, (batch, rate) in enumerate(zip(batches, one_cycle(STEPS, lr).lr, strict=True)):
        set_lr(rate)
        mse_loss(model(users[batch], items[batch]), ratings[batch]).backward()
        # The first step makes the state, so the second compiles again. A new rate must not.
        known = implementation == "torch compiled" and i > 1
        with torch._dynamo.config.patch(error_on_recompile=True) if known else nullcontext():
            step()
        optimizer.zero_grad(set_to_none=False)
    with torch.no_grad():
        return optimizer, mse_loss(model(users, items), ratings).item()


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """The bytes of all tensors that the optimizer keeps for its parameters."""
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in kept if isinstance(value, Tensor))


def accuracy(case: Case, tables: list[Tensor], grads: list[Tensor]) -> dict[str, Check]:
    """Compare three steps with torch's plain loop in float64; from the second on, the averages count.

    Where an element's averages are small beside its neighbors', eight bits hold little of them. So for
    bitsandbytes the distance of a whole table is checked: at most a tenth of the way it has come.
    """
    params, step = optimizer_on(case.op, case.implementation, tables, grads)
    exact, exact_step = optimizer_on(case.op, "torch loop", tables, grads, torch.float64)
    for _ in range(3):
        step()
        exact_step()
    names = ["user_weight", "item_weight", "user_bias", "item_bias"]
    checks = {}
    for name, param, expected, table in zip(names, params, exact, tables, strict=True):
        expected = expected.detach().cpu()
        if case.implementation == "bitsandbytes 8-bit":
            far = (param.detach().cpu() - expected).norm()
            checks[name] = Check(far, torch.zeros_like(far), 0.1 * (expected - table).norm())
            continue
        # An update may be a small difference of large terms; the table's largest update has the terms' size.
        magnitude = table.double().abs() + (expected - table).abs().max()
        # Compiled, the constants of a step are float32 as well.
        terms = 16 if case.implementation == "torch compiled" else 8
        checks[name] = Check(param, expected, rounding_bound(terms, magnitude))
    return checks
