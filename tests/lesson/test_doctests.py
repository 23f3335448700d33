import doctest
import importlib
import pkgutil

import pytest

import lesson

MODULES = ["lesson", *(module.name for module in pkgutil.walk_packages(lesson.__path__, "lesson."))]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_what_it_shows(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS, verbose=False)
    assert failed == 0
