"""The lesson's data: ratings, digits, tables, functions, your own. `python -m lesson.data` lists them."""

from lesson.checks import DataError
from lesson.data.adult import Adult, load_adult
from lesson.data.bunch import DataBunch
from lesson.data.california import load_california_housing
from lesson.data.collab import CollabData, Rows, load_movielens, load_ratings, open_ratings, split
from lesson.data.digits import Digits, load_digits, load_uci_digits
from lesson.data.fetch import fetch_mnist
from lesson.data.filmtrust import open_filmtrust
from lesson.data.flights import load_flights
from lesson.data.ids import UnknownIdsWarning, Vocab
from lesson.data.images import ImageBunch, ImageRows, Images, load_images
from lesson.data.made import Curves, Made, PlantedRatings
from lesson.data.movielens import open_movielens
from lesson.data.origin import Origin
from lesson.data.ratings import Ratings, RepeatedRatingsWarning, read_ratings
from lesson.data.table import Table, read_table
from lesson.data.tabular import TableWarning, Tabular, TabularData, load_table, open_table

__all__ = [
    "Adult",
    "CollabData",
    "Curves",
    "DataBunch",
    "DataError",
    "Digits",
    "ImageBunch",
    "ImageRows",
    "Images",
    "Made",
    "Origin",
    "PlantedRatings",
    "Ratings",
    "RepeatedRatingsWarning",
    "Rows",
    "Table",
    "TableWarning",
    "Tabular",
    "TabularData",
    "UnknownIdsWarning",
    "Vocab",
    "fetch_mnist",
    "load_adult",
    "load_california_housing",
    "load_digits",
    "load_flights",
    "load_images",
    "load_movielens",
    "load_ratings",
    "load_table",
    "load_uci_digits",
    "open_filmtrust",
    "open_movielens",
    "open_ratings",
    "open_table",
    "read_ratings",
    "read_table",
    "split",
]
