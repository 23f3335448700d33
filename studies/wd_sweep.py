"""Claim 48: does weight decay 0.1 beat fastai's default of 0.01?

The lesson's model and recipe on MovieLens 100k, on FilmTrust, or on your ratings: 40 factors, batches of 64, five
epochs of one-cycle AdamW. Each seed draws its own split, initialization and batch order, the same for every decay.
"""

from __future__ import annotations

from lesson import collab_learner
from lesson.data import Ratings, split
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats, sweep

EPOCHS, LR = 5, 5e-3


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training: split, learner, one-cycle, validation error."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(data, 40, data.y_range, job["wd"], seed=job.draw, device=job.device, quiet=True)
    learn.fit_one_cycle(EPOCHS, job["lr"])
    return Outcome.of(learn, rmse=learn.history[-1].valid_loss ** 0.5)


STUDY = Study(
    name="wd_sweep",
    title="Weight decay",
    question="Does weight decay 0.1 beat fastai's default 0.01?",
    run=run,
    data=("movielens", "filmtrust"),
    arms=sweep("wd", (0, 0.001, 0.01, 0.03, 0.1, 0.3, 1), lr=LR),
    baseline="wd=0.01",
    metrics={"rmse": Metric("validation RMSE", better="lower", smallest="0.2 %")},
    parts=(
        beats("48", "wd=0.1", "wd=0.01", by=True),
        beats("", "wd=0.1", "wd=0", says="wd=0.1 beats no decay"),
        beats("", "wd=0.1", "wd=1", says="wd=0.1 beats ten times as much"),
    ),
    tuned={"lr": Range(5e-4, 5e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=16, cost="seven minutes"),
        "full": Profile(seeds=40, trials=24, cost="twenty minutes"),
    },
    names={"wd": "weight decay", "lr": "learning rate"},
    limits=(f"The model is the lesson's: 40 factors, {EPOCHS} epochs, batches of 64.",),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
