"""The lesson's model trained on drawn ratings, by eager PyTorch and by the native trainer: the same steps for all.

Eager is the lesson's code made fast: nn.Embedding, batches by index, no DataLoader, fused AdamW. Native is the
learner's fused trainer, including its checks and copies; both include the shuffle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from bench.eager import ITEMS, USERS, WIDTH, Y_RANGE, EmbeddingDotBias, popular
from bench.harness import Check
from kernels.adam import FASTAI
from kernels.trainer import Mode
from lesson.collab import fused_trainer, seeded_model
from lesson.learner import stream
from lesson.schedules import Schedule, constant

LR, WD = 5e-3, 0.1
EPOCHS = 5  # of the lesson's training
CALLS = 400  # more than any profile times: the native trainer needs all rates beforehand
# Not the same steps: what other optimizers do with the rows that a batch does not read.
APPROXIMATE: dict[str, Mode | None] = {"native skip": "skip", "native hugectr": "hugectr", "native caffe2": "caffe2"}
MODES: dict[str, Mode | None] = {
    "native": None,
    "native dense": "dense",
    "native replay": "replay",
    "native deferred": "folded",
    **APPROXIMATE,
}

Tables = tuple[int, int]  # users, items
Ratings = tuple[Tensor, Tensor, Tensor]  # users, items, stars
MOVIELENS: Tables = (USERS, ITEMS)


def drawn_ratings(rows: int, tables: Tables = MOVIELENS) -> Ratings:
    """Users and items int64[rows], both of Zipf popularity, and ratings float32[rows] from 1 to 5."""
    generator = torch.Generator().manual_seed(0)
    users, items = (popular(table, rows, generator) for table in tables)
    quality = torch.randn(tables[1], generator=generator)
    stars = 3.5 + 0.6 * quality[items] + 0.9 * torch.randn(rows, generator=generator)
    return users, items, stars.round().clamp(1, 5)


def training(
    implementation: str,
    batch: int,
    schedule: Schedule,
    tables: Tables = MOVIELENS,
    dtype: torch.dtype = torch.float32,
) -> tuple[Callable[[], Sequence[Tensor]], Callable[[Ratings], object]]:
    """A fresh model: a call that reads its four tables, and one that trains them for one epoch over ratings.

    The same initialization, the same order, the same constants for every implementation and dtype.

    Args:
        implementation: "eager", or one of `MODES`.
        batch: ratings per step.
        schedule: a rate and a momentum for each possible step; the native trainer needs them beforehand.
        tables: how many users and items there are.
        dtype: of the tables.
    """
    start = seeded_model(WIDTH, *tables, Y_RANGE)
    order = stream(0, "order")

    if implementation == "eager":
        model = EmbeddingDotBias.of([table.clone() for table in start.tables()]).to(dtype)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(
            parameters, LR, (FASTAI.beta1, FASTAI.beta2), FASTAI.eps, weight_decay=WD, fused=True
        )
        steps = iter(zip(*(rates.tolist() for rates in schedule), strict=True))

        def eager_epoch(ratings: Ratings) -> None:
            users, items, stars = ratings[0], ratings[1], ratings[2].to(dtype)
            group = optimizer.param_groups[0]
            # If the schedule ends before the epoch, training ends there.
            for rows, (lr, beta1) in zip(torch.randperm(len(stars), generator=order).split(batch), steps, strict=False):
                group["lr"], group["betas"] = lr, (beta1, FASTAI.beta2)
                loss = mse_loss(model(users[rows], items[rows]), stars[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return lambda: parameters, eager_epoch

    trainer = fused_trainer(start, schedule, wd=WD, mode=MODES[implementation], dtype=dtype)

    def native_epoch(ratings: Ratings) -> None:
        users, items, stars = ratings[0], ratings[1], ratings[2].to(dtype)
        trainer.epoch(users, items, stars, torch.randperm(len(stars), generator=order), batch)

    return trainer.weights, native_epoch


def trained(
    implementation: str,
    batch: int,
    schedule: Schedule,
    ratings: Ratings,
    tables: Tables = MOVIELENS,
    epochs: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """All parameters after `epochs` epochs, float64[params]; the other arguments are `training`'s."""
    weights, epoch = training(implementation, batch, schedule, tables, dtype)
    for _ in range(epochs):
        epoch(ratings)
    return torch.cat([table.detach().double().flatten() for table in weights()])


def accuracy(implementation: str, batch: int, ratings: Ratings) -> dict[str, Check]:
    """Compare one epoch's parameters with the float64 trajectory: at most 1.5 times as far as eager float32.

    In MovieLens 100k's tables. Rounding grows along a trajectory, so a bound per element would mean nothing. An
    approximation of Adam is compared with its own trajectory; eager float32 gives the allowed distance.
    """
    schedule = constant(-(-len(ratings[2]) // batch), LR, FASTAI.beta1)
    of = partial(trained, batch=batch, schedule=schedule, ratings=ratings)
    exact = of("eager", dtype=torch.float64)
    own = of(implementation, dtype=torch.float64) if implementation in APPROXIMATE else exact
    distance = (of(implementation) - own).norm() / own.norm()
    allowed = 1.5 * (of("eager") - exact).norm() / exact.norm()
    return {"distance from the float64 trajectory": Check(distance, torch.zeros_like(allowed), allowed)}


@cache
def small_accuracy(implementation: str) -> dict[str, Check]:
    """`accuracy` after 300 steps of 64, for timings in larger tables: folding begins after 40 steps at most."""
    return accuracy(implementation, 64, drawn_ratings(300 * 64))


def warm_epoch(
    implementation: str, batch: int, tables: Tables, steps: int
) -> tuple[Callable[[], Sequence[Tensor]], partial[object]]:
    """A call that reads a model's tables, and an epoch of `steps` steps.

    For deferred steps the model has read every row, and folds.
    """
    warm = every_row(tables, least=150 * batch)
    schedule = constant(CALLS * steps + -(-len(warm[2]) // batch), LR, FASTAI.beta1)
    weights, epoch = training(implementation, batch, schedule, tables)
    if implementation == "native deferred":
        epoch(warm)
    return weights, partial(epoch, drawn_ratings(steps * batch, tables))


def every_row(tables: Tables, least: int) -> Ratings:
    """At least `least` ratings, in which every user and item has one."""
    n = torch.arange(max(*tables, least))
    return n % tables[0], n % tables[1], (1 + n % 5).float()
