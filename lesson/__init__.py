"""The lesson as a library, in the lesson's own words.

>>> from lesson import collab_learner, load_movielens
>>> data = load_movielens()
>>> learn = collab_learner(data, n_factors=40, y_range=(0, 5.5), wd=1e-1)
>>> learn.fit_one_cycle(5, 5e-3)  # doctest: +SKIP
>>> learn.validate()  # doctest: +SKIP
"""

from lesson.data import DataError, RepeatedRatingsWarning, load_movielens, load_ratings

__all__ = ["DataError", "RepeatedRatingsWarning", "load_movielens", "load_ratings"]
