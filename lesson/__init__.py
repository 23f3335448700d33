"""The lesson as a library, with the lesson's names.

>>> from lesson import collab_learner, load_movielens
>>> data = load_movielens()
>>> learn = collab_learner(data, n_factors=40, y_range=(0, 5.5), wd=1e-1)
>>> learn.fit_one_cycle(5, 5e-3)  # doctest: +SKIP
>>> learn.validate()  # doctest: +SKIP
"""

from kernels import FASTAI, TORCH
from lesson.collab import CollabLearner, collab_learner
from lesson.data import (
    DataBunch,
    DataError,
    Images,
    RepeatedRatingsWarning,
    TableWarning,
    UnknownIdsWarning,
    load_adult,
    load_california_housing,
    load_digits,
    load_flights,
    load_images,
    load_movielens,
    load_ratings,
    load_table,
    load_uci_digits,
)
from lesson.ensemble import Ensemble
from lesson.learner import DivergenceError, Epoch, Learner
from lesson.models import EmbeddingDotBias, Net, TabularModel, resnet34, sigmoid_range
from lesson.nets import NetLearner, net_learner
from lesson.tabular import TabularLearner, tabular_learner
from lesson.vision import CnnLearner, create_cnn

__all__ = [
    "FASTAI",
    "TORCH",
    "CnnLearner",
    "CollabLearner",
    "DataBunch",
    "DataError",
    "DivergenceError",
    "EmbeddingDotBias",
    "Ensemble",
    "Epoch",
    "Images",
    "Learner",
    "Net",
    "NetLearner",
    "RepeatedRatingsWarning",
    "TableWarning",
    "TabularLearner",
    "TabularModel",
    "UnknownIdsWarning",
    "collab_learner",
    "create_cnn",
    "load_adult",
    "load_california_housing",
    "load_digits",
    "load_flights",
    "load_images",
    "load_movielens",
    "load_ratings",
    "load_table",
    "load_uci_digits",
    "net_learner",
    "resnet34",
    "sigmoid_range",
    "tabular_learner",
]
