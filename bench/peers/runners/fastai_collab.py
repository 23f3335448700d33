"""fastai's collab_learner: as it comes, or with the loader that draws every row once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelValidException
from fastai.collab import TabularCollab, collab_learner
from fastai.data.block import TransformBlock
from fastai.tabular.all import Categorify, TabDataLoader  # `all` also adds fit_one_cycle to learners
from fastai.torch_core import set_seed
from protocol import serve


def prepare(ratings, settings):
    # As CollabDataLoaders.from_df, without its random split; fastai needs validation rows, and the first ones will do.
    table = pd.DataFrame({"user": ratings.users, "item": ratings.items, "rating": ratings.ratings})
    splits = list(range(len(table))), list(range(len(table), len(table) + 64))
    table = pd.concat([table, table[:64]], ignore_index=True)
    kinds = {"y_names": ["rating"], "y_block": TransformBlock(), "splits": splits}
    table = TabularCollab(table, [Categorify], ["user", "item"], **kinds)
    replacement = settings["replacement"]
    return table.dataloaders(bs=settings["bs"], **({} if replacement else {"dl_type": TabDataLoader}))


class Interrupted(Callback):
    """Calls back after the training of each epoch, and skips fastai's own validation."""

    def __init__(self, after_epoch):
        self.report = after_epoch

    def after_train(self):
        self.report(self.predict, self.epoch + 1)

    def before_validate(self):
        raise CancelValidException

    def predict(self, users, items):
        classes = self.dls.classes
        rows = [row_of(classes[name], ids) for name, ids in (("user", users), ("item", items))]
        self.model.eval()
        with torch.no_grad():
            return self.model(torch.from_numpy(np.stack(rows, axis=1)))


def row_of(classes, ids):
    """Rows of a table; ids without a row get that of #na#."""
    known = {key: row for row, key in enumerate(classes)}
    return np.array([known.get(key, 0) for key in ids.tolist()])


def train(loaders, seed, epochs, settings, after_epoch):
    set_seed(seed)
    learn = collab_learner(
        loaders, n_factors=settings["n_factors"], y_range=tuple(settings["y_range"]), wd=settings["wd"]
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, settings["lr"], cbs=Interrupted(after_epoch))


def epoch_rows(loaders):
    """(user, item) of every row of one epoch's batches: no user rated an item twice."""
    set_seed(0)
    return [tuple(row) for batch, _ in loaders.train for row in batch.tolist()]


if __name__ == "__main__":
    serve(prepare, train, ["fastai", "torch"], epoch_rows)
