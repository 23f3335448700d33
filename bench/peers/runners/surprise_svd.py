"""Surprise's SVD: stochastic gradient descent on factors and biases, in Cython."""

from __future__ import annotations

import pandas as pd
from protocol import serve
from surprise import SVD, Dataset, Reader


def prepare(ratings, settings):
    table = pd.DataFrame({"user": ratings.users, "item": ratings.items, "rating": ratings.ratings})
    return Dataset.load_from_df(table, Reader(rating_scale=(1, 5))).build_full_trainset()


def train(trainset, seed, epochs, settings, after_epoch):
    model = SVD(n_factors=settings["n_factors"], n_epochs=epochs, random_state=seed).fit(trainset)

    def predict(users, items):
        return [model.predict(user, item).est for user, item in zip(users.tolist(), items.tolist(), strict=True)]

    after_epoch(predict, epochs)


if __name__ == "__main__":
    serve(prepare, train, ["scikit-surprise", "numpy"])
