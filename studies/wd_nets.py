"""Claims 48 and 55 beyond ratings: weight decay on digits and on a table, and whether biases should decay too.

A net with hidden layers of 100 and 50 and batch normalization, about two thousand steps of one-cycle AdamW. Each seed
draws its own split, initialization and batch order, the same for every decay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import Linear, Net
from lesson.nets import net_learner
from lesson.schedules import epochs_for, one_cycle
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, equals, sweep

STEPS, HIDDEN, LR = 2000, (100, 50), 5e-3
WEIGHTS_ONLY, HEAVY = "wd=0.1, weights only", "wd=1, weights only"


def run(job: Run, table: Any) -> Outcome:
    """One training: split, net, one-cycle, error on the validation rows."""
    data = table.split(seed=job.seed)
    model = Net((data.inputs, *HIDDEN, data.c), bn=True, generator=stream(job.draw, "initialization"))
    learn = net_learner(data, model, wd=job["wd"], bn_wd=job["bn_wd"], metrics=[accuracy], seed=job.draw, quiet=True)
    norms = [weight_norm(model) for _ in learn.epochs(epochs_for(STEPS, len(data.train)), job["lr"], one_cycle)]
    last = learn.history[-1]
    found = Outcome.of(learn, valid_loss=last.valid_loss, error=1 - last.metrics["accuracy"])
    return replace(found, curves={**found.curves, "weight_norm": norms})


def weight_norm(model: Net) -> float:
    """The L2 norm of all weights of the linear layers."""
    weights = [layer.weight.detach() for layer in model if isinstance(layer, Linear)]
    return float(torch.nn.utils.get_total_norm(weights))


STUDY = Study(
    name="wd_nets",
    title="Weight decay beyond ratings",
    question="Does weight decay 0.1 beat fastai's default 0.01 in a classifier, too?",
    run=run,
    data=("digits", "adult"),
    arms=sweep("wd", (0, 0.01, 0.1, 1), lr=LR, bn_wd=True)
    | {name: {"wd": wd, "lr": LR, "bn_wd": False} for name, wd in ((WEIGHTS_ONLY, 0.1), (HEAVY, 1.0))},
    baseline="wd=0.01",
    metrics={
        "valid_loss": Metric("cross-entropy on the validation rows", better="lower", smallest="1 %"),
        "error": Metric("share of validation rows classified wrongly", better="lower", smallest=0.005),
    },
    parts=(
        beats("48", "wd=0.1", "wd=0.01", by=True),
        equals("55", WEIGHTS_ONLY, "wd=0.1", says="at 0.1 it matters little whether biases and BatchNorm decay"),
        beats("", "wd=0.1", "wd=0", says="wd=0.1 beats no decay"),
        equals("", HEAVY, "wd=1", says="at 1 it matters little, too"),
        beats("", "wd=0.1", "wd=0.01", says="the error is lower, too", metric="error"),
    ),
    tuned={"lr": Range(3e-4, 0.1)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute and a half"),
        "regular": Profile(seeds=20, trials=6, cost="a quarter of an hour"),
        "full": Profile(seeds=40, trials=16, cost="an hour"),
    },
    names={"wd": "weight decay", "lr": "learning rate", "bn_wd": "biases and BatchNorm decay"},
    limits=(
        f"Hidden layers of {HIDDEN[0]} and {HIDDEN[1]} with batch normalization, about {STEPS:,} steps, batches of 64.",
        "The length is not tuned: 32 epochs on the digits, 3 on the adult census.",
        "Where decay itself changes the loss by less, it says little that biases and BatchNorm may decay or not.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
