"""An epoch of the lesson's model: native code against eager PyTorch with its fused AdamW, on the CPU.

Eager is what one would write after the lesson, made quick: nn.Embedding, batches by index, no DataLoader. The
ratings are drawn, in MovieLens 100k's shape, so that nothing has to be fetched. The native epoch includes the
checks and copies of `kernels.trainer.Trainer`; both include the shuffle.
"""

from __future__ import annotations

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
BATCHES = {"smoke": [64], "default": [64, 512], "full": [64, 512, 4_096]}
# `eager` against itself shows what a ratio is worth here: too long for the smoke profile.
IMPLEMENTATIONS = {"smoke": ["native"], "default": ["eager", "native"], "full": ["eager", "native"]}


def cases(profile: str) -> list[Case]:
    return [
        Case(
            "training", implementation, "eager", "epoch", batch=batch, width=WIDTH, params=(USERS + ITEMS) * (WIDTH + 1)
        )
        for batch in BATCHES[profile]
        for implementation in IMPLEMENTATIONS[profile]
    ]


def test_training(case, compare):
    ratings = drawn_ratings(RATINGS)
    compare(
        epoch_of(case.implementation, case.batch, ratings)[1],
        epoch_of(case.baseline, case.batch, ratings)[1],
        lambda: accuracy(case.implementation, case.batch, ratings),
    )


def drawn_ratings(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Users and items int64[rows], both of Zipf popularity, and ratings float32[rows] from 1 to 5."""
    generator = torch.Generator().manual_seed(0)
    users, items = (popular(table, rows, generator) for table in (USERS, ITEMS))
    quality = torch.randn(ITEMS, generator=generator)
    stars = 3.5 + 0.6 * quality[items] + 0.9 * torch.randn(rows, generator=generator)
    return users, items, stars.round().clamp(1, 5)


def epoch_of(
    implementation: str, batch: int, ratings: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Callable[[], object]]:
    """A fresh model's four tables, and the call that trains them for one epoch more.

    The same initialisation, the same order, the same constants for every implementation and dtype.
    """
    torch.manual_seed(0)
    model = EmbeddingDotBias()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.01)
    model.to(dtype)
    tables = list(model.parameters())
    users, items, stars = ratings[0], ratings[1], ratings[2].to(dtype)
    order = torch.Generator().manual_seed(0)

    if implementation == "eager":
        optimizer = torch.optim.AdamW(tables, LR, (FASTAI.beta1, FASTAI.beta2), FASTAI.eps, weight_decay=WD, fused=True)

        def eager_epoch() -> None:
            for rows in torch.randperm(len(stars), generator=order).split(batch):
                loss = mse_loss(model(users[rows], items[rows]), stars[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return tables, eager_epoch

    steps = EPOCHS * -(-len(stars) // batch)
    trainer = Trainer(
        *(table.detach().squeeze(1) if table.shape[1] == 1 else table for table in tables),
        lr=np.full(steps, LR),
        momentum=np.full(steps, FASTAI.beta1),
        beta2=FASTAI.beta2,
        eps=FASTAI.eps,
        weight_decay=WD,
        y_range=Y_RANGE,
    )

    def native_epoch() -> None:
        trainer.epoch(users, items, stars, torch.randperm(len(stars), generator=order), batch)

    return list(trainer.weights()), native_epoch


def accuracy(implementation: str, batch: int, ratings: tuple[Tensor, Tensor, Tensor]) -> dict[str, Check]:
    """Hold one epoch's parameters against the float64 trajectory: no farther from it than 1.5 times eager float32.

    Rounding grows along a trajectory, so that a bound by element would say nothing.
    """

    def trained(name: str, dtype: torch.dtype) -> Tensor:
        tables, epoch = epoch_of(name, batch, ratings, dtype)
        epoch()
        return torch.cat([table.detach().double().flatten() for table in tables])

    exact = trained("eager", torch.float64)
    size = exact.norm()
    distance = (trained(implementation, torch.float32) - exact).norm() / size
    allowed = 1.5 * (trained("eager", torch.float32) - exact).norm() / size
    return {"distance from the float64 trajectory": Check(distance, torch.zeros_like(allowed), allowed)}
