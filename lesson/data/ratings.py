"""Ratings from a file: who rated what, and how. Bad input gives one error that says where it is."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet

# What people call the three columns; MovieLens, Surprise, RecBole and LensKit among them. Case is ignored.
COLUMN_NAMES = {
    "user": ("user", "user_id", "userid", "uid", "user_id:token"),
    "item": ("item", "item_id", "itemid", "iid", "movie", "movie_id", "movieid", "title", "item_id:token"),
    "rating": ("rating", "score", "stars", "rating:float"),
}


class DataError(ValueError):
    """Input that cannot be used: the message says which file, line, column and value, and what to do."""


class RepeatedRatingsWarning(UserWarning):
    """Some (user, item) pairs are rated more than once; every rating is kept."""


@dataclass(frozen=True, eq=False)
class Ratings:
    """A table of ratings, a row a rating, in file order.

    Attributes:
        user: int64[rows], positions in `user_ids`.
        item: int64[rows], positions in `item_ids`.
        rating: float32[rows].
        user_ids: the distinct user ids, sorted: integers where all are, else strings.
        item_ids: the distinct item ids, likewise.
        titles: what to show for an item id, where that is known.
        name: what reports call the data set.
        checksum: sha256 of the file of ratings.
        repeated: rows whose (user, item) pair stood in an earlier row.
        y_range: a range for the sigmoid a little wider than the ratings, so that their ends can be reached.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray
    name: str
    checksum: str
    repeated: int
    y_range: tuple[float, float]
    titles: dict[Hashable, str] = field(default_factory=dict)
    terms: str | None = None
    citation: str | None = None

    def __len__(self) -> int:
        return len(self.rating)


def read_ratings(
    path: str | Path, *, user: str | None = None, item: str | None = None, rating: str | None = None
) -> Ratings:
    """Read ratings from a CSV (`.csv`), TSV (`.tsv`) or Parquet (`.parquet`) file with a header.

    Args:
        path: the file.
        user: name of the column of user ids; found by its usual names when not given.
        item: name of the column of item ids; likewise.
        rating: name of the column of ratings; likewise.

    Raises:
        DataError: the file, a column or a value cannot be used.
    """
    path = Path(path)
    names = {"user": user, "item": item, "rating": rating}
    readers = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        table: _Table = _ParquetTable(path)
    elif suffix in readers:
        table = TextTable(path, readers[suffix])
    else:
        raise DataError(f"{path}: ratings are read from .csv (commas), .tsv (tabs) or .parquet, not {suffix or 'this'}")
    return table.ratings({role: table.find(role, names[role]) for role in names}, name=path.stem)


def repeats(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Whether a row's (user, item) pair stands in an earlier row: bool[rows]."""
    return pd.DataFrame({"user": user, "item": item}).duplicated().to_numpy()


def read_bytes(path: Path) -> bytes:
    """The file's bytes; DataError where there is none to read, or nothing in it."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not raw.strip():
        raise DataError(f"{path}: the file is empty")
    return raw


def decode(raw: bytes, path: Path, encoding: str, delimiter: str) -> str:
    """Bytes to text; DataError with line, column and byte where they are not valid in `encoding`."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        start = raw.rfind(b"\n", 0, error.start) + 1
        line = raw.count(b"\n", 0, error.start) + 1
        column = raw[start : error.start].count(delimiter.encode()) + 1
        raise DataError(
            f"{path}, line {line}, column {column}: byte 0x{raw[error.start]:02x} is not valid {encoding}; "
            "convert the file to UTF-8 (it may be latin-1: `iconv -f latin1 -t utf8`)"
        ) from error


class _Table:
    """Columns of a file, and the way back from a row to the place in the file where it stands."""

    path: Path
    columns: pd.DataFrame
    checksum: str

    def place(self, row: int) -> str:
        raise NotImplementedError

    def hint(self) -> str:
        return ""

    def find(self, role: str, name: str | None) -> str:
        """The name of the column that holds the `role` (user, item or rating)."""
        have = [str(column) for column in self.columns.columns]
        wanted = (name,) if name is not None else COLUMN_NAMES[role]
        for column in have:
            if column == name or (name is None and column.strip().lower() in wanted):
                return column
        looked_for = f"{name!r}" if name is not None else "any of " + ", ".join(wanted)
        raise DataError(
            f"{self.path}: no {role} column ({looked_for}); the columns are {have}{self.hint()}. "
            f"Rename one, or in Python name it: load_ratings(…, {role}=…)"
        )

    def fail(self, row: int, column: str, complaint: str) -> NoReturn:
        raise DataError(f"{self.path}, {self.place(row)}, column {column!r}: {complaint}")

    def numbers(self, column: str) -> np.ndarray:
        """The column as float32, or DataError at the first value that is no finite number."""
        values = self.columns[column]
        if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_string_dtype(values)):
            raise DataError(f"{self.path}, column {column!r}: {values.dtype} are no ratings; numbers are needed")
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            numbers = (
                pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
            )
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            self.fail(
                int(bad[0]),
                column,
                f"{str(values.iloc[bad[0]])!r} is not a finite number; every row needs a rating",
            )
        return numbers

    def ids(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """The column as (positions in the sorted distinct ids, those ids)."""
        values = self.columns[column]
        whole = pd.api.types.is_integer_dtype(values)
        # No integer is blank, and twenty million of them take seconds to write out as text.
        missing = np.flatnonzero(values.isna() if whole else values.isna() | (values.astype("str").str.strip() == ""))
        if len(missing):
            self.fail(int(missing[0]), column, "no id; every row needs one")
        if not whole:
            values = values.astype("str")
            # Canonical integers only: '007' and '7' are different ids.
            if values.str.fullmatch(r"-?(?:0|[1-9][0-9]{0,17})").all():
                values = values.astype("int64")
        ids, codes = np.unique(values.to_numpy(), return_inverse=True)
        return codes.astype(np.int64), ids

    def ratings(self, columns: dict[str, str], name: str) -> Ratings:
        """The table as Ratings, checked."""
        if not len(self.columns):
            raise DataError(f"{self.path}: a header and no ratings")
        rating = self.numbers(columns["rating"])
        user, user_ids = self.ids(columns["user"])
        item, item_ids = self.ids(columns["item"])
        if len(user_ids) < 2:
            raise DataError(
                f"{self.path}, column {columns['user']!r}: one user only ({user_ids[0]!r}); "
                "collaborative filtering needs several"
            )
        low, high = float(rating.min()), float(rating.max())
        if low == high:
            raise DataError(
                f"{self.path}, column {columns['rating']!r}: every rating is {rating[0]:g}; there is nothing to learn"
            )
        repeated = repeats(user, item)
        if repeated.any():
            row = int(np.flatnonzero(repeated)[0])
            warnings.warn(
                f"{self.path}: {repeated.sum():,} of {len(rating):,} ratings repeat a (user, item) pair, "
                f"the first at {self.place(row)} (user {user_ids[user[row]]}, item {item_ids[item[row]]}); "
                "all are kept, and one may validate what another trained",
                RepeatedRatingsWarning,
                stacklevel=3,
            )
        margin = (high - low) / 8
        return Ratings(
            user,
            item,
            rating,
            user_ids,
            item_ids,
            name,
            self.checksum,
            int(repeated.sum()),
            (low - margin, high + margin),
        )


class TextTable(_Table):
    """Delimited text. Everything is read as strings, so that an id such as 007 or NA stays what it is.

    Args:
        path: the file.
        delimiter: one sign, or "::" as in MovieLens 1M.
        encoding: of the file.
        names: the columns' names, where the file has no header or another one.
        header_lines: 1 where line 1 is a header, else 0.
        quoted: whether double quotes enclose fields.
    """

    def __init__(
        self,
        path: Path,
        delimiter: str,
        encoding: str = "utf-8-sig",
        names: Sequence[str] | None = None,
        header_lines: int = 1,
        quoted: bool = True,
    ) -> None:
        self.path, self.delimiter, self.header_lines = path, delimiter, header_lines
        raw = read_bytes(path)
        self.checksum = hashlib.sha256(raw).hexdigest()
        self.text = decode(raw, path, encoding, delimiter)
        self.first_line = self.text.split("\n", 1)[0].rstrip("\r")
        if len(delimiter) > 1:  # pandas' fast reader wants one sign
            self.text, delimiter = self.text.replace(delimiter, "\t"), "\t"
        self.dialect: dict[str, Any] = {
            "delimiter": delimiter,
            "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        }
        fields = len(next(csv.reader([self.first_line.replace(self.delimiter, delimiter)], **self.dialect)))
        if names and fields != len(names):
            raise DataError(
                f"{path}, line 1: {fields} columns where {len(names)} are expected ({', '.join(names[:4])} …)"
                f"{self.hint()}"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", pd.errors.ParserWarning)  # columns without a name would be dropped
                self.columns = pd.read_csv(
                    io.StringIO(self.text),
                    header=0 if header_lines else None,
                    names=list(names) if names else None,
                    index_col=False,
                    dtype=str,
                    na_filter=False,
                    **self.dialect,
                )
        except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
            raise DataError(f"{path}: {str(error).strip()}{self.hint()}") from error

    def place(self, row: int) -> str:
        """The line of the file on which a row ends."""
        # Blank lines and line breaks inside quotes make line and row differ: count as the reader did.
        reader = csv.reader(io.StringIO(self.text), **self.dialect)
        rows = (reader.line_num for fields in reader if fields)
        return f"line {next(itertools.islice(rows, row + self.header_lines, None))}"

    def hint(self) -> str:
        """What to add to an error when the delimiter seems wrong."""
        if self.delimiter in self.first_line:
            return ""
        names = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", "::": "double colons"}
        seen = next((f", and line 1 holds {name}" for sign, name in names.items() if sign in self.first_line), "")
        return f" (the delimiter may be wrong: {names[self.delimiter]} are expected{seen})"


class _ParquetTable(_Table):
    def __init__(self, path: Path) -> None:
        self.path = path
        raw = read_bytes(path)
        self.checksum = hashlib.sha256(raw).hexdigest()
        try:
            frame = pyarrow.parquet.read_table(pyarrow.BufferReader(raw)).to_pandas()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: not a Parquet file that can be read ({error})") from error
        # An index with a name is a column to whoever wrote the file.
        self.columns = frame.reset_index() if any(frame.index.names) else frame

    def place(self, row: int) -> str:
        return f"row {row + 1}"
