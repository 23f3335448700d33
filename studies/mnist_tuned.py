"""Claims 65 and 66: with the rate tuned, what do a hidden layer and Adam add to the lesson's update()?

As many steps as an epoch of the lesson's digits has, at a constant rate. The steps are those of `studies.mnist`, run by
a learner, whose native code takes a fraction of the time: SGD has the penalty of update(), Adam has none. The notes'
Adam, re-created for every batch, has no memory, so its step is the gradient's sign (claim 66: `python -m
studies.exact`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import cross_entropy

from lesson.data import Digits
from lesson.learner import OptFunc
from lesson.metrics import accuracy
from lesson.nets import net_learner
from lesson.optimizers import SGD, Adam, Optimizer, sign_step
from lesson.schedules import epochs_for
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Settings, Study, effect, factorial, not_worse
from studies.mnist import BATCH, MODELS, STEPS

OPTIMIZERS: dict[str, OptFunc] = {
    "SGD": SGD,
    "Adam": partial(Adam, betas=(0.9, 0.999), eps=1e-8),  # torch's constants, as in the notes
    "sign": partial(Optimizer, steps=[sign_step]),
}
# update() adds 1e-5 times the squares to the loss: SGD with twice that as its decay takes the same steps.
WD = {"SGD": 2e-5, "Adam": 0.0, "sign": 0.0}


def run(job: Run, digits: Digits) -> Outcome:
    """As many steps as an epoch of the lesson's digits has, or the nearest number of epochs."""
    data, kind = digits.split(seed=job.seed), job["optimizer"]
    torch.manual_seed(job.draw)
    learn = net_learner(
        data,
        MODELS[job["model"]](),
        cross_entropy,
        wd=WD[kind],
        bs=BATCH,
        opt_func=OPTIMIZERS[kind],
        metrics=[accuracy],
        seed=job.draw,
        quiet=True,
    )
    learn.fit(epochs_for(STEPS, len(data.train), BATCH), job["lr"])
    return Outcome.of(learn, accuracy=learn.history[-1].metrics["accuracy"])


# Whichever of the two optimizers trains it.
BOTH = factorial(
    model={"logistic": {"model": "logistic", "net": False}, "784-50-10": {"model": "784-50-10", "net": True}},
    step={"SGD": {"optimizer": "SGD", "lr": 0.1}, "Adam": {"optimizer": "Adam", "lr": 3e-3}},
)
RECREATED: dict[str, Settings] = {
    "784-50-10, Adam re-created": {"model": "784-50-10", "net": True, "optimizer": "sign", "lr": 3e-4}
}
STUDY = Study(
    name="mnist_tuned",
    title="MNIST from scratch, tuned",
    question="Does a net with a hidden layer read more digits than logistic regression, both tuned?",
    run=run,
    data=("digits",),
    stand_in={"digits": "5,000 of MNIST's 70,000 digits"},
    arms=BOTH | RECREATED,
    baseline="logistic, SGD",
    metrics={"accuracy": Metric("share of validation digits read correctly", better="higher", smallest=0.005)},
    parts=(
        effect("65b", BOTH, "net", says="averaged over SGD and Adam, the net reads more"),
        not_worse(
            "66b", "784-50-10, Adam re-created", "784-50-10, Adam", says="Adam re-created is not worse than kept"
        ),
        not_worse("66c", "784-50-10, Adam", "784-50-10, SGD", says="with the net, Adam is not worse than SGD"),
    ),
    tuned={"lr": Range(1e-4, 1.0)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=8, cost="two minutes"),
        "full": Profile(seeds=40, trials=16, cost="eight minutes"),
    },
    names={"lr": "learning rate"},
    limits=(
        "The lesson's epoch is 782 steps in batches of 64. The 5,000 digits take the nearest number of epochs, 12, "
        "which are 756 steps.",
        "Adam re-created is run as what it nearly is, a step by the gradient's sign: its eps of 1e-8 is left out.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
