"""The file of what a model has learned about the items."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch

from lesson import DataError, collab_learner, load_ratings


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "r.csv"
    lines = (f"u{u},{i},{1 + (u * i + u) % 5}" for u in range(8) for i in range(5))
    path.write_text("\n".join(["user,item,rating", *lines]) + "\n")
    return collab_learner(load_ratings(path), n_factors=2, y_range=(0, 6), backend="reference", quiet=True)


def test_the_file_holds_what_the_learner_says(learned, tmp_path):
    learned.export(tmp_path / "films.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["films.parquet"]
    table = pyarrow.parquet.read_table(tmp_path / "films.parquet")
    about = json.loads(table.schema.metadata[b"dotbias"])
    assert (about["name"], about["size"]["ratings"]) == ("MovieLens 100k", 100_000)
    assert "GroupLens" in about["terms"]
    rows = table.to_pandas()
    assert rows["bias"].is_monotonic_decreasing
    assert sorted(rows["item"].map(int)) == learned.data.items.ids.tolist()
    assert np.array_equal(rows["bias"], learned.bias(rows["item"].tolist()).numpy())
    assert np.array_equal(np.stack(rows["factors"]), learned.weight(rows["item"].tolist()).numpy())
    star_wars = rows.set_index("item").loc["50"]
    assert (star_wars["title"], star_wars["count"], star_wars["mean"]) == ("Star Wars (1977)", 583, 4.3584905660377355)
    assert list(star_wars["genres"]) == ["Action", "Adventure", "Romance", "Sci-Fi", "War"]
    there = rows[rows["components"].notna()].set_index("item")
    top = learned.data.top_items(1000)
    assert set(there.index) == set(map(str, top))
    components = np.stack(there.loc[list(map(str, top)), "components"])
    np.testing.assert_array_equal(components, learned.weight(top).pca(3).numpy())


def test_items_without_titles_or_genres_and_few_factors_are_written(small, tmp_path):
    small.export(tmp_path / "f.parquet")
    rows = pd.read_parquet(tmp_path / "f.parquet")
    assert sorted(rows["item"]) == sorted(rows["title"]) == ["0", "1", "2", "3", "4"]
    assert rows["genres"].isna().all()
    assert rows["components"].map(len).tolist() == [2] * 5


def test_a_file_that_cannot_be_written_loses_nothing(small, tmp_path):
    path = tmp_path / "f.parquet"
    small.export(path)
    before = path.read_bytes()
    with torch.no_grad():
        small.model.i_bias.weight[2] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        small.export(path)
    assert path.read_bytes() == before
    for bad in (tmp_path / "no folder" / "f.parquet", tmp_path, None, 7):
        with pytest.raises(DataError):
            small.export(bad)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["f.parquet", "r.csv"]
