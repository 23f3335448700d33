"""Ratings split into training and validation rows, with ids mapped to rows of the embedding tables."""

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
from lesson.data.bunch import given_rows, split_rows
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

    Indexing by row numbers or a slice returns (users, items, ratings) of these rows.
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
    """Ratings split into training and validation, with ids mapped to rows of the embedding tables.

    Attributes:
        name: the data set's name in reports.
        users: the users of the training rows.
        items: the items of the training rows, with titles.
        train: the training rows, in file order.
        valid: the validation rows; ids unseen in training are row 0.
        y_range: the range the lesson gives the sigmoid for these ratings.
        checksum: of the ratings.
        ratings: the ratings before the split.
        valid_rows: row numbers of the validation rows in `ratings`, int64, in the order of `valid`.
    """

    name: str
    users: Vocab
    items: Vocab
    train: Rows
    valid: Rows
    y_range: tuple[float, float]
    checksum: str
    ratings: Ratings
    valid_rows: np.ndarray

    def __repr__(self) -> str:
        return (
            f"<{self.name}: {len(self.train):,} training and {len(self.valid):,} validation ratings, "
            f"{len(self.users.ids):,} users, {len(self.items.ids):,} items, y_range {self.y_range}>"
        )

    @property
    def origin(self) -> Origin:
        """The origin of the ratings."""
        return self.ratings.origin

    @cached_property
    def train_rows(self) -> np.ndarray:
        """Row numbers of the training rows in `ratings`, int64, in file order."""
        return np.delete(np.arange(len(self.ratings)), self.valid_rows)

    @cached_property
    def rated(self) -> torch.Tensor:
        """The number of training ratings of each row of the item table, int64[len(items)]."""
        return torch.bincount(self.train.items, minlength=len(self.items))

    @cached_property
    def learnable_rows(self) -> int:
        """How many validation rows have a user and an item that training has seen; the others cannot be learned."""
        return int(((self.valid.users > 0) & (self.valid.items > 0)).sum())

    @cached_property
    def item_ratings(self) -> pd.DataFrame:
        """The number and the mean of all ratings of each item that training has seen, by id; columns count and mean."""
        import pandas as pd  # pandas takes half a second to import, only needed here

        ratings = self.ratings
        seen = np.isin(ratings.item_ids, self.items.ids)
        count = np.bincount(ratings.item, minlength=len(seen))[seen]
        total = np.bincount(ratings.item, ratings.rating.astype(np.float64), minlength=len(seen))[seen]
        return pd.DataFrame({"count": count, "mean": total / count}, index=pd.Index(self.items.ids, name="item"))

    def top_items(self, n: int = 1000) -> list[Any]:
        """The ids of the `n` items with the most ratings, ties by id: the notes' top_movies (claim 43).

        Fewer if training has seen fewer items.
        """
        ranked = self.item_ratings["count"].sort_values(ascending=False, kind="stable")
        return ranked.index[: checks.whole("n", n, least=1)].tolist()

    def show_batch(self, n: int = 10) -> pd.DataFrame:
        """The first `n` training rows, with columns user, item, title (if items have titles) and rating."""
        return self._table(self.train, torch.arange(min(checks.whole("n", n, least=1), len(self.train))))

    def show_results(self, rows: torch.Tensor, out: torch.Tensor) -> pd.DataFrame:
        """Validation rows int64[n] as in `show_batch`, with a column of the predictions [n].

        The user or item is None if training has not seen it.
        """
        return self._table(self.valid, rows).assign(prediction=out.numpy())

    def _table(self, part: Rows, rows: torch.Tensor) -> pd.DataFrame:
        import pandas as pd  # pandas takes half a second to import, only needed here

        users, items, ratings = (column.tolist() for column in part[rows])
        ids = {
            name: [vocab.key(row) if row else None for row in column]
            for name, vocab, column in (("user", self.users, users), ("item", self.items, items))
        }
        table = pd.DataFrame(ids, dtype=object).infer_objects()
        if self.items.titles:
            table["title"] = [None if item is None else self.title(item) for item in ids["item"]]
        return table.assign(rating=ratings)

    def title(self, item: Any) -> str:
        """The title of an item id, or the id as text if it has no title."""
        return self.items.title(item)


def split(
    ratings: Ratings,
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | np.ndarray | None = None,
) -> CollabData:
    """Split ratings into training and validation rows; the vocabularies come from the training rows only.

    `ratings.by` says how:

    - "random": the first `int(valid_pct · rows)` of `torch.manual_seed(seed); torch.randperm(rows)` validate. fastai's
      RandomSplitter(seed=seed) gives the same rows.
    - "time": the latest `int(valid_pct · rows)` validate, ties in file order; the seed plays no part. It asks what a
      model knows about ratings that are still to come.
    - "user": all ratings of `int(valid_pct · users)` users validate, drawn likewise. It asks what a model knows about
      people whom training never saw; see `CollabLearner.fold_in`.

    Args:
        ratings: the table.
        valid_pct: the share of validation rows, between 0 and 1.
        seed: the split's seed.
        valid_rows: row numbers (0-based, in file order) of the validation rows, instead of the two above. Rows that
            `none` leaves out count, but do not validate.

    Raises:
        DataError: a row number does not exist or repeats, or a part would be empty.
    """
    if not isinstance(ratings, Ratings):
        raise DataError(f"ratings={shown(ratings)}: pass the result of open_ratings or read_ratings")
    n = len(ratings)
    chosen = _chosen(ratings, seed, valid_pct) if valid_rows is None else _given(ratings, valid_rows)
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
        chosen.astype(np.int64),
    )


def _given(ratings: Ratings, valid_rows: Any) -> np.ndarray:
    """The ratings of these rows of the file."""
    if ratings.kept is None:
        return given_rows(valid_rows, len(ratings))
    chosen = given_rows(valid_rows, len(ratings.kept))
    return (np.cumsum(ratings.kept) - 1)[chosen[ratings.kept[chosen]]]


def _chosen(ratings: Ratings, seed: int, valid_pct: float) -> np.ndarray:
    """The validation rows."""
    n, users = len(ratings), len(ratings.user_ids)
    if ratings.by == "user":
        held = split_rows(users, seed, valid_pct, f"{ratings.name}: {users} users")[1].numpy()
        return np.flatnonzero(np.isin(ratings.user, held))
    valid = split_rows(n, seed, valid_pct, f"{ratings.name}: {n} ratings")[1].numpy()
    if ratings.time is None:
        return valid
    return np.argsort(ratings.time, kind="stable")[n - len(valid) :]


_split = split  # for the functions below, which have an argument of this name


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
    time: str | None = None,
    split: Literal["random", "time", "user"] | None = None,
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | None = None,
) -> CollabData:
    """Your ratings: CSV, TSV or Parquet with user, item and rating columns, any ids; or a MovieLens folder.

    Text and Parquet may be gzipped, or the only file in a zip. An id that is a whole number is an integer, even if
    written as 1.0, and blanks around ids do not matter; 007 and 7 are different ids.

    Args:
        path: the file, or the folder.
        user: name of the column of users; None finds it by its usual names, such as "user" or "userId".
        item: name of the column of items; None finds it likewise.
        rating: name of the column of ratings; None finds it likewise.
        sep: the separator of text fields; None chooses by the file's name.
        encoding: the text's encoding; None means UTF-8, or the encoding of a byte order mark.
        none: a rating that means "no rating", such as Book-Crossing's 0: its rows are left out, and
            `data.ratings.notes` has their number.
        time: name of the column of times, for split="time"; None finds it by its usual names.
        split: how to split: "random" (the default), "time" or "user"; see `split`.
        valid_pct: the share of validation rows.
        seed: the split's seed.
        valid_rows: row numbers of the validation rows, instead of the two above; see `split`.

    Example:
        >>> data = load_ratings("BX-Book-Ratings.csv", item="ISBN", rating="Book-Rating",
        ...                     sep=";", encoding="latin-1", none=0)  # doctest: +SKIP

    Raises:
        DataError: the input is wrong; the message has file, line, column and value.
    """
    how = {"sep": sep, "encoding": encoding, "none": none, "time": time, "split": split}
    ratings = open_ratings(path, user=user, item=item, rating=rating, **how)
    return _split(ratings, valid_pct=valid_pct, seed=seed, valid_rows=valid_rows)


def open_ratings(path: str | Path, **options: Any) -> Ratings:
    """Ratings from a file, or from a MovieLens folder, not yet split.

    Args:
        path: the file, or the folder.
        options: how to read a file: user, item, rating, sep, encoding, none, time and split, as for `load_ratings`;
            for a folder, split alone.

    Raises:
        DataError: the input is wrong; the message has file, line, column and value.
    """
    if not _is_folder(path):
        return read_ratings(path, **options)
    by = options.pop("split", None)
    for name, value in options.items():
        if value is not None:
            raise DataError(f"{printable(path)}: {name}={shown(value)} is for a file, not for a MovieLens folder")
    return open_movielens(path, split=by)


def _is_folder(path: str | Path) -> bool:
    try:
        return as_path(path).is_dir()
    except OSError:  # reading it will raise the error
        return False


def load_movielens(
    path: str | Path | None = None,
    *,
    key: Literal["id", "title"] = "id",
    split: Literal["random", "time", "user"] | None = None,
    valid_pct: float = 0.1,
    seed: int = 42,
    valid_rows: Sequence[int] | None = None,
) -> CollabData:
    """MovieLens: the 100k set that this suite installs, or a folder of GroupLens' own files.

    Args:
        path: a folder with `u.data` and `u.item` (100k), `ratings.dat` and `movies.dat` (1M, 10M), or
            `ratings.csv` and `movies.csv` (20M and later). None: the installed 100k.
        key: "id" keys films by their number; "title" merges films of one title, as fastai's example does
            (18 titles of the 100k set belong to two films each).
        split: how to split: "random" (the default), "time" or "user"; see `split`.
        valid_pct: the share of validation rows.
        seed: the split's seed.
        valid_rows: row numbers of the validation rows, instead of the two above; see `split`.

    Raises:
        DataError: the data is missing or cannot be read.
    """
    ratings = open_movielens(path, key=key, split=split)
    return _split(ratings, valid_pct=valid_pct, seed=seed, valid_rows=valid_rows)
