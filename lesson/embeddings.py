"""What a net for tables has learnt about categories, as a Parquet file that other programs and `reports` can read."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import torch

from lesson import saving
from lesson.checks import DataError
from lesson.data import TabularData
from lesson.interpretation import pca
from lesson.models import TabularModel

COMPONENTS = 2


def write(path: str | Path, model: TabularModel, data: TabularData) -> None:
    """Write the file; see `TabularLearner.export`.

    Raises:
        DataError: the model has no embeddings or holds numbers that are not finite, or the file cannot be written.
    """
    if not data.categories:
        raise DataError("export: the table has no categories, so the net has no embeddings")
    parts = []
    for category, embedding, ids in zip(data.categories, model.embeds, data.train.tensors[0].T, strict=True):
        table = embedding.state_dict()["weight"]  # of a deferred embedding, too, up to date
        weights = table.detach().cpu()[1:]  # row 0 is for what no training row has
        if not weights.isfinite().all():
            raise DataError("export: the model holds numbers that are not finite; train it again with a smaller rate")
        components = pca(weights, min(COMPONENTS, *weights.shape)).tolist() if len(weights) else []
        part = {
            "category": pyarrow.array([category.name] * len(weights), pyarrow.string()),
            "value": pyarrow.array(map(str, category.vocab.ids.tolist()), pyarrow.string()),
            "count": torch.bincount(ids, minlength=len(weights) + 1)[1:].numpy(),
            "factors": pyarrow.array(weights.tolist(), pyarrow.list_(pyarrow.float32())),
            "components": pyarrow.array(components, pyarrow.list_(pyarrow.float32())),
        }
        parts.append(pyarrow.table(part).sort_by([("count", "descending"), ("value", "ascending")]))
    source = data.source
    about = {"name": source.name, "target": source.target.name, "terms": source.terms, "citation": source.citation}
    saving.write_parquet(pyarrow.concat_tables(parts), path, about)
