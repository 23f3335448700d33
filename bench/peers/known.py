"""What MovieLens 100k knows besides ids and ratings: when each was given, and about its users and films."""

from __future__ import annotations

import numpy as np

from lesson.data import CollabData, DataError, open_movielens
from lesson.data.movielens import GENRES
from lesson.data.origin import carried
from lesson.data.table import read_text


def everything_known(data: CollabData) -> dict[str, np.ndarray]:
    """The arrays of `runners/protocol.py`'s `Rows`, for both parts of a split, and of its `About`.

    Args:
        data: a split of the installed 100k set, films keyed by id. Users and films are numbered as in `data.ratings`.

    Raises:
        DataError: the files disagree about users or films, or are not installed.
    """
    ratings = data.ratings
    folder = carried("recbole", "recbole/dataset_example/ml-100k", "MovieLens 100k")
    users, films = (read_text(folder / f"ml-100k.{kind}", sep="\t", quoted=False) for kind in ("user", "item"))
    user_rows = _rows_of(ratings.user_ids, users.column("user_id:token").to_pylist())
    film_rows = _rows_of(ratings.item_ids, films.column("item_id:token").to_pylist())
    seconds = open_movielens(split="time").time
    assert seconds is not None
    seconds = seconds.astype(np.int64)
    parts = {"train": data.train_rows, "valid": data.valid_rows}
    rows = {"users": ratings.user, "films": ratings.item, "seconds": seconds}
    years = [int(year) if year.isdigit() else 0 for year in films.column("release_year:token").to_pylist()]
    text = {"sexes": "gender:token", "occupations": "occupation:token", "zips": "zip_code:token"}
    return {
        **{f"{part}_{name}": column[chosen] for part, chosen in parts.items() for name, column in rows.items()},
        "ages": np.array(users.column("age:token").to_pylist(), dtype=np.int64)[user_rows],
        **{name: np.array(users.column(column).to_pylist(), dtype=str)[user_rows] for name, column in text.items()},
        "genres": np.array([[genre in ratings.genres[film] for genre in GENRES] for film in ratings.item_ids.tolist()]),
        "years": np.array(years)[film_rows],
    }


def _rows_of(ids: np.ndarray, listed: list[str]) -> list[int]:
    """The row of each id in a file's list."""
    row_of = {int(one): row for row, one in enumerate(listed)}
    try:
        return [row_of[one] for one in ids.tolist()]
    except KeyError as error:
        raise DataError(f"MovieLens 100k: {error} has ratings, but no line of its own") from None
