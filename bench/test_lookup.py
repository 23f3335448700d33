"""Claim 26: the lookup is faster than the matrix product that it replaces. When, and when not?

With ten classes it is not: the product with a small matrix is quick, and `F.embedding`'s dense backward is slow.
The memory of each is counted too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, profiler

from bench.harness import DEVICE, Case, Check, rounding_bound
from kernels import lookup

pytestmark = [pytest.mark.benchmark(group="lookup"), pytest.mark.gpu]

# `embedding` against itself shows the noise of ratios.
RIVALS = ["embedding", "index_select", "one_hot_matmul", "prebuilt_one_hot_matmul", "sparse_one_hot_matmul"]
PREBUILT = {"prebuilt_one_hot_matmul": lookup.one_hot, "sparse_one_hot_matmul": lookup.sparse_one_hot}
# Bytes per element of the dense one-hot matrix: float32, and the int64 of F.one_hot before it.
DENSE_BYTES = {"one_hot_matmul": 12, "prebuilt_one_hot_matmul": 4}
MOST_BYTES = 2**30

# classes, batches, widths
GRIDS = {
    "smoke": ([10, 1_000], [64, 4_096], [40]),
    "default": ([10, 100, 1_000, 10_000, 100_000], [64, 4_096], [40]),
    "full": ([10, 100, 1_000, 10_000, 100_000], [64, 512, 4_096], [10, 40, 160]),
}


def cases(profile: str) -> list[Case]:
    return [
        Case("lookup", rival, "embedding", pass_, classes=classes, batch=batch, width=width)
        for classes, batch, width in product(*GRIDS[profile])
        for pass_ in ("forward", "forward+backward")
        for rival in RIVALS
    ]


def test_lookup(case, compare, benchmark):
    classes, batch, width = case.classes, case.batch, case.width
    needed = DENSE_BYTES.get(case.implementation, 0) * classes * batch
    if needed > MOST_BYTES:
        pytest.skip(f"the dense one-hot matrix takes {needed / 2**30:.1f} GiB: more than {MOST_BYTES / 2**30:.0f}")

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(classes, (batch,), generator=generator)
    weight = torch.randn(classes, width, generator=generator)
    upstream = torch.randn(batch, width, generator=generator)
    learns = case.pass_ == "forward+backward"
    operands = ids.to(DEVICE), weight.to(DEVICE).requires_grad_(learns), upstream.to(DEVICE)
    run = lookup_call(case.implementation, *operands)

    # Ids and rows are read and the output written; backward reads its gradient and writes the table's once.
    moved = ids.nbytes + 2 * upstream.nbytes + (upstream.nbytes + weight.nbytes if learns else 0)
    compare(
        run,
        lookup_call(case.baseline, *operands),
        lambda: accuracy(run(), *(operand.detach().cpu() for operand in operands)),
        bytes_=moved,
        flops=batch * width if learns else 0,
        # The one-hot vectors that were built before belong to these ids.
        inputs=operands[1:] if case.implementation in PREBUILT else operands,
    )
    benchmark.extra_info["memory_bytes"] = allocated_bytes(run) + stored_bytes(case.implementation, classes, batch)


def lookup_call(rival: str, ids: Tensor, weight: Tensor, upstream: Tensor) -> Callable[[], list[Tensor]]:
    """The call to time: the rows and, if `weight` requires it, the table's gradient."""
    function = getattr(lookup, rival)
    stored = PREBUILT[rival](ids, weight.shape[0]) if rival in PREBUILT else ids

    def forward() -> list[Tensor]:
        return [function(stored, weight)]

    def forward_backward() -> list[Tensor]:
        rows = function(stored, weight)
        return [rows, *torch.autograd.grad(rows, weight, upstream)]

    return forward_backward if weight.requires_grad else forward


def allocated_bytes(run: Callable[[], object]) -> int:
    """The bytes that one call allocates, including its results and what it frees."""
    with profiler.profile(profile_memory=True) as profile:
        run()
    usage = f"self_{'cpu' if DEVICE.type == 'cpu' else 'device'}_memory_usage"
    return sum(max(0, getattr(op, usage)) for op in profile.key_averages())


def stored_bytes(rival: str, classes: int, batch: int) -> int:
    """The batch's bytes before the call: ids, or the one-hot matrix instead."""
    per_row = {"prebuilt_one_hot_matmul": 4 * classes, "sparse_one_hot_matmul": 8 + 8 + 4}
    return batch * per_row.get(rival, 8)


def accuracy(results: list[Tensor], ids: Tensor, weight: Tensor, upstream: Tensor) -> dict[str, Check]:
    """Compare rows with the table's, and a gradient with sums of one term per occurrence of the id in the batch."""
    weight, upstream = weight.detach().double(), upstream.double()
    zeros = torch.zeros_like(weight)
    count = torch.bincount(ids, minlength=len(weight)).unsqueeze(1)
    rows = Check(results[0], weight[ids], rounding_bound(1, weight[ids].abs()))
    if len(results) == 1:
        return {"rows": rows}
    bound = rounding_bound(count, zeros.index_add(0, ids, upstream.abs()))
    return {"rows": rows, "gradient": Check(results[1], zeros.index_add(0, ids, upstream), bound)}
