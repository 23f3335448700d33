"""Ratings split into training and validation rows, ids mapped to rows of the embedding tables."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lesson.data.movielens import open_movielens
from lesson.data.ratings import DataError, Ratings, read_ratings

NA = "#na#"  # fastai's name for the reserved row of ids that training never saw


@dataclass(frozen=True, eq=False)
class Vocab:
    """Ids by row of an embedding table. Row 0 is reserved for ids that no training row has, as in fastai."""

    kind: str
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.ids) + 1

    @cached_property
    def _rows(self) -> dict[Hashable, int]:
        return {key: row for row, key in enumerate(self.ids.tolist(), start=1)}

    def row(self, key: Hashable) -> int:
        """The row of an id; integer ids may be given as text.

        Raises:
            DataError: no training row has this id.
        """
        rows = self._rows
        if key in rows:
            return rows[key]
        if isinstance(key, str) and self.ids.dtype.kind in "iu" and re.fullmatch(r"-?(0|[1-9][0-9]*)", key):
            return self.row(int(key))
        if isinstance(key, (int, np.integer)) and self.ids.dtype.kind not in "iu" and str(key) in rows:
            return rows[str(key)]
        raise DataError(f"{self.kind} {key!r} has no training rating; {self.kind}s are {self.ids[:3].tolist()} …")

    def row_or_na(self, key: Hashable) -> int:
        """The row of an id, 0 (the reserved one) where training has not seen it."""
        try:
            return self.row(key)
        except DataError:
            return 0

    def key(self, row: int) -> Hashable:
        """The id of a row; '#na#' for the reserved one."""
        return NA if row == 0 else self.ids[row - 1].item()


@dataclass(frozen=True, eq=False)
class Rows:
    """Ratings as a model reads them: `users`, `items` int64[rows] of the tables, `ratings` float32[rows]."""

    users: torch.Tensor
    items: torch.Tensor
    ratings: torch.Tensor

    def __len__(self) -> int:
        return len(self.ratings)


@dataclass(frozen=True, eq=False)
class CollabData:
    """Ratings split into training and validation, ids mapped to rows of the embedding tables.

    Attributes:
        name: what reports call the data set.
        users: the users of the training rows.
        items: the items of the training rows.
        train: the training rows, in file order.
        valid: the validation rows; ids unseen in training are row 0.
        titles: what to show for an item id.
        rated: how many training rows each row of the item table has, int64[len(items)].
        y_range: the range the lesson gives the sigmoid for these ratings.
    """

    name: str
    users: Vocab
    items: Vocab
    train: Rows
    valid: Rows
    titles: dict[Hashable, str]
    y_range: tuple[float, float]
    checksum: str
    ratings: Ratings = field(repr=False)

    @cached_property
    def rated(self) -> torch.Tensor:
        """Training ratings of each row of the item table, int64[len(items)]."""
        return torch.bincount(self.train.items, minlength=len(self.items))

    @cached_property
    def _ids_of_title(self) -> dict[Hashable, list[Hashable]]:
        ids: dict[Hashable, list[Hashable]] = {}
        for key, title in self.titles.items():
            ids.setdefault(title, []).append(key)
        return ids

    def item_row(self, item: Hashable) -> int:
        """The row of an item, given by its id or by a title that only one item has.

        Raises:
            DataError: no training row has this item, or several items have this title.
        """
        named = self._ids_of_title.get(item, [])
        if len(named) > 1:
            raise DataError(f"{len(named)} items have the title {item!r}: name one of the ids {named}")
        return self.items.row(named[0] if named else item)

    def item_row_or_na(self, item: Hashable) -> int:
        """As `item_row`; 0 (the reserved row) where training has not seen the item.

        Raises:
            DataError: several items have this title.
        """
        return self.item_row(item) if item in self._ids_of_title else self.items.row_or_na(item)

    def title(self, item: Hashable) -> str:
        """The title of an item id, or the id as text where no title is known."""
        return self.titles.get(item, str(item))


def split(
    ratings: Ratings,
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | np.ndarray | None = None,
) -> CollabData:
    """Split ratings into training and validation rows; the vocabularies come from the training rows only.

    The first `int(valid_pct · rows)` of `torch.manual_seed(seed); torch.randperm(rows)` validate: fastai's
    RandomSplitter(seed=seed) gives the same rows.

    Args:
        ratings: the table.
        valid_pct: the share of rows that validates, between 0 and 1.
        seed: of the split.
        valid_rows: row numbers (0-based, in file order) that validate, instead of the two above.

    Raises:
        DataError: row numbers that do not exist or repeat, or a part that would be empty.
    """
    n = len(ratings)
    if valid_rows is None:
        if not 0 < valid_pct < 1:
            raise DataError(f"valid_pct must lie between 0 and 1, not {valid_pct}")
        # RandomSplitter draws from the global generator; an own one gives the same rows and disturbs nobody.
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        chosen = order[: int(valid_pct * n)].numpy()
    else:
        chosen = np.asarray(valid_rows)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
            raise DataError(f"valid_rows must be a list of row numbers, not {valid_rows!r:.80}")
        outside = chosen[(chosen < 0) | (chosen >= n)]
        if len(outside):
            raise DataError(f"valid_rows: there is no row {outside[0]}; rows go from 0 to {n - 1}")
        if len(np.unique(chosen)) != len(chosen):
            raise DataError("valid_rows: a row number stands there twice")
    is_valid = np.zeros(n, dtype=bool)
    is_valid[chosen] = True
    train_rows = np.flatnonzero(~is_valid)
    if len(chosen) == 0 or len(train_rows) == 0:
        raise DataError(
            f"{ratings.name}: {n} ratings leave {len(train_rows)} for training and {len(chosen)} for "
            "validation; both need at least one (more ratings, or another valid_pct)"
        )
    users, user_rows = _vocab("user", ratings.user_ids, ratings.user, train_rows)
    items, item_rows = _vocab("item", ratings.item_ids, ratings.item, train_rows)

    def take(rows: np.ndarray) -> Rows:
        return Rows(
            torch.from_numpy(user_rows[rows]),
            torch.from_numpy(item_rows[rows]),
            torch.from_numpy(ratings.rating[rows]),
        )

    return CollabData(
        ratings.name,
        users,
        items,
        take(train_rows),
        take(chosen),
        ratings.titles,
        ratings.y_range,
        ratings.checksum,
        ratings,
    )


def _vocab(kind: str, ids: np.ndarray, codes: np.ndarray, train_rows: np.ndarray) -> tuple[Vocab, np.ndarray]:
    seen = np.zeros(len(ids), dtype=bool)
    seen[codes[train_rows]] = True
    row_of_code = np.where(seen, np.cumsum(seen), 0)
    return Vocab(kind, ids[seen]), row_of_code[codes]


def load_ratings(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | None = None,
) -> CollabData:
    """Your ratings: CSV, TSV or Parquet with user, item and rating columns, any ids; or a MovieLens folder.

    Example:
        >>> data = load_ratings("ratings.csv", rating="stars")  # doctest: +SKIP

    Raises:
        DataError: what is wrong, with file, line, column and value.
    """
    return split(
        open_ratings(path, user=user, item=item, rating=rating),
        valid_pct=valid_pct,
        seed=seed,
        valid_rows=valid_rows,
    )


def open_ratings(path: str | Path, **columns: str | None) -> Ratings:
    """Ratings from a file, or from a MovieLens folder, not yet split."""
    return open_movielens(path) if Path(path).is_dir() else read_ratings(path, **columns)


def load_movielens(
    path: str | Path | None = None,
    *,
    key: Literal["id", "title"] = "id",
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | None = None,
) -> CollabData:
    """MovieLens: the 100k set that this suite installs, or a folder of GroupLens' own files.

    Args:
        path: a folder with `u.data` and `u.item` (100k), `ratings.dat` and `movies.dat` (1M, 10M), or
            `ratings.csv` and `movies.csv` (20M and later). None: the installed 100k.
        key: "id" keys films by their number; "title" merges films of one title, as fastai's example does
            (18 titles of the 100k set stand for two films each).
        valid_pct: the share of rows that validates.
        seed: of the split.
        valid_rows: row numbers that validate, instead of the two above; see `split`.

    Raises:
        DataError: the data are not there or cannot be read.
    """
    ratings = open_movielens(path, key=key)
    return split(ratings, valid_pct=valid_pct, seed=seed, valid_rows=valid_rows)
