"""MovieLens: the 100k set from a package, and folders of GroupLens' own files."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from lesson import checks
from lesson.checks import DataError, printable, shown
from lesson.data.ids import spelled
from lesson.data.origin import carried, with_options
from lesson.data.ratings import (
    GROUPLENS_COLUMNS,
    Ratings,
    RepeatedRatingsWarning,
    checked_split,
    find_columns,
    ratings_of,
    repeats,
    split_by,
)
from lesson.data.table import EncodingError, TextTable, as_path, read_text, reason

MOVIELENS_TERMS = (
    "GroupLens' terms: research use, no redistribution, no endorsement implied; "
    "https://grouplens.org/datasets/movielens/"
)
MOVIELENS_CITATION = (
    "F. M. Harper and J. A. Konstan (2015). The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5(4), 19:1-19:19."
)
MOVIELENS_Y_RANGE = (0.0, 5.5)  # the lesson's: a little above the best rating, so that 5 can be reached

# The last columns of the 100k's u.item, each 0 or 1, in the order of its u.genre; the first means "unknown".
GENRES = [
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
FILM_COLUMNS = ["item", "title", "released", "video released", "url", "genre unknown"]
FILM_COLUMNS += [f"genre {genre}" for genre in GENRES]


def open_movielens(
    path: str | Path | None = None, key: Literal["id", "title"] = "id", split: str | None = None
) -> Ratings:
    """MovieLens, not yet split; see `load_movielens`."""
    by = checked_split(split)
    if checks.text("key", key) not in ("id", "title"):
        raise DataError(f"key={shown(key)}: films are keyed by 'id' or by 'title'")
    ratings = _carried_movielens(by) if path is None else _grouplens_folder(as_path(path), by)
    return _merge_titles(ratings) if key == "title" else ratings


def _carried_movielens(by: str) -> Ratings:
    folder = carried("recbole", "recbole/dataset_example/ml-100k", "MovieLens 100k")
    films = read_text(folder / "ml-100k.item", quoted=False)
    named = zip(_texts(films, "movie_title:token_seq"), _texts(films, "release_year:token"), strict=True)
    titles = [_title(title, year) for title, year in named]
    table = read_text(folder / "ml-100k.inter", quoted=False)
    return _movielens(table, films, "item_id:token", titles, "MovieLens 100k", by)


def _title(title: str, year: str) -> str:
    if year.isdigit():
        return f"{title} ({year})"
    # The package took the last parenthesis for the year, as in '… (1995) (V)'; film 267 has neither title nor year.
    return "unknown" if title == year else f"{title} ({year})"


def _grouplens_folder(folder: Path, by: str) -> Ratings:
    try:
        there = {file.name for file in folder.iterdir()}
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{printable(folder)}: cannot be read ({reason(error)})") from error
    name = f"MovieLens {printable(folder.resolve().name)}"
    item = "item"
    if "u.data" in there:
        films = _film_text(folder / "u.item", "|").name_columns(FILM_COLUMNS)
        table = read_text(folder / "u.data", sep="\t", quoted=False).name_columns(GROUPLENS_COLUMNS)
        name = "MovieLens 100k" if len(table) == 100_000 else name
    elif "ratings.dat" in there:
        films = _film_text(folder / "movies.dat", "::").name_columns([*FILM_COLUMNS[:2], "genres"])
        table = read_text(folder / "ratings.dat", sep="::", quoted=False).name_columns(GROUPLENS_COLUMNS)
    elif "ratings.csv" in there:
        films = read_text(folder / "movies.csv")
        table = read_text(folder / "ratings.csv")
        item = "movieId"
    else:
        raise DataError(
            f"{printable(folder)}: no u.data, ratings.dat or ratings.csv there; "
            "give a folder as GroupLens ships it, or one file"
        )
    return _movielens(table, films, item, [title.strip() for title in _texts(films, "title")], name, by)


def _film_text(path: Path, sep: str) -> TextTable:
    try:
        return read_text(path, sep=sep, encoding="utf-8", quoted=False)  # 10M's
    except EncodingError:
        return read_text(path, sep=sep, encoding="latin-1", quoted=False)  # 100k's and 1M's


def _texts(table: TextTable, column: str) -> list[str]:
    texts: list[str] = table.column(column).to_pylist()
    return texts


def _movielens(table: TextTable, films: TextTable, item: str, titles: list[str], name: str, by: str) -> Ratings:
    ratings = ratings_of(table, find_columns(table, {"user": None, "item": None, "rating": None}), name)
    ratings = split_by(by, ratings, table)
    codes, ids = films.ids(item)
    if len(ids) < len(codes):
        row = int(np.argmax(repeats(np.zeros_like(codes), codes)))
        films.fail(row, item, f"{shown(ids[codes[row]])} occurs twice; each film has one line")
    # One id of text makes all of a file text, so the two files may have the same ids as numbers and as text.
    asked = {spelled(film): film for film in ratings.item_ids.tolist()}
    keys = [asked.get(spelled(film), film) for film in ids[codes].tolist()]
    title_of = dict(zip(keys, titles, strict=True))
    genres_of = dict(zip(keys, _genres(films), strict=True))
    unknown = np.array([film not in title_of for film in ratings.item_ids.tolist()])
    if unknown.any():
        row = int(np.argmax(unknown[ratings.item]))
        film = ratings.item_ids[ratings.item[row]]
        table.fail(
            row, ratings.columns["item"], f"{shown(film)} is not in {Path(films.path).name}; are both of one data set?"
        )
    ratings = replace(ratings, titles=title_of, genres=genres_of, terms=MOVIELENS_TERMS, citation=MOVIELENS_CITATION)
    low, high = ratings.rating.min(), ratings.rating.max()
    if MOVIELENS_Y_RANGE[0] < low and high < MOVIELENS_Y_RANGE[1]:
        return replace(ratings, y_range=MOVIELENS_Y_RANGE)
    said = f"ratings go from {low:g} to {high:g}, so the range is {ratings.y_range}, not {MOVIELENS_Y_RANGE}"
    return replace(ratings, notes=(*ratings.notes, said))


def _genres(films: TextTable) -> list[tuple[str, ...]]:
    """Each film's genres."""
    for column, sep in (("genres", "|"), ("class:token_seq", " ")):
        if column in films.names:
            texts = _texts(films, column)
            return [tuple(filter(None, text.split(sep))) if text[:1] != "(" else () for text in texts]
    flags = [(genre, _texts(films, f"genre {genre}")) for genre in GENRES if f"genre {genre}" in films.names]
    return [tuple(genre for genre, column in flags if column[row] == "1") for row in range(len(films))]


def _merge_titles(ratings: Ratings) -> Ratings:
    """Merge films with the same title, keyed by that title."""
    titles = np.array([ratings.titles[item] or str(item) for item in ratings.item_ids.tolist()], dtype=object)
    item_ids, code_of = np.unique(titles, return_inverse=True)
    item = code_of[ratings.item]
    repeated = int(repeats(ratings.user, item).sum())
    if repeated:
        warnings.warn(
            f"{ratings.name}: with films of the same title merged, {repeated:,} ratings repeat a (user, item) pair; "
            "all are kept",
            RepeatedRatingsWarning,
            stacklevel=3,
        )
    merged = replace(ratings, item=item, item_ids=item_ids, titles={}, genres={}, repeated=repeated)
    return replace(merged, checksum=with_options(merged.checksum, {"key": "title"}))
