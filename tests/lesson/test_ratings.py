import re

import numpy as np
import pandas as pd
import pytest

from lesson.data import DataError, RepeatedRatingsWarning, read_ratings

GOOD = "user,item,rating\nann,dune,4\nbob,dune,3\nann,alien,5\n"


def write(folder, text, name="r.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_csv_with_any_ids_is_read(tmp_path):
    ratings = read_ratings(write(tmp_path, GOOD))
    assert ratings.user_ids.tolist() == ["ann", "bob"]
    assert ratings.item_ids.tolist() == ["alien", "dune"]
    assert ratings.user.tolist() == [0, 1, 0]
    assert ratings.item.tolist() == [1, 1, 0]
    assert ratings.rating.tolist() == [4, 3, 5]
    assert ratings.name == "r"


@pytest.mark.parametrize("name", ["r.tsv", "r.parquet", "r.pq"])
def test_tsv_and_parquet_say_the_same_as_csv(tmp_path, name):
    frame = pd.read_csv(write(tmp_path, GOOD))
    path = tmp_path / name
    if name == "r.tsv":
        frame.to_csv(path, sep="\t", index=False)
    else:
        frame.to_parquet(path)
    one, other = read_ratings(tmp_path / "r.csv"), read_ratings(path)
    for field in ("user", "item", "rating", "user_ids", "item_ids"):
        assert (getattr(one, field) == getattr(other, field)).all()


def test_whole_numbers_are_ids_as_integers_and_sort_as_numbers(tmp_path):
    ratings = read_ratings(write(tmp_path, "user,item,rating\n10,1,4\n9,1,3\n"))
    assert ratings.user_ids.tolist() == [9, 10]


def test_ids_stay_what_they_are(tmp_path):
    ratings = read_ratings(write(tmp_path, "user,item,rating\n007,NA,4\n7,null,3\n"))
    assert ratings.user_ids.tolist() == ["007", "7"]
    assert ratings.item_ids.tolist() == ["NA", "null"]


def test_columns_are_found_by_their_usual_names_or_by_yours(tmp_path):
    text = "userId,movieId,rating,timestamp\n1,2,3,0\n2,2,4,0\n"
    assert read_ratings(write(tmp_path, text)).rating.tolist() == [3, 4]
    other = write(tmp_path, text.replace("rating", "fun"), "s.csv")
    with pytest.raises(DataError, match=r"no rating column .*the columns are \['userId', 'movieId', 'fun'"):
        read_ratings(other)
    assert read_ratings(other, rating="fun").rating.tolist() == [3, 4]


def test_the_range_for_the_sigmoid_is_a_little_wider_than_the_ratings(tmp_path):
    assert read_ratings(write(tmp_path, "user,item,rating\n1,1,1\n2,1,5\n")).y_range == (0.5, 5.5)


def test_quoted_fields_blank_lines_and_a_byte_order_mark_are_read(tmp_path):
    text = '\ufeffuser,item,rating\n\n"a,b","dune\npart two",4\n\nbob,dune,3\n'
    ratings = read_ratings(write(tmp_path, text))
    assert ratings.user_ids.tolist() == ["a,b", "bob"]
    assert ratings.item_ids.tolist() == ["dune", "dune\npart two"]


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        (GOOD.replace("5", "five"), "r.csv", "r.csv, line 4, column 'rating': 'five' is not a finite number"),
        (GOOD.replace("5", "inf"), "r.csv", "line 4, column 'rating': 'inf' is not a finite number"),
        (GOOD.replace("5", "1e39"), "r.csv", "line 4, column 'rating': '1e39' is not a finite number"),
        (GOOD.replace("5", "nan"), "r.csv", "line 4, column 'rating': 'nan' is not a finite number"),
        (GOOD.replace("5", ""), "r.csv", "line 4, column 'rating': '' is not a finite number"),
        (GOOD.replace("bob", " "), "r.csv", "line 3, column 'user': no id"),
        ('user,item,rating\n\n"a\nb",dune,4\nbob,dune,x\n', "r.csv", "line 5, column 'rating': 'x'"),
        ("", "r.csv", "the file is empty"),
        (" \n ", "r.csv", "the file is empty"),
        ("user,item,rating\n", "r.csv", "a header and no ratings"),
        (GOOD.replace(",", ";"), "r.csv", "commas are expected, and line 1 holds semicolons"),
        (GOOD, "r.tsv", "tabs are expected, and line 1 holds commas"),
        (GOOD + "bob,alien,3,9\n", "r.csv", "line 5"),
        (GOOD + "bob\n", "r.csv", "line 5, column 'rating'"),
        ("user,item,rating\na,b,1,x\nb,b,2,x\n", "r.csv", "Length of header"),
        (GOOD.replace("bob", "ann"), "r.csv", "one user only ('ann')"),
        ("user,item,rating\na,x,3\nb,x,3\n", "r.csv", "every rating is 3"),
        (GOOD.encode() + b"caf\xe9,dune,3\n", "r.csv", "line 5, column 1: byte 0xe9 is not valid utf-8"),
        (GOOD, "r.xlsx", "ratings are read from .csv (commas), .tsv (tabs) or .parquet, not .xlsx"),
        (GOOD, "r.parquet", "not a Parquet file"),
    ],
)
def test_bad_input_is_one_error_that_says_where(tmp_path, text, name, complaint):
    path = write(tmp_path, text, name)
    with pytest.raises(DataError, match=re.escape(complaint)) as error:
        read_ratings(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match=r"none.csv: cannot be read \(No such file"):
        read_ratings(tmp_path / "none.csv")


def test_a_parquet_rating_that_is_missing_is_named_by_its_row(tmp_path):
    pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [3.0, np.nan]}).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(DataError, match="row 2, column 'rating'"):
        read_ratings(tmp_path / "r.parquet")


def test_dates_are_no_ratings(tmp_path):
    pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": pd.to_datetime(["2020", "2021"])}).to_parquet(
        tmp_path / "r.parquet"
    )
    with pytest.raises(DataError, match=r"column 'rating': datetime64.* are no ratings"):
        read_ratings(tmp_path / "r.parquet")


def test_a_parquet_index_is_a_column_too(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [3.0, 4.0]})
    frame.set_index("user").to_parquet(tmp_path / "r.parquet")
    assert read_ratings(tmp_path / "r.parquet").user_ids.tolist() == [1, 2]


def test_repeated_pairs_are_kept_and_reported(tmp_path):
    with pytest.warns(RepeatedRatingsWarning, match=r"1 of 4 ratings repeat .*at line 5 \(user ann, item dune\)"):
        ratings = read_ratings(write(tmp_path, GOOD + "ann,dune,2\n"))
    assert len(ratings) == 4
    assert ratings.repeated == 1
