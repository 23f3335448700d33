"""Grids of settings for slow kernels, of which the tests take some and `pytest -m slow` all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest


def one_in(every: int, *axes: Sequence[Any]) -> list[Any]:
    """All combinations of the axes' values, for `parametrize`; all but the first of each `every` are slow.

    Where `every` has no factor in common with the lengths of the axes, each value is taken about as often.
    """
    combinations = enumerate(itertools.product(*axes))
    return [pytest.param(*values, marks=[] if n % every == 0 else pytest.mark.slow) for n, values in combinations]
