"""The wording of outcomes, verdicts, certainty and answers, all in one place."""

from __future__ import annotations

import math
import re

from scipy import stats

from reports import numbers
from reports.arms import name_of, noise_pairs, title_of
from reports.numbers import Write
from reports.read import Study
from studies.evidence.ledger import Doubt, LedgerRow, PartRow, Verdict
from studies.evidence.schema import Found, IntervalKind, NoiseFloor, PartFound, Reason, Summary

# {m} is the margin in the metric's unit, {n} the seeds, {rival} the arm that is better.
OUTCOMES: dict[Reason, str] = {
    "by more than 0": "yes",
    "by less than m": "yes, by less than {m}",
    "by more than m": "yes, by more than {m}",
    "reversed": "no, the reverse is true",
    "worse by more than m": "no, worse by more than {m}",
    "less than m": "no, by less than {m} if at all",
    "within m": "yes, to within {m}",
    "not worse by m": "yes, not worse by {m}",
    "differs": "yes",
    "differs by less than m": "yes, by less than {m}",
    "differs by more than m": "yes, by more than {m}",
    "no difference beyond m": "no, they are equal to within {m}",
    "no rival better by m": "yes, no rival is better by {m}",
    "a rival better by m": "no, {rival} is better by more than {m}",
    "not after correction over the rivals": "inconclusive, {rival} looks better, not after correction for all rivals",
    "the interval reaches the margin": "inconclusive",
    "too few seeds": "no verdict from {n}",
    "divergence in a part of several arms": "inconclusive, runs failed in a sum of several arms",
    "no margin": "inconclusive, the margin is a share of a mean that is 0 or missing",
    "nothing measured": "nothing was measured",
}
# The same of a part that is held to a value other than 0.
SHORT: dict[Reason, str] = {
    "reversed": "no, it falls short",
    "worse by more than m": "no, it falls short by more than {m}",
}
# "equivalent" is refuted by a difference in either direction.
REFUTED = {"by more than m": "no, better by more than {m}"}

INTERVALS: dict[IntervalKind, str] = {
    "corrected t": "for data like these",
    "t": "for these data",
    "bootstrap t": "for these data, skewed",
    "median": "of the median, because runs failed",
    "corrected median": "of the median, because runs failed, for data like these",
    "counted": "none, it is a count",
    "one run": "none from one run",
    "none": "none",
}
METHODS: dict[IntervalKind, str] = {
    "corrected t": "a t interval, wider because the splits overlap: Nadeau and Bengio 2003",
    "t": "a t interval",
    "bootstrap t": "a bootstrap-t interval",
    "median": "by order statistics",
    "corrected median": "by order statistics, wider because the splits overlap",
    "counted": "",
    "one run": "",
    "none": "",
}
NO_INTERVAL = ("none", "one run", "counted")
FEW_ARMS = 3  # as many as a sentence can name with their weights
LOGARITHM = re.compile(r"log(\d+) of ")  # begins the titles of metrics that are judged by their logarithm

FEW = 4  # conditions that a verdict names
# The words after a count of claims, singular and plural, in the order of the page.
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "holds": ("holds", "hold"),
    "holds so far": ("holds so far", "hold so far"),
    "holds on a stand-in": ("holds on a stand-in", "hold on a stand-in"),
    "true": ("true", "true"),
    "depends": ("depends on the data", "depend on the data"),
    "fails": ("fails", "fail"),
    "not seen on a stand-in": ("not seen on a stand-in", "not seen on a stand-in"),
    "false": ("false", "false"),
    "inconclusive": ("inconclusive", "inconclusive"),
    "cited": ("cited", "cited"),
    "not run": ("not run yet", "not run yet"),
}
SIDES: dict[Verdict, str] = {
    "holds": "good",
    "holds so far": "good",
    "holds on a stand-in": "good",
    "true": "good",
    "fails": "bad",
    "false": "bad",
    "not seen on a stand-in": "open",
    "depends": "open",
    "inconclusive": "open",
    "cited": "soft",
    "not run": "not-run",
}
DOUBTS: dict[Doubt, str] = {
    "stand-in": "Other data, or another model, stand in for those that the claim is about.",
    "one data set for a general sentence": "The claim is about data in general; it was tested on one data set.",
    "one machine for a general sentence": "The claim is about machines in general; it was tested on one.",
    "the interval reaches the margin": "The effect may be smaller than the smallest one worth knowing.",
    "not retuned": "The settings were not tuned for each arm; tuning may reverse the result.",
    "tuned to an edge of its range": "An arm did best at the lowest or highest value tried; one beyond may be better.",
    "preliminary": "A quick run, or one with fewer than 20 seeds: the regular profile may give another result.",
    "runs missing": "Some runs failed, took too long or were not made; with their seeds the result may be another.",
    "declared after looking": "The part, or how its runs are made, was declared or changed after results were seen.",
    "made by an earlier recipe": "The study makes its runs in another way now; a new result is weaker, and is listed.",
    "undeclared seeds or values": "The seeds, trials or values were chosen for this run alone.",
}


def verdict(row: LedgerRow | PartRow) -> str:
    """The verdict on a claim or a part; if it depends on many conditions they are counted, not named."""
    parts = row.parts if isinstance(row, LedgerRow) else (row,)
    many = [part for part in parts if part.verdict == row.verdict == "depends" and len(part.conditions) > FEW]
    if not many:
        return row.words
    yes = sum(condition.outcome == "yes" for condition in many[0].conditions)
    return row.words.replace(many[0].words, f"depends on the data: yes on {yes} of {len(many[0].conditions)}")


def capital(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def listed(words: list[str]) -> str:
    """Words in a row: a, b and c."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def margin_of(part: PartFound, title: str = "") -> str:
    """The margin, as short as possible; for a metric whose title names a logarithm, as a factor."""
    if part.margin is None:
        return numbers.MISSING if part.outcome == "inconclusive" else "any margin"  # an arm always failed
    if base := base_of(title):
        return f"a factor of {numbers.setting(power(base, part.margin), 3)}"
    return numbers.setting(part.margin, 3)


def outcome(summary: Summary, part: PartFound, found: Found | None = None) -> str:
    """The outcome of a part, or against one of its rivals: yes, no or inconclusive, and by how much."""
    found = found or part
    words = OUTCOMES[found.reason]
    if part.against and found.reason in SHORT:
        words = SHORT[found.reason]
    if found.outcome == "no" and part.form == "equivalent":
        words = REFUTED.get(found.reason, words)
    rival = worst_rival(part)
    return words.format(
        m=margin_of(part, title_of(summary, part.metric)),
        n=numbers.counted(found.n, "seed"),
        rival=name_of(summary, rival) if rival else "a rival",
    )


def worst_rival(part: PartFound) -> str | None:
    """The rival whose figures decide a part of the form "best"."""
    fields = set(Found.model_fields) - {"reason"}
    own = part.model_dump(include=fields)
    return next((rival.arm for rival in part.rivals if rival.model_dump(include=fields) == own), None)


def writer_of(part: PartFound, found: Found | None = None) -> Write:
    """The function that writes a part's numbers."""
    found = found or part
    return numbers.writer(found.estimate, bounds=(found.low, found.high), margin=part.margin)


def interval(found: Found, write: Write) -> str:
    """The deciding interval, signed like the estimate: + supports the part."""
    if found.interval in NO_INTERVAL:
        return numbers.MISSING
    return found.infinite or numbers.range_of(found.low, found.high, write)


def effect(part: PartFound, title: str) -> str:
    """The estimate as a change of the metric: lower by 0.032 [0.030, 0.035]. For a logarithm it is a ratio.

    Args:
        part: what was found.
        title: its metric's.
    """
    if part.estimate is None:
        lost = {"diverged": part.diverged, "missed the target": part.missed, "were dropped": part.dropped}
        said = ", ".join(f"{n} {word}" for word, n in lost.items() if n)
        return f"of {numbers.counted(part.n + part.dropped, 'seed')} {said}" if said else "nothing was measured"
    if base := base_of(title):
        return ratio(part, base)
    sign = -1 if part.estimate < 0 else 1
    up = (part.better == "higher") == (sign > 0)
    low, high = part.low, part.high
    if sign < 0:
        low, high = (None if end is None else -end for end in (high, low))
    write = writer_of(part)
    shown = "" if part.interval in NO_INTERVAL else f" {numbers.range_of(low, high, write)}"
    than = f" than {numbers.setting(part.against)}" if part.against else ""
    return f"{'higher' if up else 'lower'} by {write(abs(part.estimate))}{shown}{than}"


def base_of(title: str) -> int | None:
    """The base of the logarithm in a metric's title: 10 for "log10 of steps"; None if there is no logarithm."""
    found = LOGARITHM.match(title)
    return int(found[1]) if found else None


def power(base: int, exponent: float) -> float:
    """`base` to a power; infinite if a float cannot hold it."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def ratio(part: PartFound, base: int) -> str:
    """The estimate of a logarithm as a ratio: 3.1× [2.8×, 3.4×]."""
    sign = 1 if part.better == "higher" else -1
    ends = (part.estimate, part.low, part.high)
    middle, low, high = (None if end is None else power(base, sign * end + part.against) for end in ends)
    if sign < 0:
        low, high = high, low
    # A margin that an end looks like: more digits tell the side of it.
    margins = [] if part.margin is None else [power(base, part.against + side) for side in (part.margin, -part.margin)]
    near = [margin for margin in margins if numbers.times(margin) in (numbers.times(low), numbers.times(high))]
    said = numbers.times(middle, low, high, *near)
    if part.interval not in NO_INTERVAL:
        left = "(0×" if low is None else f"[{numbers.times(low, middle, high, *near)}"
        said += f" {left}, {'∞)' if high is None else f'{numbers.times(high, middle, low, *near)}]'}"
    asked = f"{'more' if sign > 0 else 'less'} than {numbers.times(power(base, part.against))}"
    return f"{said} (asked: {asked})" if part.against else said


def found_on(summary: Summary | None, part: PartFound) -> str:
    """The result on a part, in a few words: RMSE lower by 0.032 [0.030, 0.035].

    Args:
        summary: the study's; None if no study found it: then the metric's name is its title.
        part: what was found.
    """
    title = part.metric if summary is None else title_of(summary, part.metric)
    name = LOGARITHM.sub("", title)
    said = f"{name} {effect(part, title)}"
    if part.form == "best" and (rival := worst_rival(part)):
        said += f", against {name_of(summary, rival) if summary else rival}"
    return said


def arms_of(summary: Summary, part: PartFound) -> str:
    """The weighted arms of a part: a − b, or 0.5 · a − 0.5 · b."""
    size = {abs(weight) for weight in part.weights.values()}
    words = []
    for arm, weight in part.weights.items():
        sign = "−" if weight < 0 else "+"
        times = "" if size == {1.0} else f"{numbers.setting(abs(weight))} · "
        words.append(f"{sign} {times}{name_of(summary, arm)}")
    against = f" − {numbers.setting(part.against)}".replace("− −", "+ ") if part.against else ""
    return " ".join(words).removeprefix("+ ") + against


def comparison(summary: Summary, part: PartFound) -> str:
    """The means that a part compares: RMSE 0.895 for a against 0.927 for b, lower by 0.032 [0.030, 0.035].

    A sum of many arms is told by the part's own words.
    """
    title = title_of(summary, part.metric)
    ours = [arm for arm, weight in part.weights.items() if weight > 0]
    theirs = [arm for arm, weight in part.weights.items() if weight < 0]
    if part.form == "best":
        theirs = [rival] if (rival := worst_rival(part)) else theirs
    names = [name_of(summary, arm) for arm in (*ours, *theirs)]
    means = [summary.arms[arm].metrics[part.metric].mean for arm in (*ours, *theirs) if _has(summary, arm, part)]
    simple = set(map(abs, part.weights.values())) == {1.0} and len(ours) == 1 and len(theirs) <= 1
    if part.form != "best" and len(part.weights) > FEW_ARMS:
        return f"{part.says}; {title} {effect(part, title)}"
    if not simple or len(means) != len(names) or part.n == 0:
        return f"{title} of {arms_of(summary, part)}, {effect(part, title)}"
    if base_of(title):
        name = LOGARITHM.sub("", title)
        if len(names) == 1:
            return f"{name} {effect(part, title)} for {names[0]}"
        return f"{name} of {names[0]}, over those of {names[1]}: {effect(part, title)}"
    write = numbers.writer(*means, bounds=(part.low, part.high) if part.estimate is not None else None)
    said = [f"{write(mean)} for {name}" for mean, name in zip(means, names, strict=True)]
    return f"{title} {' against '.join(said)}, {effect(part, title)}"


def _has(summary: Summary, arm: str, part: PartFound) -> bool:
    return part.metric in summary.arms[arm].metrics


def noise_span(study: Study) -> float | None:
    """The largest A/A difference: between two runs of one arm on one split."""
    pairs = noise_pairs(study)
    if not pairs.empty:
        return float(pairs.abs().max())
    return spread(study.summary.noise_floor)


def spread(floor: NoiseFloor | None) -> float | None:
    """Half the range of 95 % of A/A pairs."""
    if floor is None or floor.n < 2:
        return None
    return float(stats.t.ppf(0.975, floor.n - 1)) * floor.sd


def writer_of_noise(study: Study) -> Write:
    """The function that writes the noise floor's differences."""
    floor = study.summary.noise_floor
    if floor is None:
        return numbers.number
    return numbers.writer(floor.difference, spread(floor), noise_span(study), bounds=floor.interval)


def reservations(study: Study, part: PartFound) -> list[str]:
    """The reasons why a part's outcome is less than certain, a few words each."""
    summary, said = study.summary, []
    if summary.preliminary and part.reason != "too few seeds":
        said.append("preliminary")
    if summary.protocol == "stand-in":
        said.append("on a stand-in")
    if missing := summary.missing(part):
        said.append(f"runs of at least {numbers.counted(missing, 'seed')} missing")
    if part.reaches_margin:
        said.append(f"the interval reaches the margin of {margin_of(part, title_of(summary, part.metric))}")
    span = noise_span(study)
    judged = part.estimate is not None and part.metric == summary.metric and part.outcome != "inconclusive"
    if judged and span is not None and abs(part.estimate or 0) < span:
        said.append(f"two runs of one arm differ by up to {writer_of(part)(span)}")
    if any(tuning.on_edge for tuning in summary.tuning if tuning.arm in part.weights):
        said.append("tuned to an edge of its range")
    if part.changed:
        said.append("declared or changed after results had been seen")
    if summary.looks > 1:
        said.append(f"results seen {summary.looks} times")
    return said


def answer(study: Study) -> str:
    """The answer in one sentence, from the first part: outcome, data, figures, interval, n, doubts."""
    summary = study.summary
    if not summary.parts:
        arms = numbers.counted(len(summary.arms), "arm")
        return f"This study describes {arms} on {summary.data.name} and judges nothing."
    part = summary.parts[0]
    where = f"{summary.data.name}{', a stand-in' if summary.protocol == 'stand-in' else ''}"
    said = capital(outcome(summary, part))
    said += f"{',' if part.outcome != 'inconclusive' else ''} on {where}: "
    said += f"{comparison(summary, part)}, {numbers.counted(part.n, 'seed')}"
    more = [words for words in reservations(study, part) if words != "on a stand-in"]
    return f"{said} ({'; '.join(more)})." if more else f"{said}."


def limits(summary: Summary) -> list[str]:
    """The sentences that limit the answer: what the interval covers, the profile, the study's own limits."""
    said = []
    part = next(iter(summary.parts), None)
    if part is not None and METHODS[part.interval]:
        said.append(f"The interval is {INTERVALS[part.interval]} ({METHODS[part.interval]}).")
    if summary.protocol == "stand-in":
        said.append("The data or the model stand in for those that the claim is about.")
    if summary.own:
        said.append("This is your own data; the claims are about other data.")
    profile = f"{capital(summary.profile)} profile, {numbers.counted(summary.seeds, 'seed')} per arm"
    if summary.preliminary:
        profile += ": preliminary"
    said.append(f"{profile}.")
    if part is not None and (expected := expectation(summary, part)):
        said.append(expected)
    lost = any(arm.diverged or arm.missed for arm in summary.arms.values())
    if summary.seeds > 3 and not lost and summary.provenance.trials.keys() <= {"COMPLETE"}:
        said.append(f"No run failed; a failure in up to {numbers.percent(3 / summary.seeds)} of seeds could go unseen.")
    return said + list(summary.limits)


def expectation(summary: Summary, part: PartFound) -> str | None:
    """What the regular profile can decide, as predicted by a quick run."""
    width, title = part.expected_half_width, title_of(summary, part.metric)
    if width is None or part.margin is None or width < part.margin / 1000:  # seeds that agree need no further seeds
        return None
    base = base_of(title)
    reach = (
        f"a factor of {numbers.setting(power(base, width), 3)}" if base else numbers.writer(width, part.margin)(width)
    )
    said = f"The regular profile’s interval will reach about {reach} to either side; the margin is "
    said += margin_of(part, title)
    return said + (", so an effect near 0 will stay inconclusive." if width > part.margin else ".")
