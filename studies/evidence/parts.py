"""What a study declares before it runs: its metrics, and the parts of claims that it tests."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from studies.evidence.provenance import digest

Better = Literal["lower", "higher"]
Form = Literal["superior", "noninferior", "equivalent", "different", "best"]

LARGEST = 1e100  # of a metric: larger squares may overflow, and float32 cannot draw more

PART_ID = re.compile(r"(?:[1-9]\d?[a-z]?)?")  # "48", "47a"; "" for no claim
_SHARE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?%")


@dataclass(frozen=True)
class Metric:
    """What a run measures. Without `better` it is described and never judged.

    Attributes:
        title: its display name, with the unit.
        better: which direction is better, or the direction of the claim.
        smallest: the margin, the smallest effect worth knowing: in the metric's unit, or as a share of the reference
            arm's mean ("0.2 %"). None: it is described and never judged.
        logarithmic: whether it spans decades, so that its axis should. Ratios and times are judged by their
            logarithm: let the run measure that, and say so in the title.
        to_target: whether it is log10 of a time or a number of steps to a target, which a run may miss.
        resplit: whether it is measured on a split's validation rows, so that its interval must allow for overlapping
            splits. False for times, memory and norms.
    """

    title: str
    better: Better | None = None
    smallest: float | str | None = None
    logarithmic: bool = False
    to_target: bool = False
    resplit: bool = True

    def __post_init__(self) -> None:
        if self.better not in (None, *get_args(Better)):
            raise ValueError(f"{self.title}: better is {self.better!r}; it is 'lower', 'higher' or None")
        if self.smallest is not None and not self.margin(1.0) > 0:
            raise ValueError(f"{self.title}: the smallest effect is {self.smallest!r}; it is above 0, or None")

    def margin(self, reference: float) -> float:
        """The smallest effect in the metric's unit; NaN if none is declared.

        Args:
            reference: mean of the reference arm, of which `smallest` may be a share.

        Example:
            >>> Metric("RMSE", "lower", "0.2 %").margin(0.9)
            0.0018000000000000002
        """
        if self.smallest is None:
            return math.nan
        if isinstance(self.smallest, str):
            share = _SHARE.fullmatch(self.smallest)
            if share is None:
                raise ValueError(f'{self.title}: the smallest effect {self.smallest!r} is not a share such as "0.2 %"')
            return float(share[1]) / 100 * abs(reference)
        return float(self.smallest) if math.isfinite(self.smallest) else math.nan


@dataclass(frozen=True)
class Part:
    """One sentence of a claim as one number per seed: a weighted sum of the arms' values, minus a constant.

    `{"wd=0.1": 1, "wd=0.01": -1}` is a difference, four weights of a two-by-two design are an interaction, and one
    arm against chance is a threshold. The number is signed so that + is good: if lower is better, it is negated.

    Attributes:
        id: of the claim's part: "48", or "47a" if the claim has several; "" if it belongs to no claim.
        says: the sentence.
        weights: by arm. For "best": 1 for the arm, −1 for each rival.
        form: the question about the number; see `outcomes`.
        metric: its name; None is the study's first.
        against: subtracted from the sum, in the metric's unit. Ten times fewer steps, measured as log10, are −1.
        by: for "superior": by more than the margin, not only by more than 0.
    """

    id: str
    says: str
    weights: Mapping[str, float]
    form: Form
    metric: str | None = None
    against: float = 0.0
    by: bool = False

    @property
    def claim(self) -> int | None:
        """The claim's id: 47 of "47a"; None if it belongs to no claim."""
        return claim_of(self.id)


def claim_of(part: str) -> int | None:
    """The claim of a part.

    >>> claim_of("47a"), claim_of("")
    (47, None)
    """
    digits = part.rstrip(string.ascii_lowercase)
    return int(digits) if digits else None


def beats(
    part: str,
    arm: str,
    other: str,
    says: str = "",
    metric: str | None = None,
    *,
    against: float = 0.0,
    by: bool = False,
) -> Part:
    """`arm` is better than `other`: at all, by more than the margin (`by`), or by more than `against`."""
    return Part(part, says or f"{arm} beats {other}", {arm: 1.0, other: -1.0}, "superior", metric, against, by)


def not_worse(part: str, arm: str, other: str, says: str = "", metric: str | None = None) -> Part:
    """`arm` is not worse than `other` by the margin."""
    return Part(part, says or f"{arm} is not worse than {other}", {arm: 1.0, other: -1.0}, "noninferior", metric)


def equals(part: str, arm: str, other: str, says: str = "", metric: str | None = None) -> Part:
    """`arm` and `other` differ by less than the margin."""
    return Part(part, says or f"{arm} equals {other}", {arm: 1.0, other: -1.0}, "equivalent", metric)


def differs(part: str, arm: str, other: str, says: str = "", metric: str | None = None) -> Part:
    """`arm` and `other` differ, whichever is better."""
    return Part(part, says or f"{arm} differs from {other}", {arm: 1.0, other: -1.0}, "different", metric)


def exceeds(part: str, arm: str, value: float, says: str = "", metric: str | None = None, *, by: bool = False) -> Part:
    """`arm` is better than a fixed value: chance, a published figure, the logarithm of a ratio of one."""
    return Part(part, says or f"{arm} is better than {value:g}", {arm: 1.0}, "superior", metric, value, by)


def best(part: str, arm: str, rivals: Iterable[str], says: str = "", metric: str | None = None) -> Part:
    """`arm` is not worse by the margin than any of `rivals`."""
    weights = {arm: 1.0} | {rival: -1.0 for rival in rivals if rival != arm}
    return Part(part, says or f"{arm} is among the best", weights, "best", metric)


def effect(
    part: str,
    arms: Mapping[str, Mapping[str, Any]],
    *settings: str,
    says: str,
    form: Form = "superior",
    metric: str | None = None,
    by: bool = False,
) -> Part:
    """A main effect (one setting) or an interaction (several) of a full factorial whose settings are off or on.

    Args:
        part: id of the claim's part.
        arms: settings by arm. A value counts as on if it is true in Python: 0.1, but not 0 or False.
        *settings: one for its main effect, several for their interaction.
        says: the sentence.
        form: the question about it.
        metric: its name; None is the study's first.
        by: by more than the margin.

    Raises:
        ValueError: half of the arms do not have the setting on, or an arm lacks it.

    Example:
        >>> arms = {"neither": {"a": 0, "b": 0}, "a": {"a": 1, "b": 0}, "b": {"a": 0, "b": 1}, "both": {"a": 1, "b": 1}}
        >>> effect("22", arms, "a", says="a helps").weights
        {'neither': -0.5, 'a': 0.5, 'b': -0.5, 'both': 0.5}
    """
    signs = dict.fromkeys(arms, 1)
    for setting in settings:
        if lacking := [arm for arm in arms if setting not in arms[arm]]:
            raise ValueError(f"part {part}: the arm {lacking[0]!r} has no setting {setting!r}")
        if 2 * sum(bool(chosen[setting]) for chosen in arms.values()) != len(arms):
            raise ValueError(f"part {part}: {setting!r} is not on in half of the {len(arms)} arms, so it has no effect")
        signs = {arm: sign if arms[arm][setting] else -sign for arm, sign in signs.items()}
    return Part(part, says, {arm: 2 * sign / len(arms) for arm, sign in signs.items()}, form, metric, by=by)


def metric_of(part: Part, metrics: Mapping[str, Metric]) -> str:
    """The name of the part's metric: its own, or the first."""
    return part.metric if part.metric is not None else next(iter(metrics))


def declared(part: Part, metrics: Mapping[str, Metric]) -> str:
    """A digest of everything that decides the part's outcome; its wording is left out."""
    name = metric_of(part, metrics)
    metric = metrics[name]
    weights = {arm: float(weight) for arm, weight in part.weights.items()}
    return digest(
        [part.id, weights, part.form, name, part.against, part.by, metric.better, metric.smallest, metric.resplit]
    )


def check_parts(parts: Sequence[Part], arms: Iterable[str], metrics: Mapping[str, Metric]) -> None:
    """Check that a declaration can be judged.

    Raises:
        ValueError: no metric at all, or a part with an invalid or repeated id, an unknown arm or metric, a metric
            without a margin or a better direction, or weights that are not numbers. One line says which.
    """
    arms = list(arms)
    if not metrics:
        raise ValueError("a study needs a metric")
    seen: set[str] = set()
    for part in parts:
        if wrong := _wrong(part, arms, metrics):
            raise ValueError(f"part {part.id or repr(part.says)}: {wrong}")
        name = part.id or part.says  # by which results of different profiles are matched
        if name in seen:
            raise ValueError(f"part {name}: declared twice")
        seen.add(name)


def _wrong(part: Part, arms: Sequence[str], metrics: Mapping[str, Metric]) -> str | None:
    """What is wrong with a part, if anything is."""
    numbers = [*part.weights.values(), part.against]
    if not PART_ID.fullmatch(part.id):
        return 'not the id of a part; write "48" or "47a", or "" for no claim'
    if part.form not in get_args(Form):
        return f"unknown form {part.form!r}; there are {', '.join(get_args(Form))}"
    if unknown := [arm for arm in part.weights if arm not in arms]:
        return f"unknown arm {unknown[0]!r}; there are {', '.join(arms)}"
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        return f"weights and value must be finite numbers, not {numbers}"
    if not any(part.weights.values()):
        return "it has no arm with a weight"
    if part.by and part.form != "superior":
        return f'"by" is only for superior, not for {part.form}'
    if part.form == "best" and sorted(part.weights.values(), reverse=True) != [1] + [-1] * max(
        1, len(part.weights) - 1
    ):
        return '"best" needs one arm with weight 1 and at least one rival, each with weight -1'
    if part.form == "best" and part.against:
        return '"best" compares with its rivals, not with a value'
    if part.metric is not None and part.metric not in metrics:
        return f"unknown metric {part.metric!r}; there are {', '.join(metrics)}"
    metric = metrics[metric_of(part, metrics)]
    if metric.better is None:
        return f"{metric.title} cannot be judged: the metric does not declare which direction is better (better=)"
    if metric.smallest is None:
        return f"{metric.title} cannot be judged: the metric has no smallest effect worth knowing (smallest=)"
    return None
