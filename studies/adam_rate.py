"""Claim 74: does Adam still need its learning rate set, and annealed?

The lesson's model under AdamW, on MovieLens 100k or on your ratings. A run trains three times: at its rate, at ten
times the rate, and at a tenth of it. Each seed draws its own split, initialization and batch order, the same for every
training.
"""

from __future__ import annotations

from functools import partial

from lesson import CollabLearner, DivergenceError, collab_learner
from lesson.data import CollabData, Ratings, split
from lesson.schedules import annealed, constant
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, exceeds

EPOCHS, WD, OFF = 5, 0.1, 10
POLICIES = {"constant": partial(constant, momentum=0.9), "annealed": partial(annealed, moms=(0.9, 0.9))}


def run(job: Run, ratings: Ratings) -> Outcome:
    """Three trainings."""
    data = split(ratings, seed=job.seed)
    learn = trained(data, job, job["lr"])
    error, off = rmse(learn), min(error_at(data, job, job["lr"] * factor) for factor in (1 / OFF, OFF))
    return Outcome.of(learn, rmse=error, off=off - error)


def trained(data: CollabData, job: Run, lr: float) -> CollabLearner:
    """The lesson's model, trained at this rate."""
    learn = collab_learner(data, 40, data.y_range, WD, seed=job.draw, device=job.device, quiet=True)
    for _ in learn.epochs(EPOCHS, lr, POLICIES[job["schedule"]]):
        pass
    return learn


def rmse(learn: CollabLearner) -> float:
    """The error on the validation rows."""
    return learn.history[-1].valid_loss ** 0.5


def error_at(data: CollabData, job: Run, lr: float) -> float:
    """The error at another rate; that of the best constant if training diverges."""
    try:
        return rmse(trained(data, job, lr))
    except DivergenceError:
        return data.train.ratings.std().item()


STUDY = Study(
    name="adam_rate",
    title="Adam's learning rate",
    question="Does Adam need its learning rate set?",
    run=run,
    data=("movielens",),
    arms={"constant": {"schedule": "constant", "lr": 1e-3}, "annealed": {"schedule": "annealed", "lr": 3e-3}},
    baseline="constant",
    metrics={
        "rmse": Metric("validation RMSE", better="lower", smallest="0.2 %"),
        "off": Metric(
            f"validation RMSE at {OFF} or 1/{OFF} times the rate, whichever is lower, minus that at the rate",
            better="higher",
            smallest=0.002,
        ),
    },
    parts=(
        exceeds(
            "74a", "annealed", 0, f"the best rate beats one {OFF} times off by more than the margin", "off", by=True
        ),
        beats("74b", "annealed", "constant", says="annealing beats a constant rate", by=True),
        exceeds("", "constant", 0, f"with a constant rate, too, the best beats one {OFF} times off", "off", by=True),
    ),
    tuned={"lr": Range(1e-4, 1e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=16, cost="five minutes"),
        "full": Profile(seeds=40, trials=24, cost="a quarter of an hour"),
    },
    names={"lr": "learning rate"},
    limits=(
        f"The model is the lesson's: 40 factors, {EPOCHS} epochs, batches of 64, weight decay {WD:g}, not tuned.",
        f"The optimizer is AdamW, whose decay grows with the rate: {OFF} times the rate is {OFF} times the decay.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
