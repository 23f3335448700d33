"""Claims 39 and 40: what does a film's bias say?

The lesson's model and recipe on MovieLens 100k, for the 1,000 films with the most ratings, as in the lesson. The films
of the lowest and the highest biases are compared with note B's lists of the 15 worst and the 15 best, and so is a
ranking by mean rating. Then each film's rank by bias minus its rank by mean rating is compared with the harshness of
those who rated it. Biases and means come from the training rows, harshness from the validation rows, because errors
that a bias shares with a mean must not count. Each seed draws its own split, initialization and batch order.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import rankdata, spearmanr

from lesson import collab_learner
from lesson.data import CollabData, Ratings, split
from studies.exact.films import BEST, WORST
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, exceeds
from studies.new_users import DAMPING, damped

EPOCHS, WD, LR = 5, 0.1, 5e-3
MOST_RATED = 1_000
ROUNDS = 20  # of fitting the additive model
ENOUGH = 10  # of the fifteen listed films


def run(job: Run, ratings: Ratings) -> Outcome:
    """One training."""
    data = split(ratings, seed=job.seed)
    learn = collab_learner(data, 40, data.y_range, WD, seed=job.draw, device=job.device, quiet=True)
    learn.fit_one_cycle(EPOCHS, LR)
    mean, films = damped(data, 0), data.items.rows(data.top_items(MOST_RATED))
    bias = learn.model.i_bias.weight.detach().cpu().numpy()[films, 0].astype(float)
    titles = [data.title(data.items.key(film)) for film in films.tolist()]
    harshness = harshness_of_raters(data, mean)[films]
    mean, shrunk = mean[films], damped(data, DAMPING)[films]
    by_bias, by_count, by_additive = (
        beyond_the_mean(effect, mean, harshness) for effect in (bias, shrunk, additive(data)[films])
    )
    return Outcome.of(
        learn,
        rmse=learn.history[-1].valid_loss ** 0.5,
        worst=overlap(titles, bias, WORST),
        best=overlap(titles, -bias, BEST),
        worst_by_mean=overlap(titles, mean, WORST),
        best_by_mean=overlap(titles, -mean, BEST),
        harshness=None if by_bias is None or by_count is None else by_bias - max(0.0, by_count),
        by_bias=by_bias,
        by_count=by_count,
        by_additive=by_additive,
    )


def harshness_of_raters(data: CollabData, mean: np.ndarray) -> np.ndarray:
    """For each row of the item table, how far those who rated it in training stay below other films' means.

    A user's harshness is the mean, over the validation rows, of a film's mean minus the rating. Users without such a
    row are left out; a film that only these have rated gets NaN.
    """
    users, items, stars = (column.numpy() for column in data.valid[:])
    known = (users > 0) & (items > 0)
    rows = np.bincount(users[known], minlength=len(data.users))
    below = np.bincount(users[known], mean[items[known]] - stars[known], minlength=len(data.users))
    users, items = data.train.users.numpy(), data.train.items.numpy()
    heard = rows[users] > 0
    total = np.bincount(items[heard], (below / np.maximum(rows, 1))[users[heard]], minlength=len(mean))
    raters = np.bincount(items[heard], minlength=len(mean))
    return np.where(raters > 0, total / np.maximum(raters, 1), np.nan)


def additive(data: CollabData) -> np.ndarray:
    """Film effects, for each row of the item table, of an additive model that has user effects too.

    Both are shrunk by count, and fitted in turns until they no longer change.
    """
    users, items, stars = (column.numpy() for column in data.train[:])
    left = stars.astype(float) - stars.mean(dtype=float)
    of_user, of_film = np.zeros(len(data.users)), np.zeros(len(data.items))
    for _ in range(ROUNDS):
        of_film = np.bincount(items, left - of_user[users], len(of_film)) / (data.rated.numpy() + DAMPING)
        of_user = np.bincount(users, left - of_film[items], len(of_user)) / (
            np.bincount(users, None, len(of_user)) + DAMPING
        )
    return of_film


def overlap(titles: list[str], score: np.ndarray, listed: dict[str, float]) -> float | None:
    """How many of the films of the lowest scores are listed; None if the data lacks some of those listed."""
    if not listed.keys() <= set(titles):
        return None
    lowest = np.argsort(score, kind="stable")[: len(listed)]
    return len(listed.keys() & {titles[film] for film in lowest})


def beyond_the_mean(effect: np.ndarray, mean: np.ndarray, harshness: np.ndarray) -> float | None:
    """Spearman's correlation of rank by effect minus rank by mean with harshness; None if there is none."""
    heard = ~np.isnan(harshness)
    differences = (rankdata(effect) - rankdata(mean))[heard]
    if len(differences) < 3 or np.ptp(differences) == 0 or np.ptp(harshness[heard]) == 0:
        return None
    found = float(spearmanr(differences, harshness[heard]).statistic)
    return None if math.isnan(found) else found


STUDY = Study(
    name="top_films",
    title="Films by bias",
    question="Are the films of the lowest bias those that the notes list as bad?",
    run=run,
    data=("movielens",),
    arms={"lesson": {}},
    metrics={
        "rmse": Metric("validation RMSE"),
        "worst": Metric("of the 15 films of lowest bias, how many are listed", "higher", 1, resplit=False),
        "best": Metric("of the 15 films of highest bias, how many are listed", "higher", 1, resplit=False),
        "harshness": Metric("correlation of bias beyond the mean with harshness, over that by count", "higher", 0.1),
        "worst_by_mean": Metric("of the 15 films of lowest mean rating, how many are listed"),
        "best_by_mean": Metric("of the 15 films of highest mean rating, how many are listed"),
        "by_bias": Metric("correlation of bias beyond the mean with harshness"),
        "by_count": Metric("the same of film effects shrunk by count"),
        "by_additive": Metric("the same of film effects beside user effects"),
    },
    parts=(
        exceeds("39a", "lesson", ENOUGH, f"more than {ENOUGH} of the 15 films of lowest bias are listed", "worst"),
        exceeds("39b", "lesson", ENOUGH, f"more than {ENOUGH} of the 15 films of highest bias are listed", "best"),
        exceeds("40", "lesson", 0, "what a bias has beyond the mean goes with the raters' harshness", "harshness"),
    ),
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="ten seconds"),
        "regular": Profile(seeds=20, trials=0, cost="a minute and a half"),
        "full": Profile(seeds=40, trials=0, cost="three minutes"),
    },
    names={"lesson": "the lesson's model"},
    limits=(
        f"The recipe: 40 factors, {EPOCHS} epochs, batches of 64, weight decay {WD:g}; nothing is tuned.",
        "The lists come from one training of the lesson's notebook.",
        "A user has about ten validation rows, so harshness is measured with errors: correlations are too small.",
        f"Film effects shrunk by count are means with {DAMPING} ratings of the overall mean added; they ignore users. "
        "The film effects of an additive model that has user effects show how large the correlation can be.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
