"""What a study declares before it runs, and what a single run is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from studies.evidence.provenance import digest
from studies.evidence.schema import Contrast, Evidence
from studies.evidence.schema import Measure as Measurements

Settings = Mapping[str, float | str]
TUNING_SEEDS_FROM = 1_000_000  # far from the seeds that confirm


def counted(count: int, noun: str) -> str:
    """A count with its noun: 1 seed, 2 seeds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Profile:
    """How much a study costs.

    Attributes:
        seeds: replicates an arm.
        trials: learning rates tried for each arm, the default among them; 0 leaves the rate alone.
        cost: what to expect on two cores, for people.
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
class Measure:
    """What a run measures beside the metric, to be described and not judged.

    Attributes:
        title: what a reader calls it, with its unit where it has one.
        logarithmic: whether it spans decades, so that its axis should.
    """

    title: str
    logarithmic: bool = False


@dataclass(frozen=True)
class Study:
    """A question and how it is answered, declared before anything runs.

    Attributes:
        name: of the module, its results and its page.
        title: a heading.
        question: one sentence.
        claims: ids of the ledger's claims it speaks of.
        metric: what a run measures.
        direction: which way is better.
        arms: settings by arm.
        baseline: the arm all others are compared with.
        primary: the arm whose contrast answers the question.
        smallest_effect: differences below this are not worth knowing, for ratings from 1 to 5.
        profiles: by name.
        recipe: version of how a run is made; a higher one makes earlier runs unusable.
        run: makes one run from it and the data; a function of the module, as it travels to workers.
        evidence: what the contrasts, whether the setting was tuned, and the further measurements say of the claims.
        limits: sentences that bound the answer, from the data set's name and whether the setting was tuned.
        tuned: the setting that profiles with trials retune for every arm, and its range.
        tuning_seeds: how many seeds each trial is averaged over; they are never confirmed on.
        measures: what a run measures beside the metric, by name.
        value: how an arm of `--values` is named and set, where arms are values of one setting.
        backend: the only one that can make its runs; None where any can.
    """

    name: str
    title: str
    question: str
    claims: tuple[int, ...]
    metric: str
    direction: Literal["minimize", "maximize"]
    arms: Mapping[str, Settings]
    baseline: str
    primary: str
    smallest_effect: float
    profiles: dict[str, Profile]
    recipe: int
    run: Callable[[Run, Any], Outcome] = field(repr=False)
    evidence: Callable[[Sequence[Contrast], bool, Mapping[str, Measurements]], list[Evidence]] = field(repr=False)
    limits: Callable[[str, bool], list[str]] = field(repr=False)
    tuned: tuple[str, Range] | None = None
    tuning_seeds: int = 0
    measures: Mapping[str, Measure] = field(default_factory=dict)
    value: Callable[[float], tuple[str, dict[str, float]]] | None = field(default=None, repr=False)
    backend: str | None = None

    def claims_named(self) -> str:
        """The claims' ids, for people."""
        return f"{'claim' if len(self.claims) == 1 else 'claims'} {', '.join(map(str, self.claims))}"

    def costs(self) -> list[str]:
        """What each profile spends, for people."""
        return [
            f"{name}: {counted(profile.seeds, 'seed')}"
            + (f", {self.tuned[0]} retuned by {profile.trials} trials an arm" if self.tuned and profile.trials else "")
            + f", {profile.cost}"
            for name, profile in self.profiles.items()
        ]

    def declared(self) -> dict[str, Any]:
        """The declaration as plain data; its digest stands in every report."""
        declared: dict[str, Any] = {
            "name": self.name,
            "question": self.question,
            "claims": self.claims,
            "metric": self.metric,
            "direction": self.direction,
            "arms": self.arms,
            "baseline": self.baseline,
            "primary": self.primary,
            "smallest_effect": self.smallest_effect,
            "profiles": {name: [profile.seeds, profile.trials] for name, profile in self.profiles.items()},
            "recipe": self.recipe,
        }
        if self.tuned is not None:
            declared |= {"tuned": [self.tuned[0], asdict(self.tuned[1])], "tuning_seeds": self.tuning_seeds}
        if self.measures:
            declared["measures"] = {name: measure.title for name, measure in self.measures.items()}
        return declared


@dataclass(frozen=True)
class Run:
    """One training, and all that determines its outcome.

    Attributes:
        study: its name.
        settings: of the arm, such as {"wd": 0.1, "lr": 0.005}.
        seed: of the split; initialization and batch order follow from it and `replicate`.
        replicate: 0; 1 draws another initialization and order on the same split, for the noise floor.
        data: digest of the ratings and of how they are read.
        backend: which implementation trains.
        device: where.
        threads: of one run.
        recipe: version of how a run is made.
    """

    study: str
    settings: dict[str, float | str]
    seed: int
    replicate: int
    data: str
    backend: str
    device: str
    threads: int
    recipe: int

    @property
    def key(self) -> str:
        """The run's name in storage: the same for the same run, on any machine."""
        # 0 and 0.0 have one key; what a run is given stays what it is.
        settings = {name: value if isinstance(value, str) else float(value) for name, value in self.settings.items()}
        return digest(asdict(self) | {"settings": settings})


@dataclass(frozen=True)
class Outcome:
    """What a run measured: plain data, stored once.

    Attributes:
        value: the metric; None where training diverged.
        train_loss: mean squared error of each epoch's batches.
        valid_loss: mean squared error on the validation rows after each epoch.
        seconds: of training.
        n_train: training rows.
        n_valid: validation rows.
        measures: the study's further measurements; None where these data have nothing to measure.
    """

    value: float | None
    train_loss: list[float]
    valid_loss: list[float]
    seconds: float
    n_train: int
    n_valid: int
    measures: dict[str, float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value={self.value}: a run that diverged has the value None")
        for name, value in self.measures.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"measures: {name} is {value}; None says that there is nothing to measure")
