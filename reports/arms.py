"""Names a study's arms, places them on an axis, and lays out their runs as tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

from reports.read import Study
from studies.evidence.schema import Summary

FEWEST = 3  # values of a setting that make a sweep


def name_of(summary: Summary, name: str) -> str:
    """The display name of a setting, an arm or a metric."""
    return summary.names.get(name, name)


def title_of(summary: Summary, metric: str) -> str:
    """A metric's title."""
    return summary.metrics[metric].title


def differing(summary: Summary) -> list[str]:
    """The settings in which the arms differ, except those that tuning chose."""
    arms = [arm.settings for arm in summary.arms.values()]
    tuned = {key for tuning in summary.tuning for key in tuning.chosen}
    every = list(dict.fromkeys(key for settings in arms for key in settings if key not in tuned))
    return [key for key in every if len({repr(settings.get(key)) for settings in arms}) > 1]


class Sweep(NamedTuple):
    """A setting with a place for each of its values on an axis.

    Attributes:
        setting: its name.
        places: its value by arm, in the axis' order.
        lines: by arm, its other settings: the arms of one line differ only in the swept setting.
    """

    setting: str
    places: dict[str, float]
    lines: dict[str, str]


def sweep_of(summary: Summary) -> Sweep | None:
    """The setting with the most distinct numbers from 0 on; None if no setting has three."""
    differ = differing(summary)
    values = {key: _numbers(summary, key) for key in differ}
    swept = max(differ, key=lambda key: len(set(values[key].values())), default=None)
    if swept is None or len(set(values[swept].values())) < FEWEST:
        return None
    others = [key for key in differ if key != swept]
    taken: dict[str, set[float]] = {}
    lines = {}
    for arm, value in values[swept].items():
        settings = summary.arms[arm].settings
        line = ", ".join(_said(name_of(summary, key), settings[key]) for key in others if key in settings)
        if value in taken.setdefault(line, set()):  # if two arms share a place, the second gets its own line
            line = name_of(summary, arm)
        taken.setdefault(line, set()).add(value)
        lines[arm] = line
    return Sweep(swept, dict(sorted(values[swept].items(), key=lambda item: item[1])), lines)


def _said(name: str, value: Any) -> str:
    """A setting in words: batch 64, momentum, no momentum."""
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value}"


def _numbers(summary: Summary, setting: str) -> dict[str, float]:
    """The setting's value by arm, if it is a number from 0 on."""
    values = {arm: one.settings.get(setting) for arm, one in summary.arms.items()}
    return {
        arm: float(value)
        for arm, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    }


def by_seed(study: Study, metric: str, kind: str = "run") -> pd.DataFrame:
    """A metric of every run: one row per seed, one column per arm in declared order; NaN if the run failed."""
    if study.runs is None:
        return pd.DataFrame()
    runs = study.runs[study.runs["kind"] == kind]
    table = runs.pivot(index="seed", columns="arm", values=f"metric.{metric}")  # noqa: PD010 there is one of each
    return table[[arm for arm in study.summary.arms if arm in table]].astype(float)


def noise_pairs(study: Study) -> pd.Series:
    """The A/A differences by seed: the noise floor's repeat minus the first run, on the same splits."""
    floor = study.summary.noise_floor
    if floor is None or study.runs is None:
        return pd.Series(dtype=float)
    runs = study.runs[study.runs["arm"] == floor.arm].set_index("seed")
    first, repeat = (runs.loc[runs["kind"] == kind, f"metric.{study.summary.metric}"] for kind in ("run", "repeat"))
    return (repeat.astype(float) - first.astype(float)).dropna()


def shown_arms(summary: Summary, most: int) -> list[str]:
    """At most `most` arms: the baseline, the arms of parts, and an even choice of the others."""
    arms = list(summary.arms)
    if len(arms) <= most:
        return arms
    asked = [arm for part in summary.parts for arm in part.weights]
    keep = list(dict.fromkeys([*filter(None, [summary.baseline]), *asked, arms[0], arms[-1]]))[:most]
    rest, room = [arm for arm in arms if arm not in keep], most - len(keep)
    keep += [rest[i * len(rest) // room] for i in range(room)]
    return [arm for arm in arms if arm in keep]
