"""Claims 64 and 65: what update() learns from MNIST in the steps of one epoch, and what a hidden layer and Adam add.

Each seed draws its own split and batch order, the same for every arm, and its own initialization, the same for arms
with the same model. "Adam re-created" follows the notes: a new Adam for every batch, without memory, so each step is
nearly the gradient's sign.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor, nn

from kernels import TORCH
from lesson.data import Digits
from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import Mnist_Logistic, Mnist_NN
from lesson.optimizers import Adam
from lesson.schedules import epochs_for
from lesson.update import update, update_with
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, beats, exceeds

MODELS = {"logistic": Mnist_Logistic, "784-50-10": Mnist_NN}
BATCH = 64
STEPS = 782  # an epoch of the lesson's 50,000 digits


def run(job: Run, digits: Digits) -> Outcome:
    """As many steps as an epoch of the lesson's digits has, or the nearest number of epochs."""
    data, order = digits.split(seed=job.seed), stream(job.draw, "order")
    torch.manual_seed(job.draw)
    model = MODELS[job["model"]]()
    step = stepper(job["step"], model, job["lr"])
    began, losses = perf_counter(), []
    for _ in range(epochs_for(STEPS, len(data.train), BATCH)):
        batches = torch.randperm(len(data.train), generator=order).split(BATCH)
        losses += [step(*data.train[rows]) for rows in batches]
    seconds = perf_counter() - began
    x, y = data.valid[:]
    with torch.no_grad():
        read = float(accuracy(model(x), y))
    return Outcome({"accuracy": read}, {"train_loss": losses}, seconds, len(data.train), len(y))


def stepper(name: str, model: nn.Module, lr: float) -> Callable[[Tensor, Tensor], float]:
    """A step of the training loop: the notes' update(), or one with an optimizer instead of its two lines."""
    params = list(model.parameters())
    if name == "update":
        return lambda x, y: update(model, x, y, lr)
    if name == "Adam re-created":
        return lambda x, y: update_with(Adam(params, lr, TORCH[:2], TORCH.eps), model, x, y)
    kept = Adam(params, lr, TORCH[:2], TORCH.eps)
    return lambda x, y: update_with(kept, model, x, y)


STUDY = Study(
    name="mnist",
    title="MNIST from scratch",
    question="Does the lesson's first loop learn to read digits in the steps of one epoch?",
    run=run,
    data=("digits",),
    stand_in={"digits": "5,000 of MNIST's 70,000 digits"},
    arms={
        "logistic, SGD": {"model": "logistic", "step": "update", "lr": 2e-2},
        "784-50-10, SGD": {"model": "784-50-10", "step": "update", "lr": 2e-2},
        "784-50-10, Adam": {"model": "784-50-10", "step": "Adam", "lr": 1e-3},
        "784-50-10, Adam re-created": {"model": "784-50-10", "step": "Adam re-created", "lr": 1e-3},
    },
    baseline="logistic, SGD",
    metrics={"accuracy": Metric("share of validation digits read correctly", better="higher", smallest=0.005)},
    parts=(
        exceeds("64", "logistic, SGD", 0.85, says="logistic regression reads more than .85"),
        beats("65a", "784-50-10, Adam", "logistic, SGD", says="the net with Adam reads more than the other with SGD"),
        beats("", "784-50-10, SGD", "logistic, SGD", says="with update() alone the net reads more, too"),
    ),
    x="batch",
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="three quarters of a minute"),
        "regular": Profile(seeds=20, trials=0, cost="a minute and a half"),
        "full": Profile(seeds=40, trials=0, cost="three minutes"),
    },
    names={"lr": "learning rate"},
    limits=(
        "As the notes write it: the rates are theirs, and nothing is tuned; `mnist_tuned` tunes them.",
        "The lesson's epoch is 782 steps in batches of 64. The 5,000 digits take the nearest number of epochs, 12, "
        "which are 756 steps.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
