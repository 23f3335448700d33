"""Claim 77: with one-cycle, does a net train ten times faster than with plain SGD?

The lesson's 784-50-10 net. For each optimizer and rate, trainings of growing length, each with its own schedule, until
one reaches the target, a loss on the validation digits. Its length is what counts, in steps; a run in which no training
reaches the target misses it. The rate is tuned for each arm and seed, so it is the best rate for that length.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from lesson import DivergenceError, optimizers
from lesson.data import Digits
from lesson.models import Mnist_NN
from lesson.nets import NetLearner, net_learner
from lesson.schedules import constant, one_cycle
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, factorial

TARGET = 0.25  # cross-entropy
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # epochs
OPTIMIZERS = {
    "SGD": partial(optimizers.SGD, weight_decay=0.0),
    "momentum": partial(optimizers.Momentum, weight_decay=0.0),
    "Adam": partial(optimizers.AdamW, weight_decay=0.0),
}
POLICIES = {"constant": constant, "one-cycle": one_cycle}


def run(job: Run, digits: Digits) -> Outcome:
    """Trainings of growing length, until one reaches the target."""
    data, losses, seconds = digits.split(seed=job.seed), [], 0.0
    for length in LENGTHS:
        torch.manual_seed(job.draw)
        opt_func = OPTIMIZERS[job["optimizer"]]
        learn = net_learner(data, Mnist_NN(), cross_entropy, opt_func=opt_func, seed=job.draw, quiet=True)
        losses.append(trained(learn, length, job))
        seconds += sum(epoch.seconds for epoch in learn.history)
        if losses[-1] <= TARGET:
            break
    steps = length * -(-len(data.train) // learn.bs) if losses[-1] <= TARGET else math.inf
    return Outcome({"steps": math.log10(steps)}, {"valid_loss": losses}, seconds, len(data.train), len(data.valid))


def trained(learn: NetLearner, length: int, job: Run) -> float:
    """The loss on the validation digits after a training; the largest seen before it diverged, if it did."""
    try:
        for _ in learn.epochs(length, job["lr"], POLICIES[job["policy"]]):
            pass
    except DivergenceError:
        return math.log(10) * 10
    return learn.history[-1].valid_loss


STUDY = Study(
    name="super_convergence",
    title="Super-convergence",
    question="Does one-cycle reach the same loss in a tenth of the steps of plain SGD?",
    run=run,
    data=("digits",),
    arms=factorial(
        optimizer={name: {"optimizer": name} for name in OPTIMIZERS},
        policy={"constant": {"policy": "constant", "lr": 0.01}, "one-cycle": {"policy": "one-cycle", "lr": 0.01}},
    ),
    baseline="SGD, constant",
    metrics={"steps": Metric(f"log10 of the steps to a validation loss of {TARGET}", better="lower", smallest=0.1)},
    parts=(
        beats("77a", "momentum, one-cycle", "SGD, constant", says="a tenth of the steps of plain SGD", against=-1),
        beats("77b", "momentum, one-cycle", "SGD, constant", says="fewer steps than plain SGD"),
        beats("", "momentum, one-cycle", "momentum, constant", says="fewer steps than momentum alone"),
        beats("", "Adam, one-cycle", "Adam, constant", says="fewer steps than Adam alone"),
        beats("", "Adam, one-cycle", "SGD, constant", says="Adam: a tenth of the steps of plain SGD", against=-1),
    ),
    tuned={"lr": Range(1e-3, 3.0)},
    x="length",
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute"),
        "regular": Profile(seeds=20, trials=12, cost="a quarter of an hour"),
        "full": Profile(seeds=40, trials=24, cost="an hour"),
    },
    names={"lr": "learning rate"},
    limits=(f"The net is 784-50-10 with ReLU, batches of 64. Lengths: {', '.join(map(str, LENGTHS))} epochs.",),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
