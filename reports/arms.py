"""How the arms of a study are named, placed on an axis, and laid out as tables of runs."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from reports.read import Study
from studies.evidence.schema import Summary

FEWEST = 3  # values of a setting that make a sweep


def name_of(summary: Summary, name: str) -> str:
    """A setting, an arm or a metric as a reader calls it."""
    return summary.names.get(name, name)


def title_of(summary: Summary, metric: str) -> str:
    """A metric's title."""
    return summary.metrics[metric].title


def differing(summary: Summary) -> list[str]:
    """The settings in which the arms differ, but for what tuning chose."""
    arms = [arm.settings for arm in summary.arms.values()]
    tuned = {key for tuning in summary.tuning for key in tuning.chosen}
    every = list(dict.fromkeys(key for settings in arms for key in settings if key not in tuned))
    return [key for key in every if len({repr(settings.get(key)) for settings in arms}) > 1]


class Sweep(NamedTuple):
    """A setting with a place for each of its values on an axis.

    Attributes:
        setting: its name.
        places: its values, of the arms that have one, in the axis' order.
        lines: by arm, what else tells it apart: the arms of one line differ in the swept setting alone.
    """

    setting: str
    places: dict[str, float]
    lines: dict[str, str]


def sweep_of(summary: Summary) -> Sweep | None:
    """The setting with most values that are numbers from 0 on; None where no setting has three of them."""
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
        line = ", ".join(f"{name_of(summary, key)} {settings[key]}" for key in others if key in settings)
        if value in taken.setdefault(line, set()):  # of two arms on one place the second is a point of its own
            line = name_of(summary, arm)
        taken.setdefault(line, set()).add(value)
        lines[arm] = line
    return Sweep(swept, dict(sorted(values[swept].items(), key=lambda item: item[1])), lines)


def _numbers(summary: Summary, setting: str) -> dict[str, float]:
    """The setting's value by arm, where it is a number that an axis from 0 on has a place for."""
    values = {arm: one.settings.get(setting) for arm, one in summary.arms.items()}
    return {
        arm: float(value)
        for arm, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    }


def by_seed(study: Study, metric: str, kind: str = "run") -> pd.DataFrame:
    """A metric of every run, a row a seed and a column an arm as declared; NaN where it failed."""
    if study.runs is None:
        return pd.DataFrame()
    runs = study.runs[study.runs["kind"] == kind]
    table = runs.pivot(index="seed", columns="arm", values=f"metric.{metric}")  # noqa: PD010 there is one of each
    return table[[arm for arm in study.summary.arms if arm in table]].astype(float)


def noise_pairs(study: Study) -> pd.Series:
    """The A/A differences by seed: the noise floor's arm again minus the same arm, on the same splits."""
    floor = study.summary.noise_floor
    if floor is None or study.runs is None:
        return pd.Series(dtype=float)
    runs = study.runs[study.runs["arm"] == floor.arm].set_index("seed")
    first, again = (runs.loc[runs["kind"] == kind, f"metric.{study.summary.metric}"] for kind in ("run", "again"))
    return (again.astype(float) - first.astype(float)).dropna()


def shown_arms(summary: Summary, most: int) -> list[str]:
    """At most so many arms: those that parts weigh first, the baseline, and of the others some, evenly."""
    arms = list(summary.arms)
    if len(arms) <= most:
        return arms
    asked = [arm for part in summary.parts for arm in part.weights]
    keep = list(dict.fromkeys([*filter(None, [summary.baseline]), *asked, arms[0], arms[-1]]))[:most]
    rest, room = [arm for arm in arms if arm not in keep], most - len(keep)
    keep += [rest[i * len(rest) // room] for i in range(room)]
    return [arm for arm in arms if arm in keep]
