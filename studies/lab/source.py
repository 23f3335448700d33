"""Where a study's data come from: opened once by the command, and once more by each worker."""

from __future__ import annotations

import dataclasses
import inspect
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from lesson import DataError, DivergenceError
from lesson.data import load_ratings
from lesson.data.catalog import CATALOG, OWN
from lesson.data.table import data_name
from studies.lab.spec import Outcome, Run, Study


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set of the catalog, or the user's own in its place.

    Attributes:
        key: its name in the catalog.
        path: of the user's own file or folder; None for the catalog's.
        options: how to read that, by the names that its opener has for them.
    """

    key: str
    path: Path | None = None
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the folder of its results, of which no part leads out of them: the catalog's name, or that of the file."""
        if self.path is None:
            return self.key
        name = data_name(os.path.realpath(self.path))
        if name in ("", ".", ".."):
            name = "data"
        return f"own {name}" if name in CATALOG else name

    def open(self) -> Any:
        """The data, with their `origin`.

        Raises:
            DataError: they cannot be read.
        """
        if self.path is None:
            return CATALOG[self.key].open()
        return CATALOG[self.key].open_own(self.path, **self.options)


def own_options(study: Study) -> dict[str, str]:
    """The options that take the user's own data in the place of the study's: what each opens, by its name."""
    return {option.removeprefix("--"): key for key in study.data if (option := CATALOG[key].option)}


def opener(option: str) -> Callable[..., Any]:
    """The function whose parameters and docstring say how the files of an option may be read."""
    return load_ratings if option == "ratings" else OWN[f"--{option}"]  # `open_ratings` names its parameters there


def reading_options(option: str) -> list[str]:
    """How the files of an option may be read: what its opener takes by name."""
    parameters = inspect.signature(opener(option)).parameters.values()
    return [one.name for one in parameters if one.kind == one.KEYWORD_ONLY and "str" in str(one.annotation)]


def open_source(source: Source, seeds: int) -> tuple[Any, list[str]]:
    """The data, and what to know of them before the first run.

    Raises:
        DataError: they cannot be read, or nothing can be learnt of them in the splits of these seeds.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = source.open()
    notes = [str(warning.message) for warning in caught]
    return data, [*notes, *data.learnable(seeds)]


def prepare(
    run: Callable[[Run, Any], Outcome], source: Source, checksum: str, threads: int
) -> Callable[[tuple[int, Run]], Outcome]:
    """In a worker: open the data once, then make runs."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", RuntimeWarning)  # of overflows: that a run diverges is its outcome, not a warning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the command has told
        data = source.open()
    if data.origin.checksum != checksum:
        raise DataError(f"{source.path or source.name}: changed since the sweep began; start it again")
    return lambda job: outcome_of(run, job[1], data)


def outcome_of(run: Callable[[Run, Any], Outcome], job: Run, data: Any) -> Outcome:
    """One run, timed where it does not time itself. Divergence is an outcome, of which the epochs before are kept."""
    began = time.perf_counter()
    try:
        outcome = run(job, data)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"a run returned {type(outcome).__name__}; an Outcome is needed")
        return outcome if outcome.seconds else dataclasses.replace(outcome, seconds=time.perf_counter() - began)
    except DivergenceError as error:
        seconds = time.perf_counter() - began
        curves = {name: [getattr(epoch, name) for epoch in error.history] for name in ("train_loss", "valid_loss")}
        return Outcome({}, curves, seconds, diverged=True)
