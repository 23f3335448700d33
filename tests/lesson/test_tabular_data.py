"""Any table as a net reads it: kinds of columns, what is learned from training rows, and what is odd."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

from lesson import DataError, TableWarning, load_adult, load_table
from lesson.data import open_table, read_table
from lesson.data.adult import adult_file
from lesson.data.bunch import split_rows

N = 40
SHOPS, PAID = ["north", "south", "east"], [True, False]


def frame(n=N, seed=0):
    drawn = np.random.default_rng(seed)
    days = pd.Timestamp("2026-01-30") + pd.to_timedelta(drawn.integers(0, 400, n), "D")
    return pd.DataFrame(
        {
            "shop": drawn.choice(SHOPS, n),
            "paid": drawn.choice(PAID, n),
            "size": drawn.normal(50, 9, n).round(2),
            "rooms": drawn.integers(1, 5, n),
            "sold": days,
            "price": drawn.normal(3, 1, n).round(3),
        }
    )


def written(folder, table, name="t.csv"):
    path = folder / name
    if isinstance(table, str):
        path.write_text(table)
    elif name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


def column(data, name, part="train"):
    """A column of the inputs by its name."""
    x_cat, x_cont, _ = getattr(data, part).tensors
    names = [category.name for category in data.categories]
    return x_cat[:, names.index(name)] if name in names else x_cont[:, [n.name for n in data.numbers].index(name)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_mark_of_a_missing_number_is_found_in_every_type(tmp_path, dtype):
    table = pd.DataFrame({"size": np.tile([99.9, 0.1, 2, 3], 9).astype(dtype), "y": ["a", "b"] * 18})
    path = written(tmp_path, table, "t.parquet")
    for rows in (table, {"size": torch.tensor(table["size"].to_numpy())}):
        data = load_table(path, "y", na_values=[99.9])
        assert data.source.columns[0].missing.sum() == 9
        assert torch.equal(data.encoded(rows)[0][data.train_rows], data.train.tensors[0])
    data = load_table(path, "y", cat_names=["size"], na_values=[99.9])
    assert data.categories[0].vocab.ids.tolist() == ["0.1", "2", "3"]


@pytest.mark.parametrize(("name", "whole"), [("t.csv", [0, 1]), ("t.parquet", ["0", "1"])])
def test_text_that_reads_like_numbers_is_a_category_as_it_is_written(tmp_path, name, whole):
    table = pd.DataFrame({"a": ["1", "1.0", "2.0", "x"] * 9, "b": ["0", "0", "1", " 1"] * 9, "y": ["2.0", "3"] * 18})
    data = load_table(written(tmp_path, table, name), "y", cat_names=["a", "b", "y"])
    assert [category.vocab.ids.tolist() for category in data.categories] == [["1", "1.0", "2.0", "x"], whole]
    assert data.classes == ["2.0", "3"]
    assert data.encoded({"a": ["1", " 1.0", "2.0"], "b": ["0", "1.0", "0"]})[0].tolist() == [[1, 1], [2, 2], [3, 1]]
    assert data.encoded({"a": [1, 2, 2], "b": [0.0, 1.0, 1.0]})[0].tolist() == [[1, 1], [3, 2], [3, 2]]


def lines(header, *rows, times=1):
    return "\n".join([header, *rows * times]) + "\n"


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_kinds_of_columns_are_found(tmp_path, name):
    data = load_table(written(tmp_path, frame(), name), "price")
    kinds = {column.name: column.kind for column in data.source.columns}
    assert kinds == {"shop": "category", "paid": "category", "size": "number", "rooms": "number", "sold": "date"}
    parts = [f"sold_{part}" for part in ("year", "month", "week", "day", "dayofweek")]
    assert [c.name for c in data.categories] == ["shop", "paid", *parts]
    assert [n.name for n in data.numbers] == ["size", "rooms", "sold_elapsed"]
    assert (data.classes, data.c) == (None, 1)
    assert "categories: 'shop', 'paid'" in data.source.notes[0]


def test_text_and_parquet_give_the_same_inputs(tmp_path):
    ours, theirs = (
        load_table(written(tmp_path, frame(), name), "price").train.tensors for name in ("t.csv", "t.parquet")
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_a_column_that_is_named_a_category_is_one_whatever_its_values(tmp_path):
    data = load_table(written(tmp_path, frame()), "price", cat_names=["rooms"])
    assert {c.name: c for c in data.categories}["rooms"].vocab.ids.tolist() == [1, 2, 3, 4]
    told = frame().astype({"rooms": str}).astype({"rooms": "category"})
    assert "rooms" in {c.name for c in load_table(written(tmp_path, told, "t.parquet"), "price").categories}


def test_numbers_have_mean_zero_and_deviation_one_on_the_training_rows(tmp_path):
    data = load_table(written(tmp_path, frame()), "price")
    rows = data.train.tensors[1].double()
    torch.testing.assert_close(rows.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(rows.std(0, correction=0), torch.ones(3).double(), rtol=0, atol=1e-6)
    assert data.valid.tensors[1].mean(0).abs().max() > 1e-2


def test_nothing_is_learned_from_validation_rows(tmp_path):
    """Whatever they hold, the training rows are encoded alike."""
    first, valid = frame(), np.arange(0, N, 4)
    first.loc[[1, 2], "size"] = np.nan
    other = first.copy()
    other.loc[valid, "size"] *= 1000
    other.loc[valid, "shop"] = "elsewhere"
    other.loc[valid, "sold"] += pd.Timedelta(days=9000)
    other.loc[valid, "price"] += 77
    one, two = (load_table(written(tmp_path, table), "price", valid_rows=valid) for table in (first, other))
    for ours, theirs in zip(one.train.tensors, two.train.tensors, strict=True):
        assert torch.equal(ours, theirs)
    assert one.numbers == two.numbers
    assert [c.vocab.ids.tolist() for c in one.categories] == [c.vocab.ids.tolist() for c in two.categories]
    assert one.y_range == two.y_range
    assert not torch.equal(one.valid.tensors[1], two.valid.tensors[1])


def test_categories_that_training_has_not_seen_and_missing_ones_are_row_0(tmp_path):
    table = frame()
    table.loc[3, "shop"] = "elsewhere"
    table.loc[[4, 5], "shop"] = None
    data = load_table(written(tmp_path, table), "price", valid_rows=[3, 4, 6])
    assert column(data, "shop", "valid").tolist()[:2] == [0, 0]
    assert column(data, "shop", "valid")[2] > 0
    assert (column(data, "shop") == 0).sum() == 1
    vocab = data.categories[0].vocab
    assert (vocab.key(0), vocab.ids.tolist()) == ("#na#", sorted(SHOPS))


def test_the_trainings_median_stands_for_a_missing_number_and_a_category_marks_it(tmp_path):
    table = frame()
    table.loc[[1, 2, 3], "size"] = np.nan
    data = load_table(written(tmp_path, table), "price", valid_rows=[3, 5])
    known = table["size"].drop([1, 2, 3, 5])
    filled = table["size"].drop([3, 5]).fillna(known.median())
    expected = (filled - filled.mean()) / filled.std(ddof=0)
    np.testing.assert_allclose(column(data, "size"), expected, rtol=0, atol=1e-5)
    marks = {c.name: c for c in data.categories}["size_na"]
    assert marks.vocab.ids.tolist() == ["False", "True"]
    assert column(data, "size_na").eq(2).nonzero()[:, 0].tolist() == [1, 2]
    assert column(data, "size_na", "valid").tolist() == [2, 1]
    assert column(data, "size", "valid")[0] == column(data, "size")[1]


def test_a_number_that_only_validation_rows_lack_is_said(tmp_path):
    table = frame()
    table.loc[3, "size"] = np.nan
    with pytest.warns(TableWarning, match="'size' lacks values in validation rows, but in no training row"):
        data = load_table(written(tmp_path, table), "price", valid_rows=[3, 4])
    assert "size_na" not in {c.name for c in data.categories}
    assert data.valid.tensors[1].isfinite().all()


def test_dates_are_taken_apart_as_the_calendar_does(tmp_path):
    days = ["2021-01-03", "2020-12-31", "2026-11-27", "2024-02-29"] * 3
    table = pd.DataFrame({"day": days, "y": np.arange(12) / 7})
    data = load_table(written(tmp_path, table), "y", valid_rows=[11])
    vocabs = {c.name: c.vocab for c in data.categories}
    for row, day in enumerate(map(datetime.date.fromisoformat, days[:4])):
        found = {name: vocab.key(int(column(data, name)[row])) for name, vocab in vocabs.items()}
        parts = [day.year, day.month, day.isocalendar().week, day.day, day.weekday()]
        assert found == dict(
            zip([f"day_{p}" for p in ("year", "month", "week", "day", "dayofweek")], parts, strict=True)
        )
    seconds = pd.to_datetime(table["day"]).astype("datetime64[s]").astype(np.int64)[:11]
    np.testing.assert_allclose(column(data, "day_elapsed"), (seconds - seconds.mean()) / seconds.std(ddof=0), atol=1e-5)


def test_a_missing_date_has_missing_parts(tmp_path):
    table = frame()
    table.loc[2, "sold"] = None
    data = load_table(written(tmp_path, table), "price", valid_rows=[0])
    assert column(data, "sold_month")[1] == column(data, "sold_week")[1] == 0
    assert {c.name: c for c in data.categories}["sold_elapsed_na"].vocab.key(
        int(column(data, "sold_elapsed_na")[1])
    ) == "True"


def test_times_with_an_offset_are_in_utc(tmp_path):
    rows = [f"{when},{k}" for k, when in enumerate(["2026-01-01T01:00:00+03:00", "2026-06-01 12:00", "2026-07-02"] * 2)]
    data = load_table(written(tmp_path, lines("at,y", *rows)), "y", valid_rows=[5], cont_names=["y"])
    assert [day.isoformat() for day in data.source.columns[0].shown()[:2]] == [
        "2025-12-31T22:00:00",
        "2026-06-01T12:00:00",
    ]


def test_a_random_split_is_that_of_all_other_data(tmp_path):
    data = load_table(written(tmp_path, frame()), "price", seed=7, valid_pct=0.3)
    train, valid = split_rows(N, 7, 0.3, "")
    np.testing.assert_array_equal(data.train_rows, train)
    np.testing.assert_array_equal(data.valid_rows, valid)
    assert data.train.tensors[2].dtype == torch.float32
    assert data.train.tensors[2].shape == (28, 1)
    np.testing.assert_array_equal(data.train.tensors[2][:, 0], frame()["price"].to_numpy(np.float32)[train])


def test_by_time_the_latest_rows_validate(tmp_path):
    table = frame()
    data = load_table(written(tmp_path, table), "price", split="time", valid_pct=0.25)
    assert table["sold"][data.train_rows].max() <= table["sold"][data.valid_rows].min()
    assert len(data.valid) == 10
    assert (data.origin.resplits, open_table(tmp_path / "t.csv", "price").origin.resplits) == (False, True)
    by_rooms = load_table(tmp_path / "t.csv", "price", split="time", time="rooms", valid_pct=0.25)
    assert table["rooms"][by_rooms.train_rows].max() <= table["rooms"][by_rooms.valid_rows].min()


def test_texts_are_classes_and_keep_their_labels(tmp_path):
    table = frame().assign(price=["dear" if price > 3 else "cheap" for price in frame()["price"]])
    data = load_table(written(tmp_path, table), "price")
    assert (data.classes, data.c, data.y_range) == (["cheap", "dear"], 2, None)
    y = data.train.tensors[2]
    assert y.dtype == torch.int64
    assert [data.classes[k] for k in y.tolist()] == table["price"][data.train_rows].tolist()


def test_numbers_are_classes_if_the_caller_says_so(tmp_path):
    path = written(tmp_path, frame())
    assert load_table(path, "rooms", cat_names=["rooms"]).classes == [1, 2, 3, 4]
    assert load_table(path, "paid").classes == ["False", "True"]


def test_rows_without_a_target_are_left_out_and_counted(tmp_path):
    table = frame()
    table.loc[[5, 9], "price"] = np.nan
    with pytest.warns(TableWarning, match=r"2 of 40 rows have no target 'price', the first at line 7: left out"):
        data = load_table(written(tmp_path, table), "price", valid_rows=[5, 6])
    assert (len(data.train), len(data.valid)) == (37, 1)
    assert data.valid.tensors[2].item() == pytest.approx(table["price"][6])
    assert data.source.rows[data.train_rows].tolist() == [k for k in range(N) if k not in (5, 6, 9)]


def test_na_is_missing_among_numbers_and_a_name_among_categories(tmp_path):
    rows = [f"{'NA' if k % 4 else 'ZA'},{'NA' if k % 5 == 1 else k * 1.5},{k * 0.1}" for k in range(20)]
    data = load_table(written(tmp_path, lines("country,size,y", *rows)), "y", valid_rows=[0])
    country, size = data.source.columns
    assert country.ids.tolist() == ["NA", "ZA"]
    assert size.missing.nonzero()[0].tolist() == [1, 6, 11, 16]
    with pytest.warns(TableWarning, match="1 of 20 rows have no target"):
        marked = open_table(tmp_path / "t.csv", "y", na_values=["NA", 1.8])
    assert marked.columns[0].missing.sum() == 14
    assert len(marked) == 19, "1.8 was a target"


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_number_may_mean_missing_however_it_is_written(tmp_path, name):
    table = frame().assign(size=[-999.0, *frame()["size"][1:]])
    source = open_table(written(tmp_path, table, name), "price", na_values=[-999])
    assert source.columns[2].missing.nonzero()[0].tolist() == [0]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_date_may_mean_missing(tmp_path, name):
    days = pd.to_datetime(["1900-01-01", "2020-01-02", "1900-01-01", "2020-01-04"])
    source = open_table(
        written(tmp_path, pd.DataFrame({"day": days, "y": list("abab")}), name), "y", na_values=["1900-01-01", "?"]
    )
    assert source.columns[0].kind == "date"
    assert source.columns[0].missing.tolist() == [True, False, True, False]


def test_leading_zeros_make_codes_not_numbers(tmp_path):
    rows = [f"0{k % 4}139,{k / 3}" for k in range(20)]
    data = load_table(written(tmp_path, lines("zip,y", *rows)), "y")
    assert data.source.columns[0].ids.tolist() == ["00139", "01139", "02139", "03139"]


ODD = {
    "constant": (frame().assign(land="no", tax=7), "'land' ('no'), 'tax' (7.0) is the same in all training rows"),
    "too small": (frame().assign(tiny=[(k % 3) * 1e-300 for k in range(N)]), "is the same in all training rows"),
    "many": (frame().assign(**{f"tax{k}": 7 for k in range(30)}), "'tax11' (7.0) … (30 in all) is the same"),
    "empty": (frame().assign(note=None), "'note' (empty) is the same"),
    "id": (frame().assign(key=[f"k{k}" for k in range(N)]), "'key' has another text in each training row, as ids do"),
    "counter": (frame().assign(row=range(5, N + 5)), "column 'row' counts the rows: left out; to keep it"),
    "mixed": (
        frame().assign(kept=["lost" if k == 8 else k % 20 for k in range(N)]),
        "column 'kept' has numbers and other text, such as 'lost' at line 10: read as categories",
    ),
    "mixed dates": (
        frame().assign(kept=["2026-01-01" if k == 8 else ["soon", "late"][k % 2] for k in range(N)]),
        "column 'kept' has dates and other text, such as '2026-01-01' at line 10",
    ),
    "two numbers": (frame().assign(price=[k % 2 for k in range(N)]), "target 'price' is only 0 or 1, and is predicted"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_one_warning(tmp_path, case):
    table, said = ODD[case]
    with pytest.warns(TableWarning) as warned:
        data = load_table(written(tmp_path, table), "price")
    assert len(warned) == 1
    assert said in str(warned[0].message)
    assert "\n" not in str(warned[0].message)
    used = {c.name for c in data.categories} | {n.name for n in data.numbers}
    assert not used & {"land", "tax", "note", "key", "row", "tiny"}
    assert {"shop", "size"} <= used


def test_what_the_caller_names_is_kept_without_a_warning(tmp_path, recwarn):
    table = frame().assign(
        key=[f"k{k}" for k in range(N)], row=range(N), kept=["x", *range(1, N)], price=[k % 2 for k in range(N)]
    )
    data = load_table(written(tmp_path, table), "price", cat_names=["key", "kept"], cont_names=["row", "price"])
    assert not recwarn.list
    assert "key" in {c.name for c in data.categories}
    assert "row" in {n.name for n in data.numbers}


def test_a_class_without_training_rows_is_said(tmp_path):
    table = frame().assign(price=["rare" if k == 3 else SHOPS[k % 3] for k in range(N)])
    with pytest.warns(TableWarning, match="'rare' is a class of 1 validation rows, but of no training row"):
        data = load_table(written(tmp_path, table), "price", valid_rows=[3, 4])
    assert data.classes[data.valid.tensors[2][0]] == "rare"


BAD = [
    ("", {}, "the file is empty"),
    ("a,y\n", {}, "a header and no rows"),
    ("a,a,y\n1,2,3\n", {}, "2 columns are named 'a'"),
    ("a,b\n1,2\n", {}, "target has 'y', but the columns are 'a', 'b'"),
    ("a;y\n1;2\n", {}, "line 1 holds semicolons"),
    ("a,y\n1,2\n", {"cat_names": ["b"]}, "cat_names has 'b'"),
    ("a,y\n1,2\n", {"cat_names": "a"}, "cat_names='a': a list is needed"),
    ("a,y\n1,2\n", {"na_values": [None]}, "na_values=[None]: None is not an id"),
    ("a,y\n1,2\n", {"cat_names": ["a"], "drop": ["a"]}, "drop: 'a' is in cat_names, too"),
    ("a,y\n1,2\n", {"drop": ["y"]}, "drop: 'y' is the target"),
    ("a,y\n1,2\n", {"drop": ["a"]}, "no column but 'y' is left"),
    ("a,y\n1,2\n3,4\n1,x\n", {}, "target column 'y' has numbers and other text, such as 'x' at line 4"),
    ("a,y\n1,2\n3,4\n1,inf\n", {"cont_names": ["y"]}, "line 4, column 'y': 'inf' is not a number"),
    ("a,y\n1,2\nx,4\n", {"cont_names": ["a"]}, "line 3, column 'a': 'x' is not a number"),
    ("a,y\n1,2\n1e39,4\n", {}, "line 3, column 'a': '1e39' is not a number that float32 can hold"),
    ("a,y\n2026-02-30,2\n2026-02-01,4\n", {}, "line 2, column 'a': '2026-02-30' is not a date"),
    ("a,y\n1,2026-02-01\n2,2026-02-02\n", {}, "column 'y': dates are no target"),
    ("a,y\n1,\n2,\n", {}, "column 'y': no row has a target"),
    ("a,y\n1,p\n2,q\n1,r\n", {}, "column 'y': another class in each of 3 rows"),
    ("a,y\n1,5\n2,5\n1,5\n", {"valid_pct": 0.4}, "column 'y': always 5.0 in the training rows"),
    ("a,y\n1,5\n", {}, "1 rows leave 1 for training and 0 for validation"),
    ("a,y\n1,5\n2,6\n", {"valid_rows": [9]}, "valid_rows: there is no row 9"),
    ("a,y\n1,5\n2,6\n", {"valid_rows": [0, 1]}, "valid_rows leave 0 for training"),
    ("a,y\n1,5\n2,6\n", {"split": "user"}, "split='user': tables are split by random or time"),
    ("a,y\n1,5\n2,6\n", {"split": "time"}, "no column may be the times"),
    ("a,y\n1,5\n2,6\n", {"time": "a"}, "only a split by time reads times"),
    ("a,a_na,y\n1,p,5\n2,q,6\n", {}, "columns 'a' and 'a_na' both give 'a_na'; rename one"),
    ("a,y\n7,5\n7,6\n7,7.5\n7,9\n", {"valid_rows": [0]}, "no column but 'y' says anything in the training rows"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "how", "complaint"), BAD)
@pytest.mark.filterwarnings("ignore::lesson.TableWarning")
def test_what_cannot_be_used_is_one_line(tmp_path, content, how, complaint):
    with pytest.raises(DataError) as error:
        load_table(written(tmp_path, content), "y", **how)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_values_of_another_type_are_refused_by_name(tmp_path):
    table = frame().assign(tags=[["a"]] * N)
    with pytest.raises(DataError, match=r"column 'tags': list.* leave it out with drop=\['tags'\]"):
        load_table(written(tmp_path, table, "t.parquet"), "price")
    assert load_table(tmp_path / "t.parquet", "price", drop=["tags"])


def test_new_rows_are_encoded_as_the_files_are(tmp_path):
    table = frame()
    table.loc[[1, 2], "size"] = np.nan
    path = written(tmp_path, table)
    data = load_table(path, "price")
    lists = table.drop(columns="price").to_dict("list")
    for rows in (read_table(path), table, lists, lists | {"rooms": torch.tensor(lists["rooms"])}):
        x_cat, x_cont = data.encoded(rows)
        assert torch.equal(x_cat[data.valid_rows], data.valid.tensors[0])
        torch.testing.assert_close(x_cont[data.valid_rows], data.valid.tensors[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spelling", [str, str.lower, str.upper])
def test_a_boolean_is_the_same_however_the_file_spells_it(tmp_path, spelling):
    table = frame()
    data = load_table(written(tmp_path, table.assign(paid=[spelling(str(paid)) for paid in table["paid"]])), "price")
    for change in (bool, str, lambda paid: str(paid).lower(), lambda paid: str(paid).upper()):
        x_cat, _ = data.encoded(table.assign(paid=table["paid"].map(change)))
        assert torch.equal(x_cat[data.train_rows], data.train.tensors[0])
    assert column(data, "paid").unique().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ({"shop": ["north"]}, "the rows: no column 'paid', 'size', 'rooms', 'sold'; the columns are 'shop'"),
        (frame().assign(size="big"), "the rows, row 1, column 'size': 'big' is not a number"),
        (frame().assign(sold="soon"), "the rows, row 1, column 'sold': 'soon' is not a date"),
        (frame().assign(sold=3), "column 'sold': int64 values are not dates"),
        (frame()[:0], "a header and no rows"),
        ({"shop": ["north", 3]}, "a DataFrame or a dictionary of lists by column is needed"),
        (7, "a DataFrame or a dictionary of lists by column is needed"),
    ],
)
def test_new_rows_that_do_not_fit_are_refused(tmp_path, rows, complaint):
    data = load_table(written(tmp_path, frame()), "price")
    with pytest.raises(DataError) as error:
        data.encoded(rows)
    assert complaint in str(error.value)


def test_rows_are_shown_as_the_file_has_them(tmp_path):
    table = frame()
    table.loc[0, "shop"] = None
    data = load_table(written(tmp_path, table), "price", valid_rows=[7, 3])
    shown = data.show_batch(2)
    assert shown.columns.tolist() == table.columns.tolist()
    assert shown["shop"][0] is None or pd.isna(shown["shop"][0])
    assert shown["size"].tolist() == table["size"][:2].tolist()
    results = data.show_results(torch.tensor([1]), torch.tensor([[2.5]]))
    assert results[["price", "prediction"]].to_numpy().tolist() == [[table["price"][3], 2.5]]


def test_how_a_file_is_read_is_part_of_its_checksum(tmp_path):
    path = written(tmp_path, frame())
    how = [{}, {"cat_names": ["rooms"]}, {"drop": ["rooms"]}, {"na_values": [1]}, {"split": "time"}]
    assert len({open_table(path, "price", **options).checksum for options in how}) == len(how)
    assert open_table(path, "price").checksum == open_table(path, "price").checksum
    assert open_table(path, "price").checksum != open_table(path, "size").checksum


def test_values_that_programs_and_clocks_write_are_read(tmp_path):
    table = pd.DataFrame({"cat": pd.Series([0.5, 7.0, None, 7.0] * 3), "y": np.arange(12) / 9})
    data = load_table(written(tmp_path, table, "t.parquet"), "y", cat_names=["cat"], valid_rows=[11])
    assert data.source.columns[0].ids.tolist() == ["0.5", "7"]
    assert data.source.columns[0].missing.sum() == 3


def test_the_census_is_read_as_its_own_loader_reads_it():
    data = load_table(adult_file(), "income", na_values=["?"])
    adult = load_adult()
    theirs = adult.split()
    assert torch.equal(data.train.tensors[2], theirs.train.tensors[1])
    torch.testing.assert_close(data.valid.tensors[1], theirs.valid.tensors[0][:, :6], rtol=0, atol=1e-5)
    missing = np.column_stack([column.missing for column in data.source.columns if column.kind == "category"])
    np.testing.assert_array_equal(missing, adult.categories == -1)


def test_a_study_is_told_before_its_first_run_what_is_left_out_and_whether_it_can_learn(tmp_path):
    table = frame().assign(same="x", code=[f"c{row}" for row in range(N)])
    notes = open_table(written(tmp_path, table), "price").learnable(seeds=3)
    assert any("categories: 'shop'" in note for note in notes)
    assert any("'same' ('x') is the same in all training rows" in note for note in notes)
    assert any("'code' has another text in each training row" in note for note in notes)
    rare = pd.DataFrame({"x": np.arange(N) % 7, "y": ["often"] * (N - 1) + ["once"]})
    with pytest.raises(DataError, match="always 'often' in the training rows; there is nothing to learn"):
        open_table(written(tmp_path, rare), "y").learnable(seeds=20)


def test_only_a_split_by_time_has_earlier_rows(tmp_path):
    path = written(tmp_path, frame())
    with pytest.raises(DataError, match="split at random"):
        open_table(path, "price").earlier()
    table = open_table(path, "price", split="time")
    data, earlier = table.split(), table.earlier()
    np.testing.assert_array_equal(earlier.rows, table.rows[data.train_rows])
    np.testing.assert_array_equal(earlier.time, table.time[data.train_rows])


def odd_texts(folder, texts):
    lines = [f'"{text}";{size}' for text, size in zip(texts * 10, [3, 1, 4, 1, 5] * 4, strict=True)]
    (folder / "t.csv").write_text("\n".join(["odd;size", *lines]))
    return folder / "t.csv"


@pytest.mark.parametrize(
    "texts", [["1,5", "2,25"], ["7%", "12.5 %"], ["1,500", "2,000,000.5"], ["03.11.2026", "4/1/26"]]
)
def test_text_that_looks_like_numbers_or_dates_is_odd_and_no_target(tmp_path, texts):
    with pytest.raises(DataError, match=r"target column 'odd' has only text such as .* may be numbers or dates"):
        load_table(odd_texts(tmp_path, texts), "odd", sep=";")
    with pytest.warns(TableWarning, match="may be numbers or dates"):
        load_table(odd_texts(tmp_path, texts), "size", sep=";")


@pytest.mark.parametrize("texts", [["1.2.3", "10.0.0.1"], ["a,5", "7%"], ["00501", "1,5"], ["12:30", "1,5"]])
def test_other_text_is_categories(tmp_path, texts, recwarn):
    load_table(odd_texts(tmp_path, texts), "size", sep=";")
    assert not [warning for warning in recwarn if "may be numbers" in str(warning.message)]
