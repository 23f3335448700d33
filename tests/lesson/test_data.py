import subprocess
import sys

import numpy as np
import pytest
import torch

import lesson.data.__main__
from lesson.data import DataError, load_movielens, load_ratings, open_movielens, open_ratings, split
from lesson.data.movielens import FILM_COLUMNS


@pytest.fixture(scope="module")
def movielens():
    return open_movielens()


def test_movielens_is_all_there_with_titles(movielens):
    assert (len(movielens), len(movielens.user_ids), len(movielens.item_ids)) == (100_000, 943, 1682)
    assert movielens.rating.mean() == pytest.approx(3.52986)
    assert movielens.titles[50] == "Star Wars (1977)"
    assert movielens.titles[267] == "unknown"
    assert movielens.titles[1412] == "Land Before Time III: The Time of the Great Giving (1995) (V)"
    assert movielens.y_range == (0.0, 5.5)
    assert movielens.citation


def test_the_default_split_is_fastais(movielens):
    torch.manual_seed(42)
    rows = torch.randperm(100_000)[:10_000].numpy()
    data = load_movielens()
    assert len(data.train) == 90_000
    assert torch.equal(data.valid.ratings, torch.from_numpy(movielens.rating[rows]))
    assert [data.users.key(row) for row in data.valid.users[:50].tolist()] == movielens.user_ids[
        movielens.user[rows[:50]]
    ].tolist()


def test_the_split_leaves_torchs_generator_alone(movielens):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    split(movielens)
    assert torch.equal(torch.rand(1), expected)


def test_every_rating_is_on_one_side_with_its_own_ids(movielens):
    data = split(movielens, seed=3)
    keys = []
    for rows in (data.train, data.valid):
        users = np.r_[0, data.users.ids][rows.users]
        items = np.r_[0, data.items.ids][rows.items]
        known = (rows.users > 0).numpy() & (rows.items > 0).numpy()
        keys += list(zip(users[known], items[known], rows.ratings.numpy()[known], strict=True))
    lost = 100_000 - len(keys)
    assert lost == int(((data.valid.users == 0) | (data.valid.items == 0)).sum())
    all_keys = set(
        zip(movielens.user_ids[movielens.user], movielens.item_ids[movielens.item], movielens.rating, strict=True)
    )
    assert len(set(keys)) == len(keys)
    assert set(keys) <= all_keys


def test_an_id_that_only_validation_has_is_the_reserved_row(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\n1,a,1\n2,a,2\n3,b,3\n2,a,4\n")
    with pytest.warns(UserWarning, match="repeat"):
        data = load_ratings(path, valid_rows=[2])
    assert data.users.ids.tolist() == [1, 2]
    assert data.valid.users.tolist() == [0]
    assert data.valid.items.tolist() == [0]
    assert data.users.key(0) == "#na#"
    assert data.rated.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"valid_rows": [0, 100_000]}, "there is no row 100000"),
        ({"valid_rows": [3, 3]}, "occurs twice"),
        ({"valid_rows": []}, "must be a list of row numbers"),
        ({"valid_rows": np.array([], dtype=int)}, "100000 for training and 0 for validation"),
        ({"valid_rows": [0.5]}, "must be a list of row numbers"),
        ({"valid_pct": 0}, "above 0 and below 1"),
        ({"valid_pct": 1e-9}, "0 for validation"),
    ],
)
def test_a_split_that_cannot_be_is_refused(movielens, how, complaint):
    with pytest.raises(DataError, match=complaint):
        split(movielens, **how)


def test_films_of_one_title_may_be_merged(movielens):
    with pytest.warns(UserWarning, match="307 ratings repeat"):
        merged = open_movielens(key="title")
    assert merged.repeated == 307
    assert len(merged.item_ids) == 1682 - 18
    assert len(merged) == 100_000
    with pytest.raises(DataError, match="'id' or by 'title'"):
        open_movielens(key="year")


def test_ids_are_found_as_numbers_or_text_and_titles_where_they_are_unique():
    data = load_movielens()
    assert data.users.row(196) == data.users.row("196") == data.users.row(np.int64(196))
    assert data.items.key(data.items.row("Star Wars (1977)")) == 50
    with pytest.raises(DataError, match=r"2 items have the title 'Chasing Amy \(1997\)'.* 246, 268"):
        data.items.row("Chasing Amy (1997)")
    with pytest.raises(DataError, match="user 99999 has no training rating"):
        data.users.row(99999)


def grouplens(folder, *, item_of_last=2):
    """A folder like GroupLens' own, latin-1 included."""
    films = ["1|Café (1995)|01-Jan-1995||http://x|" + "|".join("0" * 19), "2|B (1996)|||" + "|" + "|".join("1" * 19)]
    (folder / "u.item").write_bytes("\n".join(films).encode("latin-1") + b"\n")
    (folder / "u.data").write_text(f"5\t1\t3\t88\n6\t2\t4\t88\n5\t{item_of_last}\t1\t88\n")
    return folder


def test_grouplens_own_files_are_read(tmp_path):
    assert len(FILM_COLUMNS) == 24
    ratings = open_movielens(grouplens(tmp_path))
    assert ratings.titles == {1: "Café (1995)", 2: "B (1996)"}
    assert ratings.rating.tolist() == [3, 4, 1]
    assert len(load_ratings(tmp_path, valid_rows=[0]).train) == 2


def test_a_film_that_u_item_lacks_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"u.data, line 3, column 'item': 7 is not in u.item"):
        open_movielens(grouplens(tmp_path, item_of_last=7))


def test_u_item_of_another_layout_is_refused(tmp_path):
    grouplens(tmp_path)
    (tmp_path / "u.item").write_text("1,Toy Story\n2,B\n")
    with pytest.raises(DataError, match=r"u.item, line 1: 1 columns instead of 24.*expected bars"):
        open_movielens(tmp_path)


def test_larger_movielens_sets_are_read_from_their_folders(tmp_path):
    (tmp_path / "movies.dat").write_bytes("1::Café (1995)::Comedy\n2::B::Drama\n".encode("latin-1"))
    (tmp_path / "ratings.dat").write_text("1::1::5::0\n2::2::3::0\n")
    one_million = open_movielens(tmp_path)
    (tmp_path / "ratings.dat").unlink()
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n1,Café (1995),Comedy\n2,"B",Drama\n')
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,5,0\n2,2,3,0\n")
    twenty_million = open_movielens(tmp_path)
    for ratings in (one_million, twenty_million):
        assert ratings.titles == {1: "Café (1995)", 2: "B"}
        assert ratings.rating.tolist() == [5, 3]


def test_an_empty_folder_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"no u.data, ratings.dat or ratings.csv there"):
        load_movielens(tmp_path)


def films_and_ratings(folder, films, ratings):
    (folder / "movies.csv").write_text(films)
    (folder / "ratings.csv").write_text(ratings)
    return folder


FILMS = "movieId,title,genres\n1,A (1995),x\n2,B (1996),y\n"


def test_the_headers_of_ratings_csv_and_movies_csv_are_read(tmp_path):
    swapped = "movieId,rating,timestamp,userId\n1,5,0,7\n2,3,0,8\n"
    ratings = open_movielens(films_and_ratings(tmp_path, "title,movieId\nA (1995),1\nB (1996),2\n", swapped))
    assert ratings.user_ids[ratings.user].tolist() == [7, 8]
    assert ratings.titles == {1: "A (1995)", 2: "B (1996)"}


@pytest.mark.parametrize(
    ("films", "ratings", "complaint"),
    [
        (FILMS, "1,1,5,0\n2,2,3,0\n", r"ratings.csv: no user column .*; line 1 has only numbers"),
        (FILMS[21:], "userId,movieId,rating\n1,1,5\n2,2,3\n", r"movies.csv: no column 'title'"),
        (
            FILMS + "2,C,z\n",
            "userId,movieId,rating\n1,1,5\n2,2,3\n",
            r"movies.csv, line 4, column 'movieId': 2 occurs twice",
        ),
        (FILMS, "userId,movieId,rating\n1,1,5\n2,3,3\n", r"ratings.csv, line 3, column 'movieId': 3 is not in movies"),
        ("movieId,title\n", "userId,movieId,rating\n1,1,5\n2,3,3\n", r"movies.csv: a header and no rows"),
    ],
)
def test_movielens_files_without_header_or_with_other_films_are_refused(tmp_path, films, ratings, complaint):
    with pytest.raises(DataError, match=complaint):
        open_movielens(films_and_ratings(tmp_path, films, ratings))


def test_titles_are_read_as_utf_8_or_else_as_latin_1(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1::5::0\n2::2::3::0\n")
    for encoding in ("utf-8", "latin-1"):
        (tmp_path / "movies.dat").write_bytes("1::Ombré (1995)::Comedy\n2::B\t(1996)::Drama\n".encode(encoding))
        assert open_movielens(tmp_path).titles == {1: "Ombré (1995)", 2: "B\t(1996)"}


def test_ratings_beyond_the_lessons_range_get_a_range_that_reaches_them(tmp_path):
    path = films_and_ratings(tmp_path, FILMS, "userId,movieId,rating\n1,1,20\n2,2,100\n")
    ratings = open_movielens(path)
    assert ratings.y_range == (10, 110)
    assert ratings.notes == ("ratings go from 20 to 100, so the range is (10.0, 110.0), not (0.0, 5.5)",)
    films_and_ratings(tmp_path, FILMS, "userId,movieId,rating\n1,1,.5\n2,2,5\n")
    assert open_movielens(path).y_range == (0, 5.5)
    assert open_movielens(path).notes == ()


def test_arguments_for_a_file_are_refused_for_a_folder(tmp_path):
    path = films_and_ratings(tmp_path, FILMS, "userId,movieId,rating\n1,1,2\n2,2,3\n")
    with pytest.raises(DataError, match="user='who' is for a file"):
        open_ratings(path, user="who")
    assert len(open_ratings(path, user=None, none=None)) == 2


def test_a_merged_title_that_is_blank_is_the_films_number(tmp_path):
    path = films_and_ratings(tmp_path, "movieId,title\n1,\n2,B\n", "userId,movieId,rating\n1,1,2\n2,2,3\n")
    merged = open_movielens(path, key="title")
    assert merged.item_ids.tolist() == ["1", "B"]
    assert merged.checksum != open_movielens(path).checksum


def test_a_blank_title_is_none(tmp_path):
    path = films_and_ratings(tmp_path, "movieId,title\n1, \n2,B\n", "userId,movieId,rating\n1,1,2\n2,2,3\n")
    films = split(open_movielens(path), valid_rows=[0]).items
    assert [films.title(key) for key in (1, 2, 3)] == ["1", "B", "3"]


def test_learnable_rows_have_a_seen_user_and_a_seen_item(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\n1,a,1\n2,b,2\n1,b,3\n3,a,4\n1,c,5\n3,c,1\n")
    data = load_ratings(path, valid_rows=[2, 3, 4, 5])
    assert data.learnable_rows == 1


def test_data_are_shown_on_one_line_and_their_first_rows_as_a_table(movielens):
    data = load_movielens()
    assert repr(data) == (
        "<MovieLens 100k: 90,000 training and 10,000 validation ratings, 943 users, 1,670 items, y_range (0.0, 5.5)>"
    )
    assert repr(data.train) == "<90,000 rows>"
    shown = data.show_batch(3)
    assert shown.columns.tolist() == ["user", "item", "title", "rating"]
    first = data.train.users[0].item(), data.train.items[0].item()
    assert shown.loc[0].tolist() == [
        data.users.key(first[0]),
        data.items.key(first[1]),
        movielens.titles[data.items.key(first[1])],
        data.train.ratings[0].item(),
    ]
    assert len(shown) == 3
    with pytest.raises(DataError, match="n=0"):
        data.show_batch(0)


def test_without_titles_there_is_no_column_of_them(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\nann,dune,1\nbob,dune,2\nann,alien,3\n")
    shown = load_ratings(path, valid_rows=[1]).show_batch()
    assert shown.to_dict("records") == [
        {"user": "ann", "item": "dune", "rating": 1},
        {"user": "ann", "item": "alien", "rating": 3},
    ]


@pytest.mark.parametrize("argument", ["ml-1m", "--frehs"])
def test_the_command_refuses_what_it_does_not_know(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lesson.data", argument])
    with pytest.raises(SystemExit) as ended:
        lesson.data.__main__.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert argument in err.splitlines()[-1]


def test_the_command_says_from_where_and_under_which_terms_and_import_waits_for_no_pandas_and_no_plots():
    command = "import runpy, sys; runpy.run_module('lesson.data', run_name='__main__', alter_sys=True)"
    heavy = "{'matplotlib', 'seaborn', 'pandas', 'pooch'}"
    command = f"import lesson, sys; print(sorted({heavy} & sys.modules.keys())); {command}"
    told = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert told.stdout.startswith("[]\n")
    assert "MNIST 5k: 5,000 digits" in told.stdout
    assert "100,000 ratings, 943 users, 1,682 items" in told.stdout
    assert "no redistribution" in told.stdout
    assert told.stderr == ""


def test_films_and_ratings_may_spell_the_same_ids_as_numbers_and_as_text(tmp_path):
    films = FILMS + "tt3,C (1997),z\n"
    ratings = open_movielens(films_and_ratings(tmp_path, films, "userId,movieId,rating\n1,1,5\n2,2,3\n"))
    assert [ratings.titles[film] for film in ratings.item_ids.tolist()] == ["A (1995)", "B (1996)"]
    assert [ratings.genres[film] for film in ratings.item_ids.tolist()] == [("x",), ("y",)]
