import csv
import decimal
import gzip
import io
import os
import re
import uuid
import zipfile

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson.data import DataError, Table, read_ratings, read_table

GOOD = "user,item,rating\nann,dune,4\nbob,dune,3\nann,alien,5\n"


def write(folder, content, name="t.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(table):
    return [list(row) for row in zip(*(table.column(name).to_pylist() for name in table.names), strict=True)]


def zipped(members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_says_its_encoding_by_its_first_bytes_or_is_utf_8(tmp_path, encoding):
    text = GOOD.replace("dune", "Ombré")
    assert rows(read_table(write(tmp_path, text.encode(encoding))))[0] == ["ann", "Ombré", "4"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be", "cp1252"])
def test_other_encodings_are_read_where_they_are_named(tmp_path, encoding):
    path = write(tmp_path, GOOD.replace("dune", "Ombré").encode(encoding))
    assert rows(read_table(path, encoding=encoding))[0] == ["ann", "Ombré", "4"]
    with pytest.raises(DataError, match=r"line \d.* encoding="):
        read_table(path)


@pytest.mark.parametrize("encoding", ["klingon", "hex", 8, "\0"])
def test_an_unknown_encoding_is_refused(tmp_path, encoding):
    with pytest.raises(DataError, match="encoding="):
        read_table(write(tmp_path, GOOD), encoding=encoding)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path, end):
    path = write(tmp_path, GOOD.replace("\n", end))
    assert rows(read_table(path))[2] == ["ann", "alien", "5"]
    assert read_table(path).place(2) == "line 4"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", gzip.compress(GOOD.encode(), mtime=0)),
        ("t.csv", gzip.compress(GOOD.encode(), mtime=0)),
        ("T.CSV.GZ", gzip.compress(GOOD.encode(), mtime=0)),
        ("t.zip", zipped({"in/other.csv": GOOD, "__MACOSX/._other.csv": "x"})),
        ("t.tsv.gz", gzip.compress(GOOD.replace(",", "\t").encode(), mtime=0)),
        ("t.zip", zipped({"other.tsv": GOOD.replace(",", "\t")})),
        ("t.inter", GOOD.replace(",", "\t")),
    ],
)
def test_compressed_files_are_read_as_they_are(tmp_path, name, content):
    path = write(tmp_path, content, name)
    assert rows(read_table(path)) == [["ann", "dune", "4"], ["bob", "dune", "3"], ["ann", "alien", "5"]]
    if name != "t.inter":
        assert read_ratings(path).name.lower() == "t"


def test_compressed_parquet_is_read_too(tmp_path):
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    path = write(tmp_path, gzip.compress((tmp_path / "t.parquet").read_bytes()), "t.parquet.gz")
    assert rows(read_table(path)) == [[1], [2]]


def test_texts_of_any_arrow_type_are_text(tmp_path):
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array(["x", "y"], kind)}), tmp_path / "t.parquet")
        assert read_table(tmp_path / "t.parquet").ids("a")[1].tolist() == ["x", "y"]


def test_ids_of_several_row_groups_are_one_set_and_a_missing_one_has_its_place(tmp_path):
    part = pyarrow.table({"a": ["x", "y", None]})
    table = Table("t", "", ["a"], pyarrow.concat_tables([part, part.slice(1)]))
    codes, distinct = table.distinct("a")
    assert (codes.tolist(), distinct.to_pylist()) == ([0, 1, -1, 1, -1], ["x", "y"])
    with pytest.raises(DataError, match="t, row 3, column 'a': None is not an id"):
        table.ids("a")


def test_parquet_is_known_by_its_mark_too(tmp_path):
    pd.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    assert rows(read_table((tmp_path / "t.parquet").rename(tmp_path / "t.brotli"))) == [[1], [2]]


@pytest.mark.parametrize(
    ("sep", "text"),
    [(";", "a;b\n1;2\n"), ("|", "a|b\n1|2\n"), ("::", "a::b\n1::2\n"), ("\\t", "a\tb\n1\t2\n"), ("§", "a§b\n1§2\n")],
)
def test_any_sign_may_separate_fields_in_a_file_of_any_name(tmp_path, sep, text):
    table = read_table(write(tmp_path, text, "t.txt"), sep=sep)
    assert (table.names, rows(table)) == (["a", "b"], [["1", "2"]])


@pytest.mark.parametrize("sep", ["", '"', "\n", "\0", 3])
def test_an_invalid_separator_is_refused(tmp_path, sep):
    with pytest.raises(DataError, match="sep="):
        read_table(write(tmp_path, GOOD), sep=sep)


def test_what_pandas_shows_of_a_parquet_file_is_read(tmp_path):
    frame = pd.DataFrame({"a": [1, 2, 3], "y": [4, 5, 6]})
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "drawn.parquet")  # with the numbers of rows as an index
    assert read_table(tmp_path / "drawn.parquet").names == ["a", "y"]
    for index in (frame.index, frame.index[::-1] * 3):
        frame.set_index(index.rename("user")).to_parquet(tmp_path / "named.parquet")
        table = read_table(tmp_path / "named.parquet")
        assert sorted(table.names) == ["a", "user", "y"]
        assert table.numbers("user").tolist() == index.tolist()


def test_a_field_of_any_length_is_read_and_its_line_is_counted(tmp_path):
    limit = csv.field_size_limit()
    table = read_table(write(tmp_path, f'a,b\n"{"x" * 300_000}\n",1\n2,3\n'))
    assert len(table.column("a")[0].as_py()) == 300_001
    assert table.place(1) == "line 4"
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        ("", "t.csv", "the file is empty"),
        ("\ufeff", "t.csv", "the file is empty"),
        (gzip.compress(b"", mtime=0), "t.csv.gz", "the file is empty"),
        (GOOD + "ann,alien,3,9\n", "t.csv", "line 5, column 4: 4 fields instead of 3 ('9' is the last)"),
        (GOOD.replace("4\n", "4,\n"), "t.csv", "line 2, column 4: 4 fields instead of 3 (the last is blank"),
        ("\n" + GOOD + "\n \nann\n", "t.csv", "line 8, column 2: 1 field instead of 3"),
        (GOOD + 'bob,"alien,4\n' + "x,y,3\n" * 50, "t.csv", "line 5, column 2: a quote opens and never closes"),
        (GOOD + '\n\nbob,4,"alien\nx,y,3\n', "t.csv", "line 7, column 3: a quote opens and never closes"),
        ('user,"item,rating\n1,2,3\n', "t.csv", "line 1, column 2: a quote opens and never closes"),
        (GOOD + 'bob,4,"', "t.csv", "line 5, column 3: a quote opens and never closes"),
        (GOOD + '"al"ien,4\n', "t.csv", "line 5: text after a closing quote"),
        (GOOD + 'bob,"alien,4\n' + "x,y,3\n" * 50 + 'ann,"heat",2\nx,y,3\n', "t.csv", "line 56: text after a closing"),
        (GOOD.encode() + b"bob,caf\xe9,3\n", "t.csv", "line 5, column 2: byte 0xe9 is not valid utf-8; set"),
        (GOOD.replace("bob", "b\0b"), "t.csv", "line 3: a zero byte"),
        ("a::b\n1::2::3\n", "t.dat", "line 2, column 3: 3 fields instead of 2 ('3' is the last)"),
        (
            GOOD.replace(",", ";") + "x,y\n",
            "t.csv",
            "expected commas, and line 1 holds semicolons; set it with sep=",
        ),
        (zipped({"a.csv": GOOD, "b.csv": GOOD}), "t.zip", "2 files ('a.csv', 'b.csv'); zip one, or unpack it"),
        (zipped({}), "t.zip", "tables are read from"),
        (b"PK\x03\x04 and no more", "t.zip", "cannot be decompressed"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "t.csv.gz", "cannot be decompressed"),
        (b"\x1f\x8b and no more", "t.csv", "cannot be decompressed"),
        (GOOD, "t.txt", "not .txt; for other text set the separator"),
        (GOOD, "t", "not this"),
        (GOOD, "t.parquet", "not a Parquet file"),
    ],
)
def test_text_that_is_not_a_table_is_one_line_that_says_where(tmp_path, content, name, complaint):
    path = write(tmp_path, content, name)
    with pytest.raises(DataError, match=re.escape(complaint) + ("$" if complaint.endswith(")") else "")) as error:
        read_table(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_of_many_blocks_is_one_table(tmp_path, monkeypatch):
    monkeypatch.setattr("lesson.data.table.BLOCK", 256)
    path = write(tmp_path, "user,item\n" + "".join(f'"ann\n{k % 7}",{k % 5}\n' for k in range(500)))
    table = read_table(path)
    assert rows(table) == [[f"ann\n{k % 7}", str(k % 5)] for k in range(500)]
    assert table.place(499) == "line 1001"
    for name in ("user", "item"):
        codes, ids = table.ids(name)
        assert ids[codes].astype(str).tolist() == table.column(name).to_pylist()


def test_a_row_that_is_too_long_is_named_by_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("lesson.data.table.BLOCK", 1 << 20)
    with pytest.raises(DataError, match=r"t.csv, line 3: a row of more than 1 MB"):
        read_table(write(tmp_path, f"a,b\n1,2\n{'x' * (3 << 20)},1\n"))


@pytest.mark.parametrize("make", ["loop", "folder", "zero byte", "long name", "number"])
def test_what_cannot_be_opened_is_one_line(tmp_path, make):
    path = tmp_path / "t.csv"
    if make == "loop":
        path.symlink_to(path)
    elif make == "folder":
        path.mkdir()
    else:
        path = {"zero byte": "a\0.csv", "long name": f"{'x' * 300}.csv", "number": 3}[make]
    with pytest.raises(DataError, match=r"cannot be read|path of a file") as error:
        read_table(path)
    assert "\n" not in str(error.value)
    assert "\0" not in str(error.value)


def test_a_name_that_is_not_utf_8_can_be_printed_and_stored(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(path, "w") as file:  # noqa: PTH123 - a name in bytes
        file.write(GOOD)
    ratings = read_ratings(os.fsdecode(path))
    assert ratings.name == "caf\\xe9"
    with pytest.raises(DataError) as error:
        read_ratings(os.fsdecode(path), user="nobody")
    str(error.value).encode()


@pytest.mark.parametrize(
    "values",
    [
        [decimal.Decimal("1.5"), decimal.Decimal(4)],
        np.array([1.5, 4], np.float16),
        np.array([1.5, 4], np.float32),
        ["1.5", " 4 "],
        pd.Categorical(["1.5", "4"]),
    ],
)
def test_numbers_of_every_kind_are_read(tmp_path, values):
    columns = {"n": pyarrow.array(values) if isinstance(values, list | np.ndarray) else values}
    table = (
        pyarrow.table(columns)
        if isinstance(values, list | np.ndarray)
        else pyarrow.Table.from_pandas(pd.DataFrame(columns))
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    numbers = read_table(tmp_path / "t.parquet").numbers("n")
    assert (numbers.dtype, numbers.tolist()) == (np.float32, [1.5, 4])


@pytest.mark.parametrize("bad", ["x", "", "4,5", "1_0", "nan", "inf", "1e39", "--1", "0x1"])
@pytest.mark.parametrize("row", [0, 1, 500, 998, 999])
def test_the_first_value_that_is_not_a_number_is_found(tmp_path, bad, row):
    values = [str(k) for k in range(1000)]
    values[row] = bad
    pd.DataFrame({"n": values, "m": 1}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match=f"line {row + 2}, column 'n': {bad!r} is not a finite number"):
        read_table(tmp_path / "t.csv").numbers("n")


@pytest.mark.parametrize("values", [pd.to_datetime(["2020", "2021"]), [[1], [2]], [{"a": 1}, {"a": 2}]])
def test_what_holds_no_numbers_is_refused(tmp_path, values):
    pd.DataFrame({"n": values}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"column 'n': .* values are not numbers"):
        read_table(tmp_path / "t.parquet").numbers("n")


def test_uuids_of_a_database_are_ids(tmp_path):
    ids = [uuid.UUID(int=k) for k in (5, 3, 5)]
    column = pyarrow.array([key.bytes for key in ids], pyarrow.uuid())
    pyarrow.parquet.write_table(pyarrow.table({"id": column}), tmp_path / "t.parquet")
    codes, distinct = read_table(tmp_path / "t.parquet").ids("id")
    assert [distinct[code] for code in codes] == [str(key) for key in ids]


def test_what_arrow_keeps_in_other_ways_are_ids_too(tmp_path):
    kinds = {"half": np.array([1, 2, 1], np.float16), "kind": pd.Categorical(["b", "a", "b"])}
    pd.DataFrame(kinds).to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert [column.tolist() for column in table.ids("half")] == [[0, 1, 0], [1, 2]]
    assert [column.tolist() for column in table.ids("kind")] == [[1, 0, 1], ["a", "b"]]
    pd.DataFrame({"kind": pd.Categorical(["b", None])}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 2, column 'kind': None is not an id"):
        read_table(tmp_path / "t.parquet").ids("kind")


def test_two_columns_of_one_name_are_refused_where_they_are_asked_for(tmp_path):
    twice = pyarrow.table([[1, 2], [3, 4], [5, 6]], names=["a", "a", "b"])
    pyarrow.parquet.write_table(twice, tmp_path / "t.parquet")
    write(tmp_path, "a,a,b\n1,3,5\n2,4,6\n")
    for name in ("t.parquet", "t.csv"):
        table = read_table(tmp_path / name)
        assert table.numbers("b").tolist() == [5, 6]
        with pytest.raises(DataError, match="2 columns are named 'a'"):
            table.column("a")


def test_a_separator_or_encoding_is_refused_for_parquet(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "t.parquet")
    for how in ({"sep": ";"}, {"encoding": "latin-1"}):
        with pytest.raises(DataError, match="for text"):
            read_table(tmp_path / "t.parquet", **how)


CELLS = st.text(alphabet=st.sampled_from('ab,"\r\n\t ;é1.0\u2028\x0b\x85'), max_size=5)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_was_written_is_read_and_every_row_is_on_its_line(tmp_path_factory, data):
    width = data.draw(st.integers(2, 4))
    sep, end = data.draw(st.sampled_from(",\t;")), data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    written = data.draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=6))
    out = io.StringIO(newline="")
    # Python's writer leaves a lone \r or \n bare that is not the line's end.
    writer = csv.writer(out, delimiter=sep, lineterminator=end, quoting=csv.QUOTE_ALL)
    lines = []
    for row in [[f"c{column}" for column in range(width)], *written]:
        out.write(data.draw(st.sampled_from(["", end, f"  {end}"])) if lines else "")
        writer.writerow(row)
        lines.append(len(re.findall("\r\n|\r|\n", out.getvalue())))
    path = tmp_path_factory.getbasetemp() / "drawn.csv"
    path.write_bytes(out.getvalue().encode(data.draw(st.sampled_from(["utf-8", "utf-16"]))))
    table = read_table(path, sep=sep)
    assert [[column[row].as_py() for column in table.columns.columns] for row in range(len(table))] == written
    assert [table.place(row) for row in range(len(table))] == [f"line {line}" for line in lines[1:]]


FRAGMENTS = [b",", b"\n", b"\r", b'"', b"\t", b"::", b"user,item,rating\n", b"1,2,3\n", b"a,b,2\n", b" ", b"\0", b"nan"]
FRAGMENTS += [
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xff\xfe\0\0",
    b"\xc3\xa9",
    b"9" * 25,
    b"1.0",
    b"\x1f",
    b"\x1f\x8b",
    b"PK\x03\x04",
    b"PAR1",
]


@pytest.mark.parametrize("blank", [" ", "\t", '"\t"', '" "'])
def test_a_line_that_is_blank_with_quotes_or_without_is_no_row(tmp_path, blank):
    (tmp_path / "blank.csv").write_text(f'user,item,rating\n"1",2,3\n{blank}\n2,2,x\n')
    with pytest.raises(DataError, match="line 4, column 'rating'"):
        read_ratings(tmp_path / "blank.csv")
    (tmp_path / "blank.csv").write_text(f'user,item,rating\n"1",2,3\n{blank}\n2,2,4\n')
    assert len(read_ratings(tmp_path / "blank.csv")) == 2


def test_a_blank_line_may_be_long(tmp_path):
    (tmp_path / "long.csv").write_text(f"user,item,rating\n1,2,3\n{' ' * 200_000}\n2,2,4\n")
    assert len(read_ratings(tmp_path / "long.csv")) == 2


@pytest.mark.parametrize("row", ['""', '""\t""', '"\t" x', '"a"'])
def test_a_line_of_one_field_that_is_not_blank_is_named(tmp_path, row):
    (tmp_path / "odd.csv").write_text(f'user,item,rating\n"1",2,3\n{row}\n2,2,4\n')
    with pytest.raises(DataError, match="line 3"):
        read_ratings(tmp_path / "odd.csv")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.binary(max_size=4), st.sampled_from(FRAGMENTS)), max_size=20).map(b"".join),
    st.sampled_from([b"", b"user,item,rating\n1,2,3\n2,2,4\n"]),
    st.sampled_from([".csv", ".tsv", ".parquet", ".dat", ".data", ".inter", ".csv.gz", ".zip", ".txt"]),
    st.sampled_from([None, ",", "::", "§"]),
    st.sampled_from([None, "utf-16", "latin-1", "utf-7"]),
)
@pytest.mark.filterwarnings("ignore::lesson.data.RepeatedRatingsWarning")
def test_any_bytes_are_ratings_or_one_line(tmp_path_factory, junk, before, suffix, sep, encoding):
    path = tmp_path_factory.getbasetemp() / f"junk{suffix}"
    path.write_bytes(before + junk)
    try:
        told = repr(read_ratings(path, sep=sep, encoding=encoding))
    except DataError as error:
        told = str(error)
    assert "\n" not in told
    assert "CSV" not in told  # Arrow's words, which name no line


def test_an_index_that_numbers_other_rows_is_left_out_as_pandas_does(tmp_path):
    frame = pd.DataFrame({"a": range(30)}, index=pd.RangeIndex(30, name="user"))
    whole = pyarrow.Table.from_pandas(frame)
    for table in (whole, whole.slice(10)):
        pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
        shown = pd.read_parquet(tmp_path / "t.parquet").reset_index()
        assert ("user" in read_table(tmp_path / "t.parquet").names) == ("user" in shown.columns)
