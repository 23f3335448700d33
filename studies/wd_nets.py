"""Claims 48 and 55 beyond ratings: weight decay on digits and on tables, and whether biases should decay too.

A net with hidden layers of 100 and 50 and batch normalization, about two thousand steps of one-cycle AdamW. Each seed
draws its own split, initialization and batch order, the same for every decay. Of the flights, and of one's own table,
the net reads embeddings of the categories, and at most 10,000 rows train; of the flights, 10,000 of the last two months
validate, the same for all seeds.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lesson import DataError, Learner, TableWarning, tabular_learner
from lesson.data import Tabular
from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import Linear, Net
from lesson.nets import net_learner
from lesson.schedules import epochs_for, one_cycle
from lesson.tabular import batch_size
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, equals, sweep

STEPS, HIDDEN, LR, BATCH = 2000, (100, 50), 5e-3, 64
AT_MOST = 10_000  # rows of a table that train, and that validate
WEIGHTS_ONLY, HEAVY = "wd=0.1, weights only", "wd=1, weights only"


def run(job: Run, table: Any) -> Outcome:
    """One training: split, net, one-cycle, error on the validation rows."""
    learn = of_table(job, table) if isinstance(table, Tabular) else of_numbers(job, table)
    epochs = epochs_for(STEPS, len(learn.data.train))
    norms = [weight_norm(learn.model) for _ in learn.epochs(epochs, job["lr"], one_cycle)]
    last = learn.history[-1]
    found = Outcome.of(learn, valid_loss=last.valid_loss, error=1 - last.metrics["accuracy"])
    return replace(found, curves={**found.curves, "weight_norm": norms})


def of_numbers(job: Run, table: Any) -> Learner:
    """A net that reads digits, or the census as numbers."""
    data = table.split(seed=job.seed)
    model = Net((data.inputs, *HIDDEN, data.c), bn=True, generator=stream(job.draw, "initialization"))
    return net_learner(data, model, bs=BATCH, **settings_of(job))


def of_table(job: Run, table: Tabular) -> Learner:
    """The lesson's net for tables: what is odd about its columns has been said before the first run."""
    if job.tuning and table.time is not None:
        table = table.earlier()  # the validation rows are the same for all seeds: tuning must not see them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        data = table.split(job.seed, at_most=(AT_MOST, AT_MOST))
    return tabular_learner(data, layers=HIDDEN, bs=batch_size(len(data.train), BATCH), **settings_of(job))


def settings_of(job: Run) -> dict[str, Any]:
    """What both kinds of nets are told."""
    return {"wd": job["wd"], "bn_wd": job["bn_wd"], "metrics": [accuracy], "seed": job.draw, "quiet": True}


def check(table: Any) -> list[str]:
    """Notes before the first run: none.

    Raises:
        DataError: the target of a table is a number.
    """
    if isinstance(table, Tabular) and table.target.kind == "number":
        raise DataError(
            f"{table.path}, target {table.target.name!r} is a number; cross-entropy, which this study measures, is of "
            "classes"
        )
    return []


def weight_norm(model: nn.Module) -> float:
    """The L2 norm of all weights of the linear layers."""
    weights = [layer.weight.detach() for layer in model.modules() if isinstance(layer, Linear | nn.Linear)]
    return float(torch.nn.utils.get_total_norm(weights))


STUDY = Study(
    name="wd_nets",
    title="Weight decay beyond ratings",
    question="Does weight decay 0.1 beat fastai's default 0.01 in a classifier, too?",
    run=run,
    data=("digits", "adult", "flights"),
    check=check,
    tunes_apart=True,
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
        "regular": Profile(seeds=20, trials=6, cost="three quarters of an hour"),
        "full": Profile(seeds=40, trials=16, cost="three and a half hours"),
    },
    names={"wd": "weight decay", "lr": "learning rate", "bn_wd": "biases and BatchNorm decay"},
    limits=(
        f"Hidden layers of {HIDDEN[0]} and {HIDDEN[1]} with batch normalization, about {STEPS:,} steps, batches of "
        f"{BATCH}.",
        "The length is not tuned: 32 epochs on the digits, 3 on the adult census, 13 on the flights.",
        "Where decay itself changes the loss by less, it says little that biases and BatchNorm may decay or not.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
