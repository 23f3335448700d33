"""cornac's MF: stochastic gradient descent on factors and biases, in Cython."""

from __future__ import annotations

from cornac.data import Dataset
from cornac.models import MF
from protocol import serve


def prepare(ratings, settings):
    return Dataset.from_uir(list(zip(*(column.tolist() for column in ratings), strict=True)))


def train(data, seed, epochs, settings, after_epoch):
    model = MF(k=settings["k"], max_iter=epochs, seed=seed)
    model.fit(data)

    def predict(users, items):
        ids = zip(users.tolist(), items.tolist(), strict=True)
        return [model.rate(data.uid_map.get(user, -1), data.iid_map.get(item, -1)) for user, item in ids]

    after_epoch(predict, epochs)


if __name__ == "__main__":
    serve(prepare, train, ["cornac", "numpy"])
