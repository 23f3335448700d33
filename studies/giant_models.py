"""Claim 52: with weight decay, can one have a giant model, or a smaller data set?

Nets with one hidden layer of growing width, with and without weight decay, and one width on a tenth of the training
rows; about a thousand steps of one-cycle AdamW. Each seed draws its own split, initialization and batch order, the same
for every net; a tenth of the rows is the first tenth of a random order.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import TensorDataset

from lesson.data import DataBunch
from lesson.learner import stream
from lesson.metrics import accuracy
from lesson.models import Net
from lesson.nets import net_learner
from lesson.schedules import epochs_for
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Part, Profile, Range, Run, Study, beats, best, factorial

STEPS, LR = 1000, 5e-3
WIDTHS, SMALL, GIANT = (8, 32, 128, 512), 0.1, 512


def run(job: Run, table: Any) -> Outcome:
    """One training: split, part of the rows, net, one-cycle, error on the validation rows."""
    whole = table.split(seed=job.seed)
    data = reduced(whole, job["share"], job.draw)
    model = Net((data.inputs, job["width"], data.c), generator=stream(job.draw, "initialization"))
    learn = net_learner(data, model, wd=job["wd"], metrics=[accuracy], seed=job.draw, quiet=True)
    learn.fit_one_cycle(epochs_for(STEPS, len(data.train)), job["lr"])
    last = learn.history[-1]
    found = Outcome.of(learn, error=1 - last.metrics["accuracy"], gap=last.valid_loss - last.train_loss)
    return replace(found, n_train=len(whole.train))  # splits overlap as much, however few of its rows are used


def reduced(data: DataBunch, share: float, draw: int) -> DataBunch:
    """The same with a share of the training rows, drawn at random."""
    return DataBunch(TensorDataset(*data.train[some(len(data.train), share, draw)]), data.valid)


def some(rows: int, share: float, draw: int) -> torch.Tensor:
    """A share of the rows, drawn at random: the first of a random order."""
    return torch.randperm(rows, generator=stream(draw, "order"))[: max(1, round(share * rows))]


ALL_ROWS = factorial(
    width={f"width {width}": {"width": width, "share": 1.0, "lr": LR} for width in WIDTHS},
    wd={"no decay": {"wd": 0.0}, "decay": {"wd": 0.1}},
)
TENTH = factorial(
    width={"a tenth of the rows": {"width": 128, "share": SMALL, "lr": LR}},
    wd={"no decay": {"wd": 0.0}, "decay": {"wd": 0.1}},
)
STUDY = Study(
    name="giant_models",
    title="Giant models and small data",
    question="With weight decay, is the widest net as good as any?",
    run=run,
    data=("digits",),
    arms=ALL_ROWS | TENTH,
    baseline="width 128, decay",
    metrics={
        "error": Metric("share of validation rows classified wrongly", better="lower", smallest=0.005),
        "gap": Metric("validation loss minus training loss of the last epoch"),
    },
    parts=(
        best(
            "52a",
            f"width {GIANT}, decay",
            [f"width {width}, decay" for width in WIDTHS],
            says="with decay the widest net is not worse than any narrower one",
        ),
        beats(
            "52c", f"width {GIANT}, decay", f"width {GIANT}, no decay", says="at the widest net decay beats no decay"
        ),
        Part(
            "52b",
            "decay gains more on a tenth of the rows",
            {
                "a tenth of the rows, decay": 1,
                "a tenth of the rows, no decay": -1,
                "width 128, decay": -1,
                "width 128, no decay": 1,
            },
            "superior",
        ),
        best(
            "",
            f"width {GIANT}, no decay",
            [f"width {width}, no decay" for width in WIDTHS],
            says="without decay, too, the widest net is not worse than any",
        ),
    ),
    tuned={"lr": Range(3e-4, 0.1)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="a minute"),
        "regular": Profile(seeds=20, trials=6, cost="ten minutes"),
        "full": Profile(seeds=40, trials=12, cost="an hour"),
    },
    names={"wd": "weight decay", "lr": "learning rate", "share": "share of the rows"},
    limits=(
        f"One hidden layer, about {STEPS:,} steps, batches of 64; weight decay 0.1, not tuned.",
        "If the widest net is as good without decay, decay is not the reason.",
        "That decay gains more on a tenth of the rows does not say that a tenth is enough.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
