"""Claim 52 on ratings: with weight decay, can one have a giant model, or a smaller data set?

The lesson's model with 10 to 320 factors, with and without weight decay, and the lesson's 40 on a tenth of the
training rows, for as many steps. On MovieLens 100k or on your ratings. Each seed draws its own split, initialization
and batch order, the same split for every model; a tenth of the rows is the first tenth of a random order.
"""

from __future__ import annotations

from dataclasses import replace

from lesson import collab_learner
from lesson.data import CollabData, Ratings, Rows, split
from studies.giant_models import some
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Part, Profile, Range, Run, Study, beats, best, factorial

EPOCHS, LR = 5, 5e-3  # on all rows
WIDTHS, SMALL, GIANT = (10, 40, 160, 320), 0.1, 320


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training: split, part of the rows, one-cycle, error on the validation rows."""
    whole = split(ratings, seed=job.seed)
    data = reduced(whole, job["share"], job.draw)
    learn = collab_learner(data, job["factors"], data.y_range, job["wd"], seed=job.draw, device=job.device, quiet=True)
    learn.fit_one_cycle(round(EPOCHS / job["share"]), job["lr"])
    last = learn.history[-1]
    found = Outcome.of(learn, rmse=last.valid_loss**0.5, gap=last.valid_loss - last.train_loss)
    return replace(found, n_train=len(whole.train))  # splits overlap as much, however few of its rows are used


def reduced(data: CollabData, share: float, draw: int) -> CollabData:
    """The same with a share of the training rows, drawn at random; users and items keep their rows in the tables."""
    return replace(data, train=Rows(*data.train[some(len(data.train), share, draw)]))


DECAYS = {"no decay": {"wd": 0.0}, "decay": {"wd": 0.1}}
ALL_ROWS = factorial(
    size={f"{width} factors": {"factors": width, "share": 1.0, "lr": LR} for width in WIDTHS}, wd=DECAYS
)
TENTH = factorial(size={"a tenth of the rows": {"factors": 40, "share": SMALL, "lr": LR}}, wd=DECAYS)
STUDY = Study(
    name="giant_factors",
    title="Giant models and small data: ratings",
    question="With weight decay, is the model of most factors as good as any?",
    run=run,
    data=("movielens",),
    arms=ALL_ROWS | TENTH,
    baseline="40 factors, decay",
    metrics={
        "rmse": Metric("validation RMSE", better="lower", smallest="0.2 %"),
        "gap": Metric("validation loss minus training loss of the last epoch"),
    },
    parts=(
        best(
            "52a",
            f"{GIANT} factors, decay",
            [f"{width} factors, decay" for width in WIDTHS],
            says="with decay the model of most factors is not worse than any smaller one",
        ),
        beats(
            "52c",
            f"{GIANT} factors, decay",
            f"{GIANT} factors, no decay",
            says="with the most factors decay beats no decay",
        ),
        Part(
            "52b",
            "decay gains more on a tenth of the rows",
            {
                "a tenth of the rows, decay": 1,
                "a tenth of the rows, no decay": -1,
                "40 factors, decay": -1,
                "40 factors, no decay": 1,
            },
            "superior",
        ),
        best(
            "",
            f"{GIANT} factors, no decay",
            [f"{width} factors, no decay" for width in WIDTHS],
            says="without decay, too, the model of most factors is not worse than any",
        ),
    ),
    tuned={"lr": Range(3e-4, 2e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="forty seconds"),
        "regular": Profile(seeds=20, trials=8, cost="twenty minutes"),
        "full": Profile(seeds=40, trials=16, cost="an hour"),
    },
    names={"wd": "weight decay", "lr": "learning rate", "share": "share of the rows"},
    limits=(
        f"{EPOCHS} epochs of all rows, or as many steps on a tenth; batches of 64; weight decay 0.1, not tuned.",
        "If the model of most factors is as good without decay, decay is not the reason.",
        "That decay gains more on a tenth of the rows does not say that a tenth is enough.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
