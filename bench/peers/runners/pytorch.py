"""The lesson's model in PyTorch, eager or compiled: batches by index, fused AdamW, the lesson's one-cycle."""

from __future__ import annotations

import torch
from protocol import serve
from torch.nn.functional import mse_loss

from bench.eager import EmbeddingDotBias
from kernels import FASTAI
from lesson.collab import seeded_model
from lesson.learner import stream
from lesson.schedules import one_cycle


def prepare(ratings, settings):
    users, items, stars = map(torch.from_numpy, ratings)
    # One model for all seeds: another one would be compiled again.
    model = EmbeddingDotBias(int(users.max()) + 1, int(items.max()) + 1, settings["n_factors"])

    def loss(users, items, stars):
        return mse_loss(model(users, items), stars)

    return (users, items, stars), model, torch.compile(loss) if settings["compiled"] else loss


@torch.no_grad()
def start_over(model, n_factors, seed):
    """The initial tables of dotbias."""
    layers = model.user_weight, model.item_weight, model.user_bias, model.item_bias
    drawn = seeded_model(n_factors, len(layers[0].weight), len(layers[1].weight), seed=seed)
    for layer, start in zip(layers, drawn.layers(), strict=True):
        layer.weight.copy_(start.weight)


def train(prepared, seed, epochs, settings, after_epoch):
    (users, items, stars), model, loss = prepared
    start_over(model, settings["n_factors"], seed)
    optimizer = torch.optim.AdamW(model.parameters(), eps=FASTAI.eps, weight_decay=settings["wd"], fused=True)
    schedule = one_cycle(epochs * -(-len(stars) // settings["bs"]), settings["lr"], pct_start=settings["pct_start"])
    steps = zip(schedule.lr.tolist(), schedule.momentum.tolist(), strict=True)
    (group,) = optimizer.param_groups
    order = stream(seed, "order")
    for epoch in range(1, epochs + 1):
        for rows in torch.randperm(len(stars), generator=order).split(settings["bs"]):
            group["lr"], beta1 = next(steps)
            group["betas"] = (beta1, FASTAI.beta2)
            optimizer.zero_grad()
            loss(users[rows], items[rows], stars[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            after_epoch(lambda *ids: model(*map(torch.from_numpy, ids)), epoch)


if __name__ == "__main__":
    serve(prepare, train, ["torch"])
