"""Claim 47: too much weight decay prevents learning; too little only makes the model overfit earlier.

A run trains the lesson's model on MovieLens 100k, or on your ratings, for each of several lengths, every length with a
separate one-cycle schedule. Half of the validation rows choose the length, the other half measure it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lesson import CollabLearner, collab_learner
from lesson.data import CollabData, Ratings, split
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Part, Profile, Range, Run, Study, beats, not_worse, sweep

LENGTHS = (1, 2, 3, 5, 8, 12, 20)
FIXED = 5  # epochs, for the metrics at one length
LR = 5e-3


def run(job: Run, ratings: Ratings) -> Outcome:
    """A training for each length."""
    data = split(ratings, seed=job.seed)
    learners = {length: trained(data, job, length) for length in LENGTHS}
    errors = {length: squared_errors(learn, data) for length, learn in learners.items()}
    chosen = min(LENGTHS, key=lambda length: root_mean(errors[length][::2]))
    fixed = learners[FIXED]
    spread = data.train.ratings.double().var(correction=0).item()
    tables = torch.cat([weight.flatten() for weight in fixed.model.parameters()])
    return Outcome(
        {
            "rmse": root_mean(errors[chosen][1::2]),
            "length": math.log2(chosen),
            "fit": fixed.history[-1].train_loss / spread,
            "norm": math.log10(max(tables.norm().item(), 1e-30)),
        },
        {"valid_rmse": [root_mean(errors[length]) for length in LENGTHS]},
        sum(epoch.seconds for learn in learners.values() for epoch in learn.history),
        len(data.train),
        len(data.valid),
    )


def trained(data: CollabData, job: Run, length: int) -> CollabLearner:
    """The lesson's model after `length` epochs of one-cycle."""
    learn = collab_learner(data, 40, data.y_range, job["wd"], seed=job.draw, device=job.device, quiet=True)
    learn.fit_one_cycle(length, job["lr"])
    return learn


def squared_errors(learn: CollabLearner, data: CollabData) -> Tensor:
    """The loss of each validation row, in the random order of the split."""
    with torch.no_grad():
        scores = learn.model(data.valid.users, data.valid.items)
    return (scores - data.valid.ratings).double().square()


def root_mean(squares: Tensor) -> float:
    """The root of the mean."""
    return math.sqrt(squares.mean().item())


STUDY = Study(
    name="overfitting",
    title="Too much decay, and too little",
    question="Does the model overfit earlier without weight decay?",
    run=run,
    data=("movielens",),
    arms=sweep("wd", (0, 0.01, 0.1, 1, 10), lr=LR),
    baseline="wd=0.1",
    metrics={
        "rmse": Metric("validation RMSE at the best length", better="lower", smallest="0.2 %"),
        "length": Metric("log2 of the best length in epochs", better="lower", smallest=0.25),
        "fit": Metric(
            f"training loss over the best constant's, {FIXED} epochs", better="higher", smallest=0.02, resplit=False
        ),
        "norm": Metric(f"log10 of the parameters' norm, {FIXED} epochs", better="lower", smallest=0.1, resplit=False),
    },
    parts=(
        beats("47c", "wd=0", "wd=0.1", says="without decay the best length is shorter", metric="length"),
        not_worse("47d", "wd=0", "wd=0.1", says="stopped early, it does as well without decay"),
        Part("47a", "with decay 10 it fits no better than a constant", {"wd=10": 1}, "noninferior", "fit", against=1),
        beats("47b", "wd=10", "wd=0", says="with decay 10 the norm is a hundredth", metric="norm", against=-2),
    ),
    tuned={"lr": Range(5e-4, 5e-2)},
    x="length",
    places=LENGTHS,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="two minutes"),
        "regular": Profile(seeds=20, trials=6, cost="twenty minutes"),
        "full": Profile(seeds=40, trials=10, cost="an hour"),
    },
    names={"wd": "weight decay", "lr": "learning rate"},
    limits=(
        f"The model is the lesson's: 40 factors, batches of 64. Lengths: {', '.join(map(str, LENGTHS))} epochs.",
        "The length is chosen on half of the validation rows and measured on the other half.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
