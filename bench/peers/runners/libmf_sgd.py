"""LIBMF: parallel stochastic gradient descent on factors without biases."""

from __future__ import annotations

import os

import numpy as np
from protocol import serve


def prepare(ratings, settings):
    return np.stack(ratings, axis=1).astype(np.float32)


def train(triples, seed, epochs, settings, after_epoch):
    from libmf.mf import MF  # imported here because it prints, which must not mix with the answers

    model = MF(
        k=settings["k"],
        nr_iters=epochs,
        lambda_p2=settings["lambda"],
        lambda_q2=settings["lambda"],
        nr_threads=int(os.environ["OMP_NUM_THREADS"]),
        quiet=True,
    )
    model.fit(triples)

    def predict(users, items):
        # The package's own predict passes its factors wrongly, so the product is computed here.
        scores = np.einsum("nk,nk->n", model.p_factors()[users], model.q_factors()[items])
        return np.where(np.isfinite(scores) & (items > 0), scores, model.model.b)

    after_epoch(predict, epochs)


if __name__ == "__main__":
    serve(prepare, train, ["libmf", "numpy"])
