"""LensKit's biased matrix factorization by alternating least squares, with its fallback to biases."""

from __future__ import annotations

import numpy as np
import pandas as pd
from lenskit import predict as predict_ratings
from lenskit.als import BiasedMFScorer
from lenskit.data import ItemList, from_interactions_df
from lenskit.pipeline import predict_pipeline
from lenskit.training import TrainingOptions
from protocol import serve


def prepare(ratings, settings):
    columns = {"user_id": ratings.users, "item_id": ratings.items, "rating": ratings.ratings}
    return from_interactions_df(pd.DataFrame(columns))


def train(data, seed, epochs, settings, after_epoch):
    scorer = BiasedMFScorer(embedding_size=settings["embedding_size"], epochs=epochs, user_embeddings="prefer")
    pipeline = predict_pipeline(scorer)
    pipeline.train(data, TrainingOptions(rng=seed))

    def predict(users, items):
        scores = np.empty(len(users))
        for user in np.unique(users):
            rows = np.flatnonzero(users == user)
            # LensKit takes an item once; several that training never saw are all item 0.
            once, places = np.unique(items[rows], return_inverse=True)
            scores[rows] = predict_ratings(pipeline, int(user), ItemList(once)).scores()[places]
        return scores

    after_epoch(predict, epochs)


if __name__ == "__main__":
    serve(prepare, train, ["lenskit", "numpy"])
