"""Columns of a table as a net reads them: numbers, categories or dates, of a kind that is found or told."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute as pc

from lesson.checks import DataError, shown
from lesson.data.ids import narrowed, spelled
from lesson.data.table import Table, TextTable

Kind = Literal["number", "category", "date"]

NUMBER = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
CODE = r"^[+-]?0[0-9]"  # 007 or 02139: the zero would be lost in a number
DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9].*)?$"
# What programs write for a missing number or date. Among categories they may be names, as NA is Namibia's.
MARKS = ("na", "n/a", "#n/a", "<na>", "nan", "nat", "null", "none", "\\n", "?", "-")
LARGEST = float(np.finfo(np.float32).max)
PARTS = {"year": "year", "month": "month", "week": "week", "day": "day", "dayofweek": "day_of_week"}  # pandas' names


@dataclass(frozen=True, eq=False)
class Column:
    """A column in memory.

    Attributes:
        name: its name.
        kind: "number", "category" or "date".
        cells: of numbers float64[rows], NaN if missing; of categories int64[rows], positions in `ids`, −1 if missing;
            of dates datetime64[us][rows] in UTC, NaT if missing.
        ids: the distinct categories, sorted: text as it is written, without blanks around it. Whole numbers are
            integers, unless the file says that they are text, as Parquet can.
    """

    name: str
    kind: Kind
    cells: np.ndarray
    ids: np.ndarray = field(default_factory=lambda: np.array([], object))

    @property
    def missing(self) -> np.ndarray:
        """Where there is no value, bool[rows]."""
        if self.kind == "category":
            return self.cells < 0
        return np.isnat(self.cells) if self.kind == "date" else np.isnan(self.cells)

    def of(self, rows: np.ndarray) -> Column:
        """The column of some rows."""
        return Column(self.name, self.kind, self.cells[rows], self.ids)

    def shown(self) -> list[object]:
        """The values for people; None if missing."""
        cells = self.ids[self.cells] if self.kind == "category" and len(self.ids) else self.cells
        return [None if gone else cell for gone, cell in zip(self.missing, cells.tolist(), strict=True)]


# Decimal commas, thousands' separators, percentages; and days before months, or months before days.
LIKE_NUMBERS = (
    r"^\s*[-+]?(\d{1,3}([.,' \x{A0}\x{202F}]\d{3})+([.,]\d+)?|\d+,\d+|\d+([.,]\d+)?\s*%)\s*$"
    r"|^\s*\d{1,2}([./])\d{1,2}[./](\d{4}|\d{2})\s*$"
)


def _look_like_numbers(texts: pyarrow.Array) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, LIKE_NUMBERS)).as_py())


class Texts(NamedTuple):
    """Which of some texts are what, bool[texts] each; blank or told to be missing is `gap`."""

    gap: np.ndarray
    mark: np.ndarray
    number: np.ndarray
    code: np.ndarray
    date: np.ndarray


def read_column(table: Table, name: str, kind: Kind, na_values: Collection[str] = ()) -> Column:
    """A column of a known kind.

    Args:
        table: the file.
        name: of the column.
        kind: "number", "category" or "date".
        na_values: spellings that mean a missing value, in addition to nothing and blanks.

    Raises:
        DataError: a value is of another kind; the message has the first.

    >>> table = Table("the rows", "", ["size"], pyarrow.table({"size": ["1.5", "", "2"]}))
    >>> read_column(table, "size", "number").cells
    array([1.5, nan, 2. ])
    """
    read = {"number": _numbers, "category": _categories, "date": _dates}[kind]
    return read(table, name, frozenset(na_values))


def find_kind(table: Table, name: str, na_values: Collection[str] = ()) -> tuple[Kind, str]:
    """The kind of a column, and what is odd about it ("" if nothing).

    Text is numbers if every text is one, and dates if every text is one as in 2026-11-27; otherwise categories, which
    is odd if some are numbers or dates, or all look like 1,5 or 7 % or 3.11.2026. Numbers with leading zeros are
    categories, as are true and false.

    Raises:
        DataError: the values are of a type that a net cannot read.
    """
    values, at = table.column(name), table.names.index(name)
    kind = values.type
    if pyarrow.types.is_dictionary(table.columns.column(at).type) or pyarrow.types.is_boolean(kind):
        return "category", ""
    if pyarrow.types.is_null(kind) or pyarrow.types.is_decimal(kind):
        return "number", ""
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return "number", ""
    if _is_date(values):
        return "date", ""
    if not _is_text(values):
        if pyarrow.types.is_binary(kind):
            return "category", ""
        raise DataError(
            f"{table.path}, column {name!r}: {kind} values are neither numbers, nor text, nor dates; "
            f"leave it out with drop=[{name!r}]"
        )
    codes, distinct = table.distinct(name)
    texts = _texts(distinct, na_values)
    other = ~(texts.gap | texts.mark | texts.number | texts.date)
    plain = texts.number & ~texts.code
    if not (other | texts.date | texts.code).any():
        return "number", ""
    if not (other | texts.number).any():
        return "date", ""
    if not (plain | texts.date).any():
        likely = np.flatnonzero(other)
        if not len(likely) or (texts.code & texts.number).any() or not _look_like_numbers(distinct.take(likely)):
            return "category", ""
        row = int(np.argmax(codes == likely[0]))
        return "category", (
            f"column {name!r} has only text such as {shown(distinct[int(likely[0])].as_py())} at {table.place(row)}, "
            "which may be numbers or dates (write 1234.5 and 2026-11-27)"
        )
    kinds = {"numbers": plain, "dates": texts.date, "numbers with leading zeros": texts.code, "other text": other}
    counts = {what: np.isin(codes, np.flatnonzero(which)) for what, which in kinds.items() if which.any()}
    rarest = min(counts, key=lambda what: counts[what].sum())
    row = int(np.argmax(counts[rarest]))
    return "category", (
        f"column {name!r} has {' and '.join(counts)}, such as {shown(distinct[int(codes[row])].as_py())} at "
        f"{table.place(row)}"
    )


def derived(column: Column) -> Iterator[Column]:
    """The columns that a net reads instead of one of a file.

    - Numbers: the numbers, and a category NAME_na, whether they are missing.
    - Dates: categories NAME_year, _month, _week (ISO 8601), _day and _dayofweek (0 is Monday), and numbers
      NAME_elapsed, the seconds since 1970; as fastai's add_datepart.
    - Categories: themselves.

    >>> days = Column("sold", "date", np.array(["2026-11-27", "NaT"], "datetime64[us]"))
    >>> {part.name: part.shown() for part in derived(days) if part.name in ("sold_week", "sold_dayofweek")}
    {'sold_week': [48, None], 'sold_dayofweek': [4, None]}
    """
    if column.kind == "category":
        yield column
    elif column.kind == "number":
        yield column
        yield Column(
            f"{column.name}_na", "category", column.missing.astype(np.int64), np.array(["False", "True"], object)
        )
    else:
        import pandas as pd  # pandas takes half a second to import, only needed here

        days, missing = pd.DatetimeIndex(column.cells), column.missing
        for part, attribute in PARTS.items():
            numbers = days.isocalendar().week if part == "week" else getattr(days, attribute)
            ids, position = np.unique(np.asarray(numbers)[~missing].astype(np.int64), return_inverse=True)
            codes = np.full(len(missing), -1)
            codes[~missing] = position
            yield Column(f"{column.name}_{part}", "category", codes, ids)
        seconds = column.cells.astype("datetime64[us]").astype(np.int64) / 1e6
        yield from derived(Column(f"{column.name}_elapsed", "number", np.where(missing, np.nan, seconds)))


def _numbers(table: Table, name: str, na_values: frozenset[str]) -> Column:
    values = table.column(name)
    if _is_text(values):
        codes, distinct = table.distinct(name)
        texts = _texts(distinct, na_values)
        _refuse(table, name, codes, distinct, ~(texts.gap | texts.mark | texts.number), "is not a number")
        doubles = np.full(len(distinct) + 1, np.nan)  # the last is for −1
        doubles[:-1][texts.number] = (
            pc.utf8_trim_whitespace(distinct).filter(pyarrow.array(texts.number)).cast("double")
        )
        numbers = doubles[codes]
    else:
        try:
            numbers = values.cast("double", safe=False).to_numpy().copy()
        except pyarrow.ArrowNotImplementedError:
            raise DataError(f"{table.path}, column {name!r}: {values.type} values are not numbers") from None
    for text in na_values:
        if re.search(NUMBER, text):  # -999 and -999.0 are the same number
            with np.errstate(over="ignore"):
                marker = float(_stored(table, name)(text))
            numbers[numbers == marker] = np.nan
    large = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(large):
        table.fail(int(large[0]), name, f"{shown(values[int(large[0])].as_py())} is not a number that float32 can hold")
    return Column(name, "number", numbers)


def _categories(table: Table, name: str, na_values: frozenset[str]) -> Column:
    codes, distinct = table.distinct(name)
    stored = _stored(table, name)
    present, texts = [], []
    for place, key in enumerate(distinct.to_pylist()):
        if key is None or key != key or (isinstance(key, str | bytes) and not key.strip()):
            continue
        if isinstance(key, float):
            key = float(str(stored(key)))  # .1 of float32 is .1, not .10000000149
        try:
            text = spelled(key)
        except DataError as error:
            table.fail(int(np.argmax(codes == place)), name, str(error))
        if text not in na_values:
            written = key.decode() if isinstance(key, bytes) else key
            present.append(place)
            texts.append(written.strip() if isinstance(written, str) else text)
    is_text = pyarrow.types.is_binary(distinct.type) or _is_text(distinct)
    untyped = isinstance(table, TextTable) or not is_text
    ids, position = np.unique(narrowed(texts) if untyped else np.array(texts, dtype=object), return_inverse=True)
    places = np.full(len(distinct) + 1, -1)  # the last is for −1
    places[present] = position
    return Column(name, "category", places[codes], ids)


def _dates(table: Table, name: str, na_values: frozenset[str]) -> Column:
    values = table.column(name)
    if not _is_text(values):
        if not _is_date(values):
            raise DataError(f"{table.path}, column {name!r}: {values.type} values are not dates")
        dates = values.cast(pyarrow.timestamp("us"), safe=False).to_numpy().astype("datetime64[us]")
        if na_values:
            missing = _parsed(list(na_values))
            dates[np.isin(dates, missing[~np.isnat(missing)])] = np.datetime64("NaT")
        return Column(name, "date", dates)
    codes, distinct = table.distinct(name)
    texts = _texts(distinct, na_values)
    days = np.full(len(distinct) + 1, "NaT", "datetime64[us]")  # the last is for −1
    written = pc.utf8_trim_whitespace(distinct).filter(pyarrow.array(texts.date)).to_pylist()
    days[:-1][texts.date] = _parsed(written)
    wrong = np.isnat(days[:-1]) & ~(texts.gap | texts.mark)
    _refuse(table, name, codes, distinct, wrong, "is not a date such as 2026-11-27")
    return Column(name, "date", days[codes])


def _parsed(texts: list[str]) -> np.ndarray:
    """Dates such as 2026-11-27 datetime64[us][n] in UTC; NaT for other texts."""
    import pandas as pd  # pandas takes half a second to import, only needed here

    found = pd.to_datetime(pd.Series(texts, dtype=object), errors="coerce", format="ISO8601", utc=True)
    return np.asarray(found.dt.tz_localize(None).to_numpy().astype("datetime64[us]"))


def _stored(table: Table, name: str) -> type[np.floating]:
    """The type that rounded a column's numbers: float32 holds 99.9 as 99.9000015."""
    kinds: dict[str, type[np.floating]] = {"halffloat": np.float16, "float": np.float32}
    return kinds.get(str(table.columns.column(table.names.index(name)).type), np.float64)


def _is_text(values: pyarrow.Array | pyarrow.ChunkedArray) -> bool:
    return bool(pyarrow.types.is_string(values.type) or pyarrow.types.is_large_string(values.type))


def _is_date(values: pyarrow.ChunkedArray) -> bool:
    kinds = pyarrow.types
    return bool(kinds.is_date(values.type) or kinds.is_timestamp(values.type) or kinds.is_null(values.type))


def _texts(distinct: pyarrow.Array, na_values: Collection[str]) -> Texts:
    trimmed = pc.utf8_trim_whitespace(distinct)
    gap = pc.is_in(trimmed, value_set=pyarrow.array(["", *na_values], distinct.type))
    mark = pc.is_in(pc.utf8_lower(trimmed), value_set=pyarrow.array(MARKS, distinct.type))
    number, code, date = (pc.match_substring_regex(trimmed, pattern) for pattern in (NUMBER, CODE, DATE))
    flags = [which.to_numpy(zero_copy_only=False) for which in (gap, mark, number, code, date)]
    return Texts(flags[0], *(which & ~flags[0] for which in flags[1:]))


def _refuse(
    table: Table, name: str, codes: np.ndarray, distinct: pyarrow.Array, wrong: np.ndarray, complaint: str
) -> None:
    """Raise the error about the first row whose text is wrong, if there is one."""
    if wrong.any():
        row = int(np.argmax(np.isin(codes, np.flatnonzero(wrong))))
        table.fail(row, name, f"{shown(distinct[int(codes[row])].as_py())} {complaint}")
