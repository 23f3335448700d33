"""An epoch of the lesson's model: native code against eager PyTorch with its fused AdamW, on the CPU.

Eager is what one would write after the lesson, made quick: nn.Embedding, batches by index, no DataLoader. The
ratings are drawn, in MovieLens 100k's shape, so that nothing has to be fetched. The native epoch includes the
checks and copies of `kernels.trainer.Trainer`; both include the shuffle.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from bench.eager import ITEMS, USERS, WIDTH, Y_RANGE, EmbeddingDotBias, popular
from bench.harness import Case, Check
from kernels.adam import FASTAI
from kernels.trainer import Trainer

pytestmark = pytest.mark.benchmark(group="training")

RATINGS = 90_000  # nine tenths of MovieLens 100k
LR, WD = 5e-3, 0.1
EPOCHS = 200  # more than anybody measures: the native trainer knows its rates beforehand
Tables = tuple[int, int]  # users, items

MOVIELENS: Tables = (USERS, ITEMS)
# The same ratings over larger tables: dense steps cost the tables' size, folded ones what the batches read (claim 54).
LARGER: Tables = (60_000, 105_000)
LARGEST: Tables = (600_000, 1_050_000)
GRID: dict[str, list[tuple[Tables, int]]] = {
    "smoke": [(MOVIELENS, 64)],
    "default": [(MOVIELENS, 64), (MOVIELENS, 512)],
    "full": [(MOVIELENS, 64), (MOVIELENS, 512), (MOVIELENS, 4_096), (LARGER, 1_024), (LARGEST, 1_024)],
}
# `eager` against itself shows what a ratio is worth here: too long for the smoke profile.
IMPLEMENTATIONS = {
    "smoke": ["native"],
    "default": ["eager", "native", "native dense"],
    "full": ["eager", "native", "native dense"],
}


def cases(profile: str) -> list[Case]:
    return [
        Case("training", implementation, "eager", "epoch", batch=batch, width=WIDTH, params=sum(tables) * (WIDTH + 1))
        for tables, batch in GRID[profile]
        for implementation in IMPLEMENTATIONS[profile]
    ]


def test_training(case, compare):
    tables = next(tables for tables in (MOVIELENS, LARGER, LARGEST) if sum(tables) * (WIDTH + 1) == case.params)
    ratings = drawn_ratings(RATINGS, tables)
    compare(
        epoch_of(case.implementation, case.batch, ratings, tables=tables)[1],
        epoch_of(case.baseline, case.batch, ratings, tables=tables)[1],
        lambda: accuracy(case.implementation, case.batch, ratings, tables),
        clock=time.perf_counter,  # on the CPU, wherever a GPU may be
    )


def drawn_ratings(rows: int, tables: Tables = MOVIELENS) -> tuple[Tensor, Tensor, Tensor]:
    """Users and items int64[rows], both of Zipf popularity, and ratings float32[rows] from 1 to 5."""
    generator = torch.Generator().manual_seed(0)
    users, items = (popular(table, rows, generator) for table in tables)
    quality = torch.randn(tables[1], generator=generator)
    stars = 3.5 + 0.6 * quality[items] + 0.9 * torch.randn(rows, generator=generator)
    return users, items, stars.round().clamp(1, 5)


def epoch_of(
    implementation: str,
    batch: int,
    ratings: tuple[Tensor, Tensor, Tensor],
    dtype: torch.dtype = torch.float32,
    tables: Tables = MOVIELENS,
) -> tuple[list[Tensor], Callable[[], object]]:
    """A fresh model's four tables, and the call that trains them for one epoch more.

    The same initialization, the same order, the same constants for every implementation and dtype.
    """
    torch.manual_seed(0)
    model = EmbeddingDotBias(*tables)
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.01)
    model.to(dtype)
    parameters = list(model.parameters())
    users, items, stars = ratings[0], ratings[1], ratings[2].to(dtype)
    order = torch.Generator().manual_seed(0)

    if implementation == "eager":
        optimizer = torch.optim.AdamW(
            parameters, LR, (FASTAI.beta1, FASTAI.beta2), FASTAI.eps, weight_decay=WD, fused=True
        )

        def eager_epoch() -> None:
            for rows in torch.randperm(len(stars), generator=order).split(batch):
                loss = mse_loss(model(users[rows], items[rows]), stars[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return parameters, eager_epoch

    steps = EPOCHS * -(-len(stars) // batch)
    trainer = Trainer(
        *(table.detach().squeeze(1) if table.shape[1] == 1 else table for table in parameters),
        lr=np.full(steps, LR),
        momentum=np.full(steps, FASTAI.beta1),
        beta2=FASTAI.beta2,
        eps=FASTAI.eps,
        weight_decay=WD,
        y_range=Y_RANGE,
        mode="dense" if implementation == "native dense" else None,
    )

    def native_epoch() -> None:
        trainer.epoch(users, items, stars, torch.randperm(len(stars), generator=order), batch)

    return list(trainer.weights()), native_epoch


def accuracy(
    implementation: str, batch: int, ratings: tuple[Tensor, Tensor, Tensor], tables: Tables = MOVIELENS
) -> dict[str, Check]:
    """Hold one epoch's parameters against the float64 trajectory: no farther from it than 1.5 times eager float32.

    Rounding grows along a trajectory, so that a bound by element would say nothing.
    """

    def trained(name: str, dtype: torch.dtype) -> Tensor:
        parameters, epoch = epoch_of(name, batch, ratings, dtype, tables)
        epoch()
        return torch.cat([table.detach().double().flatten() for table in parameters])

    exact = trained("eager", torch.float64)
    size = exact.norm()
    distance = (trained(implementation, torch.float32) - exact).norm() / size
    allowed = 1.5 * (trained("eager", torch.float32) - exact).norm() / size
    return {"distance from the float64 trajectory": Check(distance, torch.zeros_like(allowed), allowed)}
