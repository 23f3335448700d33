"""Claim 54: what an optimizer does to the rows that a batch does not read, and the effect on rare films.

Dense AdamW decays every row at every step and moves it by its momentum. Optimizers for large tables leave untouched
rows alone, or approximate the missed steps; deferred steps compute what dense ones do. Here they train
the lesson's model with its recipe, each seed with its own split, initialization and batch order, the same for every
rule. `kernels/trainer/approximations.py` describes the rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kernels.trainer import Mode, Trainer
from lesson import DivergenceError
from lesson.collab import fused_trainer, seeded_model
from lesson.data import CollabData, Ratings, split
from lesson.learner import Epoch, stream
from lesson.schedules import one_cycle
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, beats, differs, equals, not_worse, sweep
from studies.lab.timing import InTurns

N_FACTORS, EPOCHS, BATCH, LR, WD = 40, 5, 64, 5e-3, 0.1
NO_DECAY = "no decay"  # dense steps
RARE = 5  # most training ratings of a rare film


def run(job: Run, ratings: Ratings) -> Outcome:
    """Train by the rule, in turns with dense steps in float32 (for time) and in float64 (for distance)."""
    data = split(ratings, seed=job.seed)
    ours = trainer(data, job.draw, job["rule"], torch.float32)
    dense, exact = (trainer(data, job.draw, "dense", dtype) for dtype in (torch.float32, torch.float64))
    history: list[Epoch] = []
    turns = InTurns(epochs(ours, data, job.draw), epochs(dense, data, job.draw))
    for loss, _ in turns:
        valid_loss = error(ours, data)
        if not math.isfinite(loss + valid_loss):
            raise DivergenceError(f"{job['rule']} diverged", history)
        history.append(Epoch(len(history) + 1, loss, valid_loss, turns.seconds[0][-1], {}))
    for _ in epochs(exact, data, job.draw):
        pass
    return Outcome(
        {"rmse": history[-1].valid_loss ** 0.5, "time": turns.ratio, **measured(ours, exact, data)},
        {"train_loss": [e.train_loss for e in history], "valid_loss": [e.valid_loss for e in history]},
        sum(turns.seconds[0]),
        len(data.train),
        len(data.valid),
    )


def trainer(data: CollabData, seed: int, rule: str, dtype: torch.dtype) -> Trainer:
    """The lesson's model, initialized by the seed, and its recipe under a rule."""
    model = seeded_model(N_FACTORS, len(data.users), len(data.items), data.y_range, seed)
    schedule = one_cycle(EPOCHS * -(-len(data.train) // BATCH), LR)
    wd, mode = (0.0, "dense") if rule == NO_DECAY else (WD, rule)
    return fused_trainer(model, schedule, wd=wd, mode=cast(Mode, mode), dtype=dtype)


def epochs(training: Trainer, data: CollabData, seed: int) -> Iterator[float]:
    """The mean loss of each epoch, in the seed's order of batches."""
    order, stars = stream(seed, "order"), data.train.ratings.to(training.weights()[0].dtype)
    for _ in range(EPOCHS):
        rows = torch.randperm(len(data.train), generator=order)
        yield training.epoch(data.train.users, data.train.items, stars, rows, BATCH).mean().item()


def error(training: Trainer, data: CollabData, rows: Tensor | slice = slice(None)) -> float:
    """The mean squared error on (some) validation rows; NaN if there are none."""
    valid = data.valid
    scores = training.scores(valid.users[rows], valid.items[rows])
    return mse_loss(scores.double(), valid.ratings[rows].double()).item()


def measured(ours: Trainer, exact: Trainer, data: CollabData) -> dict[str, float | None]:
    """The other metrics of a trained model; None if the data has no such film."""
    theirs = torch.cat([table.flatten() for table in exact.weights()])
    distance = torch.cat([table.double().flatten() for table in ours.weights()]) - theirs
    norms = ours.weights()[1].double().norm(dim=1)
    seen = data.rated[1:]  # row 0 is every film that training does not know
    rare = (data.rated >= 1) & (data.rated <= RARE)
    frequent = seen >= seen.double().quantile(0.9)
    found = {
        "distance": (distance.norm() / theirs.norm()).item(),
        "rare_norm": norms[rare].mean().item(),
        "frequent_norm": norms[1:][frequent].mean().item(),
        "never_norm": norms[0].item(),
        "rare_rmse": error(ours, data, rare[data.valid.items]) ** 0.5,
    }
    return {name: None if value != value else value for name, value in found.items()}  # NaN: the mean of no film


STUDY = Study(
    name="untouched_rows",
    title="Rows a batch does not read",
    question="Is skipping the rows that a batch does not read as good as taking dense steps?",
    run=run,
    data=("movielens",),
    arms=sweep("rule", ("dense", "folded", "skip", "skip decay", "skip momentum", "hugectr", "caffe2", NO_DECAY)),
    baseline="dense",
    metrics={
        "rmse": Metric("validation RMSE", better="lower", smallest="0.2 %"),
        "rare_rmse": Metric(f"validation RMSE on rare films (1 to {RARE} ratings)", better="lower", smallest="1 %"),
        "rare_norm": Metric(
            f"norm of rare films’ vectors (1 to {RARE} ratings)", better="higher", smallest="5 %", resplit=False
        ),
        "frequent_norm": Metric("norm of frequent films’ vectors (the most rated tenth)"),
        "never_norm": Metric("norm of the vector for films never rated"),
        "distance": Metric("distance to dense float64, of all parameters", logarithmic=True),
        "time": Metric("time over dense, epochs in turns"),
    },
    parts=(
        not_worse("", "skip", "dense", says="skipping is not worse"),
        equals("", "folded", "dense", says="deferred steps err as dense ones do"),
        beats("54a", "skip decay", "dense", "rare films’ vectors stay longer without the decay", "rare_norm", by=True),
        differs("54b", "skip decay", "dense", "the error on rare films changes", "rare_rmse"),
        differs("54c", "skip momentum", "dense", "stopping momentum changes rare films’ vectors, too", "rare_norm"),
        beats("", NO_DECAY, "skip decay", "without any decay rare films’ vectors are longer still", "rare_norm"),
    ),
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="one minute"),
        "regular": Profile(seeds=20, trials=0, cost="a quarter of an hour"),
        "full": Profile(seeds=40, trials=0, cost="half an hour"),
    },
    recipe=4,
    cpu_only=True,
    names={"folded": "deferred", "hugectr": "HugeCTR-like", "caffe2": "caffe2-like"},
    limits=(
        f"The recipe: {N_FACTORS} factors, {EPOCHS} epochs, batches of {BATCH}, weight decay {WD:g}; nothing is tuned.",
        "HugeCTR-like and caffe2-like steps are not those systems' own code.",
        "“skip” stops momentum as well as decay; “skip decay” and “skip momentum” stop one of them.",
        "Times are for tables this small, and of parallel runs unless --workers is 1: a description, not a benchmark.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
