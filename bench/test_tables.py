"""A training step of the lesson's net for tables with one large category: deferred embeddings against torch's.

The net is that of `tabular_learner`: embeddings of categories beside numbers, two hidden layers, AdamW. The large
category has 103 values, as many as the flights' largest, or up to a million, of Zipf popularity. The small ones are a
month and a day. The flush before an evaluation is not included; docs/deferred.md has its cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.eager import WIDTH, popular
from bench.harness import Case, Check
from kernels import DeferredAdamW, attach
from kernels.adam import FASTAI
from lesson.models import TabularModel

pytestmark = pytest.mark.benchmark(group="tables")

BATCH, BATCHES = 1024, 200
LR, WD = 1e-3, 0.01  # `tabular_learner`'s decay
SMALL, NUMBERS = [(13, 7), (32, 11)], 4  # a month, a day; rows and widths of their embeddings
FLIGHTS = 104  # the flights' largest category, destinations, and a row for what training has not seen
ROWS = {"smoke": [10_000], "default": [FLIGHTS, 10_000, 100_000], "full": [FLIGHTS, 10_000, 100_000, 1_000_000]}
ALREADY = 120  # steps before the first timed one, after which missed ones are folded


def cases(profile: str) -> list[Case]:
    return [
        Case("table_step", "deferred", "torch fused", "step", rows=rows, batch=BATCH, width=WIDTH, params=rows * WIDTH)
        for rows in ROWS[profile]
    ]


def test_tables(case, compare):
    def warm(implementation: str) -> tuple[Callable[[], list[Tensor]], Callable[[], None]]:
        parameters, step = step_of(implementation, case.rows)
        for _ in range(ALREADY):
            step()
        return parameters, step

    parameters, step = warm("deferred")
    _, baseline = warm("torch fused")
    compare(step, baseline, accuracy, clock=time.perf_counter, moves=parameters)


def step_of(
    implementation: str, rows: int, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], list[Tensor]], Callable[[], None]]:
    """A call that reads all parameters of a fresh net, and its training step."""
    generator = torch.Generator().manual_seed(0)
    model = TabularModel([(rows, WIDTH), *SMALL], NUMBERS, 2, generator=generator).to(dtype)
    if implementation == "deferred":
        for table in [module for module in model.modules() if isinstance(module, nn.Embedding)]:
            attach(table)
    steps = DeferredAdamW if implementation == "deferred" else torch.optim.AdamW
    optimizer = steps(model.parameters(), LR, betas=FASTAI[:2], eps=FASTAI.eps, weight_decay=WD, fused=True)
    large = torch.randperm(rows, generator=generator)[popular(rows, BATCH * BATCHES, generator)]
    small = [torch.randint(n, (BATCH * BATCHES,), generator=generator) for n, _ in SMALL]
    categories = torch.stack([large, *small], 1).split(BATCH)
    numbers = torch.randn(BATCH * BATCHES, NUMBERS, generator=generator).to(dtype).split(BATCH)
    classes = torch.randint(2, (BATCH * BATCHES,), generator=generator).split(BATCH)
    batches = cycle(zip(categories, numbers, classes, strict=True))

    def step() -> None:
        x_cat, x_cont, y = next(batches)
        loss = cross_entropy(model(x_cat, x_cont), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def parameters() -> list[Tensor]:
        return [parameter.detach() for parameter in model.parameters()]

    return parameters, step


def accuracy() -> dict[str, Check]:
    """Compare 100 steps of a small table with the float64 trajectory: at most 1.5 times as far as torch's."""

    def trained(implementation: str, dtype: torch.dtype) -> Tensor:
        parameters, step = step_of(implementation, 2_000, dtype)
        for _ in range(100):
            step()
        return torch.cat([parameter.double().flatten() for parameter in parameters()])

    exact = trained("torch fused", torch.float64)
    distance = (trained("deferred", torch.float32) - exact).norm() / exact.norm()
    allowed = 1.5 * (trained("torch fused", torch.float32) - exact).norm() / exact.norm()
    return {"distance from the float64 trajectory": Check(distance, torch.zeros_like(allowed), allowed)}
