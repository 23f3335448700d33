"""What a study declares before it runs, what a single run is, and what it returns."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

from studies.evidence.outside import printable
from studies.evidence.parts import (
    LARGEST,
    Metric,
    Part,
    beats,
    best,
    check_parts,
    differs,
    effect,
    equals,
    exceeds,
    not_worse,
)
from studies.evidence.provenance import digest

__all__ = [
    "Metric",
    "Outcome",
    "OutcomeError",
    "Part",
    "Profile",
    "Range",
    "Run",
    "Settings",
    "Study",
    "beats",
    "best",
    "counted",
    "differs",
    "effect",
    "equals",
    "exceeds",
    "factorial",
    "not_worse",
    "sweep",
]

Value = float | int | str | bool
Settings = Mapping[str, Value]

TUNING_SEEDS_FROM = 1_000_000  # far from the seeds of the confirming runs
MOST_EXPLORED = 6  # parts: of many judged on few seeds, some come out by chance


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "seed"), counted(2_000, "seed")
    ('1 seed', '2,000 seeds')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Profile:
    """How much a study costs.

    Attributes:
        seeds: per arm.
        trials: choices of the tuned settings that each seed tries for each arm, including the default; or 0.
        cost: the expected time on two cores, in words.
    """

    seeds: int
    trials: int
    cost: str


@dataclass(frozen=True)
class Range:
    """The range over which a tuned setting is searched, evenly in its logarithm."""

    low: float
    high: float


@dataclass(frozen=True)
class Study:
    """A question and how to answer it, declared before anything runs.

    Attributes:
        name: the name of the module, its results and its page.
        title: a heading.
        question: one sentence; the first part answers it.
        run: makes one run from a `Run` and the data; a function of the module, because workers unpickle it.
        data: names in `lesson.data.CATALOG`; each is a separate condition.
        arms: settings by arm; `sweep` and `factorial` make them.
        metrics: what a run measures, by name. The first is drawn and described against the baseline.
        parts: the parts of claims that it decides; see `studies.evidence.parts`.
        profiles: by name, the cheapest first.
        recipe: version of how a run is made; runs of earlier versions are not used.
        baseline: the arm that others are compared with, and that runs twice for the noise floor; or None.
        tuned: the settings that profiles with trials retune for every arm, and their ranges.
        tuning_seeds: the number of seeds over which a trial is averaged. Each seed has its own tuning seeds, so every
            interval includes the variance of tuning; confirming runs use other seeds.
        resplits: whether each seed re-splits one data set, so that splits overlap. False if seeds draw new data, or
            share a given test set.
        alone: whether it measures time: then one run is made at a time.
        stand_in: by data set, what it stands in for: a stand-in neither proves nor refutes.
        exploratory: what its seeds do not repeat, in words. Such a study has fewer seeds, and six parts at most.
        cpu_only: whether its runs need a CPU.
        tunes_apart: whether tuning runs leave out the rows that all seeds validate on, where data have such rows.
        check: notes on the data before the first run; raises `DataError` if the study cannot use them.
        own_split: whether its runs choose the validation rows in their own way, so that --split has no place.
        x: the axis of the curves.
        places: where their numbers stand on it; by default at 1, 2, 3 and so on.
        names: display names of settings and arms.
        limits: sentences that limit the answer.
        stand_in_limits: likewise, where the data stands in for another.

    Raises:
        ValueError: a part or the baseline names something unknown, or a name occurs twice.
    """

    name: str
    title: str
    question: str
    run: Callable[[Run, Any], Outcome] = field(repr=False)
    data: tuple[str, ...]
    arms: Mapping[str, Settings]
    metrics: Mapping[str, Metric]
    parts: tuple[Part, ...]
    profiles: Mapping[str, Profile]
    recipe: int = 1
    baseline: str | None = None
    tuned: Mapping[str, Range] = field(default_factory=dict)
    tuning_seeds: int = 1
    resplits: bool = True
    alone: bool = False
    stand_in: Mapping[str, str] = field(default_factory=dict)
    exploratory: str = ""
    cpu_only: bool = False
    tunes_apart: bool = False
    check: Callable[[Any], list[str]] | None = field(default=None, repr=False)
    own_split: bool = False
    x: str = "epoch"
    places: tuple[float, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[str, ...] = ()
    stand_in_limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            self._check()
        except ValueError as error:
            raise ValueError(f"study {self.name}: {error}") from None

    def _check(self) -> None:
        if not (self.data and self.arms and self.profiles):
            raise ValueError("it needs data, arms and profiles")
        check_parts(self.parts, self.arms, self.metrics)
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(f"the baseline {self.baseline!r} is not one of the arms {', '.join(self.arms)}")
        if unknown := self.stand_in.keys() - set(self.data):
            raise ValueError(f"{sorted(unknown)[0]!r} is a stand-in, but not one of the study's data sets")
        if self.exploratory and len(self.parts) > MOST_EXPLORED:
            raise ValueError(f"{len(self.parts)} parts; an exploratory study has {MOST_EXPLORED} at most")
        for setting, searched in self.tuned.items():
            if lacking := [arm for arm, settings in self.arms.items() if setting not in settings]:
                raise ValueError(f"{setting} is tuned, but the arm {lacking[0]!r} has no default for it")
            whole = any(isinstance(settings[setting], int) for settings in self.arms.values())
            if whole and math.floor(searched.high) - max(1, math.ceil(searched.low)) < 1:
                raise ValueError(
                    f"{setting} is tuned from {searched.low:g} to {searched.high:g} in whole numbers, like its "
                    "default, and these are fewer than two: widen the range, or write the default with a point"
                )
        for setting in sorted(self.settings):
            values = [settings[setting] for settings in self.arms.values() if setting in settings]
            if len({type(value) if isinstance(value, str | bool) else float for value in values}) > 1:
                raise ValueError(f"{setting} has numbers in some arms, text or true and false in others")
        if both := self.metrics.keys() & self.tuned.keys():  # a trial has both as fields
            raise ValueError(f"{sorted(both)[0]!r} is both a metric and a setting that is tuned")
        if unknown := self.names.keys() - self.settings - self.arms.keys():
            raise ValueError(f"{sorted(unknown)[0]!r} has a display name, but is neither a setting nor an arm")

    @property
    def settings(self) -> set[str]:
        """The names of all settings."""
        return {name for settings in self.arms.values() for name in settings}

    @property
    def claims(self) -> list[int]:
        """The claims whose parts it decides."""
        return sorted({part.claim for part in self.parts if part.claim is not None})

    @property
    def swept(self) -> str | None:
        """The setting whose numbers are the arms; None if the arms are something else."""
        by_setting = {name: [settings.get(name) for settings in self.arms.values()] for name in self.settings}
        differing = [name for name, values in by_setting.items() if len(set(values)) > 1]
        if len(differing) != 1 or any(isinstance(value, (str, bool, type(None))) for value in by_setting[differing[0]]):
            return None
        name = differing[0]
        return name if all(arm_name(name, settings[name]) == arm for arm, settings in self.arms.items()) else None

    def claims_named(self) -> str:
        """The claims' ids, in words."""
        if not self.claims:
            return "no claim"
        return f"{'claim' if len(self.claims) == 1 else 'claims'} {', '.join(map(str, self.claims))}"

    def costs(self) -> list[str]:
        """What each profile costs, in words. The first looks at the first data set alone."""
        retuned = " and ".join(self.tuned)
        only = {next(iter(self.profiles)): f", on {self.data[0]} alone"} if len(self.data) > 1 else {}
        return [
            f"{name}: {counted(profile.seeds, 'seed')}{only.get(name, '')}"
            + (f", {retuned} retuned by {profile.trials} trials per arm and seed" if profile.trials else "")
            + f", {profile.cost}"
            for name, profile in self.profiles.items()
        ]

    def declared(self) -> dict[str, Any]:
        """The declaration as plain data; every report shows its digest."""
        words = {"title", "run", "check", "names", "limits", "stand_in_limits", "exploratory"}  # they decide nothing
        return {
            name: {key: asdict(value) if hasattr(value, "__dataclass_fields__") else value for key, value in it.items()}
            if isinstance(it := getattr(self, name), Mapping)
            else [asdict(part) for part in it]
            if name == "parts"
            else it
            for name in self.__dataclass_fields__
            if name not in words
        }


@dataclass(frozen=True)
class Run:
    """One run, with everything that determines its outcome.

    `job["wd"]` is a setting of the arm, as the study declares it.

    Attributes:
        study: the study's name.
        recipe: version of how a run is made.
        data: the data set's name in the catalog, or the name of the user's own.
        checksum: of the data and of how it is read.
        settings: the arm's settings.
        seed: the split's seed.
        replicate: 0; 1 draws another initialization and order on the same split, for the noise floor.
        device: such as "cpu".
        threads: per run.
    """

    study: str
    recipe: int
    data: str
    checksum: str
    settings: Settings
    seed: int
    replicate: int = 0
    device: str = "cpu"
    threads: int = 1

    def __getitem__(self, setting: str) -> Any:
        return self.settings[setting]

    def __str__(self) -> str:
        named = {**self.settings, "seed": self.seed, **({"replicate": self.replicate} if self.replicate else {})}
        return f"{self.study}, {', '.join(f'{name} {value}' for name, value in named.items())}"

    @property
    def tuning(self) -> bool:
        """Whether it tries settings: its outcome decides them and nothing else."""
        return self.seed >= TUNING_SEEDS_FROM

    @property
    def draw(self) -> int:
        """The seed of initialization, order and dropout: different for every seed and replicate."""
        return 2 * self.seed + self.replicate

    @property
    def key(self) -> str:
        """The run's name in storage: the same for the same run, on any machine. 0 and 0.0 give the same key."""
        settings = {
            name: value if isinstance(value, (str, bool)) else float(value) for name, value in self.settings.items()
        }
        return digest({**asdict(self), "settings": settings})


class OutcomeError(ValueError):
    """What a run returned cannot be its outcome: one line names the metric, curve or field and says why."""


@dataclass(frozen=True)
class Outcome:
    """The results of a run: plain data, stored once.

    Attributes:
        metrics: by name. Infinite: the run missed its target. None: this data has nothing to measure.
        curves: by name, a number for each place on the study's x axis; curves may differ in length.
        seconds: of training; if 0, the time of the whole run is stored instead.
        n_train: training rows; 0 if there are none.
        n_valid: validation rows.
        diverged: whether training diverged; then there are no metrics.

    Raises:
        OutcomeError: a value that is not a number where one is needed, or a number that no page could show.
    """

    metrics: Mapping[str, float | None]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0
    n_train: int = 0
    n_valid: int = 0
    diverged: bool = False

    def __post_init__(self) -> None:
        # Workers send and the storage holds only plain numbers: NumPy's and torch's become Python's.
        metrics = {
            name: None if value is None else _number(f"the metric {name}", value)
            for name, value in _named("metrics", self.metrics)
        }
        curves = {name: _curve(f"the curve {name}", values) for name, values in _named("curves", self.curves)}
        for name, value in metrics.items():
            if value is not None and value != math.inf and not abs(value) < LARGEST:
                size = f"; the largest that can be compared is {LARGEST:g}" if math.isfinite(value) else ""
                raise OutcomeError(
                    f"the metric {name} is {value:g}{size}; a run that diverged raises DivergenceError or has "
                    "diverged=True"
                )
        if _number("diverged", self.diverged) not in (0, 1):
            raise OutcomeError(f"diverged is {_shown(self.diverged)}, not True or False")
        if self.diverged and metrics:
            raise OutcomeError(f"a run that diverged has no metrics; this one has {', '.join(metrics)}")
        plain: dict[str, Any] = {
            "metrics": metrics,
            "curves": curves,
            "seconds": _size("seconds", self.seconds),
            "n_train": int(_size("n_train", self.n_train, whole=True)),
            "n_valid": int(_size("n_valid", self.n_valid, whole=True)),
            "diverged": bool(self.diverged),
        }
        for name, field_value in plain.items():
            object.__setattr__(self, name, field_value)

    @classmethod
    def of(cls, learn: Any, **metrics: float | None) -> Outcome:
        """The outcome of a trained learner: its losses, its time, and the given metrics."""
        history = learn.history
        curves = {name: [getattr(epoch, name) for epoch in history] for name in ("train_loss", "valid_loss")}
        seconds = sum(epoch.seconds for epoch in history)
        return cls(metrics, curves, seconds, len(learn.data.train), len(learn.data.valid))

    def stored(self) -> dict[str, Any]:
        """The outcome as JSON data, which has no infinity."""
        metrics = {name: "missed" if value == math.inf else value for name, value in self.metrics.items()}
        return {**asdict(self), "metrics": metrics}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> Outcome:
        """The inverse of `stored`.

        Raises:
            OutcomeError: it is not what `stored` returns.
        """
        if lacking := [name for name in cls.__dataclass_fields__ if name not in stored]:
            raise OutcomeError(f"it has no {lacking[0]}")
        found = {name: math.inf if value == "missed" else value for name, value in _named("metrics", stored["metrics"])}
        return cls(**{name: stored[name] for name in cls.__dataclass_fields__} | {"metrics": found})


def _named(what: str, values: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise OutcomeError(f"the {what} are {_shown(values)}; they must be values by name")
    return values.items()


def _number(what: str, value: Any) -> float:
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except Exception:  # every library's arrays and scalars have their own errors
        raise OutcomeError(f"{what} is {_shown(value)}, not a number") from None


def _curve(what: str, values: Any) -> list[float]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise OutcomeError(f"{what} is {_shown(values)}, not a row of numbers")
    curve = [_number(f"{what}, at {place},", value) for place, value in enumerate(values, start=1)]
    for place, value in enumerate(curve, start=1):
        if not math.isfinite(value):
            raise OutcomeError(f"{what} is {value} at {place}; end it before the first value that is not finite")
    return curve


def _size(what: str, value: Any, whole: bool = False) -> float:
    size = _number(what, value)
    if not (0 <= size < 2**63) or (whole and not size.is_integer()):
        raise OutcomeError(f"{what} is {_shown(value)}; it must be {'a whole' if whole else 'a'} number from 0 on")
    return size


def _shown(value: Any) -> str:
    return printable(reprlib.repr(value))


def arm_name(setting: str, value: Value) -> str:
    """The name of the arm of a setting's value.

    >>> arm_name("wd", 0.1), arm_name("rule", "dense")
    ('wd=0.1', 'dense')
    """
    if isinstance(value, (str, bool)):
        return f"{setting}={value}" if isinstance(value, bool) else value
    return f"{setting}={abs(value) if value == 0 else value:.12g}"  # -0.0 is 0


def sweep(setting: str, values: Sequence[Value], **fixed: Value) -> dict[str, Settings]:
    """An arm for each value of a setting.

    >>> sweep("wd", (0, 0.1), lr=5e-3)
    {'wd=0': {'wd': 0, 'lr': 0.005}, 'wd=0.1': {'wd': 0.1, 'lr': 0.005}}

    Raises:
        ValueError: a value occurs twice.
    """
    arms: dict[str, Settings] = {}
    for value in values:
        name = arm_name(setting, value)
        if name in arms:
            raise ValueError(f"{name} occurs twice")
        arms[name] = {setting: value, **fixed}
    return arms


def factorial(**factors: Mapping[str, Settings]) -> dict[str, Settings]:
    """An arm for each combination of the factors' levels.

    >>> list(factorial(wd={"decay": {"wd": 0.1}, "no decay": {"wd": 0}}, bn={"norm": {"bn": 1}, "plain": {"bn": 0}}))
    ['decay, norm', 'decay, plain', 'no decay, norm', 'no decay, plain']

    Raises:
        ValueError: two combinations have the same name, or two factors set the same setting.
    """
    arms: dict[str, Settings] = {}
    for levels in product(*(factor.items() for factor in factors.values())):
        name = ", ".join(level for level, _ in levels)
        settings = {key: value for _, chosen in levels for key, value in chosen.items()}
        if name in arms or len(settings) < sum(len(chosen) for _, chosen in levels):
            raise ValueError(f"{name!r}: two combinations have this name, or two factors set the same setting")
        arms[name] = settings
    return arms
