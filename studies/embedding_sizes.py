"""Claim 34 on ids of films and users: is half the number of categories, at most 50, a usable size for an embedding?

A net that reads the embeddings of a user and a film side by side, as fastai's EmbeddingNN does, because there the two
sizes may differ; in a dot product they may not. Batches of 512 and five epochs of one-cycle AdamW, on MovieLens 100k
or on your ratings. Each seed draws its own split, initialization and batch order, the same split and order for every
rule.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lesson import Learner
from lesson.data import Ratings, split
from lesson.learner import stream
from lesson.models import Net, emb_sz_rule, embedding, sigmoid_range
from lesson.optimizers import FUSED
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, best, sweep

EPOCHS, BATCH, HIDDEN, WD, LR = 5, 512, 100, 0.1, 5e-3
RULES: dict[str, Callable[[int], int]] = {
    "half, at most 50": lambda n: max(1, min(50, n // 2)),
    "1.6 · n^0.56": emb_sz_rule,
    "4": lambda n: 4,  # noqa: ARG005 - as every rule is called
    "16": lambda n: 16,  # noqa: ARG005
}


class EmbeddingNN(nn.Module):
    """A net on the embeddings of a user and an item, side by side.

    Args:
        sizes: rows and width of the users' table and of the items'.
        y_range: of the sigmoid on the score.
        generator: draws the initial parameters.
    """

    def __init__(self, sizes: list[tuple[int, int]], y_range: tuple[float, float], generator: torch.Generator) -> None:
        super().__init__()
        self.users, self.items = (embedding(rows, width, generator) for rows, width in sizes)
        self.net = Net((sum(width for _, width in sizes), HIDDEN, 1), generator=generator)
        self.y_range = y_range

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores [batch] of the pairs (users int64[batch], items int64[batch])."""
        score = self.net(torch.cat([self.users(users), self.items(items)], 1))[:, 0]
        return sigmoid_range(score, *self.y_range)


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training."""
    data = split(ratings, seed=job.seed)
    rows = [len(data.users), len(data.items)]  # with the row of unknown ids, which is a category too
    widths = [RULES[job["rule"]](n) for n in rows]
    model = EmbeddingNN(list(zip(rows, widths, strict=True)), data.y_range, stream(job.draw, "initialization"))
    learn = Learner(
        data, model.to(job.device), mse_loss, opt_func=FUSED, wd=job["wd"], bs=BATCH, seed=job.draw, quiet=True
    )
    learn.fit_one_cycle(EPOCHS, job["lr"])
    numbers = sum(n * width for n, width in zip(rows, widths, strict=True))
    return Outcome.of(learn, rmse=learn.history[-1].valid_loss ** 0.5, numbers=numbers)


STUDY = Study(
    name="embedding_sizes",
    title="Sizes of embeddings",
    question="Is half the number of categories, at most 50, as good a size as any?",
    run=run,
    data=("movielens",),
    arms=sweep("rule", tuple(RULES), wd=WD, lr=LR),
    baseline="half, at most 50",
    metrics={
        "rmse": Metric("validation RMSE", better="lower", smallest="0.2 %"),
        "numbers": Metric("numbers in the two tables"),
    },
    parts=(best("34", "half, at most 50", RULES, says="half the categories, at most 50, is not worse than any"),),
    tuned={"wd": Range(0.01, 1), "lr": Range(1e-3, 2e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute and a half"),
        "regular": Profile(seeds=20, trials=8, cost="an hour"),
        "full": Profile(seeds=40, trials=16, cost="four hours"),
    },
    names={"wd": "weight decay", "lr": "learning rate"},
    limits=(
        f"A net with one hidden layer of {HIDDEN}, {EPOCHS} epochs, batches of {BATCH}.",
        "MovieLens has more than a hundred users and films: half of them, at most 50, is the fixed size of 50.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
