"""Claim 29: does the model find factors that nobody told it?

Ratings are drawn from planted factors, biases and noise, and the lesson's model, with as many factors, is trained on
them. The factors themselves cannot agree, because any invertible mix of them gives the same ratings; the space that
they span can. Its distance is the largest principal angle between the planted and the learned space, averaged over
users and items. Means are removed first, because a constant is a bias. Each seed draws its own factors and ratings.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import subspace_angles
from scipy.sparse import coo_array
from scipy.sparse.linalg import svds

from lesson import CollabLearner, collab_learner
from lesson.data import CollabData, PlantedRatings
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, beats, equals, not_worse

RANK, EPOCHS, WD, LR = 4, 10, 0.01, 5e-2


def run(job: Run, made: PlantedRatings) -> Outcome:
    """Draw ratings, find factors in them by the arm's method, and compare their space with the planted one."""
    data, users, items = made.draw(seed=job.seed, rank=RANK, signal=job["signal"])
    if job["method"] == "SVD":
        found = by_svd(data)
        error = None
    else:
        learn = learner(data, job)
        if job["method"] == "trained":
            learn.fit_one_cycle(EPOCHS, LR)
        found = [table.weight.detach().cpu().double().numpy()[1:] for table in learn.model.layers()[:2]]
        error = learn.validate() ** 0.5
    planted = [users[data.users.ids], items[data.items.ids]]  # in the order of the tables' rows
    angles = [angle(*spaces) for spaces in zip(planted, found, strict=True)]
    return Outcome({"angle": float(np.mean(angles)), "rmse": error})


def learner(data: CollabData, job: Run) -> CollabLearner:
    """The lesson's model, without a sigmoid, because the planted ratings have none."""
    return collab_learner(data, RANK, None, WD, seed=job.draw, device=job.device, quiet=True)


def angle(planted: np.ndarray, found: np.ndarray) -> float:
    """The largest principal angle, in degrees, between the spaces of the columns, means removed."""
    return float(np.degrees(subspace_angles(planted - planted.mean(0), found - found.mean(0))[0]))


def by_svd(data: CollabData) -> list[np.ndarray]:
    """The first singular vectors, of users and of items, of what users' and items' means leave of the training ratings.

    Pairs without a rating count as 0.
    """
    users, items, stars = (
        data.train.users.numpy() - 1,
        data.train.items.numpy() - 1,
        data.train.ratings.double().numpy(),
    )
    left = stars - stars.mean()
    for _ in range(20):  # means of users given those of items, and again: they converge in a few rounds
        for ids in (users, items):
            left = left - (np.bincount(ids, left) / np.bincount(ids))[ids]
    table = coo_array((left, (users, items)), shape=(len(data.users.ids), len(data.items.ids))).tocsr()
    found: tuple[np.ndarray, ...] = svds(table, RANK, random_state=0)
    return [found[0], found[2].T]


STUDY = Study(
    name="planted_factors",
    title="Planted factors",
    question="Do trained factors span what was planted?",
    run=run,
    data=("made-ratings",),
    arms={
        "trained": {"method": "trained", "signal": 1.0},
        "untrained": {"method": "untrained", "signal": 1.0},
        "SVD": {"method": "SVD", "signal": 1.0},
        "nothing planted": {"method": "trained", "signal": 0.0},
    },
    baseline="untrained",
    metrics={
        "angle": Metric("largest angle to the planted space, degrees", better="lower", smallest=5, resplit=False),
        "rmse": Metric("validation RMSE"),
    },
    parts=(
        beats("29a", "trained", "untrained", says="trained factors span what was planted", by=True),
        not_worse("29b", "trained", "SVD", says="they are as close to it as a singular value decomposition"),
        equals("", "nothing planted", "untrained", says="of factors that no rating depends on they span nothing"),
    ),
    resplits=False,
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="ten seconds"),
        "regular": Profile(seeds=20, trials=0, cost="ten seconds"),
        "full": Profile(seeds=40, trials=0, cost="twenty seconds"),
    },
    limits=(
        f"{RANK} factors, planted and learned: the right number is known.",
        f"{PlantedRatings.N_USERS} users, {PlantedRatings.N_ITEMS} items, {PlantedRatings.SHARE:.0%} of pairs rated; "
        "products of factors have a standard deviation of 1, noise of 0.5.",
        f"{EPOCHS} epochs, batches of 64, weight decay {WD:g}, rate {LR:g}: the lowest validation RMSE of a few on "
        "one draw. With the lesson's decay of 0.1 and its rate the model learns nothing of these factors.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
