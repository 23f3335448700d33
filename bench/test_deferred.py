"""A training step of an embedding table whose optimizer is deferred, against nn.Embedding and torch's fused AdamW.

A batch of ids of Zipf popularity is looked up, scored and stepped: forward, backward, `optimizer.step`. The cost of
dense steps grows with the table, of deferred ones with the batch. The flush before an evaluation is not included;
docs/deferred.md has its cost.

"triton folded" is a step on a GPU, where a small table's steps cost what the host takes to queue them. So its time is
the host's, over STEPS steps and until the device is done with them.
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
from bench.harness import DEVICE, Case, Check, why_not_timed
from kernels import DeferredAdamW, DeferredEmbedding

pytestmark = pytest.mark.benchmark(group="deferred")

BATCH, BATCHES = 1024, 1000
LR, WD = 5e-3, 0.1
ROWS = {"smoke": [10_000, 165_000], "default": [10_000, 165_000, 1_000_000], "full": [10_000, 165_000, 1_000_000]}
LARGEST = [10_000_000]  # on a GPU, 6.4 GB with gradients and averages
STEPS = 20  # of a call on a GPU
FOLDING = 60  # steps after which missed ones are folded, with torch's betas


def cases(profile: str) -> list[Case]:
    modes = ["folded", "triton folded"] if profile == "smoke" else ["folded", "replay", "triton folded"]
    return [
        Case("embedding_step", mode, "torch fused", "step", classes=rows, batch=BATCH, width=WIDTH, params=rows * WIDTH)
        for mode in modes
        for rows in ROWS[profile] + (LARGEST if mode == "triton folded" else [])
    ]


def test_deferred(case, compare):
    if reason := why_not_timed(case.implementation):
        pytest.skip(reason)
    on_gpu = case.implementation == "triton folded"
    device, steps = (DEVICE, STEPS) if on_gpu else (torch.device("cpu"), 1)

    def steps_of(implementation: str) -> tuple[Callable[[], Tensor], Callable[[], None]]:
        weight, step = step_of(implementation, case.classes, device=device)
        for _ in range(FOLDING):
            step()

        def run() -> None:
            for _ in range(steps):
                step()
            if on_gpu:
                torch.cuda.synchronize()

        return weight, run

    weight, run = steps_of(case.implementation)
    compare(
        run,
        steps_of(case.baseline)[1],
        lambda: accuracy(case.implementation, device),
        clock=time.perf_counter,
        steps=(steps, steps),
        moves=lambda: [weight()],
    )


def step_of(
    implementation: str, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Callable[[], Tensor], Callable[[], None]]:
    """A call that reads all of a fresh table, and its training step: the same for every implementation."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.1 * torch.randn(rows, WIDTH, generator=generator)).to(device)
    query = torch.randn(WIDTH, generator=generator).to(device, dtype)
    ids = popular(rows, BATCH * BATCHES, generator)
    ids = torch.randperm(rows, generator=generator)[ids].to(device).split(BATCH)  # popular rows are not neighbors
    targets = torch.randn(BATCHES, BATCH, generator=generator).to(device, dtype)
    if implementation == "torch fused":
        embedding = nn.Embedding.from_pretrained(weight.to(dtype), freeze=False)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(embedding.parameters(), LR, weight_decay=WD, fused=True)
    else:
        embedding = DeferredEmbedding.from_pretrained(weight.to(dtype), freeze=False)
        optimizer = DeferredAdamW(embedding.parameters(), LR, weight_decay=WD, mode=implementation.split()[-1])
    batches = cycle(zip(ids, targets, strict=True))

    def step() -> None:
        rows_read, y = next(batches)
        loss = mse_loss(embedding(rows_read) @ query, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda: embedding.weight.detach().double(), step


def accuracy(implementation: str, device: torch.device | str = "cpu") -> dict[str, Check]:
    """Compare 100 steps of a small table with the float64 trajectory: at most 1.5 times as far as torch's."""

    def trained(name: str, dtype: torch.dtype) -> Tensor:
        weight, step = step_of(name, 10_000, dtype, device)
        for _ in range(100):
            step()
        return weight()

    exact = trained("torch fused", torch.float64)
    distance = (trained(implementation, torch.float32) - exact).norm() / exact.norm()
    allowed = 1.5 * (trained("torch fused", torch.float32) - exact).norm() / exact.norm()
    distance, allowed = distance.cpu(), allowed.cpu()
    return {"distance from the float64 trajectory": Check(distance, torch.zeros_like(allowed), allowed)}
