"""The lesson as a library, in the lesson's own words.

>>> from lesson import collab_learner, load_movielens
>>> data = load_movielens()
>>> learn = collab_learner(data, n_factors=40, y_range=(0, 5.5), wd=1e-1)
>>> learn.fit_one_cycle(5, 5e-3)  # doctest: +SKIP
>>> learn.validate()  # doctest: +SKIP
"""

from kernels import FASTAI, TORCH
from lesson.data import DataError, RepeatedRatingsWarning, UnknownIdsWarning, load_movielens, load_ratings
from lesson.learner import DivergenceError, Learner, collab_learner
from lesson.models import EmbeddingDotBias, sigmoid_range

__all__ = [
    "FASTAI",
    "TORCH",
    "DataError",
    "DivergenceError",
    "EmbeddingDotBias",
    "Learner",
    "RepeatedRatingsWarning",
    "UnknownIdsWarning",
    "collab_learner",
    "load_movielens",
    "load_ratings",
    "sigmoid_range",
]
