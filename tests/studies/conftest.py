from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from studies.lab import workers
from studies.lab.workers import Finished, attempt


class Inline:
    """Does jobs in this process, in the place of `Workers`: no seconds for starting any."""

    def __init__(self, count: int, show: Callable[[str], None]) -> None:
        self.count = count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, prepare: Callable[[], Callable[[Any], Any]], jobs: int) -> None:
        self.run, self.jobs = prepare(), []

    @property
    def ahead(self) -> list[Any]:
        return self.jobs[1:]

    def room(self, ahead: int = 0) -> int:
        return max(0, 1 + ahead - len(self.jobs))

    def give(self, job: Any) -> None:
        self.jobs.append(job)

    def wait(self, seconds: float, limit: float) -> Iterator[Finished]:
        if self.jobs:
            began = time.monotonic()
            how, result = attempt(self.run, self.jobs[0])
            yield Finished(self.jobs.pop(0), how, result, time.monotonic() - began)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "Workers", Inline)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # statsmodels' Holm calls it: half of the time of these tests


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The keys of the toy study's trainings so far."""
    log = tmp_path / "toy.log"
    monkeypatch.setenv("TOY_LOG", str(log))
    return lambda: [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="session")
def ratings_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 ratings of 30 items by 20 users, no pair twice."""
    rng = np.random.default_rng(0)
    pairs = rng.choice(600, 300, replace=False)
    stars = rng.integers(1, 6, 300)
    path = tmp_path_factory.mktemp("data") / "small.csv"
    rows = [f"{pair // 30},{pair % 30},{rating}" for pair, rating in zip(pairs, stars, strict=True)]
    path.write_text("\n".join(["user,item,rating", *rows, ""]))
    return path
