"""The file of what a net for tables has learned about categories."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch

from lesson import DataError, load_table, tabular_learner
from lesson.data import load_flights
from lesson.interpretation import pca


def learner(folder, rows=None, deferred=False):
    """A net whose shop "b" is rare, and whose kind has two values."""
    rows = rows or [f"{'aaac'[k % 4]},{'xy'[k % 2]},{k % 7},{k % 3 > 0}" for k in range(80)] + ["b,x,1,True"] * 4
    (folder / "t.csv").write_text("\n".join(["shop,kind,size,sold", *rows]))
    return tabular_learner(load_table(folder / "t.csv", "sold"), deferred=deferred, quiet=True)


@pytest.mark.parametrize("deferred", [False, True])
def test_the_file_holds_every_value_that_training_rows_have_with_its_factors(tmp_path, deferred):
    learn = learner(tmp_path, deferred=deferred)
    learn.fit(1)
    learn.export(tmp_path / "e.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    about = json.loads(table.schema.metadata[b"dotbias"])
    assert (about["name"], about["target"]) == ("t", "sold")
    rows = table.to_pandas()
    assert list(rows["category"].unique()) == [category.name for category in learn.data.categories]
    for place, category in enumerate(learn.data.categories):
        own = rows[rows["category"] == category.name].set_index("value")
        ids, weights = learn.data.train.tensors[0][:, place], learn.model.embeds[place].weight.detach()
        assert own["count"].is_monotonic_decreasing
        for value in category.vocab.ids.tolist():
            row = category.vocab.row(value)
            assert own["count"][str(value)] == (ids == row).sum()
            np.testing.assert_array_equal(own["factors"][str(value)], weights[row].numpy())
        values = list(map(str, category.vocab.ids.tolist()))
        found = np.stack(own.loc[values, "components"])
        np.testing.assert_array_equal(found, pca(torch.as_tensor(weights[1:]), found.shape[1]).numpy())


def test_only_the_most_frequent_values_have_components(tmp_path, monkeypatch):
    monkeypatch.setattr("lesson.embeddings.TOP", 2)
    learner(tmp_path).export(tmp_path / "e.parquet")
    shop = pd.read_parquet(tmp_path / "e.parquet").query("category == 'shop'").set_index("value")
    assert shop["components"].notna().to_dict() == {"a": True, "c": True, "b": False}
    assert shop["factors"].notna().all()


def test_without_categories_or_with_numbers_that_are_not_finite_nothing_is_written(tmp_path):
    learn = learner(tmp_path)
    with torch.no_grad():
        learn.model.embeds[0].weight[1] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        learn.export(tmp_path / "e.parquet")
    (tmp_path / "n.csv").write_text("\n".join(["size,sold", *(f"{k * k % 17}.5,{'yn'[k % 2]}" for k in range(60))]))
    numbers = tabular_learner(load_table(tmp_path / "n.csv", "sold"), quiet=True)
    with pytest.raises(DataError, match="no categories"):
        numbers.export(tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


def test_a_table_that_is_not_split_is_told_how():
    with pytest.raises(DataError, match=r"pass it split, such as load_flights\(\)\.split\(\)"):
        tabular_learner(load_flights())


def test_pandas_reads_the_file(tmp_path):
    learner(tmp_path).export(tmp_path / "e.parquet")
    assert set(pd.read_parquet(tmp_path / "e.parquet")) == {"category", "value", "count", "factors", "components"}
