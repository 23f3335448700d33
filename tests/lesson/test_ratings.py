import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from lesson import load_ratings
from lesson.data import DataError, RepeatedRatingsWarning, read_ratings
from lesson.data.ratings import repeats

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
    with pytest.raises(DataError, match=r"no rating column .*the columns are 'userId', 'movieId', 'fun'"):
        read_ratings(other)
    assert read_ratings(other, rating="fun").rating.tolist() == [3, 4]


def test_the_range_for_the_sigmoid_is_a_little_wider_than_the_ratings(tmp_path):
    assert read_ratings(write(tmp_path, "user,item,rating\n1,1,1\n2,1,5\n")).y_range == (0.5, 5.5)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ('"user", "item", "rating"\n"ann", "the ""old"" dune", 4\nbob, "alien" , "3"\n', {}),
        ('user,item,rating\n"ann","the ""old"" dune",4\nbob, "alien" ,3\n', {}),
        ('"user"||"item"||"rating"\n"ann"||"the ""old"" dune"||4\nbob|| "alien" ||"3"\n', {"sep": "||"}),
        ('"user", "item", "rating"\n"ann", "the ""old"" dune", 4\n"bob", "alien", 3\n', {"sep": ", "}),
    ],
)
def test_quotes_after_a_blank_or_a_long_separator_are_no_part_of_an_id(tmp_path, text, how):
    ratings = read_ratings(write(tmp_path, text), **how)
    assert ratings.user_ids.tolist() == ["ann", "bob"]
    assert ratings.item_ids.tolist() == ["alien", 'the "old" dune']
    assert ratings.rating.tolist() == [4, 3]


def test_quotes_that_belong_to_an_id_stay(tmp_path):
    text = 'user,item,rating\nann,"""dune""",4\nbob,a "b",3\n'
    assert read_ratings(write(tmp_path, text)).item_ids.tolist() == ['"dune"', 'a "b"']
    text = 'user::item::rating\nann::"dune" or "sand"::4\nbob::"::3\n'
    assert read_ratings(write(tmp_path, text), sep="::").item_ids.tolist() == ['"', '"dune" or "sand"']


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
        (GOOD.replace("bob", " "), "r.csv", "line 3, column 'user': ' ' is not an id"),
        ('user,item,rating\n\n"a\nb",dune,4\nbob,dune,x\n', "r.csv", "line 5, column 'rating': 'x'"),
        ("", "r.csv", "the file is empty"),
        (" \n ", "r.csv", "the file is empty"),
        ("user,item,rating\n", "r.csv", "a header and no rows"),
        (GOOD.replace(",", ";"), "r.csv", "expected commas, and line 1 holds semicolons"),
        (GOOD, "r.tsv", "expected tabs, and line 1 holds commas"),
        (GOOD + "bob,alien,3,9\n", "r.csv", "line 5"),
        (GOOD + "bob\n", "r.csv", "line 5, column 2: 1 field instead of 3"),
        (
            "user,item,rating\na,b,1,x\nb,b,2,x\n",
            "r.csv",
            "line 2, column 4: 4 fields instead of 3 ('x' is the last)",
        ),
        (GOOD.replace("bob", "ann"), "r.csv", "one user only ('ann')"),
        ("user,item,rating\na,x,3\nb,x,3\n", "r.csv", "every rating is 3"),
        (GOOD.encode() + b"caf\xe9,dune,3\n", "r.csv", "line 5, column 1: byte 0xe9 is not valid utf-8"),
        (GOOD, "r.xlsx", "tables are read from .csv (commas), .tsv (tabs) or .parquet, also as .gz or .zip, not .xlsx"),
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
    with pytest.raises(DataError, match=r"column 'rating': timestamp.* values are not numbers"):
        read_ratings(tmp_path / "r.parquet")


def test_a_parquet_index_is_a_column_too(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [3.0, 4.0]})
    frame.set_index("user").to_parquet(tmp_path / "r.parquet")
    assert read_ratings(tmp_path / "r.parquet").user_ids.tolist() == [1, 2]


def test_repeated_pairs_are_kept_and_reported(tmp_path):
    with pytest.warns(RepeatedRatingsWarning, match=r"1 of 4 ratings repeat .*at line 5 \(user 'ann', item 'dune'\)"):
        ratings = read_ratings(write(tmp_path, GOOD + "ann,dune,2\n"))
    assert len(ratings) == 4
    assert ratings.repeated == 1


def test_whole_floats_are_integers_also_beside_integers(tmp_path):
    ratings = read_ratings(write(tmp_path, "user,item,rating\n1,1.0,4\n1.0,2.0,3\n2.0 , 1,5\n"))
    assert ratings.user_ids.tolist() == [1, 2]
    assert ratings.item_ids.tolist() == [1, 2]
    frame = pd.DataFrame({"user": [1.0, 2.0], "item": [3.0, 3.0], "rating": [1, 2]})
    frame.to_parquet(tmp_path / "r.parquet")
    assert read_ratings(tmp_path / "r.parquet").user_ids.tolist() == [1, 2]


def test_ids_above_the_signed_integers_are_kept(tmp_path):
    ratings = read_ratings(write(tmp_path, f"user,item,rating\n{2**63},{2**64},4\n{2**64 - 1},{2**70},3\n"))
    assert ratings.user_ids.tolist() == [2**63, 2**64 - 1]
    assert ratings.item_ids.tolist() == [str(2**70), str(2**64)]


def test_blanks_around_names_ids_and_ratings_do_not_matter(tmp_path):
    ratings = read_ratings(write(tmp_path, "user, movieId , rating\n ann, 7 , 4\nbob,8, 3 \n"))
    assert ratings.user_ids.tolist() == ["ann", "bob"]
    assert ratings.item_ids.tolist() == [7, 8]
    assert ratings.columns == {"user": "user", "item": "movieId", "rating": "rating"}


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("user,item,score,rating", ["user", "item", "rating"]),
        ("user,title,item,rating", ["user", "item", "rating"]),
        ("userId,user,item,rating", ["user", "item", "rating"]),
        ("User,user,item,rating", ["user", "item", "rating"]),
        ("uid,movieId,title,stars", ["uid", "movieId", "stars"]),
        ("User-ID,ITEM ID,Rating,x", ["User-ID", "ITEM ID", "Rating"]),
        ("title,user_id:token,x,rating:float", ["user_id:token", "title", "rating:float"]),
    ],
)
def test_the_best_name_is_used_in_any_column_and_is_noted(tmp_path, header, taken):
    ratings = read_ratings(write(tmp_path, f"{header}\n1,2,3,4\n2,3,4,5\n"))
    assert list(ratings.columns.values()) == taken
    left = next(name for name in header.split(",") if name not in taken)
    assert ratings.notes == (
        f"users are column {taken[0]!r}; items are column {taken[1]!r}; ratings are column {taken[2]!r}; "
        f"not used: {left!r}",
    )


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (
            "userId,user_id,item,rating",
            "'userId', 'user_id' may each be the user column; rename one, or name it: user=",
        ),
        ("user,user,item,rating", "'user', 'user' may each be the user column"),
        ("user,item,score,stars", "'score', 'stars' may each be the rating column; rename one, or name it: rating="),
        ("user,movieId,item_id,rating", "'movieId', 'item_id' may each be the item column"),
        (
            "1,2,3,4",
            "no user column (any of user, userid, uid); the columns are '1', '2', '3', '4'; line 1 has only numbers",
        ),
    ],
)
def test_columns_that_are_equally_good_are_refused(tmp_path, header, complaint):
    with pytest.raises(DataError, match=re.escape(complaint)) as error:
        read_ratings(write(tmp_path, f"{header}\n1,2,3,4\n2,3,4,5\n"))
    assert "\n" not in str(error.value)


def test_names_and_ids_with_line_breaks_are_shown_on_one_line(tmp_path):
    with pytest.raises(DataError, match="may each be the user column") as error:
        read_ratings(write(tmp_path, 'userid,"user\nid",item,rating\n1,2,3,4\n2,3,4,5\n'))
    assert "\n" not in str(error.value)
    with pytest.warns(RepeatedRatingsWarning) as told:
        read_ratings(write(tmp_path, 'user,item,rating\n"a\nb",2,3\n"a\nb",2,4\nc,2,5\n'))
    assert "\n" not in str(told[0].message)


def test_arguments_choose_among_columns(tmp_path):
    path = write(tmp_path, "userId,user_id,item,rating\n1,2,3,4\n2,3,4,5\n")
    assert read_ratings(path, user="user_id").user_ids.tolist() == [2, 3]
    with pytest.raises(DataError, match="item and user are both column 'userId'"):
        read_ratings(path, user="userId", item="userId")
    with pytest.raises(DataError, match="rating and user are both column 'rating'"):
        read_ratings(path, user="rating")
    with pytest.raises(DataError, match=r"no user column 'who'; the columns are 'userId', 'user_id'"):
        read_ratings(path, user="who")


def test_a_value_that_means_none_is_left_out_and_counted(tmp_path):
    text = "user,item,rating\n1,7,0\n1,8,5\n2,7,0\n2,8,4\n3,9,0\n2,8,3\n"
    with pytest.warns(RepeatedRatingsWarning, match="the first at line 7"):
        ratings = read_ratings(write(tmp_path, text), none=0)
    assert ratings.rating.tolist() == [5, 4, 3]
    assert ratings.user_ids[ratings.user].tolist() == [1, 2, 2]
    assert ratings.item_ids[ratings.item].tolist() == [8, 8, 8]
    assert (ratings.user_ids.tolist(), ratings.item_ids.tolist()) == ([1, 2], [8])
    assert ratings.y_range == (2.75, 5.25)
    assert ratings.notes[1] == "3 of 6 ratings are 0, meaning no rating: left out"
    with pytest.raises(DataError, match="every rating is 9, meaning no rating"):
        read_ratings(write(tmp_path, "user,item,rating\n1,1,9\n2,1,9\n"), none=9)
    with pytest.raises(DataError, match="none=nan"):
        read_ratings(tmp_path / "r.csv", none=float("nan"))


def test_other_ways_to_read_a_file_have_other_checksums(tmp_path):
    path = write(tmp_path, "user,item,rating,fun\n1,2,3,4\n2,3,4,5\n")
    ways = [{}, {"rating": "fun"}, {"none": 0}, {"encoding": "latin-1"}]
    assert len({read_ratings(path, **way).checksum for way in ways}) == len(ways)
    assert read_ratings(path, user=None).checksum == read_ratings(path).checksum


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "1\t7\t4\t88\n2\t8\t3\t88\n"),
        ("ratings.dat", "1::7::4::88\n2::8::3::88\n"),
        ("hetrec.dat", "userID\tmovieID\trating\tdate_day\n1\t7\t4\t29\n2\t8\t3\t30\n"),
        ("ml-100k.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t7\t4\t88\n2\t8\t3\t88\n"),
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,7,4,88\n2,8,3,88\n"),
    ],
)
def test_files_of_well_known_layouts_are_read_alone(tmp_path, name, text):
    ratings = read_ratings(write(tmp_path, text, name))
    assert ratings.user_ids[ratings.user].tolist() == [1, 2]
    assert ratings.item_ids[ratings.item].tolist() == [7, 8]
    assert ratings.rating.tolist() == [4, 3]


def test_u_data_with_other_columns_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"u.data, line 1: 5 columns instead of 4 \(user, item, rating, time\)"):
        read_ratings(write(tmp_path, "1\t7\t4\t88\t0\n2\t8\t3\t88\t0\n", "u.data"))


def test_ratings_are_shown_on_one_line(tmp_path):
    assert repr(read_ratings(write(tmp_path, GOOD))) == "<r: 3 ratings from 3 to 5, 2 users, 2 items>"


def test_messages_show_plain_values(tmp_path):
    for text in ("user,item,rating\n1,1,1\n1,2,2\n", "user,item,rating\n1.0,1,1\n1,2,2\n"):
        with pytest.raises(DataError, match=re.escape("one user only (1)")):
            read_ratings(write(tmp_path, text))


@pytest.mark.parametrize("ratings", [[Decimal("1.5"), Decimal(4)], [True, False], ["1.5", "4"], [1, 4]])
def test_ratings_of_a_database_are_numbers(tmp_path, ratings):
    pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": ratings}).to_parquet(tmp_path / "r.parquet")
    assert read_ratings(tmp_path / "r.parquet").rating.tolist() == [float(rating) for rating in ratings]


def test_only_later_rows_of_a_pair_are_repeats():
    user, item = np.array([1, 0, 1, 0, 1]), np.array([0, 1, 0, 0, 0])
    assert repeats(user, item).tolist() == [False, False, True, False, True]
    assert repeats(user[:2], item[:2]).tolist() == [False, False]


def test_validation_rows_are_those_of_the_file_where_rows_mean_no_rating(tmp_path):
    text = "user,item,rating\n1,7,0\n1,8,2\n2,7,0\n2,8,4\n3,8,5\n3,7,3\n"
    data = load_ratings(write(tmp_path, text), none=0, valid_rows=[0, 1, 4])  # row 0 is no rating
    assert data.valid.ratings.tolist() == [2, 5]
    assert data.train.ratings.tolist() == [4, 3]
    with pytest.raises(DataError, match="there is no row 6; rows go from 0 to 5"):
        load_ratings(write(tmp_path, text), none=0, valid_rows=[6])


def test_a_rating_so_large_that_the_models_range_would_be_infinite_is_named(tmp_path):
    with pytest.raises(DataError, match=r"line 3, column 'rating': 3.4e\+38 is too far from the other ratings"):
        read_ratings(write(tmp_path, "user,item,rating\n1,1,1\n2,1,3.4e38\n"))
