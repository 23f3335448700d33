"""Claim 85: are weight decay, batch normalization and dropout the regularizers to use?

All eight combinations of the three, on a net with hidden layers of 100 and 50, about two thousand steps of one-cycle
AdamW. Each seed draws its own split, initialization and batch order, the same for every combination.
"""

from __future__ import annotations

from typing import Any

from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import Net
from lesson.nets import net_learner
from lesson.schedules import epochs_for
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, effect, factorial

STEPS, HIDDEN, LR = 2000, (100, 50), 5e-3


def run(job: Run, table: Any) -> Outcome:
    """One training: split, net, one-cycle, error on the validation rows."""
    data = table.split(seed=job.seed)
    widths, drawn = (data.inputs, *HIDDEN, data.c), stream(job.draw, "initialization")
    model = Net(widths, bn=job["bn"], dropout=job["dropout"], generator=drawn)
    learn = net_learner(data, model, wd=job["wd"], metrics=[accuracy], seed=job.draw, quiet=True)
    learn.fit_one_cycle(epochs_for(STEPS, len(data.train)), job["lr"])
    last = learn.history[-1]
    return Outcome.of(learn, valid_loss=last.valid_loss, error=1 - last.metrics["accuracy"])


ARMS = factorial(
    wd={"no decay": {"wd": 0.0}, "decay": {"wd": 0.1}},
    bn={"no norm": {"bn": False}, "norm": {"bn": True}},
    dropout={"no dropout": {"dropout": 0.0, "lr": LR}, "dropout": {"dropout": 0.25, "lr": LR}},
)
STUDY = Study(
    name="regularizers",
    title="Regularizers",
    question="Does weight decay lower the validation loss, with and without batch normalization and dropout?",
    run=run,
    recipe=2,
    data=("digits", "adult"),
    arms=ARMS,
    baseline="no decay, no norm, no dropout",
    metrics={
        "valid_loss": Metric("cross-entropy on the validation rows", better="lower", smallest="1 %"),
        "error": Metric("share of validation rows classified wrongly", better="lower", smallest=0.005),
    },
    parts=(
        effect("85a", ARMS, "wd", says="weight decay lowers the loss"),
        effect("85b", ARMS, "bn", says="batch normalization lowers the loss"),
        effect("85c", ARMS, "dropout", says="dropout lowers the loss"),
        effect("", ARMS, "wd", "bn", says="decay and batch normalization add up", form="equivalent"),
        effect("", ARMS, "wd", "dropout", says="decay and dropout add up", form="equivalent"),
        effect("", ARMS, "bn", "dropout", says="batch normalization and dropout add up", form="equivalent"),
        effect("", ARMS, "wd", says="weight decay lowers the error", metric="error"),
        effect("", ARMS, "bn", says="batch normalization lowers the error", metric="error"),
        effect("", ARMS, "dropout", says="dropout lowers the error", metric="error"),
    ),
    tuned={"lr": Range(3e-4, 0.1)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute and a quarter"),
        "regular": Profile(seeds=20, trials=6, cost="forty minutes"),
        "full": Profile(seeds=40, trials=16, cost="three hours"),
    },
    names={"wd": "weight decay", "bn": "batch normalization", "lr": "learning rate"},
    limits=(
        f"Hidden layers of {HIDDEN[0]} and {HIDDEN[1]}, about {STEPS:,} steps, batches of 64.",
        "Weight decay is 0.1 and dropout 0.25; neither is tuned.",
        "Main effects are averages over the four combinations of the other two.",
        "The training is 32 epochs on the digits and 3 on the adult census.",
        "A net that has learned its rows by heart is overconfident, which raises the loss more than the error.",
        "The rate is tuned for the loss; the error is measured at the same rate.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
