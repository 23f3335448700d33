import pytest

from lesson import collab_learner, load_movielens


@pytest.fixture(scope="session")
def learned():
    """The lesson's model of MovieLens 100k, trained by its recipe: to be read, not changed."""
    learn = collab_learner(load_movielens(), n_factors=40, y_range=(0, 5.5), wd=1e-1, quiet=True)
    learn.fit_one_cycle(5, 5e-3)
    return learn
