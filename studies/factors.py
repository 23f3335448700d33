"""Claim 37: is 40 the number of factors that works best?

The lesson's model and recipe, with 5 to 160 factors, on MovieLens 100k, on FilmTrust, or on your ratings. Each seed
draws its own split, initialization and batch order, the same split and order for every number of factors.
"""

from __future__ import annotations

from lesson import collab_learner
from lesson.data import Ratings, split
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, best, equals, sweep

EPOCHS, WD, LR = 5, 0.1, 5e-3
SIZES = (5, 10, 20, 40, 80, 160)


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(data, job["factors"], data.y_range, job["wd"], seed=job.draw, device=job.device, quiet=True)
    learn.fit_one_cycle(EPOCHS, job["lr"])
    return Outcome.of(learn, rmse=learn.history[-1].valid_loss ** 0.5)


STUDY = Study(
    name="factors",
    title="Number of factors",
    question="Is no number of factors better than 40?",
    run=run,
    data=("movielens", "filmtrust"),
    arms=sweep("factors", SIZES, wd=WD, lr=LR),
    baseline="factors=40",
    metrics={"rmse": Metric("validation RMSE", better="lower", smallest="0.2 %")},
    parts=(
        best("37a", "factors=40", [f"factors={size}" for size in SIZES], says="no other number is better than 40"),
        equals("37b", "factors=20", "factors=40", says="20 factors do equally well"),
        equals("37c", "factors=80", "factors=40", says="80 factors do equally well"),
    ),
    tuned={"wd": Range(0.02, 0.5), "lr": Range(1e-3, 2e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=16, cost="eight minutes"),
        "full": Profile(seeds=40, trials=32, cost="half an hour"),
    },
    names={"factors": "factors", "wd": "weight decay", "lr": "learning rate"},
    limits=(
        f"The model is the lesson's: {EPOCHS} epochs, batches of 64.",
        "The quick profile has the lesson's weight decay and rate, which it chose for 40 factors, in every arm.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
