"""Splits by time and by user, beside the random one."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch

from lesson import DataError, load_movielens, load_ratings
from lesson.data import Curves, open_movielens, open_ratings, split
from lesson.data.bunch import split_rows

ROWS = [("a", 1, 3, 50), ("b", 1, 4, 20), ("c", 2, 5, 50), ("a", 2, 1, 10), ("b", 3, 2, 50), ("c", 1, 4, 60)]


def written(folder, rows=ROWS, header="user,item,rating,timestamp", name="r.csv"):
    path = folder / name
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_by_time_the_latest_ratings_validate_and_ties_go_in_file_order(tmp_path):
    data = load_ratings(written(tmp_path), split="time", valid_pct=0.4)
    assert data.valid.ratings.tolist() == [2, 4], "of three at 50 the last in the file"
    assert data.train.ratings.tolist() == [3, 4, 5, 1]
    assert data.ratings.columns["time"] == "timestamp"
    seeds = [split(data.ratings, seed=seed, valid_pct=0.4).valid.ratings.tolist() for seed in range(5)]
    assert seeds == [[2, 4]] * 5


def test_movielens_by_time_never_trains_on_what_comes_after_validation_begins():
    data = load_movielens(split="time")
    ratings = data.ratings
    order = np.argsort(ratings.time, kind="stable")
    assert ratings.time[order[:90_000]].max() <= ratings.time[order[90_000:]].min()
    assert torch.equal(data.valid.ratings, torch.from_numpy(ratings.rating[order[90_000:]]))
    assert data.learnable_rows == 2_800
    assert not ratings.origin.resplits
    assert load_movielens().ratings.origin.resplits


@pytest.mark.parametrize(
    "times",
    [
        ["2011-01-01 10:00:00", "2011-01-01 10:00:01", "2010-12-31"],
        ["2011-01-01T12:00:00+03:00", "2011-01-01T09:00:01Z", "2011-01-01T08:59:59Z"],
        [1293876000, 1293876001, 1293875999],
        [1293876000.25, 1293876000.5, -1],
        ["10", "11", "9"],
        ["2011-01-01", "9999-12-31", "0001-01-01"],  # as databases write "never"
    ],
)
def test_times_may_be_numbers_or_dates(tmp_path, times):
    rows = [(f"u{k}", k % 2, k + 1, time) for k, time in enumerate(times)]
    for data in (
        load_ratings(written(tmp_path, rows), split="time", valid_pct=0.4),
        load_ratings(written(tmp_path, rows, "user,item,rating,at"), split="time", time="at", valid_pct=0.4),
    ):
        assert data.valid.ratings.tolist() == [2]


@pytest.mark.parametrize("word", ["now", "today", "NaT"])
def test_a_word_is_no_time(tmp_path, word):
    """pandas would take the clock's, another at each reading."""
    rows = [("a", 1, 1, "2011-01-01"), ("b", 1, 2, word), ("a", 2, 3, "2011-01-02")]
    with pytest.raises(DataError, match="is neither a number nor a date"):
        load_ratings(written(tmp_path, rows), split="time")


def test_times_of_a_parquet_file_may_be_timestamps(tmp_path):
    table = pd.DataFrame(ROWS, columns=["user", "item", "rating", "date"])
    table["date"] = pd.to_datetime(table["date"], unit="s")
    table.to_parquet(tmp_path / "r.parquet")
    assert load_ratings(tmp_path / "r.parquet", split="time", valid_pct=0.4).valid.ratings.tolist() == [2, 4]


def test_rows_without_a_rating_lose_their_time_too(tmp_path):
    rows = [*ROWS[:4], ("a", 3, 0, 99), *ROWS[4:]]
    data = load_ratings(written(tmp_path, rows), split="time", none=0, valid_pct=0.4)
    assert data.valid.ratings.tolist() == [2, 4]


def test_by_user_training_never_saw_who_validates():
    found = []
    for seed in (0, 0, 1):
        data = load_movielens(split="user", seed=seed)
        held = np.setdiff1d(data.ratings.user_ids, data.users.ids)
        assert len(held) == 94
        assert (data.valid.users == 0).all()
        assert len(data.valid) == np.isin(data.ratings.user_ids[data.ratings.user], held).sum()
        found.append(held.tolist())
    assert found[0] == found[1] != found[2]
    with pytest.raises(DataError, match="split=user: training would know no user"):
        data.ratings.learnable(2)


def test_other_splits_are_other_data():
    checksums = [open_movielens(split=by).checksum for by in (None, "random", "time", "user")]
    assert checksums[0] == checksums[1]
    assert len(set(checksums)) == 3


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"split": "item"}, "split='item': ratings are split by random, time or user"),
        ({"split": 3}, "split=3: text"),
        ({"time": "timestamp"}, "add split='time', or --split time"),
        ({"split": "time", "time": "rating"}, "must differ"),
        ({"split": "time", "time": "when"}, "no time column 'when'"),
    ],
)
def test_a_split_that_cannot_be_is_refused(tmp_path, how, says):
    with pytest.raises(DataError) as error:
        load_ratings(written(tmp_path), **how)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", ["", "soon", "nan", "inf", "2011-13-01"])
def test_a_bad_time_is_named_with_its_place_and_only_where_times_count(tmp_path, bad):
    path = written(tmp_path, [*ROWS[:2], ("c", 2, 5, bad), *ROWS[3:]])
    with pytest.raises(DataError, match=rf"r\.csv, line 4, column 'timestamp': '{bad}' is neither a number nor a date"):
        load_ratings(path, split="time", valid_pct=0.4)
    assert len(load_ratings(path, valid_pct=0.4).valid) == 2


def test_a_file_without_times_says_what_is_missing(tmp_path):
    path = written(tmp_path, [row[:3] for row in ROWS], "user,item,rating")
    with pytest.raises(DataError, match="no time column"):
        load_ratings(path, split="time")


def test_a_movielens_folder_takes_a_split_and_nothing_else(tmp_path):
    (tmp_path / "ratings.csv").write_bytes(written(tmp_path, ROWS, "userId,movieId,rating,timestamp", "x").read_bytes())
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,A,x\n2,B,x\n3,C,x\n")
    ratings = open_ratings(tmp_path, split="time")
    assert split(ratings, valid_pct=0.4).valid.ratings.tolist() == [2, 4]
    with pytest.raises(DataError, match="time='timestamp' is for a file"):
        open_ratings(tmp_path, split="time", time="timestamp")
    (tmp_path / "r.csv.gz").write_bytes(gzip.compress(written(tmp_path).read_bytes()))
    assert open_ratings(tmp_path / "r.csv.gz", split="time").time.tolist() == [row[3] for row in ROWS]


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_a_seed_that_torch_would_take_for_another_is_refused(seed):
    with pytest.raises(DataError, match=r"seed=.*: a whole number"):
        split_rows(10, seed, 0.2, "10 digits")
    with pytest.raises(DataError, match=r"seed=.*: a whole number"):
        Curves().split(seed)
