"""Claim 41: do the films with the largest biases suit new users?

The lesson's model and recipe on MovieLens 100k, on FilmTrust, or on your ratings, without a tenth of the users. Films
are ranked by bias and in other ways, and each of those users watches first, of the films that he rated, the highest in
the ranking. Only films that a user rated can be judged. Each seed draws its own new users, initialization and batch
order, the same users for every ranking.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from lesson import CollabLearner, collab_learner
from lesson.data import CollabData, Ratings, split
from studies.lab.command import command
from studies.lab.source import shared
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, beats, not_worse, sweep

EPOCHS, WD, LR = 5, 0.1, 5e-3
NEW = 0.1  # of the users
TOP = 10  # films that a new user watches first
DAMPING = 25  # ratings of the overall mean added to each film's, as in Koren's additive model


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training, of the bias' arm; the other rankings only count."""
    draw = np.random.default_rng(job.seed)
    new = draw.permutation(len(ratings.user_ids))[: max(1, round(NEW * len(ratings.user_ids)))]
    held_out = np.isin(ratings.user, new)
    data = split(ratings, valid_rows=np.flatnonzero(held_out))
    score = RANKINGS[job["ranking"]](data, job)
    films = data.valid.items.numpy()
    stars = first_watched(ratings.user[held_out], score[films], data.valid.ratings.numpy().astype(float))
    return Outcome({"stars": stars}, {}, 0.0, len(data.train), len(data.valid))


def first_watched(users: np.ndarray, scores: np.ndarray, stars: np.ndarray) -> float | None:
    """The mean rating of the TOP films that score highest among those that a user rated, averaged over users.

    Users who rated no more than TOP films are left out, because every ranking would show them the same; None if that
    leaves none. Ties by the order of rows.
    """
    order = np.lexsort((-scores, users))
    users, stars = users[order], stars[order]
    _, first, count = np.unique(users, return_index=True, return_counts=True)
    means = [stars[begin : begin + TOP].mean() for begin in first[count > TOP]]
    return float(np.mean(means)) if means else None


def bias(data: CollabData, job: Run) -> np.ndarray:
    """The bias of each row of the item table; films that training has not seen come last, as in all rankings."""
    learn: CollabLearner = collab_learner(data, 40, data.y_range, WD, seed=job.draw, device=job.device, quiet=True)
    learn.fit_one_cycle(EPOCHS, LR)
    return last(learn.model.i_bias.weight.detach().cpu().numpy()[:, 0].astype(float))


def mean(data: CollabData, job: Run) -> np.ndarray:  # noqa: ARG001 - as every ranking is called
    """The mean rating."""
    return last(damped(data, 0))


def damped_mean(data: CollabData, job: Run) -> np.ndarray:  # noqa: ARG001
    """The mean rating, with DAMPING ratings of the overall mean added."""
    return last(damped(data, DAMPING))


def damped(data: CollabData, more: float) -> np.ndarray:
    """The means of each row's ratings and of `more` ratings that equal the overall mean."""
    count = data.rated.double()
    total = torch.bincount(data.train.items, data.train.ratings.double(), minlength=len(count))
    return ((total + more * data.train.ratings.double().mean()) / (count + more).clamp(min=1)).numpy()


def popularity(data: CollabData, job: Run) -> np.ndarray:  # noqa: ARG001
    """The number of ratings."""
    return last(data.rated.double().numpy())


def random(data: CollabData, job: Run) -> np.ndarray:
    """A random order."""
    return last(np.random.default_rng([job.draw, 1]).random(len(data.items)))


def last(score: np.ndarray) -> np.ndarray:
    """The scores, with row 0, which is every film that training has not seen, below all others."""
    return np.where(np.arange(len(score)) == 0, -np.inf, score)


RANKINGS: dict[str, Callable[[CollabData, Run], np.ndarray]] = {
    "bias": bias,
    "damped mean": damped_mean,
    "mean": mean,
    "popularity": popularity,
    "random": random,
}
STUDY = Study(
    name="new_users",
    title="Films for new users",
    question="Do new users like the films of the largest biases better than films at random?",
    run=run,
    data=("movielens", "filmtrust"),
    arms=sweep("ranking", tuple(RANKINGS)),
    baseline="bias",
    metrics={"stars": Metric(f"mean rating of the {TOP} films watched first", better="higher", smallest=0.05)},
    parts=(
        beats("41a", "bias", "random", says="the films of highest bias suit new users better than films at random"),
        not_worse("41b", "bias", "damped mean", says="they suit them no less than those of highest damped mean"),
        beats("", "bias", "popularity", says="they suit them better than the most popular"),
        beats("", "damped mean", "random", says="the films of highest damped mean suit them better than at random"),
    ),
    own_split=True,
    check=shared,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="twenty seconds"),
        "regular": Profile(seeds=20, trials=0, cost="half a minute"),
        "full": Profile(seeds=40, trials=0, cost="half a minute"),
    },
    limits=(
        f"The recipe: 40 factors, {EPOCHS} epochs, batches of 64, weight decay {WD:g}; nothing is tuned.",
        f"Only films that the new users chose to rate are judged, and only users with more than {TOP} of them.",
        "Where no film is better than another, all rankings are equal: then “no less” holds and says nothing.",
        f"The damped mean adds {DAMPING} ratings of the overall mean to each film's.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
