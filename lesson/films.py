"""What a model has learned about the items, as a Parquet file that other programs and `reports` can read."""

from __future__ import annotations

from pathlib import Path

import pyarrow

from lesson import checks, saving
from lesson.data import CollabData
from lesson.interpretation import pca, widened
from lesson.models import EmbeddingDotBias

TOP, COMPONENTS = 1000, 3  # as in the notes (claims 42, 43)


def write(path: str | Path, model: EmbeddingDotBias, data: CollabData) -> None:
    """Write the file; see `CollabLearner.export`.

    Raises:
        DataError: the model holds numbers that are not finite, or the file cannot be written.
    """
    _, factors, _, bias = (widened(table.detach().cpu()) for table in model.tables())
    checks.finite("export", factors, bias)
    keys, numbers, top = data.items.ids.tolist(), data.item_ratings, data.top_items(TOP)
    rows = data.items.rows(top)
    found = pca(factors[rows], min(COMPONENTS, len(top), factors.shape[1]))
    components = dict(zip(rows.tolist(), found.tolist(), strict=True))
    table = pyarrow.table(
        {
            "item": list(map(str, keys)),
            "title": [data.title(key) for key in keys],
            "bias": bias[1:].numpy(),
            "factors": factors[1:].tolist(),
            "mean": numbers["mean"].to_numpy(),
            "count": numbers["count"].to_numpy(),
            "genres": pyarrow.array([data.ratings.genres.get(key) for key in keys], pyarrow.list_(pyarrow.string())),
            "components": pyarrow.array(
                [components.get(row) for row in range(1, len(keys) + 1)], pyarrow.list_(pyarrow.float32())
            ),
        }
    ).sort_by([("bias", "descending"), ("item", "ascending")])
    ratings = data.ratings
    about = {"name": ratings.name, "terms": ratings.terms, "citation": ratings.citation, "size": ratings.origin.size}
    saving.write_parquet(table, path, about)
