"""myFM with everything that is known, as in its examples of MovieLens 100k and 1M: blocks of users and of films.

A row has the day of its rating; a user the films rated, age, sex, occupation and zip code; a film the users who rated
it, genres and year. An id or a day that training never saw has only zeros.
"""

from __future__ import annotations

import numpy as np
from myfm import MyFMOrderedProbit, MyFMRegressor, RelationBlock
from protocol import serve
from scipy import sparse

DAY = 24 * 60 * 60
STARS = np.arange(1, 6)


def one_hot(values, known):
    """A one in the column of each value, [n, known]; zeros for a value that is not known."""
    columns = np.minimum(np.searchsorted(known, values), len(known) - 1)
    ones = (known[columns] == values).astype(np.float64)
    return sparse.csr_matrix((ones, (np.arange(len(values)), columns)), shape=(len(values), len(known)))


def each(values):
    return one_hot(values, np.unique(values))


def over_root(flags):
    """Ones divided by the root of their number in the row."""
    counts = np.maximum(np.asarray(flags.sum(1)).ravel(), 1)
    return sparse.csr_matrix(sparse.diags(counts**-0.5) @ flags)


def prepare(everything, settings):
    rows, about = everything.rows, everything.about
    n_users, n_films = len(about.ages), len(about.years)
    rated = sparse.csr_matrix((np.ones(len(rows.users)), (rows.users, rows.films)), shape=(n_users, n_films))
    zips = about.zips.astype("U1")
    users = [one_hot(np.arange(n_users), np.unique(rows.users)), over_root(rated)]
    users += map(each, (about.ages // 5, about.sexes, about.occupations, zips))
    films = [one_hot(np.arange(n_films), np.unique(rows.films)), over_root(rated.T.tocsr())]
    films += [over_root(sparse.csr_matrix(about.genres.astype(np.float64))), each(about.years)]
    days = np.unique(rows.seconds // DAY)
    groups = [len(days), *(part.shape[1] for part in (*users, *films))]
    tables = sparse.hstack(users).tocsr(), sparse.hstack(films).tocsr()
    return features(rows, days, tables), everything.ratings, groups, days, tables


def features(rows, days, tables):
    """The matrix of days, and the blocks of users and films."""
    blocks = [RelationBlock(ids, table) for ids, table in zip((rows.users, rows.films), tables, strict=True)]
    return one_hot(rows.seconds // DAY, days), blocks


def train(prepared, seed, epochs, settings, after_epoch):
    (matrix, blocks), ratings, groups, days, tables = prepared
    ordinal = settings["output"] == "ordered probit"
    model = (MyFMOrderedProbit if ordinal else MyFMRegressor)(rank=settings["rank"], random_seed=seed)
    stars = ratings.astype(np.int64) - 1 if ordinal else ratings
    kept = max(epochs - 5, 1)  # its own default, for more than five
    model.fit(matrix, stars, X_rel=blocks, n_iter=epochs, n_kept_samples=kept, group_shapes=groups)

    def predict(rows):
        asked = features(rows, days, tables)
        return model.predict_proba(*asked) @ STARS if ordinal else model.predict(*asked)

    after_epoch(predict, epochs)


if __name__ == "__main__":
    serve(prepare, train, ["myfm", "numpy"], everything=True)
