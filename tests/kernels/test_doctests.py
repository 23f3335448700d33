import doctest
import importlib

import pytest

MODULES = [
    "kernels.adam",
    "kernels.backends",
    "kernels.deferred",
    "kernels.deferred.embedding",
    "kernels.dot_bias",
    "kernels.lookup",
    "kernels.quadrature",
    "kernels.steps",
    "kernels.trainer",
    "kernels.trainer.native",
]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_what_it_shows(name):
    failed, tried = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0
    assert tried
