"""Neural collaborative filtering with an optimizer that skips the rows a batch does not read.

TensorFlow's LazyAdam and torch's SparseAdam leave such rows alone: their momentum stops. A user reported that NCF falls
short of its target with LazyAdam (tensorflow#23668). Here NeuMF (He and others 2017) learns from MovieLens 100k which
films its users have rated: one rated film and four drawn ones at a time, Adam without weight decay. One film of each
user is held out. Recommendations are judged twice: the film's place among itself and 99 drawn films, as in the paper,
and among all films that the user has not rated in training. Each seed draws its own held-out films, initialization,
batch order and drawn films, the same for every optimizer.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from kernels import DeferredAdamW, attach
from kernels.eager import AdamW
from lesson import DivergenceError
from lesson.data import Ratings
from lesson.learner import stream
from lesson.models import Net, embedding
from studies.lab.command import command
from studies.lab.source import shared
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, differs, equals, exceeds, not_worse, sweep

FACTORS, TOWER = 8, (64, 32, 16, 8)  # of the product; of the net on both vectors side by side
EPOCHS, BATCH, DRAWN, LR = 5, 256, 4, 1e-3
RIVALS, TOP = 99, 10


class Implicit(NamedTuple):
    """Who has rated what, with one film of each user held out.

    Attributes:
        users: int64[rows], of the training rows.
        items: int64[rows].
        rated: bool[users, items], in training.
        held_out: int64[users], the film of each user; −1 if the user has rated fewer than two.
    """

    users: Tensor
    items: Tensor
    rated: Tensor
    held_out: Tensor


def leave_one_out(ratings: Ratings, draw: torch.Generator) -> Implicit:
    """Hold out one of each user's films at random. A film rated several times counts once."""
    users, items = torch.from_numpy(np.unique(np.stack([ratings.user, ratings.item]), axis=1))
    order = torch.randperm(len(users), generator=draw)
    held_out = torch.full((len(ratings.user_ids),), -1)
    held_out[users[order]] = items[order]  # one of them stays
    held_out[torch.bincount(users, minlength=len(held_out)) < 2] = -1
    kept = items != held_out[users]
    rated = torch.zeros(len(ratings.user_ids), len(ratings.item_ids), dtype=torch.bool)
    rated[users[kept], items[kept]] = True
    return Implicit(users[kept], items[kept], rated, held_out)


class NeuMF(nn.Module):
    """The product of two short vectors, and a net on two longer ones, joined by a last layer.

    Args:
        n_users: rows of the users' tables.
        n_items: rows of the films' tables.
        draw: of the initialization.
    """

    def __init__(self, n_users: int, n_items: int, draw: torch.Generator) -> None:
        super().__init__()
        width = FACTORS + TOWER[0] // 2  # both vectors, side by side
        self.users, self.items = embedding(n_users, width, draw), embedding(n_items, width, draw)
        self.net = nn.Sequential(Net(TOWER, generator=draw), nn.ReLU())
        self.last = Net((FACTORS + TOWER[-1], 1), generator=draw)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [rows] of pairs (users int64[rows], items int64[rows])."""
        user, item = self.users(users), self.items(items)
        both = torch.cat([user[:, FACTORS:], item[:, FACTORS:]], 1)
        scores: Tensor = self.last(torch.cat([user[:, :FACTORS] * item[:, :FACTORS], self.net(both)], 1))
        return scores[:, 0]


def optimizers(model: NeuMF, how: str, lr: float) -> list[torch.optim.Optimizer]:
    """The optimizers of a model; "lazy" and "deferred" change how its tables are read."""
    tables = (model.users, model.items)
    if how == "deferred":
        for table in tables:
            attach(table)
        return [DeferredAdamW(model.parameters(), lr, weight_decay=0.0, fused=True)]
    if how == "dense":
        return [AdamW(model.parameters(), lr, weight_decay=0.0, fused=True)]
    for table in tables:
        table.sparse = True
    rest = [*model.net.parameters(), *model.last.parameters()]
    return [
        torch.optim.SparseAdam([table.weight for table in tables], lr),
        AdamW(rest, lr, weight_decay=0.0, fused=True),
    ]


def drawn_films(data: Implicit, users: Tensor, draw: torch.Generator) -> Tensor:
    """A film int64[rows] for each of the users int64[rows] that they have not rated in training, drawn evenly."""
    films = torch.randint(data.rated.shape[1], users.shape, generator=draw)
    while (wrong := data.rated[users, films]).any():
        films[wrong] = torch.randint(data.rated.shape[1], (int(wrong.sum()),), generator=draw)
    return films


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training, then the held-out films' places."""
    data = leave_one_out(ratings, torch.Generator().manual_seed(job.seed))
    model = NeuMF(len(ratings.user_ids), len(ratings.item_ids), stream(job.draw, "initialization"))
    steps = optimizers(model, job["optimizer"], job["lr"])
    order = stream(job.draw, "order")
    rows = torch.nonzero(~data.rated.all(1)[data.users])[:, 0]  # for users who have rated every film, none can be drawn
    losses, began = [], time.perf_counter()
    for _ in range(EPOCHS):
        users = data.users[rows].repeat_interleave(1 + DRAWN)
        items = torch.stack([data.items[rows], *(drawn_films(data, data.users[rows], order) for _ in range(DRAWN))], 1)
        labels = torch.zeros(items.shape)
        labels[:, 0] = 1
        total = 0.0
        for part in torch.randperm(len(users), generator=order).split(BATCH):
            loss = binary_cross_entropy_with_logits(model(users[part], items.view(-1)[part]), labels.view(-1)[part])
            loss.backward()
            for optimizer in steps:
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item() * len(part)
        losses.append(total / len(users))
        if not np.isfinite(losses[-1]):
            raise DivergenceError(f"{job} diverged", [])
    seconds = time.perf_counter() - began
    some, every = places(model, data, torch.Generator().manual_seed(job.draw))
    metrics = {"ndcg": gain(some), "hits": hits(some), "ndcg_all": gain(every), "hits_all": hits(every)}
    return Outcome(metrics, {"train_loss": losses}, seconds, len(data.users), len(every))


@torch.no_grad()
def places(model: NeuMF, data: Implicit, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """The place, from 0, of each user's held-out film among RIVALS drawn films, and among all not rated in training.

    Half of the films with the same score come before it. Users without a held-out film, or who have rated all others,
    are left out, and of the first places those who have fewer than RIVALS films to draw from.
    """
    some, every = [], []
    for user in torch.nonzero(data.held_out >= 0)[:, 0].tolist():
        film = int(data.held_out[user])
        others = ~data.rated[user]
        others[film] = False
        rivals = torch.nonzero(others)[:, 0]
        if not len(rivals):
            continue
        films = torch.cat([torch.tensor([film]), rivals])
        scores = model(torch.full((len(films),), user), films)
        before = (scores[1:] > scores[0]).double() + (scores[1:] == scores[0]).double() / 2
        if len(rivals) >= RIVALS:
            chosen = torch.randperm(len(rivals), generator=draw)[:RIVALS]
            some.append(before[chosen].sum().item())
        every.append(before.sum().item())
    return torch.tensor(some, dtype=torch.float64), torch.tensor(every, dtype=torch.float64)


def hits(places: Tensor) -> float | None:
    """The share of places among the first TOP; None if there are none."""
    return (places < TOP).double().mean().item() if len(places) else None


def gain(places: Tensor) -> float | None:
    """NDCG@TOP with one relevant film, 1 / log₂(place + 2), and 0 from place TOP on; None if there are no places."""
    return torch.where(places < TOP, 1 / torch.log2(places + 2), 0.0).mean().item() if len(places) else None


STUDY = Study(
    name="ncf",
    title="Neural collaborative filtering",
    question="Does NCF rank as well if the optimizer skips the rows that a batch does not read?",
    run=run,
    data=("movielens",),
    arms=sweep("optimizer", ("dense", "lazy", "deferred"), lr=LR),
    baseline="dense",
    metrics={
        "ndcg": Metric(f"NDCG@{TOP}, one of 100 films", better="higher", smallest=0.01),
        "hits": Metric(f"share of films among the first {TOP} of 100", better="higher", smallest=0.02),
        "ndcg_all": Metric(f"NDCG@{TOP}, one of all films", better="higher", smallest="5 %"),
        "hits_all": Metric(f"share of films among the first {TOP} of all"),
    },
    parts=(
        not_worse("", "lazy", "dense", says="skipping ranks no worse, one of 100"),
        not_worse("", "lazy", "dense", "skipping ranks no worse, one of all", "ndcg_all"),
        equals("", "deferred", "dense", says="deferred steps rank as dense ones do"),
        differs("", "lazy", "dense", "skipping changes the share of hits", "hits"),
        exceeds("", "dense", TOP / 100, "dense steps learn something", "hits"),
    ),
    own_split=True,
    check=shared,
    recipe=2,
    tuned={"lr": Range(3e-4, 1e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a quarter of an hour"),
        "regular": Profile(seeds=20, trials=0, cost="three quarters of an hour"),
        "full": Profile(seeds=40, trials=4, cost="three hours"),
    },
    names={"lazy": "lazy (rows skipped)", "lr": "learning rate"},
    limits=(
        f"NeuMF with {FACTORS} factors and a net of {', '.join(map(str, TOWER))}; {EPOCHS} epochs, batches of {BATCH}, "
        f"{DRAWN} drawn films for each rated one, no weight decay, no pretraining.",
        f"“One of 100” leaves out users with fewer than {RIVALS} films to draw from.",
        "“lazy” is torch's SparseAdam on the tables, as TensorFlow's LazyAdam, and AdamW on the net.",
    ),
    cpu_only=True,
)

main = command(STUDY)

if __name__ == "__main__":
    main()
