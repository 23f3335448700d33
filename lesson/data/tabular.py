"""Tables of anything: a target to predict from categories, numbers and dates; split, and learned from training rows."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lesson import checks
from lesson.checks import DataError, shown
from lesson.data.bunch import given_rows, split_rows
from lesson.data.columns import LARGEST, Column, Kind, derived, find_kind, read_column
from lesson.data.ids import Categories, Vocab, spelled
from lesson.data.origin import Origin, with_options
from lesson.data.table import Table, data_name, listing, read_table, reason

if TYPE_CHECKING:
    import pandas as pd

    NewRows = Table | pd.DataFrame | Mapping[str, Any]

SPLITS = ("random", "time")
UNITS = {"Y": "M8[D]", "M": "M8[D]", "W": "M8[D]", "h": "M8[s]", "m": "M8[s]"}  # NumPy's that Arrow lacks
VALID_PCT = 0.2


class TableWarning(UserWarning):
    """Something in a table is odd; the message says what, where, and what was done about it."""


class Category(NamedTuple):
    """A column of an embedding's rows.

    Attributes:
        name: of the column.
        vocab: the categories of the training rows. Row 0 is for all others, and for missing ones.
    """

    name: str
    vocab: Vocab

    def rows(self, column: Column) -> np.ndarray:
        """The rows of a table's column, int64[rows]."""
        found: np.ndarray = np.append(self._rows_of_ids(column), 0)[column.cells]  # the last is for −1
        return found

    def unseen(self, column: Column) -> list[Any]:
        """The categories of a table's column that training has not seen."""
        return [column.ids[place] for place in np.flatnonzero(self._rows_of_ids(column) == 0)]

    def _rows_of_ids(self, column: Column) -> np.ndarray:
        rows = self.vocab.rows(column.ids)
        for place, key in enumerate(column.ids):
            if rows[place] == 0 and str(key).lower() in ("true", "false"):  # Python writes True, files true or TRUE
                rows[place] = self.vocab.rows([str(key).lower(), str(key).upper(), str(key).title()]).max()
        return rows


class Number(NamedTuple):
    """A column of numbers, standardized.

    Attributes:
        name: of the column.
        median: of the training rows that have a value; it stands for a missing one.
        mean: of the training rows, with the median where one is missing.
        deviation: likewise, the root of the mean square.
    """

    name: str
    median: float
    mean: float
    deviation: float

    def standardized(self, column: Column) -> np.ndarray:
        """A table's column as float32[rows]: mean 0 and deviation 1 on the training rows.

        Raises:
            DataError: a value is so far away that float32 does not hold it.
        """
        filled = np.where(column.missing, self.median, column.cells)
        with np.errstate(over="ignore"):
            found = (filled - self.mean) / self.deviation
        far = np.abs(found) > LARGEST
        if far.any():
            raise DataError(
                f"column {self.name!r}: {filled[far][0]:g} is too far from the training rows, whose mean is "
                f"{self.mean:g} and standard deviation {self.deviation:g}"
            )
        return found.astype(np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Tabular:
    """A table, not yet split.

    Attributes:
        name: the data set's name in reports.
        path: the file, as shown in messages.
        checksum: sha256 of the file and of the options for reading it.
        target: what is to be predicted: a class if it is a category, else a number. No row lacks it.
        columns: all others that are read.
        rows: int64[rows], the number of each row in the file, from 0.
        in_file: how many rows the file has.
        kept: columns that the caller named, which are never left out as ids.
        na_values: spellings that mean a missing value.
        notes: sentences about how the file was read.
        time: float64[rows], when each was; None for a random split.
        held_out: how many of the latest rows validate; None leaves it to `split`.
        terms: of use.
        citation: what to cite when publishing with it.
        key: its name in claims, if it is a known data set.
    """

    name: str
    path: str
    checksum: str
    target: Column
    columns: tuple[Column, ...]
    rows: np.ndarray
    in_file: int
    kept: frozenset[str] = frozenset()
    na_values: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    time: np.ndarray | None = None
    held_out: int | None = None
    terms: str | None = None
    citation: str | None = None
    key: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.origin.counted()}, target {self.target.name!r}>"

    @property
    def origin(self) -> Origin:
        """Its origin."""
        size = {"rows": len(self), "columns": len(self.columns)}
        return Origin(self.name, self.checksum, size, self.terms, self.citation, self.key, resplits=self.time is None)

    def learnable(self, seeds: int) -> list[str]:
        """Notes before the first run: how the file was read, and what the first split leaves out.

        Args:
            seeds: the splits of seeds 0 … seeds − 1 will be trained on.

        Raises:
            DataError: the training rows of a split have nothing to learn.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for seed in range(seeds):
                parts = self._parts(seed, VALID_PCT, None)
                if seed == 0:
                    self._inputs(self._used(*parts), len(parts[0]))
                self._classes(*parts)
                if self.time is not None:
                    break  # all seeds have this split
        return list(dict.fromkeys([*self.notes, *(str(warning.message) for warning in caught)]))

    def split(
        self,
        seed: int = 42,
        valid_pct: float = VALID_PCT,
        valid_rows: Sequence[int] | np.ndarray | None = None,
        at_most: tuple[int, int] | None = None,
    ) -> TabularData:
        """Split into training and validation rows; everything that is learned comes from the training rows.

        Args:
            seed: the split's seed; a split by time is the same for all.
            valid_pct: the share of validation rows; without effect if the table says how many are `held_out`.
            valid_rows: row numbers (0-based, in file order) of the validation rows, instead of the two above.
            at_most: training and validation rows: if there are more, the seed draws the training rows, and validation
                rows are taken at equal distances.

        Raises:
            DataError: an argument is wrong, a part would be empty, or the training rows have nothing to learn.

        Warns:
            TableWarning: columns that say nothing in the training rows are left out.
        """
        train, valid = self._parts(seed, valid_pct, valid_rows)
        if at_most is not None:
            if not isinstance(at_most, Sequence) or isinstance(at_most, str) or len(at_most) != 2:
                raise DataError(f"at_most={shown(at_most)}: two numbers are needed, of training and of validation rows")
            most, most_valid = (checks.whole("at_most", most, least=2) for most in at_most)
            if len(train) > most:
                train = np.sort(np.random.default_rng(checks.whole("seed", seed)).choice(train, most, replace=False))
            if len(valid) > most_valid:
                valid = valid[np.linspace(0, len(valid) - 1, most_valid).astype(int)]
        columns, known = self._used(train, valid), len(train)
        categories, numbers = self._inputs(columns, known)
        classes = self._classes(train, valid)
        goal = self.target.cells[np.concatenate([train, valid])]
        y = torch.from_numpy(goal.astype(np.float32)[:, None] if classes is None else goal)
        tensors = (*self._encoded(categories, numbers, columns), y)
        sets = [TensorDataset(*(column[part] for column in tensors)) for part in (slice(known), slice(known, None))]
        return TabularData(self, classes, tuple(categories), tuple(numbers), train, valid, *sets)

    def earlier(self) -> Tabular:
        """The training rows of a split by time as a table of their own, split by time too: to tune on.

        Raises:
            DataError: the split is random.
        """
        if self.time is None:
            raise DataError(f"{self.path}: split at random, so no rows are the earlier ones")
        rows, _ = self._parts(0, VALID_PCT, None)
        return replace(
            self,
            target=self.target.of(rows),
            columns=tuple(column.of(rows) for column in self.columns),
            rows=self.rows[rows],
            time=self.time[rows],
            held_out=None if self.held_out is None else round(self.held_out * len(rows) / len(self)),
        )

    def _used(self, train: np.ndarray, valid: np.ndarray) -> list[Column]:
        """The columns of the training rows, followed by the validation rows."""
        return [column.of(np.concatenate([train, valid])) for column in self.columns]

    def _inputs(self, columns: Sequence[Column], known: int) -> tuple[list[Category], list[Number]]:
        """What the first `known` rows of columns say of them, for a net to read; warns of columns that it will not."""
        train = np.arange(known)
        categories, numbers, dull, ids, unmarked = [], [], [], [], []
        for column in columns:
            if column.kind == "category" and column.name not in self.kept and _is_id(column.of(train)):
                ids.append(column.name)
                continue
            parts = list(derived(column))
            learned = [_learned(part, train) for part in parts]
            if not any(learned) or (column.kind == "number" and learned[0] is None):
                dull.append(_described(column.of(train)))
            elif column.kind == "number" and learned[1] is None and column.missing[known:].any():
                unmarked.append(column.name)
            categories += [part for part in learned if isinstance(part, Category)]
            numbers += [part for part in learned if isinstance(part, Number)]
        self._warn(
            map(repr, ids),
            "has another text in each training row, as ids do: left out; to keep it name it in cat_names",
        )
        self._warn(dull, "is the same in all training rows that have it: left out")
        self._warn(
            map(repr, unmarked),
            "lacks values in validation rows, but in no training row: the median stands for them, unmarked",
        )
        if not categories and not numbers:
            raise DataError(f"{self.path}: no column but {self.target.name!r} says anything in the training rows")
        return categories, numbers

    def _parts(self, seed: int, valid_pct: float, valid_rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """The training rows and the validation rows."""
        n = len(self)
        if valid_rows is None:
            train, valid = (rows.numpy() for rows in split_rows(n, seed, valid_pct, f"{self.path}: {n} rows"))
            if self.time is None:
                return train, valid
            order = np.argsort(self.time, kind="stable")
            known = len(train) if self.held_out is None else n - self.held_out
            return np.sort(order[:known]), order[known:]
        place = np.full(self.in_file, -1)
        place[self.rows] = np.arange(n)
        valid = place[given_rows(valid_rows, self.in_file)]
        valid = valid[valid >= 0]  # some have no target
        train = np.setdiff1d(np.arange(n), valid)
        if not len(train) or not len(valid):
            raise DataError(f"{self.path}: valid_rows leave {len(train)} for training and {len(valid)} for validation")
        return train, valid

    def _classes(self, train: np.ndarray, valid: np.ndarray) -> list[Any] | None:
        """The labels of a class target; None for numbers."""
        known, name = np.unique(self.target.cells[train]), self.target.name
        if len(known) < 2:
            raise DataError(
                f"{self.path}, column {name!r}: always {_one(self.target, train)} in the training rows; there is "
                "nothing to learn"
            )
        if self.target.kind == "number":
            return None
        strange = ~np.isin(self.target.cells[valid], known)
        if strange.any():
            labels = self.target.ids[np.unique(self.target.cells[valid][strange])].tolist()
            self._warn(map(repr, labels), f"is a class of {strange.sum():,} validation rows, but of no training row")
        return self.target.ids.tolist()

    def _encoded(
        self, categories: Sequence[Category], numbers: Sequence[Number], columns: Sequence[Column]
    ) -> tuple[Tensor, Tensor]:
        """The inputs of a net: rows of embeddings int64[rows, categories], and numbers float32[rows, numbers]."""
        by_name = {part.name: part for column in columns for part in derived(column)}
        rows = len(columns[0].cells)
        ids = [category.rows(by_name[category.name]) for category in categories]
        standardized = [number.standardized(by_name[number.name]) for number in numbers]
        return (
            torch.from_numpy(np.column_stack(ids) if ids else np.zeros((rows, 0), np.int64)),
            torch.from_numpy(np.column_stack(standardized) if standardized else np.zeros((rows, 0), np.float32)),
        )

    def _warn(self, names: Iterable[str], complaint: str) -> None:
        if found := list(names):
            said = ", ".join(found[:12]) + (f" … ({len(found)} in all)" if len(found) > 12 else "")
            warnings.warn(f"{self.path}: {said} {complaint}", TableWarning, stacklevel=5)


@dataclass(frozen=True, eq=False, repr=False)
class TabularData:
    """A table split into training and validation rows, ready for a net.

    Attributes:
        source: the table before the split.
        classes: the labels of a class target, in the order of the net's outputs; None for a target of numbers.
        categories: the columns that get embeddings, dates' parts and marks of missing numbers among them.
        numbers: the columns of numbers.
        train_rows: int64[rows], the training rows of the source, in file order.
        valid_rows: the validation rows.
        train: gives (rows of embeddings int64[batch, categories], numbers float32[batch, numbers], target): the target
            is a class int64[batch], or a number float32[batch, 1].
        valid: likewise.
    """

    source: Tabular
    classes: list[Any] | None
    categories: tuple[Category, ...]
    numbers: tuple[Number, ...]
    train_rows: np.ndarray
    valid_rows: np.ndarray
    train: TensorDataset
    valid: TensorDataset

    def __repr__(self) -> str:
        what = "numbers" if self.classes is None else f"{len(self.classes)} classes"
        return (
            f"<{self.source.name}: {len(self.train):,} training and {len(self.valid):,} validation rows, "
            f"{len(self.categories)} categories, {len(self.numbers)} numbers, target {self.source.target.name!r} "
            f"({what})>"
        )

    @property
    def origin(self) -> Origin:
        """The origin of the table."""
        return self.source.origin

    @property
    def c(self) -> int:
        """How many outputs a net needs, by fastai's name: one for each class, or 1."""
        return 1 if self.classes is None else len(self.classes)

    @cached_property
    def y_range(self) -> tuple[float, float] | None:
        """A range for the sigmoid, an eighth wider on both sides than the training rows' numbers; None for classes."""
        if self.classes is not None:
            return None
        low, high = (float(end) for end in torch.aminmax(self.train.tensors[-1]))
        return low - (high - low) / 8, high + (high - low) / 8

    @property
    def needed(self) -> list[Column]:
        """The columns that the net uses, or a part of them."""
        used = {category.name for category in self.categories} | {number.name for number in self.numbers}
        return [column for column in self.source.columns if used & set(_part_names(column))]

    def encoded(self, rows: NewRows, stacklevel: int = 2) -> tuple[Tensor, Tensor]:
        """New rows as the net reads them: int64[rows, categories] and float32[rows, numbers].

        A category that training has not seen, or none, is row 0 of its embedding; the training's median stands for a
        missing number. Columns that the net does not use need not be there.

        Args:
            rows: a table from `read_table`, a DataFrame, or a dictionary of lists by column.
            stacklevel: whose line a warning names, as for `warnings.warn`.

        Raises:
            DataError: a column is missing, or a value is of another kind than the file's.

        Warns:
            TableWarning: training has not seen some of the categories; of dates, none is said to be new.
        """
        needed = self.needed
        names = {column.name for column in needed}
        if isinstance(rows, Mapping) and names <= rows.keys():
            rows = {name: rows[name] for name in names}  # the other values may be of any kind
        table = as_table(rows)
        lacking = [column.name for column in needed if column.name not in table.names]
        if lacking:
            raise DataError(f"{table.path}: no column {listing(lacking)}; the columns are {listing(table.names)}")
        read = [read_column(table, column.name, column.kind, self.source.na_values) for column in needed]
        texts = {column.name: column for column in read if column.kind == "category"}  # not a date's parts
        known = [category for category in self.categories if category.name in texts]
        unseen = [
            f"{category.name} {shown(key)}" for category in known for key in category.unseen(texts[category.name])
        ]
        if unseen:
            some = ", ".join(unseen[:3]) + (" …" if len(unseen) > 3 else "")
            warnings.warn(
                f"{table.path}: training has not seen {some} ({len(unseen):,} in all); row 0 of the embedding answers",
                TableWarning,
                stacklevel=stacklevel,
            )
        return self.source._encoded(self.categories, self.numbers, read)

    def show_batch(self, n: int = 10) -> pd.DataFrame:
        """The first `n` training rows, as in the file."""
        return self._table(self.train_rows[: checks.whole("n", n, least=1)])

    def show_results(self, rows: Tensor, out: Tensor) -> pd.DataFrame:
        """Validation rows int64[n] as in the file, with a column of predictions from the net's outputs [n, c]."""
        return self._table(self.valid_rows[rows.numpy()]).assign(prediction=self.decoded(out))

    def decoded(self, out: Tensor) -> list[Any]:
        """The label of the largest output of each row of [rows, c], or the numbers."""
        if self.classes is None:
            return out[:, 0].tolist()
        return [self.classes[place] for place in out.argmax(1).tolist()]

    def _table(self, rows: np.ndarray) -> pd.DataFrame:
        import pandas as pd  # pandas takes half a second to import, only needed here

        columns = [*self.source.columns, self.source.target]
        # Categories stay as they are: pandas would make floats of whole numbers with a gap among them.
        return pd.DataFrame(
            {
                column.name: pd.Series(column.of(rows).shown(), dtype=object if column.kind == "category" else None)
                for column in columns
            }
        )


def load_table(
    path: str | Path,
    target: str,
    *,
    cat_names: Collection[str] = (),
    cont_names: Collection[str] = (),
    drop: Collection[str] = (),
    na_values: Collection[Any] = (),
    sep: str | None = None,
    encoding: str | None = None,
    split: Literal["random", "time"] | None = None,
    time: str | None = None,
    valid_pct: float = VALID_PCT,
    seed: int = 42,
    valid_rows: Sequence[int] | np.ndarray | None = None,
) -> TabularData:
    """Your table: CSV, TSV or Parquet, plain, gzipped or zipped, with a column to predict from the others.

    Each column is of one kind, found by its values or told:

    - Numbers are standardized by the training rows. The training's median stands for a missing one, and a category
      NAME_na says that it was missing.
    - Categories are text, true and false, and columns named in `cat_names`. A missing category, and one that no
      training row has, is "#na#", row 0 of the embedding.
    - Dates become the categories year, month, week, day and day of week, and the number elapsed.

    A target of text is a class. A target of numbers is to be predicted as a number, unless `cat_names` has it. Rows
    without a target are left out, and counted in a warning.

    Args:
        path: the file.
        target: the column to predict; fastai's dep_var.
        cat_names: columns that are categories, though they have numbers or dates.
        cont_names: columns that are numbers: any other text in them is an error.
        drop: columns that are not used.
        na_values: values that mean a missing one, such as "?" or -999, in addition to blanks. In columns of numbers and
            dates NA, NaN, null, None, ? and - do so by themselves.
        sep: the separator of text fields; None chooses by the file's name.
        encoding: the text's encoding; None means UTF-8, or the encoding of a byte order mark.
        split: "random" (the default), or "time": the latest rows validate, ties in file order.
        time: the column of times, for split="time"; None takes the only one that has dates.
        valid_pct: the share of validation rows.
        seed: the split's seed.
        valid_rows: row numbers (0-based, in file order) of the validation rows, instead of the two above.

    Example:
        >>> data = load_table("people.csv", "income", cat_names=["household"], na_values=["?"])  # doctest: +SKIP

    Raises:
        DataError: the input is wrong; the message has file, line, column and value.

    Warns:
        TableWarning: something is odd: rows without a target, columns of several kinds, columns that were left out.
    """
    how: dict[str, Any] = {"sep": sep, "encoding": encoding, "split": split, "time": time, "na_values": na_values}
    table = open_table(path, target, cat_names=cat_names, cont_names=cont_names, drop=drop, **how)
    return table.split(seed, valid_pct, valid_rows)


def open_table(
    path: str | Path,
    target: str,
    *,
    cat_names: Collection[str] = (),
    cont_names: Collection[str] = (),
    drop: Collection[str] = (),
    na_values: Collection[Any] = (),
    sep: str | None = None,
    encoding: str | None = None,
    split: Literal["random", "time"] | None = None,
    time: str | None = None,
) -> Tabular:
    """As `load_table`, but not yet split.

    Raises:
        DataError: the input is wrong; the message has file, line, column and value.

    Warns:
        TableWarning: something is odd.
    """
    by = checks.text("split", split) or "random"
    if by not in SPLITS:
        raise DataError(f"split={shown(split)}: tables are split by random or time")
    if checks.text("time", time) is not None and by != "time":
        raise DataError(f"time={shown(time)}: only a split by time reads times; add split='time'")
    options = {"cat_names": cat_names, "cont_names": cont_names, "drop": drop}
    told: dict[str, str] = {}
    for option, names in options.items():
        for name in _several(option, names):
            if told.setdefault(checks.text(option, name) or "", option) != option:
                raise DataError(f"{option}: {name!r} is in {told[name]}, too")
    gaps = _several("na_values", na_values)
    try:
        missing = frozenset(map(spelled, gaps))
    except DataError as error:
        raise DataError(f"na_values={shown(na_values)}: {error}") from None

    table = read_table(path, sep=sep, encoding=encoding)
    for name in (target, *told, *([] if time is None else [time])):
        if not isinstance(name, str) or name not in table.names:
            where = told.get(name) or ("target" if name == target else "time")
            raise DataError(
                f"{table.path}: {where} has {shown(name)}, but the columns are {listing(table.names)}{table.hint()}"
            )
    if told.get(target) == "drop":
        raise DataError(f"drop: {target!r} is the target")
    reader = _Reader(table, told, missing)
    goal, rows = reader.target(target)
    columns = [
        column
        for name in table.names
        if name != target and told.get(name) != "drop" and (column := reader.column(name)) is not None
    ]
    reader.warn()
    _check_names(table, columns)
    if not columns:
        raise DataError(f"{table.path}: no column but {target!r} is left to predict it from")
    times = None
    if by == "time":
        time = time or _only_date(table, columns)
        times = table.times(time)[rows]
    kinds = {"numbers": "number", "categories": "category", "dates": "date"}
    said = [
        f"{what}: {listing([column.name for column in columns if column.kind == kind])}"
        for what, kind in kinds.items()
        if any(column.kind == kind for column in columns)
    ]
    given = {**{name: sorted(value) for name, value in options.items() if value}, "target": target, "split": split}
    given |= {"time": time, "sep": sep, "encoding": encoding, "na_values": sorted(missing) or None}
    return Tabular(
        name=data_name(path),
        path=table.path,
        checksum=with_options(table.checksum, given),
        target=goal.of(rows),
        columns=tuple(column.of(rows) for column in columns),
        rows=rows,
        in_file=len(table),
        kept=frozenset(name for name, option in told.items() if option != "drop"),
        na_values=missing,
        notes=("; ".join(said), *reader.oddities),
        time=times,
    )


class _Reader:
    """Reads a table's columns and collects what is odd about them."""

    KINDS: Mapping[str, Kind] = {"cat_names": "category", "cont_names": "number"}

    def __init__(self, table: Table, told: Mapping[str, str], na_values: frozenset[str]) -> None:
        self.table, self.told, self.na_values = table, told, na_values
        self.oddities: list[str] = []

    def column(self, name: str) -> Column | None:
        """A column; None if it only counts the rows."""
        kind, oddity = self._kind(name)
        if oddity:
            self.oddities.append(
                f"{oddity}: read as categories; if they are not, correct the file, or say what means a missing value "
                f"(na_values=…); if they are, name it in cat_names"
            )
        column = read_column(self.table, name, kind, self.na_values)
        if kind == "number" and name not in self.told and len(column.cells) > 2 and (np.diff(column.cells) == 1).all():
            self.oddities.append(f"column {name!r} counts the rows: left out; to keep it name it in cont_names")
            return None
        return column

    def target(self, name: str) -> tuple[Column, np.ndarray]:
        """The target, and the rows that have one."""
        kind, oddity = self._kind(name)
        where = f"{self.table.path}, column {name!r}"
        if oddity:
            raise DataError(
                f"{self.table.path}: target {oddity}; if these are classes name it in cat_names, if they mean a "
                "missing value in na_values"
            )
        if kind == "date":
            raise DataError(f"{where}: dates are no target; write them as numbers")
        column = read_column(self.table, name, kind, self.na_values)
        rows = np.flatnonzero(~column.missing)
        if not len(rows):
            raise DataError(f"{where}: no row has a target")
        if len(rows) < len(column.cells):
            first = self.table.place(int(np.argmax(column.missing)))
            self.oddities.append(
                f"{len(column.cells) - len(rows):,} of {len(column.cells):,} rows have no target {name!r}, the first "
                f"at {first}: left out"
            )
        found = np.unique(column.cells[rows])
        if kind == "category" and len(found) == len(rows) > 2:
            raise DataError(f"{where}: another class in each of {len(rows):,} rows; there is nothing to learn")
        if kind == "number" and len(found) == 2 and name not in self.told:
            self.oddities.append(
                f"target {name!r} is only {found[0]:g} or {found[1]:g}, and is predicted as a number; if these are "
                "classes, name it in cat_names, if not, in cont_names"
            )
        return column, rows

    def _kind(self, name: str) -> tuple[Kind, str]:
        told = self.KINDS.get(self.told.get(name, ""))
        return (told, "") if told else find_kind(self.table, name, self.na_values)

    def warn(self) -> None:
        for oddity in self.oddities:
            warnings.warn(f"{self.table.path}: {oddity}", TableWarning, stacklevel=4)


NONE = np.array([], np.int64)  # no row of a column


def as_table(rows: NewRows) -> Table:
    """Rows in memory as a table, for errors "the rows, row 3, column 'age'".

    Raises:
        DataError: they are not a table.

    >>> as_table({"age": [39, 50], "city": ["Oslo", None]}).names
    ['age', 'city']
    """
    if isinstance(rows, Table):
        return rows
    if isinstance(rows, Mapping):
        for name, values in rows.items():
            if isinstance(values, str | bytes):  # its letters would be the rows
                raise DataError(f"rows, column {name!r}: {shown(values)} is text, not a list of values")
    try:
        if isinstance(rows, Mapping):
            lists = {str(name): _plain(values) for name, values in rows.items()}
            columns = pyarrow.table(
                {
                    name: values
                    if isinstance(values, pyarrow.Array | pyarrow.ChunkedArray)
                    # NaN, NaT and NA are missing
                    else pyarrow.array(values, from_pandas=True)
                    for name, values in lists.items()
                }
            )
        else:
            columns = pyarrow.Table.from_pandas(rows, preserve_index=False)
    except (pyarrow.ArrowException, AttributeError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"rows: a DataFrame or a dictionary of lists by column is needed ({reason(error)})") from error
    return Table("the rows", "", columns.column_names, columns)


def _plain(values: Any) -> Any:
    """A column's values as Arrow reads them."""
    if torch.is_tensor(values):  # NumPy has no bfloat16
        return values.tolist() if values.dtype is torch.bfloat16 else values.numpy(force=True)
    if isinstance(values, list | tuple) and any(isinstance(value, np.datetime64) for value in values):
        values = np.array(values, "datetime64")
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return values.astype(UNITS.get(np.datetime_data(values.dtype)[0], values.dtype))
    return values


def _learned(column: Column, train: np.ndarray) -> Category | Number | None:
    """What training rows say of a column; None if it is the same in all of them."""
    known = column.of(train)
    values = known.cells[~known.missing]
    if column.kind == "category":
        seen = np.unique(known.cells)
        return Category(column.name, Categories(column.name, column.ids[seen[seen >= 0]])) if len(seen) > 1 else None
    if not len(values) or values.min() == values.max():
        return None
    median = float(np.median(values))
    filled = np.where(known.missing, median, known.cells)
    deviation = float(filled.std())  # 0 if the squares are too small for float64
    return Number(column.name, median, float(filled.mean()), deviation) if deviation else None


def _is_id(column: Column) -> bool:
    """Whether each row of a column has a category of its own."""
    return len(np.unique(column.cells)) == len(column.cells) > 1 and not column.missing.any()


def _one(column: Column, rows: np.ndarray) -> str:
    """The first value of some rows."""
    return shown(column.of(rows[:1]).shown()[0])


def _described(column: Column) -> str:
    present = np.flatnonzero(~column.missing)
    return f"{column.name!r} ({_one(column, present) if len(present) else 'empty'})"


def _several(option: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        raise DataError(f"{option}={shown(values)}: a list is needed")
    return list(values)


def _check_names(table: Table, columns: Sequence[Column]) -> None:
    """Check that a date's parts and the marks of missing numbers have names of their own."""
    owners: dict[str, str] = {}
    for column in columns:
        for part in _part_names(column):
            if owners.setdefault(part, column.name) != column.name:
                raise DataError(
                    f"{table.path}: columns {owners[part]!r} and {column.name!r} both give {part!r}; rename one"
                )


def _part_names(column: Column) -> Iterator[str]:
    return (part.name for part in derived(column.of(NONE)))


def _only_date(table: Table, columns: Sequence[Column]) -> str:
    """The column of dates.

    Raises:
        DataError: there is none, or there are several.
    """
    found = [column.name for column in columns if column.kind == "date"]
    if len(found) != 1:
        have = listing(found) if found else "no column"
        raise DataError(f"{table.path}: {have} may be the times for split='time'; name one: time=…")
    return found[0]
