"""The loss of embedding-dot-bias with its gradients: every backend against the lesson's model and mse_loss in PyTorch.

"triton bf16" and "triton fp16" keep the tables in 16 bits, and so does the eager model beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from bench.eager import ITEMS, USERS, WIDTH, Y_RANGE, EmbeddingDotBias, popular
from bench.harness import DEVICE, UNIT_ROUNDOFF, Case, Check, rounding_bound, why_not_timed
from bench.test_dot_bias import exact, gradient_checks, on_cpu, skip_unless_compiled
from kernels.backends import BACKENDS
from kernels.dot_bias import dot_bias_loss

pytestmark = [pytest.mark.benchmark(group="dot_bias_loss"), pytest.mark.gpu]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
IMPLEMENTATIONS = ["eager", "torch.compile", *BACKENDS, "triton atomics", "triton bf16", "triton fp16"]
BATCHES = {"smoke": [4_096], "default": [64, 512, 4_096], "full": [64, 512, 4_096, 32_768]}


def dtype_of(implementation: str) -> torch.dtype:
    """The tables' dtype."""
    return DTYPES.get(implementation.split()[-1], torch.float32)


def cases(profile: str) -> list[Case]:
    params = (USERS + ITEMS) * (WIDTH + 1)
    return [
        Case("dot_bias_loss", implementation, baseline, "forward+backward", batch=batch, width=WIDTH, params=params)
        for batch, implementation in product(BATCHES[profile], IMPLEMENTATIONS)
        # A compilation takes seconds.
        if profile != "smoke" or implementation != "torch.compile"
        for kind in implementation.split()[-1:]
        for baseline in [f"eager {kind}" if kind in DTYPES else "eager"]
    ]


def test_dot_bias_loss(case, compare):
    if reason := why_not_timed(case.implementation):
        pytest.skip(reason)

    ids, ratings, tables = problem(case.batch, dtype_of(case.implementation))
    operands = (
        [tensor.to(DEVICE) for tensor in ids],
        ratings.to(DEVICE),
        [table.to(DEVICE).requires_grad_() for table in tables],
    )
    run = loss_call(case.implementation, *operands)
    if case.implementation == "torch.compile":
        skip_unless_compiled(run)

    # Ids, ratings, rows and biases are read; the tables' gradients are written once.
    size = tables[0].itemsize
    compare(
        run,
        loss_call(case.baseline, *operands),
        lambda: accuracy(run(), *on_cpu(operands)),
        bytes_=case.batch * (2 * 8 + 4 + 2 * (WIDTH + 1) * size) + sum(table.nbytes for table in tables),
        flops=case.batch * (6 * WIDTH + 8),
        inputs=[*operands[0], *operands[2]],  # a copy of the ratings may be in another dtype
    )


def problem(
    batch: int, dtype: torch.dtype = torch.float32, users: int = USERS, items: int = ITEMS
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Ids, ratings of one to five stars, and tables."""
    generator = torch.Generator().manual_seed(0)
    ids = [popular(rows, batch, generator) for rows in (users, items)]
    shapes = [(users, WIDTH), (items, WIDTH), (users,), (items,)]
    tables = [(0.3 * torch.randn(*shape, generator=generator)).to(dtype) for shape in shapes]
    return ids, torch.randint(1, 6, (batch,), generator=generator).float(), tables


def loss_call(
    implementation: str, ids: list[Tensor], ratings: Tensor, tables: list[Tensor]
) -> Callable[[], list[Tensor]]:
    """The call to time: the loss and the four gradients."""
    if implementation.split()[0] in BACKENDS:
        leaves = tables
        backend, ordered = implementation.split()[0], "atomics" not in implementation

        def forward() -> Tensor:
            return dot_bias_loss(*ids, ratings, *tables, Y_RANGE, deterministic=ordered, backend=backend)

    else:
        model = EmbeddingDotBias.of(tables)
        leaves = list(model.parameters())
        ratings = ratings.to(tables[0].dtype)  # stars are whole numbers in any dtype

        def forward() -> Tensor:
            return mse_loss(model(*ids), ratings)

        if implementation == "torch.compile":
            torch.compiler.reset()  # compile each size separately, not as a dynamic size
            forward = torch.compile(forward)

    def forward_backward() -> list[Tensor]:
        loss = forward()
        return [loss, *torch.autograd.grad(loss, leaves)]

    return forward_backward


def accuracy(results: list[Tensor], ids: list[Tensor], ratings: Tensor, tables: list[Tensor]) -> dict[str, Check]:
    """Compare loss and gradients with float64, within the rounding of their sums."""
    model = exact(ids, tables)
    low, high = Y_RANGE
    scores = model.sigmoid * (high - low) + low
    error = scores - ratings.double()
    error_bound = (high - low) * model.bound + 2 * UNIT_ROUNDOFF * (scores.abs() + error.abs())
    loss = error.square().mean()
    loss_bound = (2 * error.abs() * error_bound + error_bound**2).mean() + rounding_bound(len(error) + 2, loss)
    factor = 2 / len(error) * (high - low)
    slope = factor * error * model.sigmoid * (1 - model.sigmoid)
    # s(1 − s) is at most ¼ and changes at most as much as s.
    slope_bound = factor * (error_bound / 4 + error.abs() * (model.bound + 3 * UNIT_ROUNDOFF))
    checks = {"loss": Check(results[0], loss, loss_bound)}
    return checks | gradient_checks(results[1:], ids, tables, model, slope, slope_bound)
