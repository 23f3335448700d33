"""Ratings split into training and validation rows, ids mapped to rows of the embedding tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from lesson import checks
from lesson.checks import DataError, printable, shown
from lesson.data.ids import Vocab
from lesson.data.movielens import open_movielens
from lesson.data.origin import Origin
from lesson.data.ratings import Ratings, read_ratings
from lesson.data.table import as_path

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """Ratings as a model reads them: `users`, `items` int64[rows] of the tables, `ratings` float32[rows].

    Indexed by row numbers or a slice it gives (users, items, ratings) of these rows.
    """

    users: torch.Tensor
    items: torch.Tensor
    ratings: torch.Tensor

    def __len__(self) -> int:
        return len(self.ratings)

    def __getitem__(self, rows: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.users[rows], self.items[rows], self.ratings[rows]

    def __repr__(self) -> str:
        return f"<{len(self):,} rows>"


@dataclass(frozen=True, eq=False, repr=False)
class CollabData:
    """Ratings split into training and validation, ids mapped to rows of the embedding tables.

    Attributes:
        name: what reports call the data set.
        users: the users of the training rows.
        items: the items of the training rows, with titles.
        train: the training rows, in file order.
        valid: the validation rows; ids unseen in training are row 0.
        y_range: the range the lesson gives the sigmoid for these ratings.
        checksum: of the ratings.
        ratings: what was split.
    """

    name: str
    users: Vocab
    items: Vocab
    train: Rows
    valid: Rows
    y_range: tuple[float, float]
    checksum: str
    ratings: Ratings

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {len(self.train):,} ratings to train and {len(self.valid):,} to validate, "
            f"{len(self.users.ids):,} users, {len(self.items.ids):,} items, y_range {self.y_range}>"
        )

    @property
    def origin(self) -> Origin:
        """Where the ratings come from."""
        return self.ratings.origin

    @cached_property
    def rated(self) -> torch.Tensor:
        """Training ratings of each row of the item table, int64[len(items)]."""
        return torch.bincount(self.train.items, minlength=len(self.items))

    @cached_property
    def learnable_rows(self) -> int:
        """How many validation rows have a user and an item that training has seen: the others it cannot learn."""
        return int(((self.valid.users > 0) & (self.valid.items > 0)).sum())

    def show_batch(self, n: int = 10) -> pd.DataFrame:
        """The first `n` training rows, with columns user, item, title (where items have one) and rating."""
        import pandas as pd  # half a second, for whoever shows nothing

        users, items, ratings = (
            column[: checks.whole("n", n, least=1)].tolist()
            for column in (self.train.users, self.train.items, self.train.ratings)
        )
        table = pd.DataFrame({"user": map(self.users.key, users), "item": map(self.items.key, items)})
        if self.items.titles:
            table["title"] = table["item"].map(self.title)
        return table.assign(rating=ratings)

    def title(self, item: Any) -> str:
        """The title of an item id, or the id as text where no title is known."""
        return self.items.title(item)


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
    if not isinstance(ratings, Ratings):
        raise DataError(f"ratings={shown(ratings)}: what open_ratings or read_ratings returns is needed")
    n = len(ratings)
    if valid_rows is None:
        valid_pct = checks.number("valid_pct", valid_pct, above=0, below=1)
        seed = checks.whole("seed", seed)
        # RandomSplitter draws from the global generator; an own one gives the same rows and disturbs nobody.
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        chosen = order[: int(valid_pct * n)].numpy()
    else:
        chosen = np.asarray(valid_rows)
        if chosen.dtype.kind not in "iu" or chosen.ndim != 1:
            raise DataError(f"valid_rows must be a list of row numbers, not {shown(valid_rows)}")
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
    user_ids, user_rows = _seen(ratings.user_ids, ratings.user, train_rows)
    item_ids, item_rows = _seen(ratings.item_ids, ratings.item, train_rows)

    def take(rows: np.ndarray) -> Rows:
        return Rows(
            torch.from_numpy(user_rows[rows]),
            torch.from_numpy(item_rows[rows]),
            torch.from_numpy(ratings.rating[rows]),
        )

    return CollabData(
        ratings.name,
        Vocab("user", user_ids),
        Vocab("item", item_ids, ratings.titles),
        take(train_rows),
        take(chosen),
        ratings.y_range,
        ratings.checksum,
        ratings,
    )


def _seen(ids: np.ndarray, codes: np.ndarray, train_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    seen = np.zeros(len(ids), dtype=bool)
    seen[codes[train_rows]] = True
    row_of_code = np.where(seen, np.cumsum(seen), 0)
    return ids[seen], row_of_code[codes]


def load_ratings(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    rating: str | None = None,
    sep: str | None = None,
    encoding: str | None = None,
    none: float | None = None,
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | None = None,
) -> CollabData:
    """Your ratings: CSV, TSV or Parquet with user, item and rating columns, any ids; or a MovieLens folder.

    Text and Parquet may be gzipped, or zipped alone. A whole number is an integer as an id, also where it is
    written as 1.0, and blanks around ids do not matter; 007 and 7 are two.

    Args:
        path: the file, or the folder.
        user: name of the column of users; None takes the one that is called so, as "user" or "userId" is.
        item: name of the column of items; likewise.
        rating: name of the column of ratings; likewise.
        sep: what separates the fields of text; None goes by the file's name.
        encoding: of text; None takes UTF-8, or what a byte order mark says.
        none: a rating that means that there is none, such as Book-Crossing's 0: its rows are left out, and
            `data.ratings.notes` says how many.
        valid_pct: the share of rows that validates.
        seed: of the split.
        valid_rows: row numbers that validate, instead of the two above; see `split`.

    Example:
        >>> data = load_ratings("BX-Book-Ratings.csv", item="ISBN", rating="Book-Rating",
        ...                     sep=";", encoding="latin-1", none=0)  # doctest: +SKIP

    Raises:
        DataError: what is wrong, with file, line, column and value.
    """
    ratings = open_ratings(path, user=user, item=item, rating=rating, sep=sep, encoding=encoding, none=none)
    return split(ratings, valid_pct=valid_pct, seed=seed, valid_rows=valid_rows)


def open_ratings(path: str | Path, **options: Any) -> Ratings:
    """Ratings from a file, or from a MovieLens folder, not yet split.

    Args:
        path: the file, or the folder.
        options: how to read a file: user, item, rating, sep, encoding and none, as for `load_ratings`.

    Raises:
        DataError: what is wrong, with file, line, column and value.
    """
    if not _is_folder(path):
        return read_ratings(path, **options)
    for name, value in options.items():
        if value is not None:
            raise DataError(f"{printable(path)}: {name}={shown(value)} is for a file; a MovieLens folder is as it is")
    return open_movielens(path)


def _is_folder(path: str | Path) -> bool:
    try:
        return as_path(path).is_dir()
    except OSError:  # whoever reads it will say why
        return False


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
