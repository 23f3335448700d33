"""Claim 51: under Adam, is an L2 penalty as good as weight decay?

The lesson's model and recipe on MovieLens 100k or on your ratings. The same number is not the same strength for a
penalty and for a decay, so decay and rate are tuned together for each arm. Each seed draws its own split,
initialization and batch order, the same for every arm.
"""

from __future__ import annotations

from lesson import collab_learner
from lesson.data import Ratings, split
from lesson.optimizers import Adam, AdamW
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, equals

EPOCHS, LR = 5, 5e-3
OPTIMIZERS = {"L2 penalty": Adam, "weight decay": AdamW}


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training: split, learner, one-cycle, validation error."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(
        data,
        40,
        data.y_range,
        job["wd"],
        opt_func=OPTIMIZERS[job["kind"]],
        seed=job.draw,
        device=job.device,
        quiet=True,
    )
    learn.fit_one_cycle(EPOCHS, job["lr"])
    return Outcome.of(learn, rmse=learn.history[-1].valid_loss ** 0.5)


STUDY = Study(
    name="l2_penalty",
    title="L2 penalty and weight decay",
    question="Under Adam, is an L2 penalty as good as weight decay?",
    run=run,
    data=("movielens",),
    arms={
        "weight decay": {"kind": "weight decay", "wd": 0.1, "lr": LR},
        "L2 penalty": {"kind": "L2 penalty", "wd": 1e-4, "lr": LR},
    },
    baseline="weight decay",
    metrics={"rmse": Metric("validation RMSE", better="lower", smallest="0.2 %")},
    parts=(equals("51b", "L2 penalty", "weight decay", says="the two have equal errors, each at its best strength"),),
    tuned={"wd": Range(1e-6, 1.0), "lr": Range(5e-4, 5e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="twenty seconds"),
        "regular": Profile(seeds=20, trials=48, cost="nine minutes"),
        "full": Profile(seeds=40, trials=96, cost="half an hour"),
    },
    names={"wd": "strength", "lr": "learning rate"},
    limits=(
        f"The model is the lesson's: 40 factors, {EPOCHS} epochs, batches of 64.",
        "Equal errors do not make the two the same: under Adam they take different steps (slip 23).",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
