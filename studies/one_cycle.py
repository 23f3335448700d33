"""Claim 78: which parts of one-cycle help: the warm-up, the annealing, or the momentum that moves against the rate?

The lesson's model under AdamW, on MovieLens 100k or on your ratings. Each arm leaves out one part, or all, and its
highest rate is retuned. Each seed draws its own split, initialization and batch order, the same for every arm.
"""

from __future__ import annotations

from functools import partial

from lesson import collab_learner
from lesson.data import Ratings, split
from lesson.schedules import Policy, annealed, constant, one_cycle, warmed_up
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, sweep

EPOCHS, LR, WD = 5, 5e-3, 0.1
POLICIES: dict[str, Policy] = {
    "one-cycle": one_cycle,
    "no warm-up": annealed,
    "no annealing": warmed_up,
    "constant momentum": partial(one_cycle, moms=(0.9, 0.9)),
    "constant": partial(constant, momentum=0.9),
}


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training by the arm's schedule."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(data, 40, data.y_range, WD, seed=job.draw, device=job.device, quiet=True)
    for _ in learn.epochs(EPOCHS, job["lr"], POLICIES[job["schedule"]]):
        pass
    return Outcome.of(learn, rmse=learn.history[-1].valid_loss ** 0.5)


STUDY = Study(
    name="one_cycle",
    title="The parts of one-cycle",
    question="Does the warm-up help?",
    run=run,
    data=("movielens",),
    arms=sweep("schedule", list(POLICIES), lr=LR),
    baseline="one-cycle",
    metrics={"rmse": Metric("validation RMSE", better="lower", smallest="0.2 %")},
    parts=(
        beats("78a", "one-cycle", "no warm-up", says="one-cycle beats one without warm-up", by=True),
        beats("78b", "one-cycle", "no annealing", says="one-cycle beats one without annealing", by=True),
        beats("78c", "one-cycle", "constant momentum", says="one-cycle beats one with constant momentum", by=True),
        beats("", "one-cycle", "constant", says="one-cycle beats a constant rate and momentum"),
    ),
    tuned={"lr": Range(5e-4, 5e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=16, cost="four minutes"),
        "full": Profile(seeds=40, trials=24, cost="ten minutes"),
    },
    names={"lr": "learning rate"},
    limits=(
        f"The model is the lesson's: 40 factors, {EPOCHS} epochs, batches of 64, weight decay {WD:g}, not tuned.",
        "The optimizer is AdamW; under SGD momentum may matter more.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
