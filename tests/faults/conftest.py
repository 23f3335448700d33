from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.faults.sweeps import COUNTS, Sweeps

Table = dict[str, tuple[int, Counter[str]]]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """How often each fault is repeated."""
    return int(request.config.getoption("--rounds"))


@pytest.fixture
def draw() -> random.Random:
    """Random moments, another time others; the seed is printed."""
    seed = random.randrange(1_000_000)
    print(f"\nseed {seed}")
    return random.Random(seed)


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """300 ratings."""
    rng = np.random.default_rng(0)
    rows = [f"{pair // 30},{pair % 30},{rng.integers(1, 6)}" for pair in rng.choice(600, 300, replace=False)]
    path = tmp_path / "small.csv"
    path.write_text("\n".join(["user,item,rating", *rows, ""]))
    return path


@pytest.fixture
def sweeps(tmp_path: Path, ratings: Path) -> Sweeps:
    """Sweeps with the file in their results."""
    return Sweeps(tmp_path, ratings)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """Rows of counts, printed at the end: what was done, how many times, and what that did."""
    rows: Table = {}
    yield rows
    print(f"\n{'':52}{'rounds':>8}" + "".join(f"{name:>12}" for name in COUNTS))
    for what, (times, counts) in rows.items():
        print(f"{what:52}{times:8}" + "".join(f"{counts[name]:12}" for name in COUNTS))
    print(f"load {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
