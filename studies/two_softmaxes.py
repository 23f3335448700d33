"""Claim 84: `nn.CrossEntropyLoss` contains the softmax. Does a net with a second one train worse?

The lesson's 784-50-10 net, five epochs of one-cycle AdamW, with its scores or their softmax given to the loss. A
softmax of a softmax has small gradients. Adam's steps do not shrink with them, but the best learning rate may differ,
so it is searched over a wide range for both.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lesson.data import Digits
from lesson.learner import Loss
from lesson.metrics import accuracy
from lesson.models import Mnist_NN
from lesson.nets import net_learner
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats

EPOCHS, LR = 5, 1e-2


def of_softmax(scores: Tensor, target: Tensor) -> Tensor:
    """The loss of a model that ends in a softmax: the loss computes another."""
    return cross_entropy(scores.softmax(1), target)


LOSSES: dict[str, Loss] = {"one": cross_entropy, "two": of_softmax}


def run(job: Run, digits: Digits) -> Outcome:
    """One training: split, net, one-cycle, accuracy on the validation rows."""
    torch.manual_seed(job.draw)
    data, loss = digits.split(seed=job.seed), LOSSES[job["softmaxes"]]
    learn = net_learner(data, Mnist_NN(), loss, metrics=[accuracy], seed=job.draw, quiet=True)
    learn.fit_one_cycle(EPOCHS, job["lr"])
    return Outcome.of(learn, accuracy=learn.history[-1].metrics["accuracy"])


STUDY = Study(
    name="two_softmaxes",
    title="One softmax, or two",
    question="Does a net with a second softmax train worse?",
    run=run,
    data=("digits",),
    stand_in={"digits": "5,000 of MNIST's 70,000 digits"},
    arms={"one softmax": {"softmaxes": "one", "lr": LR}, "two softmaxes": {"softmaxes": "two", "lr": LR}},
    baseline="one softmax",
    metrics={"accuracy": Metric("share of validation digits read correctly", better="higher", smallest=0.005)},
    parts=(beats("84b", "one softmax", "two softmaxes", says="a net with one softmax reads more", by=True),),
    tuned={"lr": Range(1e-3, 1.0)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="twenty seconds"),
        "regular": Profile(seeds=20, trials=12, cost="two minutes"),
        "full": Profile(seeds=40, trials=24, cost="eight minutes"),
    },
    names={"lr": "learning rate"},
    limits=(f"The net is 784-50-10 with ReLU; {EPOCHS} epochs, batches of 64, weight decay 0.01.",),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
