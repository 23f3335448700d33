"""Where a study's ratings come from: read once by the command, and once more by each worker."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lesson.data import DataError, Ratings, open_movielens, open_ratings, split
from lesson.data.ratings import data_name
from studies.lab.spec import Outcome, Run


@dataclasses.dataclass(frozen=True)
class Source:
    """MovieLens 100k, or a file or folder of one's own.

    Attributes:
        path: of the file or folder; None for MovieLens 100k.
        options: how to read the file: user, item, rating (columns), sep and encoding, those that are given.
    """

    path: Path | None = None
    options: dict[str, str] = dataclasses.field(default_factory=dict)

    def folder_name(self) -> str:
        """The folder of its results: its name, of which no part leads out of them; none for MovieLens 100k."""
        if self.path is None:
            return ""
        name = data_name(os.path.realpath(self.path))
        return "ratings" if name in ("", ".", "..") else name

    def read(self) -> Ratings:
        """The ratings.

        Raises:
            DataError: they cannot be read.
        """
        return open_movielens() if self.path is None else open_ratings(self.path, **self.options)


def open_source(source: Source) -> tuple[Ratings, list[str]]:
    """The ratings, and what to know of them.

    Raises:
        DataError: they cannot be read.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = source.read()
    return table, [str(warning.message) for warning in caught]


def told_of_learnable(table: Ratings, seeds: int) -> str:
    """A sentence: of how many validation rows training has seen the user and the item.

    Raises:
        DataError: of none, in no split.
    """
    first = split(table, seed=0)
    if not any(split(table, seed=seed).learnable_rows for seed in range(seeds)):
        raise DataError(
            f"{table.name}: training has seen both user and item of 0 of {len(first.valid):,} validation rows, so that "
            "nothing can be learnt of them and no verdict given; ratings that share users and items are needed"
        )
    return (
        f"Training has seen both user and item of {first.learnable_rows:,} of {len(first.valid):,} validation rows (in "
        "the first split)."
    )


def prepare(
    run: Callable[[Run, Any], Outcome], source: Source, checksum: str, threads: int
) -> Callable[[tuple[int, Run]], Outcome]:
    """In a worker: read the data once, then do runs."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", RuntimeWarning)  # of overflows: that a run diverges is its outcome, not a warning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the command has told
        table = source.read()
    if table.checksum != checksum:
        raise DataError(f"{source.path or table.name}: changed since the sweep began; start it again")
    return lambda job: run(job[1], table)
