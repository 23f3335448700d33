"""Claim 31: are the biases of films and users useful?

The lesson's model and recipe with a bias for each film and user, for either, and for none, on MovieLens 100k, on
FilmTrust, or on your ratings. Without a bias, factors can take over what it did, so the error on bad films, and on
users who rate low or high, says more than the error on all rows. Who is bad or harsh is decided on the training rows.
Each seed draws its own split, initialization and batch order, the same for every model.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lesson import CollabLearner, collab_learner
from lesson.data import Ratings, split
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Range, Run, Study, beats

EPOCHS, WD, LR = 5, 0.1, 5e-3
ENOUGH = 10  # training ratings of a film or a user whose mean counts
SHARE = 0.1  # of the films, and of the users at either end


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(data, 40, data.y_range, job["wd"], seed=job.draw, device=job.device, quiet=True)
    for learned, table in ((job["user_bias"], learn.model.u_bias), (job["film_bias"], learn.model.i_bias)):
        if not learned:
            nn.init.zeros_(table.weight).requires_grad_(False)
    learn.fit_one_cycle(EPOCHS, job["lr"])
    squares = squared_errors(learn)
    low, high = ends(data.train.users, data.train.ratings, len(data.users))
    bad, _ = ends(data.train.items, data.train.ratings, len(data.items))
    return Outcome.of(
        learn,
        rmse=learn.history[-1].valid_loss ** 0.5,
        bad_films=root_mean(squares[bad[data.valid.items]]),
        harsh_users=root_mean(squares[(low | high)[data.valid.users]]),
    )


def ends(ids: Tensor, stars: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Which rows have the lowest, and the highest, means: a SHARE of those with ENOUGH ratings, bool[rows] each."""
    count = torch.bincount(ids, minlength=rows)
    mean = torch.bincount(ids, stars.double(), minlength=rows) / count
    enough = count >= ENOUGH
    if not enough.any():
        return enough, enough
    low, high = mean[enough].quantile(torch.tensor([SHARE, 1 - SHARE]).double())
    return enough & (mean <= low), enough & (mean >= high)


def squared_errors(learn: CollabLearner) -> Tensor:
    """The loss of each validation row, float64."""
    predicted, stars = learn.get_preds()
    return (predicted - stars).double().square()


def root_mean(squares: Tensor) -> float | None:
    """The root of the mean; None of nothing."""
    return math.sqrt(squares.mean().item()) if len(squares) else None


STUDY = Study(
    name="biases",
    title="Biases of films and users",
    question="Does the model predict better with biases than without?",
    run=run,
    data=("movielens", "filmtrust"),
    arms={
        "both": {"user_bias": True, "film_bias": True, "wd": WD, "lr": LR},
        "films": {"user_bias": False, "film_bias": True, "wd": WD, "lr": LR},
        "users": {"user_bias": True, "film_bias": False, "wd": WD, "lr": LR},
        "none": {"user_bias": False, "film_bias": False, "wd": WD, "lr": LR},
    },
    baseline="none",
    metrics={
        "rmse": Metric("validation RMSE", better="lower", smallest="0.2 %"),
        "bad_films": Metric(f"validation RMSE on the worst {SHARE:.0%} of films", better="lower", smallest="1 %"),
        "harsh_users": Metric(
            f"validation RMSE on the harshest and the mildest {SHARE:.0%} of users", better="lower", smallest="1 %"
        ),
    },
    parts=(
        beats("31a", "both", "none", says="both biases beat none", by=True),
        beats("31b", "both", "users", "a bias for each film helps on bad films", "bad_films"),
        beats("31c", "both", "films", "a bias for each user helps on harsh and mild users", "harsh_users"),
        beats("", "both", "users", says="on all rows, too, films' biases help"),
        beats("", "both", "films", says="on all rows, too, users' biases help"),
    ),
    tuned={"wd": Range(0.02, 0.5), "lr": Range(1e-3, 2e-2)},
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="half a minute"),
        "regular": Profile(seeds=20, trials=16, cost="seven minutes"),
        "full": Profile(seeds=40, trials=32, cost="half an hour"),
    },
    names={
        "both": "both biases",
        "films": "films' biases",
        "users": "users' biases",
        "none": "no bias",
        "user_bias": "users have biases",
        "film_bias": "films have biases",
        "wd": "weight decay",
        "lr": "learning rate",
    },
    limits=(
        f"The model is the lesson's: 40 factors, {EPOCHS} epochs, batches of 64.",
        f"A film is bad, a user harsh or mild, by the mean of at least {ENOUGH} training ratings.",
        "Weight decay and rate are tuned for the error on all rows.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
