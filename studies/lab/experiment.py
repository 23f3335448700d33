"""One study on one data set: plans its runs and judges them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from studies.evidence.schema import Summary
from studies.lab import results
from studies.lab.replacing import by_default_name
from studies.lab.results import Asked, Kind, Planned
from studies.lab.spec import TUNING_SEEDS_FROM, Range, Run, Settings, Study, Value
from studies.lab.storage import SweepError
from studies.lab.sweep import Sweep


class Experiment:
    """One study on one data set, in one storage.

    Args:
        study: the declaration.
        data: the data set, with its origin.
        sweep: holds its runs.
        device: of the runs, such as "cpu".
        threads: per run.
        do: does runs and returns the errors of those that failed; for an export, does nothing.
    """

    def __init__(
        self,
        study: Study,
        data: Any,
        sweep: Sweep,
        *,
        device: str,
        threads: int,
        do: Callable[[Sequence[Run], str], list[str]],
    ) -> None:
        self.study, self.data, self.sweep = study, data, sweep
        self.device, self.threads, self.do = device, threads, do

    def answer(self, asked: Asked) -> tuple[Summary, pd.DataFrame, pd.DataFrame]:
        """Tune if the profile has trials, confirm on fresh seeds, and judge.

        Args:
            asked: the command's arguments.

        Returns:
            The summary, as if it were the first on this data (see `schema.since`), and the tables of runs and curves.

        Raises:
            SweepError: the answer needs an arm of which no run has finished.
        """
        study, seeds = self.study, range(asked.seeds)
        tuning = self._tuning(asked) if asked.trials else []
        self._do(tuning, f"{study.name}, tuning {' and '.join(study.tuned)}", asked)
        arms: dict[str, Settings] = dict(study.arms)
        chosen = self._chosen(tuning) if tuning else {(arm, seed): {} for seed in seeds for arm in arms}
        plan = [
            self._planned(arm, "run", {**arms[arm], **choice}, seed, asked) for (arm, seed), choice in chosen.items()
        ]
        if study.baseline is not None:
            settings = study.arms[study.baseline]
            plan += [
                self._planned(arm, "repeat", {**settings, **choice}, seed, asked)
                for (arm, seed), choice in chosen.items()
                if arm == study.baseline
            ]
            if tuning:
                untuned = by_default_name(study.baseline, study.tuned)
                arms[untuned] = settings
                plan += [self._planned(untuned, "run", settings, seed, asked) for seed in seeds]
        self._do(plan, study.name, asked)
        unplanned = [arm for seed in seeds for arm in study.arms if (arm, seed) not in chosen]
        unplanned += [arm for arm in unplanned if arm == study.baseline]  # its repeats
        if tuning:  # each seed has its own choice, stored in its row of the runs
            arms = {
                arm: {
                    name: value for name, value in settings.items() if name not in study.tuned or arm not in study.arms
                }
                for arm, settings in arms.items()
            }
        return results.summarize(study, arms, tuning + plan, len(unplanned), self.sweep, self.data, asked)

    def _tuning(self, asked: Asked) -> list[Planned]:
        """Every choice that each seed tries for each arm, on the seed's own tuning seeds."""
        study = self.study
        return [
            self._planned(arm, "tuning", {**settings, **choice}, tuning_seed, asked)
            for seed in range(asked.seeds)
            for arm, settings in study.arms.items()
            for choice in candidates({name: settings[name] for name in study.tuned}, study.tuned, asked.trials)
            for tuning_seed in self._tuning_seeds(seed)
        ]

    def _tuning_seeds(self, seed: int) -> range:
        first = TUNING_SEEDS_FROM + seed * self.study.tuning_seeds
        return range(first, first + self.study.tuning_seeds)

    def _chosen(self, tuning: Sequence[Planned]) -> dict[tuple[str, int], Settings]:
        """The best choice of each arm and seed; arms and seeds without a finished trial are left out."""
        runs, _ = results.tables(self.study, tuning, self.sweep.outcomes())
        chosen: dict[tuple[str, int], Settings] = {}
        for seed, own in runs.groupby(results.tuned_for(self.study, runs)):
            for arm, choice in results.choose(self.study, own).items():
                chosen[arm, int(str(seed))] = choice
        return chosen

    def _planned(self, arm: str, kind: Kind, settings: Settings, seed: int, asked: Asked) -> Planned:
        run = Run(
            study=self.study.name,
            recipe=self.study.recipe,
            data=asked.source.key if asked.source.path is None else f"own {asked.source.key}",
            checksum=self.data.origin.checksum,
            settings=settings,
            seed=seed,
            replicate=int(kind == "repeat"),
            device=self.device,
            threads=self.threads,
        )
        return Planned(arm, kind, run)

    def _do(self, plan: Sequence[Planned], what: str, asked: Asked) -> None:
        """Do the runs, and check that each arm that the answer needs has one."""
        if not plan:
            return
        failures = self.do([planned.run for planned in plan], what)
        done = self.sweep.outcomes()
        finished = {planned.arm for planned in plan if planned.kind != "repeat" and planned.run.key in done}
        needed = dict.fromkeys([*self.study.parts[0].weights] if self.study.parts else self.study.arms)
        for arm in needed:
            if arm not in finished:
                # A traceback's last line is the error itself.
                reason = failures[0].strip().splitlines()[-1] if failures else "and none is stored for this data"
                raise SweepError(f"{what}, {asked.source.name}: no run of {arm} finished: {reason}")


def candidates(default: Settings, tuned: Mapping[str, Range], count: int) -> list[dict[str, Value]]:
    """The default and up to `count` − 1 other choices, evenly spread in the logarithm; the same for every arm.

    Of one setting they are a grid, of several quasi-random. From three choices on, both reach the ends of each range. A
    setting whose default is a whole number gets whole numbers; duplicates are left out.

    >>> candidates({"lr": 5e-3}, {"lr": Range(1e-3, 1e-1)}, 4)
    [{'lr': 0.005}, {'lr': 0.001}, {'lr': 0.01}, {'lr': 0.1}]
    """
    choices: list[dict[str, Value]] = [dict(default)]
    for point in _places(len(tuned), count - 1):
        choice: dict[str, Value] = {}
        for (name, searched), place in zip(tuned.items(), point, strict=True):
            value = float(f"{searched.low * (searched.high / searched.low) ** place:.4g}")
            choice[name] = max(1, round(value)) if isinstance(default[name], int) else value
        if choice not in choices:  # whole numbers in a short range repeat
            choices.append(choice)
    if len(tuned) == 1 and len(choices) < count:
        ((name, its_default),) = default.items()
        if isinstance(its_default, float):  # it is on the grid: the first of the widest gaps gets a choice instead
            values = sorted(float(choice[name]) for choice in choices)
            low, high = max(pairwise(values), key=lambda gap: round(math.log(gap[1] / gap[0]), 3))
            choices.append({name: float(f"{math.sqrt(low * high):.4g}")})
    return choices


def _places(settings: int, count: int) -> np.ndarray[Any, Any]:
    """Points [count, settings], evenly spread from 0 to 1 in each setting."""
    if count < 2:
        return np.full((count, settings), 0.5)
    if settings == 1:
        return np.linspace(0, 1, count)[:, None]
    points = scipy.stats.qmc.Halton(settings, rng=0).random(count)
    lowest = points.min(axis=0)
    places: np.ndarray[Any, Any] = (points - lowest) / (points.max(axis=0) - lowest)
    return places
