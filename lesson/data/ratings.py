"""A table of ratings: who rated what, and how."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from lesson import checks
from lesson.checks import DataError, shown
from lesson.data.origin import Origin, with_options
from lesson.data.table import Table, TextTable, data_name, listing, read_table

# Usual names of the three columns, best first, with those of MovieLens, Surprise, RecBole and LensKit.
COLUMN_NAMES = {
    "user": (("user",), ("userid", "uid")),
    "item": (("item",), ("itemid", "iid", "movie", "movieid"), ("title",)),
    "rating": (("rating",), ("score", "stars")),
    "time": (("time",), ("timestamp",), ("date", "datetime")),
}
SPLITS = ("random", "time", "user")
GROUPLENS_COLUMNS = ["user", "item", "rating", "time"]  # the columns of u.data and ratings.dat, which have no header


class RepeatedRatingsWarning(UserWarning):
    """Some (user, item) pairs are rated more than once; every rating is kept."""


@dataclass(frozen=True, eq=False, repr=False)
class Ratings:
    """A table of ratings, one per row, in file order.

    Attributes:
        user: int64[rows], positions in `user_ids`.
        item: int64[rows], positions in `item_ids`.
        rating: float32[rows].
        user_ids: the distinct user ids, sorted: integers if all are, else text.
        item_ids: the distinct item ids, likewise.
        titles: titles by item id, if known.
        genres: genres by item id, if known.
        name: the data set's name in reports.
        checksum: sha256 of the file of ratings, and of the options for reading it if there are any.
        repeated: the number of rows whose (user, item) pair occurs in an earlier row.
        y_range: a range for the sigmoid a little wider than the ratings, so that their ends can be reached.
        columns: the file's columns by role: user, item and rating.
        notes: sentences about how the file was read.
        by: how `split` splits them: "random", "time" or "user".
        time: float64[rows], when each was given; read only for a split by time.
        kept: bool[rows of the file], which of them these are; None if all.
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
    genres: dict[Hashable, tuple[str, ...]] = field(default_factory=dict)
    terms: str | None = None
    citation: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    by: str = "random"
    time: np.ndarray | None = None
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rating)

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest rating."""
        return float(self.rating.min()), float(self.rating.max())

    @property
    def origin(self) -> Origin:
        """Their origin."""
        size = {"ratings": len(self), "users": len(self.user_ids), "items": len(self.item_ids)}
        return Origin(self.name, self.checksum, size, self.terms, self.citation, resplits=self.by != "time")

    def take(self, rows: np.ndarray) -> Ratings:
        """The ratings in these rows, int[n], alone. Users and items keep their numbers."""
        user, item, time = self.user[rows], self.item[rows], None if self.time is None else self.time[rows]
        repeated = int(repeats(user, item).sum())
        return replace(self, user=user, item=item, rating=self.rating[rows], time=time, repeated=repeated, kept=None)

    def learnable(self, seeds: int) -> list[str]:
        """Notes before the first run: the number of validation rows with a user and an item that training has seen.

        Args:
            seeds: the splits of seeds 0 … seeds − 1 will be trained on.

        Raises:
            DataError: there are no such rows in any split, or the split is by users.
        """
        from lesson.data.collab import split  # it splits these

        if self.by == "user":
            raise DataError(
                f"{self.name}, split=user: training would know no user who validates, and the lesson's model predicts "
                "for users that it knows; leave it out, or use time"
            )
        first = split(self, seed=0)
        if not any(split(self, seed=seed).learnable_rows for seed in range(seeds)):
            raise DataError(
                f"{self.name}: training has seen both user and item of 0 of {len(first.valid):,} validation rows, so "
                "nothing can be learned and no verdict given; use ratings that share users and items"
            )
        return [
            f"Training has seen both user and item of {first.learnable_rows:,} of {len(first.valid):,} validation rows "
            "(in the first split)."
        ]

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {len(self):,} ratings from {self.ends[0]:g} to {self.ends[1]:g}, "
            f"{len(self.user_ids):,} users, {len(self.item_ids):,} items>"
        )


def read_ratings(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    sep: str | None = None,
    encoding: str | None = None,
    none: float | None = None,
    time: str | None = None,
    split: str | None = None,
) -> Ratings:
    """Read ratings from a file with user, item and rating columns; see `load_ratings` for the arguments.

    Raises:
        DataError: the file, a column or a value cannot be used.
    """
    options = {"user": user, "item": item, "rating": rating, "sep": sep, "encoding": encoding, "time": time}
    for option, value in options.items():
        checks.text(option, value)
    if none is not None:
        none = checks.single("none", none)
    by = checked_split(split)
    if time is not None and by != "time":
        raise DataError(f"time={shown(time)}: only a split by time reads times; add split='time', or --split time")
    table = read_table(path, sep=sep, encoding=encoding)
    if isinstance(table, TextTable) and table.headless and table.suffix in (".data", ".dat"):
        table.name_columns(GROUPLENS_COLUMNS)
    columns = find_columns(table, {"user": user, "item": item, "rating": rating})
    ratings = split_by(by, ratings_of(table, columns, data_name(path), none), table, time)
    columns = ratings.columns
    said = "; ".join(f"{role}s are column {column!r}" for role, column in columns.items())
    unused = [name for name in table.names if name not in columns.values()]
    said += f"; not used: {listing(unused)}" if unused else ""
    checksum = with_options(ratings.checksum, {**options, "none": none})
    return replace(ratings, notes=(said, *ratings.notes), checksum=checksum)


def checked_split(split: str | None) -> str:
    """The way to split: None is "random".

    Raises:
        DataError: there is no such way.
    """
    by = checks.text("split", split) or "random"
    if by not in SPLITS:
        raise DataError(f"split={shown(split)}: ratings are split by random, time or user")
    return by


def split_by(by: str, ratings: Ratings, table: Table, time: str | None = None) -> Ratings:
    """Ratings that `split` splits in this way, with their times if it needs them.

    Args:
        by: one of `SPLITS`.
        ratings: of the table.
        table: where the times are.
        time: the name of their column; None finds it by its usual names.

    Raises:
        DataError: there is no column of times, or a value is no time.
    """
    if by == "random":
        return ratings
    if by == "time":
        columns = find_columns(table, {**ratings.columns, "time": time})
        times = table.times(columns["time"])
        if ratings.kept is not None:
            times = times[ratings.kept]
        ratings = replace(ratings, time=times, columns=columns)
    return replace(ratings, by=by, checksum=with_options(ratings.checksum, {"split": by}))


def find_columns(table: Table, named: Mapping[str, str | None]) -> dict[str, str]:
    """The columns of users, items and ratings: as named, otherwise by their usual names.

    Raises:
        DataError: there is no such column, two match equally well, or one is used twice.
    """
    columns = {role: _find(table, role) if name is None else name for role, name in named.items()}
    for role, name in columns.items():
        if name not in table.names:
            raise DataError(f"{table.path}: no {role} column {shown(name)}; the columns are {listing(table.names)}")
        for other in columns:
            if other < role and columns[other] == name:
                raise DataError(f"{table.path}: {other} and {role} are both column {name!r}; they must differ")
    return columns


def _find(table: Table, role: str) -> str:
    # Case, blanks, _ and - do not matter, nor anything after a colon, where RecBole writes the type.
    plain = [re.sub(r"[\W_]", "", name.split(":")[0]).lower() for name in table.names]
    tiers = [[name == role for name in table.names]]
    tiers += [[name in names for name in plain] for names in COLUMN_NAMES[role]]
    for tier in tiers:
        found = [name for name, fits in zip(table.names, tier, strict=True) if fits]
        if len(found) > 1:
            say = f"rename one, or name it: {role}={found[0]!r}, or --{role} {found[0]!r}"
            raise DataError(f"{table.path}: {listing(found)} may each be the {role} column; {say}")
        if found:
            return found[0]
    known = ", ".join(name for names in COLUMN_NAMES[role] for name in names)
    raise DataError(
        f"{table.path}: no {role} column (any of {known}); the columns are {listing(table.names)}{table.hint()}. "
        f"Say which it is: {role}=…, or --{role} …"
    )


def ratings_of(table: Table, columns: dict[str, str], name: str, none: float | None = None) -> Ratings:
    """The columns of a table as checked ratings, without those equal to `none`.

    Raises:
        DataError: a value cannot be used, or there is nothing to learn from.
    """
    rating = table.numbers(columns["rating"])
    user, user_ids = table.ids(columns["user"])
    item, item_ids = table.ids(columns["item"])
    notes: tuple[str, ...] = ()
    rows, kept = np.arange(len(rating)), None
    if none is not None:
        kept = rating != np.float32(none)
        rows = np.flatnonzero(kept)
        notes = (f"{len(rating) - len(rows):,} of {len(rating):,} ratings are {none:g}, meaning no rating: left out",)
        if not len(rows):
            raise DataError(f"{table.path}, column {columns['rating']!r}: every rating is {none:g}, meaning no rating")
        rating = rating[rows]
        user, user_ids = _used(user[rows], user_ids)
        item, item_ids = _used(item[rows], item_ids)
    if len(user_ids) < 2:
        raise DataError(
            f"{table.path}, column {columns['user']!r}: one user only ({shown(user_ids[0])}); "
            "collaborative filtering needs several"
        )
    low, high = float(rating.min()), float(rating.max())
    if low == high:
        raise DataError(
            f"{table.path}, column {columns['rating']!r}: every rating is {low:g}; there is nothing to learn"
        )
    repeated = repeats(user, item)
    if repeated.any():
        first = int(np.argmax(repeated))
        who, what = shown(user_ids[user[first]]), shown(item_ids[item[first]])
        warnings.warn(
            f"{table.path}: {repeated.sum():,} of {len(rating):,} ratings repeat a (user, item) pair, the first at "
            f"{table.place(int(rows[first]))} (user {who}, item {what}); "
            "all are kept, so a pair may be in training and in validation",
            RepeatedRatingsWarning,
            stacklevel=3,
        )
    margin = (high - low) / 8
    if not max(margin - low, high + margin) < float(np.finfo(np.float32).max):  # the model's range is a little wider
        row = int(np.abs(rating).argmax())
        raise DataError(
            f"{table.path}, {table.place(int(rows[row]))}, column {columns['rating']!r}: {rating[row]:g} is too far "
            "from the other ratings; leave it out or write smaller numbers"
        )
    return Ratings(
        user,
        item,
        rating,
        user_ids,
        item_ids,
        name,
        table.checksum,
        int(repeated.sum()),
        (low - margin, high + margin),
        columns=columns,
        notes=notes,
        kept=kept,
    )


def _used(codes: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.bincount(codes, minlength=len(ids)) > 0
    return (np.cumsum(used) - 1)[codes], ids[used]


def repeats(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Whether a row's (user, item) pair occurs in an earlier row: bool[rows]."""
    pair = user * (item.max() + 1) + item
    ordered = np.sort(pair)
    repeated = np.zeros(len(pair), dtype=bool)
    if (ordered[1:] == ordered[:-1]).any():  # rare, and finding the place takes ten times as long
        repeated[:] = True
        repeated[np.unique(pair, return_index=True)[1]] = False
    return repeated
