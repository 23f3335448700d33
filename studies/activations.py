"""Claim 6: is ReLU the activation to use?

A net with two hidden layers of 50, initialized with torch's gain for each activation (`lesson.models.Net`), about a
thousand steps of one-cycle AdamW. Each seed draws its own split, initialization and batch order, the same for every
activation.
"""

from __future__ import annotations

from typing import Any

from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import Net
from lesson.nets import net_learner
from lesson.schedules import epochs_for
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, best, sweep

STEPS, HIDDEN, LR = 1000, (50, 50), 1e-2
ACTIVATIONS = ("relu", "tanh", "sigmoid", "gelu", "none")


def run(job: Run, table: Any) -> Outcome:
    """One training: split, net, one-cycle, accuracy on the validation rows."""
    data = table.split(seed=job.seed)
    model = Net((data.inputs, *HIDDEN, data.c), job["activation"], generator=stream(job.draw, "initialization"))
    learn = net_learner(data, model, metrics=[accuracy], seed=job.draw, quiet=True)
    learn.fit_one_cycle(epochs_for(STEPS, len(data.train)), job["lr"])
    return Outcome.of(learn, accuracy=learn.history[-1].metrics["accuracy"])


STUDY = Study(
    name="activations",
    title="Activation functions",
    question="Is ReLU as good as any other activation?",
    run=run,
    data=("digits", "uci-digits", "adult"),
    arms=sweep("activation", ACTIVATIONS, lr=LR),
    baseline="relu",
    metrics={"accuracy": Metric("share of validation rows classified correctly", better="higher", smallest=0.005)},
    parts=(
        best("6", "relu", ACTIVATIONS, says="ReLU is not worse than any other"),
        beats("", "relu", "none", says="ReLU beats no activation"),
    ),
    tuned={"lr": Range(3e-4, 0.3)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute"),
        "regular": Profile(seeds=20, trials=8, cost="a quarter of an hour"),
        "full": Profile(seeds=40, trials=16, cost="an hour"),
    },
    names={"relu": "ReLU", "gelu": "GELU", "none": "no activation", "lr": "learning rate"},
    limits=(
        f"Hidden layers of {HIDDEN[0]} and {HIDDEN[1]}, about {STEPS:,} steps, batches of 64, weight decay 0.01.",
        "That ReLU is not worse does not say that it is better: others may do as well.",
        "Half a point is 5 of MNIST 5k's validation digits and 2 of UCI's: close nets cannot be told apart there.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
