import doctest
import importlib

import pytest

MODULES = [
    "studies.evidence.outcomes",
    "studies.evidence.parts",
    "studies.lab.experiment",
    "studies.lab.spec",
    "studies.lab.timing",
]


@pytest.mark.parametrize("name", MODULES)
def test_every_example_gives_what_it_shows(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0
    assert tried
