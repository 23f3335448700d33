"""What an optimizer does to the rows that a batch does not read, and what that does to rare films (claim 54 asks).

Dense AdamW decays every row at every step and moves it by its momentum. Optimizers for large tables leave untouched
rows alone, or make up for missed steps by approximations; deferred steps compute what dense ones do. Here they train
the lesson's model with its recipe, each seed with its own split, initialization and batch order, the same for every
rule. `kernels/trainer/approximations.py` says what each rule does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from kernels import FASTAI
from kernels.trainer import Mode, Trainer
from lesson.data import CollabData, Ratings, split
from lesson.learner import stream
from lesson.models import EmbeddingDotBias
from lesson.schedules import one_cycle
from studies.evidence.schema import Contrast, Evidence, LedgerVerdict, Measured
from studies.evidence.schema import Measure as Measurements
from studies.evidence.statistics import MIN_PAIRS
from studies.lab.command import command
from studies.lab.spec import Measure, Outcome, Profile, Run, Study

N_FACTORS, EPOCHS, BATCH, LR, WD = 40, 5, 64, 5e-3, 0.1
RARE = 5  # training ratings of a rare film, at most

MODES: dict[str, Mode] = {
    "dense": "dense",
    "deferred": "virtual",
    "skip": "skip",
    "skip decay": "skip decay",
    "skip momentum": "skip momentum",
    "HugeCTR-like": "hugectr",
    "caffe2-like": "caffe2",
}


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training by the rule, in turns with dense steps in float32, to time them, and in float64, to be near to."""
    data = split(ratings, seed=job.seed)
    seed = 2 * job.seed + job.replicate
    ours = trainer(data, seed, MODES[str(job.settings["rule"])], torch.float32)
    dense, exact = (trainer(data, seed, "dense", dtype) for dtype in (torch.float32, torch.float64))
    order, train_loss, valid_loss = stream(seed, "order"), [], []
    ours_seconds, dense_seconds = [], []
    for epoch in range(EPOCHS):
        rows = torch.randperm(len(data.train), generator=order)
        if epoch % 2:
            dense_seconds.append(timed_epoch(dense, data, rows)[1])
        loss, seconds = timed_epoch(ours, data, rows)
        ours_seconds.append(seconds)
        if not epoch % 2:
            dense_seconds.append(timed_epoch(dense, data, rows)[1])
        timed_epoch(exact, data, rows)
        valid = error(ours, data)
        if not np.isfinite([loss, valid]).all():
            break
        train_loss.append(loss)
        valid_loss.append(valid)
    diverged = len(valid_loss) < EPOCHS
    ratio = median(a / b for a, b in zip(ours_seconds, dense_seconds, strict=True))
    return Outcome(
        value=None if diverged else valid_loss[-1] ** 0.5,
        train_loss=train_loss,
        valid_loss=valid_loss,
        seconds=sum(ours_seconds),
        n_train=len(data.train),
        n_valid=len(data.valid),
        measures={} if diverged else {"time": ratio, **measured(ours, exact, data)},
    )


def trainer(data: CollabData, seed: int, mode: Mode, dtype: torch.dtype) -> Trainer:
    """The lesson's model, initialized by the seed, and its recipe under a rule."""
    sizes = len(data.users), len(data.items)
    model = EmbeddingDotBias(N_FACTORS, *sizes, data.y_range, stream(seed, "initialization"))
    schedule = one_cycle(EPOCHS * -(-len(data.train) // BATCH), LR)
    return Trainer(
        *(table.detach().to(dtype) for table in model.tables()),
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=WD,
        beta2=FASTAI.beta2,
        eps=FASTAI.eps,
        y_range=data.y_range,
        mode=mode,
    )


def timed_epoch(training: Trainer, data: CollabData, rows: Tensor) -> tuple[float, float]:
    """The mean of an epoch's losses, and its seconds."""
    stars = data.train.ratings.to(training.weights()[0].dtype)
    began = time.perf_counter()
    losses = training.epoch(data.train.users, data.train.items, stars, rows, BATCH)
    return losses.mean().item(), time.perf_counter() - began


def error(training: Trainer, data: CollabData, rows: Tensor | slice = slice(None)) -> float:
    """The mean squared error on (some) validation rows; NaN where there are none."""
    valid = data.valid
    scores = training.scores(valid.users[rows], valid.items[rows])
    return mse_loss(scores.double(), valid.ratings[rows].double()).item()


def measured(ours: Trainer, exact: Trainer, data: CollabData) -> dict[str, float | None]:
    """The further measurements of a trained model; None where the data have no such film."""
    theirs = torch.cat([table.flatten() for table in exact.weights()])
    distance = torch.cat([table.double().flatten() for table in ours.weights()]) - theirs
    norms = ours.weights()[1].double().norm(dim=1)
    rated = data.rated
    seen = rated[1:]  # row 0 stands for every film that training does not know
    frequent = seen >= seen.double().quantile(0.9)
    rare_rows = rated[data.valid.items] <= RARE
    found = {
        "distance": (distance.norm() / theirs.norm()).item(),
        "rare_norm": norms[1:][seen <= RARE].mean().item(),
        "never_norm": norms[0].item(),
        "frequent_norm": norms[1:][frequent].mean().item(),
        "rare_rmse": error(ours, data, rare_rows) ** 0.5,
    }
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def evidence(contrasts: Sequence[Contrast], _tuned: bool, measures: Mapping[str, Measurements]) -> list[Evidence]:
    """Claim 54 speaks of decay alone: it holds where skipping decay, and nothing else, changes rare films' norms."""
    if not any(contrast.arm == "skip decay" for contrast in contrasts):
        return []
    norm, rmse = (measures[name].arms["skip decay"] for name in ("rare_norm", "rare_rmse"))
    low, high = norm.interval or (-1.0, 1.0)
    apart = low > 0 or high < 0
    text = (
        f"without decay of untouched rows, momentum as it is: rare films’ norm {told(norm)}; validation RMSE on rare "
        f"films {told(rmse)}"
    )
    verdict: LedgerVerdict = "holds" if apart and norm.n >= MIN_PAIRS else "inconclusive"
    return [Evidence(claim=54, verdict=verdict, text=text)]


def told(measured: Measured) -> str:
    """A paired difference as a reader of the ledger wants it."""
    if measured.difference is None:
        return "not measured: no such film"
    interval = "" if measured.interval is None else f" [{measured.interval[0]:+.4f}, {measured.interval[1]:+.4f}]"
    return f"{measured.difference:+.4f}{interval} (n = {measured.n})"


def limits(data: str, _tuned: bool) -> list[str]:
    """What the answer does not say."""
    return [
        f"It speaks of {data}, re-split and re-seeded, and of this recipe: {N_FACTORS} factors, {EPOCHS} epochs, "
        f"batches of {BATCH}, weight decay {WD:g}, retuned for no rule.",
        "HugeCTR-like and caffe2-like steps are not those systems' own code.",
        "“skip” stops momentum as well as decay; “skip decay” and “skip momentum” stop one of them.",
        "Times are of tables this small, and of runs side by side unless --workers is 1: description, no benchmark.",
    ]


STUDY = Study(
    name="untouched_rows",
    title="Rows a batch does not read",
    question="Is it as good to skip the rows that a batch does not read as to take dense steps?",
    claims=(54,),
    metric="valid_rmse",
    direction="minimize",
    arms={rule: {"rule": rule} for rule in MODES},
    baseline="dense",
    primary="skip",
    smallest_effect=0.002,
    measures={
        "distance": Measure("distance to dense float64, of all parameters", logarithmic=True),
        "rare_norm": Measure(f"norm of rare films’ vectors (1 to {RARE} ratings)"),
        "frequent_norm": Measure("norm of frequent films’ vectors (the most rated tenth)"),
        "never_norm": Measure("norm of the vector for films never rated"),
        "rare_rmse": Measure(f"validation RMSE on films with at most {RARE} ratings"),
        "time": Measure("time over dense, epochs in turns"),
    },
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="one minute"),
        "regular": Profile(seeds=20, trials=0, cost="two minutes"),
        "full": Profile(seeds=40, trials=0, cost="four minutes"),
    },
    recipe=1,
    run=run,
    evidence=evidence,
    limits=limits,
    backend="native",  # these rules are its trainer's alone
)

main = command(STUDY)

if __name__ == "__main__":
    main()
