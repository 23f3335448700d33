"""A training step of an embedding table whose optimizer is deferred, against nn.Embedding and torch's fused AdamW.

A batch of ids of Zipf popularity is looked up, scored and stepped: forward, backward, `optimizer.step`. The cost of
dense steps grows with the table, of deferred ones with the batch. The flush before an evaluation is not included;
docs/deferred.md has its cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bench.eager import WIDTH, popular
from bench.harness import Case, Check
from kernels import DeferredAdamW, DeferredEmbedding

pytestmark = pytest.mark.benchmark(group="deferred")

BATCH, BATCHES = 1024, 1000
LR, WD = 5e-3, 0.1
ROWS = {"smoke": [10_000, 165_000], "default": [10_000, 165_000, 1_000_000], "full": [10_000, 165_000, 1_000_000]}
FOLDING = 60  # steps after which missed ones are folded, with torch's betas


def cases(profile: str) -> list[Case]:
    modes = ["folded"] if profile == "smoke" else ["folded", "replay"]
    return [
        Case("embedding_step", mode, "torch fused", "step", classes=rows, batch=BATCH, width=WIDTH, params=rows * WIDTH)
        for rows in ROWS[profile]
        for mode in modes
    ]


def test_deferred(case, compare):
    step = step_of(case.implementation, case.classes)[1]
    for _ in range(FOLDING):
        step()
    compare(
        step,
        step_of(case.baseline, case.classes)[1],
        lambda: accuracy(case.implementation),
        clock=time.perf_counter,  # on the CPU, even if there is a GPU
    )


def step_of(
    implementation: str, rows: int, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """A call that reads all of a fresh table, and its training step: the same for every implementation."""
    generator = torch.Generator().manual_seed(0)
    weight = 0.1 * torch.randn(rows, WIDTH, generator=generator)
    query = torch.randn(WIDTH, generator=generator).to(dtype)
    ids = popular(rows, BATCH * BATCHES, generator)
    ids = torch.randperm(rows, generator=generator)[ids].split(BATCH)  # popular rows are not neighbors
    targets = torch.randn(BATCHES, BATCH, generator=generator).to(dtype)
    if implementation == "torch fused":
        embedding = nn.Embedding.from_pretrained(weight.to(dtype), freeze=False)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(embedding.parameters(), LR, weight_decay=WD, fused=True)
    else:
        embedding = DeferredEmbedding.from_pretrained(weight.to(dtype), freeze=False)
        optimizer = DeferredAdamW(embedding.parameters(), LR, weight_decay=WD, mode=implementation)
    batches = cycle(zip(ids, targets, strict=True))

    def step() -> None:
        rows_read, y = next(batches)
        loss = mse_loss(embedding(rows_read) @ query, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda: embedding.weight.detach().double(), step


def accuracy(implementation: str) -> dict[str, Check]:
    """Compare 100 steps of a small table with the float64 trajectory: at most 1.5 times as far as torch's."""

    def trained(name: str, dtype: torch.dtype) -> Tensor:
        weight, step = step_of(name, 10_000, dtype)
        for _ in range(100):
            step()
        return weight()

    exact = trained("torch fused", torch.float64)
    distance = (trained(implementation, torch.float32) - exact).norm() / exact.norm()
    allowed = 1.5 * (trained("torch fused", torch.float32) - exact).norm() / exact.norm()
    return {"distance from the float64 trajectory": Check(distance, torch.zeros_like(allowed), allowed)}
