"""What a net for tables has learned about categories, as a Parquet file that other programs and `reports` can read."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import torch
from torch import Tensor

from lesson import saving
from lesson.checks import DataError
from lesson.data import TabularData
from lesson.films import TOP
from lesson.interpretation import pca, widened
from lesson.models import TabularModel

COMPONENTS = 2
FACTORS = pyarrow.list_(pyarrow.float32())


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
        weights = widened(table.detach().cpu()[1:])  # row 0 is for what no training row has
        if not weights.isfinite().all():
            raise DataError("export: the model holds numbers that are not finite; train it again with a smaller rate")
        lists = pyarrow.FixedSizeListArray.from_arrays(weights.flatten().numpy(), weights.shape[1])
        counts = torch.bincount(ids, minlength=len(table))[1:]
        part = {
            "category": pyarrow.array([category.name] * len(weights), pyarrow.string()),
            "value": pyarrow.array(map(str, category.vocab.ids.tolist()), pyarrow.string()),
            "count": counts.numpy(),
            "factors": lists.cast(FACTORS),
            "components": pyarrow.array(_components(weights, counts), FACTORS),
        }
        parts.append(pyarrow.table(part).sort_by([("count", "descending"), ("value", "ascending")]))
    source = data.source
    about = {"name": source.name, "target": source.target.name, "terms": source.terms, "citation": source.citation}
    saving.write_parquet(pyarrow.concat_tables(parts), path, about)


def _components(weights: Tensor, counts: Tensor) -> list[list[float] | None]:
    """The components of the most frequent values' weights, `TOP` at most; None for the others."""
    found: list[list[float] | None] = [None] * len(weights)
    top = counts.argsort(descending=True, stable=True)[:TOP]
    if len(top):
        components = pca(weights[top], min(COMPONENTS, len(top), weights.shape[1]))
        for row, numbers in zip(top.tolist(), components.tolist(), strict=True):
            found[row] = numbers
    return found
