"""myFM: a Bayesian factorization machine; its predictions average the samples of a Gibbs sampler."""

from __future__ import annotations

import numpy as np
from myfm import MyFMRegressor
from protocol import serve
from scipy import sparse


def prepare(ratings, settings):
    return one_hot(ratings.users, ratings.items, ratings), ratings


def one_hot(users, items, training):
    """Two ones per row, [n, users + items]; zeros for an id that training never saw."""
    n_users, n_items = (int(ids.max()) + 1 for ids in training[:2])
    rows = np.repeat(np.arange(len(users)), 2)
    columns = np.stack([users, n_users + items], axis=1).ravel()
    seen = np.stack([users > 0, items > 0], axis=1).ravel().astype(np.float64)
    return sparse.csr_matrix((seen, (rows, columns)), shape=(len(users), n_users + n_items))


def train(prepared, seed, epochs, settings, after_epoch):
    features, training = prepared
    groups = [int(ids.max()) + 1 for ids in training[:2]]
    model = MyFMRegressor(rank=settings["rank"], random_seed=seed)
    model.fit(features, training.ratings, n_iter=epochs, n_kept_samples=epochs, group_shapes=groups)
    after_epoch(lambda users, items: model.predict(one_hot(users, items, training)), epochs)


if __name__ == "__main__":
    serve(prepare, train, ["myfm", "numpy"])
