"""Embedding-dot-bias: every backend, and torch.compile, against the lesson's model in eager PyTorch.

"native direct" is the native kernel without torch.library around it: the difference is the wrapper's cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed

from bench.eager import ITEMS, USERS, WIDTH, Y_RANGE, EmbeddingDotBias, popular
from bench.harness import DEVICE, UNIT_ROUNDOFF, Case, Check, rounding_bound, why_not_timed
from kernels.backends import BACKENDS
from kernels.dot_bias import embedding_dot_bias, native

pytestmark = [pytest.mark.benchmark(group="dot_bias"), pytest.mark.gpu]

# `eager` against itself shows the noise of ratios.
# "triton atomics" needs no sort for the gradients, but its bits differ from call to call.
IMPLEMENTATIONS = ["eager", "torch.compile", *BACKENDS, "native direct", "triton atomics"]
BATCHES = {"smoke": [64, 4_096], "default": [64, 512, 4_096], "full": [64, 512, 4_096, 32_768]}


def cases(profile: str) -> list[Case]:
    return [
        Case("dot_bias", implementation, "eager", pass_, batch=batch, width=WIDTH, params=(USERS + ITEMS) * (WIDTH + 1))
        for batch, pass_ in product(BATCHES[profile], ("forward", "forward+backward"))
        for implementation in IMPLEMENTATIONS
        # A compilation takes seconds: the smoke profile compiles only for the largest batch.
        if (implementation != "triton atomics" or pass_ != "forward")
        if profile != "smoke" or implementation != "torch.compile" or batch == BATCHES["smoke"][-1]
    ]


def test_dot_bias(case, compare):
    if reason := why_not_timed(case.implementation):
        pytest.skip(reason)

    generator = torch.Generator().manual_seed(0)
    ids = [popular(rows, case.batch, generator) for rows in (USERS, ITEMS)]
    shapes = [(USERS, WIDTH), (ITEMS, WIDTH), (USERS,), (ITEMS,)]
    tables = [0.3 * torch.randn(*shape, generator=generator) for shape in shapes]
    upstream = torch.randn(case.batch, generator=generator)
    learns = case.pass_ == "forward+backward"
    operands = (
        [tensor.to(DEVICE) for tensor in ids],
        [table.to(DEVICE).requires_grad_(learns) for table in tables],
        upstream.to(DEVICE),
    )
    run = dot_bias_call(case.implementation, *operands)
    if case.implementation == "torch.compile":
        skip_unless_compiled(run)

    # Ids, rows and biases are read and scores written; backward reads their gradient and writes the tables' once.
    moved = case.batch * (2 * 8 + 2 * (WIDTH + 1) * 4 + 4)
    operations = case.batch * (2 * WIDTH + 2)
    if learns:
        moved += upstream.nbytes + sum(table.nbytes for table in tables)
        operations += case.batch * (4 * WIDTH + 2)
    compare(
        run,
        dot_bias_call(case.baseline, *operands),
        lambda: accuracy(run(), *on_cpu(operands)),
        bytes_=moved,
        flops=operations,
        inputs=[*operands[0], *operands[1], operands[2]],
    )


def on_cpu(operands: Iterable[Any]) -> list[Any]:
    """Tensors, and lists of tensors, on the CPU."""
    return [[t.detach().cpu() for t in part] if isinstance(part, list) else part.detach().cpu() for part in operands]


def skip_unless_compiled(run: Callable[[], object]) -> None:
    """Call it once; skip the test if torch.compile does not work here."""
    try:
        run()
    except BackendCompilerFailed as error:
        pytest.skip(f"torch.compile does not work here: {str(error).strip().splitlines()[0]}")


def dot_bias_call(
    implementation: str, ids: list[Tensor], tables: list[Tensor], upstream: Tensor
) -> Callable[[], list[Tensor]]:
    """The call to time: scores and, if the tables require them, the four gradients."""
    learns = tables[0].requires_grad
    if implementation == "native direct":

        def direct() -> list[Tensor]:
            scores = native.forward(*ids, *tables, Y_RANGE)
            return [scores, *native.backward(upstream, *ids, *tables, Y_RANGE)] if learns else [scores]

        return direct

    if implementation.split()[0] in BACKENDS:
        leaves = tables
        backend, ordered = implementation.split()[0], "atomics" not in implementation

        def forward() -> Tensor:
            return embedding_dot_bias(*ids, *tables, Y_RANGE, deterministic=ordered, backend=backend)

    else:
        model = EmbeddingDotBias.of(tables)
        leaves = list(model.parameters())
        if implementation == "torch.compile":
            torch.compiler.reset()  # compile each size separately, not as a dynamic size
            model = torch.compile(model)

        def forward() -> Tensor:
            return model(*ids)

    def forward_backward() -> list[Tensor]:
        scores = forward()
        return [scores, *torch.autograd.grad(scores, leaves, upstream)]

    return forward_backward if learns else lambda: [forward()]


class Exact(NamedTuple):
    """The model in float64: the sigmoid of each score and its rounding in float32, and the rows it came from."""

    sigmoid: Tensor
    bound: Tensor
    user_rows: Tensor
    item_rows: Tensor


def exact(ids: list[Tensor], tables: list[Tensor]) -> Exact:
    """The bound after the sigmoid, from the rounding of the scores' sums."""
    users, items = ids
    user_weight, item_weight, user_bias, item_bias = (table.detach().double() for table in tables)
    user_rows, item_rows = user_weight[users], item_weight[items]
    sigmoid = torch.sigmoid((user_rows * item_rows).sum(1) + user_bias[users] + item_bias[items])
    magnitude = (user_rows * item_rows).abs().sum(1) + user_bias[users].abs() + item_bias[items].abs()
    # The sigmoid's slope is at most ¼; its exponential, sum and quotient round too.
    bound = rounding_bound(WIDTH + 2, magnitude) / 4 + 4 * UNIT_ROUNDOFF
    return Exact(sigmoid, bound, user_rows, item_rows)


def gradient_checks(
    results: list[Tensor], ids: list[Tensor], tables: list[Tensor], model: Exact, slope: Tensor, slope_bound: Tensor
) -> dict[str, Check]:
    """Compare the four gradients with float64, given each score's gradient before the sigmoid and its bound."""
    ones = torch.ones(len(slope), 1, dtype=torch.float64)
    names = ["user_weight", "item_weight", "user_bias", "item_bias"]
    others = [model.item_rows, model.user_rows, ones, ones]
    checks = {}
    for name, table, result, rows, other in zip(names, tables, results, ids * 2, others, strict=True):
        zeros = torch.zeros(len(table), other.shape[1], dtype=torch.float64)
        count = torch.bincount(rows, minlength=len(table)).unsqueeze(1)
        terms = slope.unsqueeze(1) * other
        expected = zeros.index_add(0, rows, terms)
        bound = zeros.index_add(0, rows, slope_bound.unsqueeze(1) * other.abs())
        bound += rounding_bound(count + 2, zeros.index_add(0, rows, terms.abs()))
        if table.itemsize < 4:  # summed in float32, and rounded to the table's dtype once
            storage = torch.finfo(table.dtype)
            bound += storage.eps / 2 * expected.abs() + storage.eps * storage.smallest_normal
        checks[f"{name}.grad"] = Check(result.view_as(expected), expected, bound)
    return checks


def accuracy(results: list[Tensor], ids: list[Tensor], tables: list[Tensor], upstream: Tensor) -> dict[str, Check]:
    """Compare scores and gradients with float64, within the rounding of their sums carried through the sigmoid."""
    model = exact(ids, tables)
    low, high = Y_RANGE
    scores = model.sigmoid * (high - low) + low
    checks = {"scores": Check(results[0], scores, (high - low) * model.bound + 2 * UNIT_ROUNDOFF * scores.abs())}
    if len(results) == 1:
        return checks
    slope = upstream.double() * (high - low) * model.sigmoid * (1 - model.sigmoid)
    # s(1 − s) changes at most as much as s.
    slope_bound = upstream.double().abs() * (high - low) * (model.bound + 2 * UNIT_ROUNDOFF)
    return checks | gradient_checks(results[1:], ids, tables, model, slope, slope_bound)
