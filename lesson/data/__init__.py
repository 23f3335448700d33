"""The lesson's data: MovieLens, your ratings, and the split. `python -m lesson.data` says what is here."""

from lesson.data.collab import CollabData, Rows, Vocab, load_movielens, load_ratings, open_ratings, split
from lesson.data.movielens import open_movielens
from lesson.data.ratings import DataError, Ratings, RepeatedRatingsWarning, read_ratings

__all__ = [
    "CollabData",
    "DataError",
    "Ratings",
    "RepeatedRatingsWarning",
    "Rows",
    "Vocab",
    "load_movielens",
    "load_ratings",
    "open_movielens",
    "open_ratings",
    "read_ratings",
    "split",
]
