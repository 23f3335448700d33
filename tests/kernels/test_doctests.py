"""Examples in docstrings run. Every public name has one, and is described on the page of the package."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

import kernels

PAGE = Path(kernels.__file__).with_name("README.md")
NO_EXAMPLE = {"BackendError"}  # an exception; `available` has an example of what avoids it

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


@pytest.mark.parametrize("name", kernels.__all__)
def test_every_public_name_has_an_example_that_gives_what_it_shows(name):
    thing = getattr(kernels, name)
    assert inspect.getdoc(thing)
    thing = thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing)
    globs = {**{public: getattr(kernels, public) for public in kernels.__all__}, "torch": torch, "nn": torch.nn}
    tests = [test for test in doctest.DocTestFinder().find(thing, name, globs=globs) if test.examples]
    assert (name in NO_EXAMPLE) != any(test.name == name for test in tests)
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_the_page_of_the_package_describes_every_public_name_as_its_docstring_does():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(name, inspect.getdoc(getattr(kernels, name)).splitlines()[0]) for name in kernels.__all__]
