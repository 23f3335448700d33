"""Opens a study's data: once in the command, and once in each worker."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lesson import DataError, DivergenceError
from lesson.data import Ratings
from lesson.data.catalog import CATALOG, OWN
from lesson.data.table import data_name
from studies.evidence import provenance
from studies.lab.spec import Outcome, OutcomeError, Run, Study

FEWEST, MOST = 1_000, 2_000_000  # ratings
DECAYS = (0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set of the catalog, or the user's own data instead.

    Attributes:
        key: its name in the catalog.
        path: the user's own file or folder; None for the catalog's data.
        options: how to read that file, by the opener's parameter names.
    """

    key: str
    path: Path | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of its results folder, never a path: the catalog's name, or the file's."""
        if self.path is None:
            return self.key
        name = data_name(os.path.realpath(self.path))
        if name in ("", ".", ".."):
            name = "data"
        return f"own {name}" if name in CATALOG else name

    def open(self) -> Any:
        """The data, with their `origin`.

        Raises:
            DataError: it cannot be read.
        """
        if self.path is None:
            return CATALOG[self.key].open()
        return OWN[str(CATALOG[self.key].option)].open(self.path, **self.options)


def own_options(study: Study) -> dict[str, str]:
    """The options for the user's own data, each with the name of the data set that it replaces.

    Raises:
        ValueError: the study names data that is not in the catalog.
    """
    if unknown := [key for key in study.data if key not in CATALOG]:
        raise ValueError(f"study {study.name}: unknown data {unknown[0]!r}; there are {', '.join(CATALOG)}")
    return {option.removeprefix("--"): key for key in study.data if (option := CATALOG[key].option)}


def reading_options(option: str) -> dict[str, str]:
    """The options that say how to read an option's file, with their descriptions."""
    return OWN[f"--{option}"].reading


def open_source(source: Source, seeds: int, own_split: bool = False) -> tuple[Any, list[str]]:
    """The data, and notes to print before the first run.

    Args:
        source: of the data.
        seeds: how many splits are trained on.
        own_split: whether the study splits the data in its own way; then nothing is said about the usual splits.

    Raises:
        DataError: it cannot be read, or nothing can be learned from it in the splits of these seeds.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = source.open()
    notes = [str(warning.message) for warning in caught]
    return data, notes if own_split else [*notes, *data.learnable(seeds)]


def shared(ratings: Ratings) -> list[str]:
    """Refuse ratings that share nothing, for a study that splits them in its own way; there are no notes.

    Raises:
        DataError: nobody has rated two items, or no two users have rated the same one.
    """
    user, item = np.unique(np.stack([ratings.user, ratings.item]), axis=1)
    if np.bincount(user).max() < 2 or np.bincount(item).max() < 2:
        raise DataError(
            f"{ratings.name}: nobody has rated two items, or no two users have rated the same one, so nothing can be "
            "learned and no verdict given; use ratings that share users and items"
        )
    return []


def unlearnable(ratings: Ratings) -> list[str]:
    """A note if the lesson's model is not shown to predict one's own ratings better than their mean does.

    Three weight decays are tried on the first split, and the best is compared with the mean, with 97.5 % confidence.
    There is no note on fewer than 1,000 ratings, which say too little, or on more than 2 million, which take too long.
    """
    from lesson import collab_learner  # it loads the kernels, which most commands leave to their workers
    from lesson.data import split

    if not FEWEST <= len(ratings) <= MOST:
        return []
    data = split(ratings, seed=0)
    valid = data.valid.ratings.double()
    constant = (valid - data.train.ratings.double().mean()).square()
    tried = []
    for wd in DECAYS:
        learn = collab_learner(data, 40, data.y_range, wd, quiet=True)
        with contextlib.suppress(DivergenceError):
            learn.fit_one_cycle(5, 5e-3)
            tried.append((learn.get_preds()[0].double() - valid).square())
    best = min(tried, key=torch.mean, default=torch.full_like(constant, torch.inf))
    gained = constant - best
    if gained.mean() > 2 * gained.std() / len(gained) ** 0.5:
        return []
    return [
        "The lesson's model is not shown to predict these ratings better than their mean does (RMSE on the first "
        f"split: {best.mean().sqrt():.4f}, of the mean {constant.mean().sqrt():.4f}). Where nothing can be learned, "
        "arms differ in how much noise they learn, and “not worse” says little."
    ]


def prepare(
    run: Callable[[Run, Any], Outcome], code: str, source: Source, checksum: str, threads: int
) -> Callable[[tuple[int, Run]], Outcome]:
    """In a worker: open the data once, and return the function that makes a run.

    Raises:
        DataError: `run`'s file no longer has the digest `code`, or the data no longer have their checksum.
    """
    if provenance.source_of(run) != code:
        raise DataError(f"{inspect.getfile(run)}: changed since the sweep began; start it again")
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", RuntimeWarning)  # overflows: divergence is an outcome, not a warning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the command has printed them
        data = source.open()
    if data.origin.checksum != checksum:
        raise DataError(f"{source.path or source.name}: changed since the sweep began; start it again")
    return lambda job: outcome_of(run, job[1], data)


def outcome_of(run: Callable[[Run, Any], Outcome], job: Run, data: Any) -> Outcome:
    """One run, timed if it does not time itself. Divergence is an outcome, with the curves up to it."""
    began = time.perf_counter()
    try:
        outcome = run(job, data)
        if not isinstance(outcome, Outcome):
            raise OutcomeError(f"a run returned {type(outcome).__name__}; it must return an Outcome")
        return outcome if outcome.seconds else dataclasses.replace(outcome, seconds=time.perf_counter() - began)
    except DivergenceError as error:
        seconds = time.perf_counter() - began
        curves = {name: [getattr(epoch, name) for epoch in error.history] for name in ("train_loss", "valid_loss")}
        return Outcome({}, curves, seconds, diverged=True)
