"""Turns a study's numbers into an outcome on a part of a claim.

A part is one number per seed, d = Σ weight · arm − value, signed so that + is good. Its 95 % interval [L, U] decides,
the same interval for every form; m > 0 is the margin:

- superior: yes if L > 0 (by more than the margin: L > m), else no if U < m; held to a value, no if U ≤ 0;
- noninferior: yes if L > −m, no if U < −m;
- equivalent: yes if −m < L and U < m, no if L > m or U < −m;
- different: yes if L > 0 or U < 0, else no if −m < L and U < m;
- best: yes if noninferior to every rival, no if inferior to any, Holm over the rivals.

Otherwise it is inconclusive. If seeds re-split one data set, the interval is the corrected t (Nadeau & Bengio 2003),
which covers similar data; else it is a t or, for skewed numbers, a bootstrap-t interval. If a run diverged or missed
its target, d is infinite, and the interval is the median's by order statistics; it, too, is wider for re-splits.
`python -m studies.calibration` measures how often these rules are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from studies.evidence.parts import Form, Metric, Part, declared, metric_of
from studies.evidence.provenance import digest
from studies.evidence.schema import Found, IntervalKind, Outcome, PartFound, Reason, Rival
from studies.evidence.statistics import (
    Floats,
    bootstrap_t_intervals,
    mean_intervals,
    median_intervals,
    skewnesses,
)

MIN_SEEDS = 8  # with fewer it is a smoke run, without a verdict
LEVEL = 0.95
# A sample's skewness is smaller than its population's: with a bound of 1, half the samples of ten exponential numbers
# would count as symmetric. This bound and level keep wrong decisions below .05 on either side (studies.calibration).
SKEWED = 0.5
SKEWED_LEVEL = 0.97
ROUNDING = 8 * float(np.finfo(np.float32).eps)

Values = Mapping[str, Mapping[str, Mapping[int, float | None]]]
Rule = tuple[Any, Outcome, Reason]


@dataclass(frozen=True)
class Numbers:
    """A part's number for each seed that all its arms ran, in the seeds' order.

    Attributes:
        d: float[n], signed so that + is good; infinite if an arm diverged or missed.
        scale: mean size of what was measured.
        diverged: the seeds among these in which a run diverged.
        missed: the seeds in which none diverged and one missed its target.
        dropped: further seeds, in which arms on both sides failed.
    """

    d: Floats = field(default_factory=lambda: np.empty(0))
    scale: float = 0.0
    diverged: int = 0
    missed: int = 0
    dropped: int = 0


class Deciding(NamedTuple):
    """The deciding interval of a part's numbers."""

    estimate: float
    low: float
    high: float
    kind: IntervalKind


def judge_part(
    part: Part,
    values: Values,
    metrics: Mapping[str, Metric],
    *,
    overlap: Mapping[str, float] | None = None,
    diverged: Mapping[str, Collection[int]] | None = None,
    regular: int | None = None,
) -> PartFound:
    """Judge one part by its arms alone: no other arm or part changes the result.

    Args:
        part: as declared, checked by `parts.check_parts`.
        values: by metric, arm and seed. None or not finite: a run that missed its target or diverged.
        metrics: by name, the first the study's own.
        overlap: n_valid/n_train by arm, if each seed re-splits one data set; None if the seeds' data does not
            overlap.
        diverged: by arm, the seeds whose run diverged; the others without a value missed their target.
        regular: seeds of the regular profile, after a quick run: the result has its expected half-width.

    Raises:
        ValueError: `overlap` has none of the part's arms: without it the interval would be too narrow.
    """
    name = metric_of(part, metrics)
    metric = metrics[name]
    of_metric = values.get(name, {})
    margin = _margin(part, metric, of_metric)
    pairs = _pairs(part)
    numbers = [numbers_of(weights, part.against, of_metric, metric, diverged or {}) for weights in pairs.values()]
    some = any(one.d.size for one in numbers)
    ratio = _ratio(part, overlap) if some and metric.resplit and overlap is not None else None
    found = [
        judge(part.form, one, margin, ratio, by=part.by, arms=len(weights), threshold=part.against != 0)
        for one, weights in zip(numbers, pairs.values(), strict=True)
    ]
    rivals: list[Rival] = []
    if part.form == "best":
        rivals = _over_rivals(list(pairs), numbers, found, margin, ratio)
        found = [_worst(rivals, numbers, ratio)]
    widths = [expected_half_width(_sd(n.d), regular, ratio) for n in numbers] if regular else []
    return PartFound(
        **found[0].model_dump(include=set(Found.model_fields)),
        part=part.id,
        says=part.says,
        form=part.form,
        by=part.by,
        metric=name,
        better=metric.better or "lower",
        weights=dict(part.weights),
        against=part.against,
        margin=None if math.isnan(margin) else margin,
        rivals=rivals,
        expected_half_width=max((width for width in widths if math.isfinite(width)), default=None),
        declared=declared(part, metrics),
    )


def judge(
    form: Form,
    numbers: Numbers,
    margin: float,
    overlap: float | None,
    *,
    by: bool = False,
    arms: int,
    threshold: bool = False,
) -> Found:
    """Test one part's numbers against a form.

    Args:
        form: "best" is tested as noninferior, against one rival.
        numbers: the part's.
        margin: in the metric's unit; NaN if it is a share of a mean that is missing or 0: then only an interval that
            is infinite at both ends decides.
        overlap: n_valid/n_train if the seeds re-split one data set.
        by: superior by more than the margin.
        arms: how many arms the part weighs.
        threshold: whether the part is held to a value other than 0.
    """
    n = numbers.d.size
    outcome: Outcome = "inconclusive"
    reason: Reason = "nothing measured"
    deciding = _interval(numbers, overlap)
    margin = _applied(margin, deciding)
    # Without the seeds in which both sides failed, the others would decide as if nothing had.
    if arms > 2 and (numbers.dropped or not np.isfinite(numbers.d).all()):
        deciding, reason = _NOTHING, "divergence in a part of several arms"
    elif n == 0:
        deciding = _NOTHING
    elif n < MIN_SEEDS:
        reason = "too few seeds"
    elif math.isnan(margin):
        reason = "no margin"
    else:
        outcome, reason = decide(form, deciding.low, deciding.high, margin, by=by, threshold=threshold)
    return Found(
        estimate=_finite(deciding.estimate),
        low=_finite(deciding.low),
        high=_finite(deciding.high),
        n=n,
        diverged=numbers.diverged,
        missed=numbers.missed,
        dropped=numbers.dropped,
        interval=deciding.kind,
        outcome=outcome,
        reason=reason,
    )


_NOTHING = Deciding(math.nan, -math.inf, math.inf, "none")


def _interval(numbers: Numbers, overlap: float | None, level: float = LEVEL) -> Deciding:
    return deciding_interval(numbers.d, overlap, numbers.scale, level) if numbers.d.size else _NOTHING


def _applied(margin: float, deciding: Deciding) -> float:
    """The margin; 0 for one that is unknown, if the interval lies beyond any margin because an arm always failed."""
    return 0.0 if math.isnan(margin) and math.isinf(deciding.low) and deciding.low == deciding.high else margin


def judge_ratio(
    part: str,
    says: str,
    metric: str,
    arms: tuple[str, str],
    ratio: tuple[float, float | None, float | None],
    n: int,
    *,
    margin: float,
    missed: int = 0,
) -> PartFound:
    """Judge a ratio of times or bytes that comes with its own interval: is it above one?

    It is judged as the decimal logarithm: 0 means equal and −1 a tenth.

    Args:
        part: id; "" if it belongs to no claim.
        says: the sentence.
        metric: its name.
        arms: the numerator and the denominator.
        ratio: the ratio and the ends of its 95 % interval; None for an unbounded end.
        n: pairs of timings; 1 for counts such as bytes, whose interval has no width.
        margin: the smallest ratio worth knowing, above 1.
        missed: pairs that never reached their target: their ratio is infinite.
    """
    estimate = _log10(ratio[0])
    low = -math.inf if ratio[1] is None else _log10(ratio[1])
    high = math.inf if ratio[2] is None else _log10(ratio[2])
    outcome, reason = decide("superior", low, high, math.log10(margin))
    return PartFound(
        part=part,
        says=says,
        form="superior",
        metric=metric,
        better="higher",
        weights={arms[0]: 1.0, arms[1]: -1.0},
        margin=math.log10(margin),
        estimate=_finite(estimate),
        low=_finite(low),
        high=_finite(high),
        n=n,
        missed=missed,
        interval="counted" if low == high else "median",
        outcome=outcome,
        reason=reason,
        declared=digest([part, metric, arms, margin]),
    )


def decide(
    form: Form, low: float, high: float, margin: float, *, by: bool = False, threshold: bool = False
) -> tuple[Outcome, Reason]:
    """The outcome of a form, and the reason.

    Example:
        >>> decide("superior", 0.0004, 0.0015, 0.002)
        ('yes', 'by less than m')
        >>> decide("noninferior", -0.003, 0.001, 0.002)
        ('inconclusive', 'the interval reaches the margin')
    """
    for holds, outcome, reason in rules(form, low, high, margin, by=by, threshold=threshold):
        if holds:
            return outcome, reason
    return "inconclusive", "the interval reaches the margin"


def rules(form: Form, low: Any, high: Any, margin: float, *, by: bool = False, threshold: bool = False) -> list[Rule]:
    """The outcomes of a form; the first that holds counts, and without one it is inconclusive.

    Args:
        form: the question.
        low: an end of the interval, or float[...] of many.
        high: the other end.
        margin: m.
        by: superior by more than the margin.
        threshold: held to a value other than 0. What is above it by less than the margin is above it, and what is
            exactly at it is not.
    """
    inside = (low > -margin) & (high < margin)
    if form == "superior":
        yes: list[Rule] = [(low > margin, "yes", "by more than m")]
        if not by:
            yes += [((low > 0) & (high < margin), "yes", "by less than m"), (low > 0, "yes", "by more than 0")]
        short = high <= 0 if threshold else (high <= 0) & (low < 0)
        no: list[Rule] = [(high < -margin, "no", "worse by more than m"), (short, "no", "reversed")]
        return [*yes, *no] if threshold else [*yes, *no, (high < margin, "no", "less than m")]
    if form == "equivalent":
        return [
            (inside, "yes", "within m"),
            (low > margin, "no", "by more than m"),
            (high < -margin, "no", "worse by more than m"),
        ]
    if form == "different":
        apart = (low > 0) | (high < 0)
        return [
            (apart & inside, "yes", "differs by less than m"),
            ((low > margin) | (high < -margin), "yes", "differs by more than m"),
            (apart, "yes", "differs"),
            (inside, "no", "no difference beyond m"),
        ]
    return [(low > -margin, "yes", "not worse by m"), (high < -margin, "no", "worse by more than m")]


def deciding_interval(d: Floats, overlap: float | None, scale: float = 0.0, level: float = LEVEL) -> Deciding:
    """The deciding interval: of the mean, or of the median if numbers are infinite.

    Args:
        d: float[n], n ≥ 1.
        overlap: n_valid/n_train if the seeds re-split one data set.
        scale: mean size of the numbers that d is a difference of; differences within its rounding count as 0.
        level: the coverage.
    """
    if not np.isfinite(d).all():
        low, high = median_intervals(d, overlap, level)
        return Deciding(_median(d), float(low), float(high), "median" if overlap is None else "corrected median")
    if d.size < 2:
        return Deciding(float(d[0]), -math.inf, math.inf, "one run")
    if np.abs(d).max() <= ROUNDING * scale:
        return Deciding(0.0, 0.0, 0.0, "t" if overlap is None else "corrected t")
    lows, highs, skewed = deciding_intervals(d[None], overlap, level)
    kind: IntervalKind = "corrected t" if overlap is not None else "bootstrap t" if skewed[0] else "t"
    return Deciding(float(d.mean()), float(lows[0]), float(highs[0]), kind)


def deciding_intervals(d: Floats, overlap: float | None, level: float = LEVEL) -> tuple[Floats, Floats, Any]:
    """The ends of the deciding intervals of many studies' finite numbers, and which are bootstrap-t intervals.

    Args:
        d: float[studies, n], n ≥ 2.
        overlap: n_valid/n_train if the seeds re-split one data set.
        level: the coverage.
    """
    n = d.shape[-1]
    low, high = mean_intervals(d, 1 / n + (overlap or 0), level)
    skewed = np.zeros(len(d), dtype=bool)
    if overlap is None and n >= MIN_SEEDS:
        skewed = np.abs(np.nan_to_num(skewnesses(d))) > SKEWED
        wider = 1 - (1 - level) * (1 - SKEWED_LEVEL) / (1 - LEVEL)
        low[skewed], high[skewed] = bootstrap_t_intervals(d[skewed], wider)
    return low, high, skewed


def expected_half_width(sd: float, n: int, overlap: float | None) -> float:
    """The expected half-width of the deciding interval for n seeds whose numbers have the standard deviation `sd`.

    Args:
        sd: of a part's numbers.
        n: seeds; however many, a corrected interval never gets below 1.96·sd·√overlap.
        overlap: n_valid/n_train if the seeds re-split one data set.

    Example:
        >>> round(expected_half_width(1.0, 10, 1 / 9), 2), round(expected_half_width(1.0, 20, 1 / 9), 2)
        (1.04, 0.84)
    """
    if n < 2:
        return math.inf
    return float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * sd * math.sqrt(1 / n + (overlap or 0)))


class Need(NamedTuple):
    """How far an inconclusive part is from a decision.

    Attributes:
        margins: the half-width of its interval, in margins.
        seeds: about as many would decide it if estimate and spread stayed as they are; infinite if no number would,
            because the splits share their rows.
    """

    margins: float
    seeds: float

    def __str__(self) -> str:
        many = "no number of" if math.isinf(self.seeds) else f"about {float(f'{self.seeds:.2g}'):,.0f}"
        return f"half-width {self.margins:.2g} margins; {many} seeds would decide it if the estimate stayed"


def need_of(found: PartFound, overlap: float | None) -> Need | None:
    """What an inconclusive part needs; None if it is decided, or nothing can be predicted from its interval.

    Args:
        found: a part.
        overlap: n_valid/n_train if the seeds re-split one data set.
    """
    if found.outcome != "inconclusive" or found.interval not in ("t", "corrected t") or not found.margin:
        return None
    if found.form == "best":  # its rivals' intervals are joined: more seeds decide some and not others
        return None
    if found.estimate is None or found.low is None or found.high is None or found.n < 2:
        return None
    width = (found.high - found.low) / 2
    shared = overlap if found.interval == "corrected t" else None
    sd = width / expected_half_width(1.0, found.n, shared)
    narrow = _deciding_width(found)
    enough = next(
        (n for n in _more_seeds(max(found.n, MIN_SEEDS)) if expected_half_width(sd, n, shared) < narrow), math.inf
    )
    return Need(width / found.margin, enough)


def _deciding_width(found: PartFound) -> float:
    """The largest half-width with which an interval around the estimate decides."""
    estimate, margin = found.estimate or 0.0, found.margin or 0.0
    if found.form == "superior":
        no = -estimate if found.against else margin - estimate
        return max(estimate - margin if found.by else estimate, no)
    if found.form == "noninferior":
        return abs(estimate + margin)
    if found.form == "equivalent":
        return abs(abs(estimate) - margin)
    return max(abs(estimate), margin - abs(estimate))


def _more_seeds(n: int) -> Iterator[int]:
    """Numbers of seeds to try, each a twentieth larger; more than a million are as good as none."""
    while n < 1_000_000:
        yield n
        n += max(1, n // 20)


def numbers_of(
    weights: Mapping[str, float],
    against: float,
    values: Mapping[str, Mapping[int, float | None]],
    metric: Metric,
    diverged: Mapping[str, Collection[int]],
) -> Numbers:
    """The weighted sum of arms, minus a value, for each seed that all of them ran.

    A run that diverged or missed counts as infinitely bad. If runs on both sides did, the seed is undefined: it is
    dropped and counted. A part of more than two arms is then inconclusive.

    Args:
        weights: by arm.
        against: the value subtracted.
        values: by arm and seed.
        metric: says which way is better.
        diverged: by arm, the seeds whose run diverged.
    """
    if any(arm not in values for arm in weights):
        return Numbers()
    seeds = sorted(set.intersection(*(set(values[arm]) for arm in weights)))
    if not seeds:
        return Numbers()
    table = np.array([[_number(values[arm][seed]) for seed in seeds] for arm in weights])
    weight = np.array(list(weights.values()), dtype=np.float64)
    sign = 1 if metric.better == "higher" else -1
    failed = np.isnan(table)
    d = sign * (weight @ np.where(failed, 0, table) - against)
    bad_for = (failed & (weight[:, None] > 0)).any(0)
    good_for = (failed & (weight[:, None] < 0)).any(0)
    d[bad_for], d[good_for] = -math.inf, math.inf
    kept = ~(bad_for & good_for)
    lost = np.array([[seed in diverged.get(arm, ()) for seed in seeds] for arm in weights]) & failed
    scale = float(np.abs(table[~failed]).mean()) if not failed.all() else 0.0
    return Numbers(
        d=d[kept],
        scale=scale,
        diverged=int((lost.any(0) & kept).sum()),
        missed=int((failed.any(0) & ~lost.any(0) & kept).sum()),
        dropped=int((~kept).sum()),
    )


def _number(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) else value


def _log10(ratio: float) -> float:
    return math.log10(ratio) if ratio > 0 else -math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _median(d: Floats) -> float:
    """The median; NaN if it is between −∞ and ∞."""
    middle = np.sort(d)[[(d.size - 1) // 2, d.size // 2]]
    return math.nan if middle[0] == -middle[1] and np.isinf(middle[0]) else float(middle.mean())


def _sd(d: Floats) -> float:
    finite = d[np.isfinite(d)]
    return float(finite.std(ddof=1)) if finite.size > 1 else math.nan


def _pairs(part: Part) -> dict[str, Mapping[str, float]]:
    """The part's weights; for "best", those of the arm against each rival, by rival."""
    if part.form != "best":
        return {"": part.weights}
    (arm,) = (arm for arm, weight in part.weights.items() if weight > 0)
    return {rival: {arm: 1.0, rival: -1.0} for rival in part.weights if rival != arm}


def _ratio(part: Part, overlap: Mapping[str, float]) -> float:
    """The largest n_valid/n_train of the part's arms."""
    known = [overlap[arm] for arm in part.weights if arm in overlap]
    if not known:
        raise ValueError(
            f"part {part.id or repr(part.says)}: n_valid/n_train of {', '.join(part.weights)} is not given"
        )
    return max(known)


def _margin(part: Part, metric: Metric, values: Mapping[str, Mapping[int, float | None]]) -> float:
    """The margin in the metric's unit; NaN if the mean it is a share of is missing or 0.

    A share refers to the mean of the arms that the part's arm is compared with, if any; for "best", to the arm's own.
    """
    reference = [arm for arm, weight in part.weights.items() if (weight > 0) == (part.form == "best")]
    numbers = np.array([_number(v) for arm in reference or part.weights for v in values.get(arm, {}).values()])
    found = numbers[~np.isnan(numbers)]
    margin = metric.margin(float(found.mean()) if found.size else math.nan)
    return margin if margin > 0 else math.nan


def _over_rivals(
    names: list[str], numbers: list[Numbers], found: list[Found], margin: float, overlap: float | None
) -> list[Rival]:
    """The result against each rival; "no" only if it remains after Holm's correction over the rivals."""
    better = [i for i, one in enumerate(found) if one.outcome == "no"]
    beaten: set[int] = set()
    while True:
        level = 1 - (1 - LEVEL) / (len(names) - len(beaten) or 1)
        step = set()
        for i in set(better) - beaten:
            deciding = _interval(numbers[i], overlap, level)
            if deciding.high < -_applied(margin, deciding):
                step.add(i)
        if not step:
            break
        beaten |= step
    rivals = []
    for i, (name, one) in enumerate(zip(names, found, strict=True)):
        rival = Rival(arm=name, **one.model_dump())
        if i in better and i not in beaten:
            rival.outcome, rival.reason = "inconclusive", "not after correction over the rivals"
        rivals.append(rival)
    return rivals


def _worst(rivals: list[Rival], numbers: list[Numbers], overlap: float | None) -> Found:
    """One result over all rivals, with the figures of the rival that is strongest against the arm."""
    severity: dict[Outcome, int] = {"no": 0, "inconclusive": 1, "yes": 2}
    lows = [_interval(one, overlap).low for one in numbers]
    worst = min(zip(rivals, lows, strict=True), key=lambda pair: (severity[pair[0].outcome], pair[1]))[0]
    reasons: dict[Outcome, Reason] = {
        "no": "a rival better by m",
        "inconclusive": worst.reason,
        "yes": "no rival better by m",
    }
    return Found(**worst.model_dump(exclude={"arm", "reason"}), reason=reasons[worst.outcome])
