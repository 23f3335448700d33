"""One study on one data set: which runs it takes, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import scipy.stats

from lesson.data import Ratings
from studies.evidence import provenance
from studies.evidence.schema import Summary, Tuning
from studies.lab import results
from studies.lab.replacing import by_default_name
from studies.lab.results import Kind, Planned
from studies.lab.spec import TUNING_SEEDS_FROM, Range, Run, Settings, Study, counted
from studies.lab.storage import SweepError
from studies.lab.sweep import Sweep


class Experiment:
    """One study on one data set, in one storage.

    Args:
        study: the declaration.
        ratings: the data.
        sweep: where its runs are.
        backend: which implementation trains.
        device: where.
        threads: of one run.
        do: does planned runs and returns why some failed; does nothing for an export.
    """

    def __init__(
        self,
        study: Study,
        ratings: Ratings,
        sweep: Sweep,
        *,
        backend: str,
        device: str,
        threads: int,
        do: Callable[[Sequence[Run], str], list[str]],
    ) -> None:
        self.study, self.ratings, self.sweep = study, ratings, sweep
        self.backend, self.device, self.threads, self.do = backend, device, threads, do

    def answer(
        self, *, profile: str, seeds: int, trials: int, command: str, workers: int, notes: list[str]
    ) -> tuple[Summary, pd.DataFrame, pd.DataFrame]:
        """Tune where there are trials, confirm on fresh seeds, and judge.

        Returns:
            The summary, and the tables of runs and curves.

        Raises:
            SweepError: no run of an arm that the answer needs has finished.
        """
        study = self.study
        arms: dict[str, Settings] = dict(study.arms)
        tuning: list[Planned] = []
        tunings: list[Tuning] = []
        if study.tuned is not None and trials:
            setting, searched = study.tuned
            tuning, tunings = self._tune(setting, searched, trials)
            arms = {tuned.arm: {**study.arms[tuned.arm], **tuned.chosen} for tuned in tunings}
            if arms[study.baseline] != study.arms[study.baseline]:
                arms[by_default_name(study.baseline, setting)] = study.arms[study.baseline]
        plan = [self._planned(arm, "run", arms[arm], seed) for seed in range(seeds) for arm in arms]
        plan += [self._planned(study.baseline, "again", arms[study.baseline], seed) for seed in range(seeds)]
        self._do(plan, study.name)
        plan = tuning + plan
        done = self.sweep.outcomes()
        missing = sum(planned.run.key not in done for planned in plan)
        return results.summarize(
            study,
            arms,
            plan,
            self.sweep,
            self.ratings,
            profile=profile,
            tuning=tunings,
            command=command,
            workers=workers,
            limits=study.limits(self.ratings.name, bool(tunings))
            + notes
            + ([f"Missing: {missing} of {counted(len(plan), 'run')}."] if missing else []),
        )

    def _tune(self, setting: str, searched: Range, trials: int) -> tuple[list[Planned], list[Tuning]]:
        study = self.study
        plan = [
            self._planned(arm, "tuning", {**settings, setting: value}, TUNING_SEEDS_FROM + seed)
            for arm, settings in study.arms.items()
            for value in candidates(float(settings[setting]), searched.low, searched.high, trials)
            for seed in range(study.tuning_seeds)
        ]
        self._do(plan, f"{study.name}, tuning {setting}")
        return plan, results.choose(study, setting, plan, self.sweep.outcomes())

    def _planned(self, arm: str, kind: Kind, settings: Settings, seed: int) -> Planned:
        run = Run(
            study=self.study.name,
            settings=dict(settings),
            seed=seed,
            replicate=int(kind == "again"),
            data=provenance.digest([self.ratings.checksum, self.ratings.y_range]),
            backend=self.backend,
            device=self.device,
            threads=self.threads,
            recipe=self.study.recipe,
        )
        return Planned(arm, kind, run)

    def _do(self, plan: Sequence[Planned], what: str) -> None:
        failures = self.do([planned.run for planned in plan], what)
        done = self.sweep.outcomes()
        finished = {planned.arm for planned in plan if planned.kind != "again" and planned.run.key in done}
        for arm in (self.study.baseline, self.study.primary):
            if arm not in finished:
                # A traceback's last line is the error itself.
                reason = failures[0].strip().splitlines()[-1] if failures else "nor is any stored here for these data"
                raise SweepError(f"{what}: none of {arm} finished: {reason}")


def candidates(default: float, low: float, high: float, count: int) -> list[float]:
    """The default and `count` − 1 quasi-random values, evenly spread in the logarithm; the same for every arm."""
    drawn = scipy.stats.qmc.Halton(1, rng=0).random(count - 1)[:, 0]
    return [default, *(float(f"{low * (high / low) ** u:.4g}") for u in drawn)]
