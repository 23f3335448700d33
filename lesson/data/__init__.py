"""The lesson's data: MovieLens, MNIST, your own, and the split. `python -m lesson.data` lists what is here."""

from lesson.checks import DataError
from lesson.data.bunch import DataBunch
from lesson.data.collab import CollabData, Rows, load_movielens, load_ratings, open_ratings, split
from lesson.data.digits import Digits, load_digits
from lesson.data.ids import UnknownIdsWarning, Vocab
from lesson.data.made import Made
from lesson.data.movielens import open_movielens
from lesson.data.origin import Origin
from lesson.data.ratings import Ratings, RepeatedRatingsWarning, read_ratings
from lesson.data.table import Table, read_table

__all__ = [
    "CollabData",
    "DataBunch",
    "DataError",
    "Digits",
    "Made",
    "Origin",
    "Ratings",
    "RepeatedRatingsWarning",
    "Rows",
    "Table",
    "UnknownIdsWarning",
    "Vocab",
    "load_digits",
    "load_movielens",
    "load_ratings",
    "open_movielens",
    "open_ratings",
    "read_ratings",
    "read_table",
    "split",
]
