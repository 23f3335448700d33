"""The page of a study that sweeps a value: its answer, its limits, its charts, every contrast, how to run it again."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reports import charts, numbers
from reports.charts import Chart
from studies.evidence.schema import Contrast, NoiseFloor, Summary

# What a reader calls the results' columns and settings; any other is shown as it is named.
NAMES = {"valid_rmse": "validation RMSE", "wd": "weight decay", "lr": "learning rate"}
SHORT_NAMES = {"valid_rmse": "RMSE"}
PANELS = 8  # learning curves are readable for so many arms


@dataclass(frozen=True)
class Study:
    """One folder of results: the summary, its runs and curves where they could be read, and the page's name."""

    page: str
    folder: Path
    summary: Summary
    runs: pd.DataFrame | None
    curves: pd.DataFrame | None
    problems: list[str] = field(default_factory=list)


def differing(summary: Summary) -> list[str]:
    """The settings in which the arms differ, the swept one first: what tuning chose is not what was swept."""
    arms = [arm.settings for arm in summary.arms.values()]
    every = list(dict.fromkeys(key for settings in arms for key in settings))
    vary = [key for key in every if len({repr(settings.get(key)) for settings in arms}) > 1]
    tuned = {key for tuning in summary.tuning for key in tuning.chosen}
    return sorted(vary, key=lambda key: key in tuned)


def arm_values(summary: Summary) -> dict[str, object]:
    """What stands for each arm: its swept value, in order; after them, under their names, arms that repeat a value."""
    swept = next(iter(differing(summary)), "")
    values: dict[str, object] = {}
    for name, arm in summary.arms.items():
        value = arm.settings.get(swept)
        values[name] = name if value is None or value in values.values() else value
    if sum(values[name] != name for name in values) < 2:
        return {name: name for name in values}

    def place(name: str) -> tuple[bool, float]:
        value = values[name]
        return value == name, float(value) if isinstance(value, (int, float)) else 0.0

    return {name: values[name] for name in sorted(values, key=place)}


def arm_numbers(summary: Summary) -> dict[str, str]:
    """What stands for each arm, as text: no two the same."""
    values = arm_values(summary)
    texts = numbers.settings(values.values())
    return dict(zip(values, texts if len(set(texts)) == len(texts) else values, strict=True))


def arm_number(summary: Summary, arm: str) -> str:
    """The swept value alone: 0.1, or the arm's name."""
    return arm_numbers(summary).get(arm, arm)


def arm_label(summary: Summary, arm: str) -> str:
    """An arm in a few letters: wd = 0.1, or its name."""
    number = arm_number(summary, arm)
    return arm if number == arm else f"{differing(summary)[0]} = {number}"


def metric_name(summary: Summary, short: bool = False) -> str:
    """The metric as a reader calls it."""
    names = NAMES | SHORT_NAMES if short else NAMES
    return names.get(summary.metric, summary.metric.replace("_", " "))


def primary_contrast(summary: Summary) -> Contrast | None:
    """The contrast that answers the question."""
    for contrast in summary.contrasts:
        if (contrast.arm, contrast.baseline) == (summary.primary, summary.baseline):
            return contrast
    return None


def asked(summary: Summary) -> tuple[str, str] | None:
    """The two arms as the question names them, the one it asks about first; None where it does not name both.

    "Does 0.1 beat 0.01?" asks about 0.1, whichever of the two is the baseline.
    """
    words = re.findall(r"[\w.+-]*\w", summary.question)
    one, two = sorted(
        (words.index(name) if (name := arm_number(summary, arm)) in words else -1, arm)
        for arm in (summary.primary, summary.baseline)
    )
    return None if one[0] < 0 else (one[1], two[1])


def answer(summary: Summary) -> str:
    """The answer in one sentence: verdict, data, figures, interval, n."""
    contrast = primary_contrast(summary)
    if contrast is None:
        return f"No answer: the results lack the contrast of {summary.primary} with {summary.baseline}."
    subject, other = asked(summary) or (contrast.arm, contrast.baseline)
    turned = subject == contrast.baseline  # then all figures are the contrast's, with the other sign
    one, two = arm_number(summary, subject), arm_number(summary, other)
    start = f"{_opening(summary, contrast, turned)} on {summary.data.name}:"
    if contrast.difference is None or contrast.interval is None:
        lost = contrast.diverged[::-1] if turned else contrast.diverged
        p = numbers.p_value(contrast.p_holm)
        return (
            f"{start} {lost[0]} of {contrast.n} runs diverged at {one} and {lost[1]} of {contrast.n} at {two} "
            f"(rank-based p {p if p.startswith('<') else f'= {p}'})."
        )
    sign = -1 if turned else 1
    low, high = sorted(sign * end for end in contrast.interval)
    means = [summary.arms[arm].mean for arm in (subject, other)]
    digits = max(numbers.digits_for((low, high)), numbers.digits_to_differ(means))
    ours, theirs = (numbers.number(mean, digits) for mean in means)
    return (
        f"{start} {metric_name(summary, short=True)} {ours} against {theirs}, a paired difference of "
        f"{numbers.number(sign * contrast.difference, digits)} {plain_interval((low, high), digits)}, "
        f"{numbers.counted(contrast.n, 'seed')}."
    )


def _opening(summary: Summary, contrast: Contrast, turned: bool) -> str:
    """The answer's first words: yes or no where the question names both arms, else which is better."""
    named = asked(summary) is not None
    pair = [arm_number(summary, arm) for arm in (contrast.arm, contrast.baseline)]
    if contrast.verdict in ("better", "worse"):
        better = (contrast.verdict == "better") != turned
        words = ("Yes" if better else "No, it is worse") if named else f"{pair[0]} is {contrast.verdict} than {pair[1]}"
        return f"{words}, though by too little to matter," if contrast.negligible else words + "," * (words == "Yes")
    words = {
        "equivalent": "No difference that matters",
        "inconclusive": "Undecided",
        "preview": "No verdict from so few runs",
    }[contrast.verdict]
    return words if named else f"{words} between {pair[0]} and {pair[1]}"


def plain_interval(bounds: tuple[float, float] | None, digits: int) -> str:
    """An interval with signs only where they are needed to tell: both ends negative, or of two signs."""
    if bounds is None:
        return ""
    if bounds[0] < 0 < bounds[1]:
        return numbers.interval(bounds, digits)
    return f"[{numbers.number(bounds[0], digits)}, {numbers.number(bounds[1], digits)}]"


def limits(summary: Summary) -> list[str]:
    """The sentences that bound the answer: the study's own, the wider interval, the profile."""
    contrast = primary_contrast(summary)
    sentences = list(summary.limits)
    if contrast is not None and contrast.interval_corrected is not None:
        turned = asked(summary) == (contrast.baseline, contrast.arm)
        low, high = sorted(-end if turned else end for end in contrast.interval_corrected)
        wider = plain_interval((low, high), numbers.digits_for(contrast.interval))
        sentences.append(f"For data like it the 95 % interval widens to {wider}.")
    return [*sentences, f"{summary.profile.capitalize()} profile."]


def seed_table(study: Study, kind: str = "run") -> pd.DataFrame:
    """The metric of every run, a row a seed and a column an arm in the axis' order; NaN where it diverged."""
    summary = study.summary
    if study.runs is None:
        return pd.DataFrame()
    runs = study.runs[study.runs["kind"] == kind]
    table = runs.pivot_table(index="seed", columns="arm", values=summary.metric, aggfunc="last", dropna=False)
    return table[[arm for arm in arm_values(summary) if arm in table]]


def swept_chart(study: Study) -> tuple[str, Chart] | None:
    """Heading and chart of the metric against the swept value."""
    summary, table = study.summary, seed_table(study)
    if table.empty or table.notna().to_numpy().sum() == 0:
        return None
    values = arm_values(summary)
    with_value = {arm: value for arm, value in values.items() if value != arm}
    # Numbers have a place on a logarithmic axis; where arms have none, no line leads from one to the next.
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in with_value.values()):
        with_value = {}
    if not with_value:
        metric, table = metric_name(summary), table[[arm for arm in values if arm in table]]
        return f"{metric[0].upper()}{metric[1:]} of each arm", arm_chart(summary, table)
    name = NAMES.get(swept := differing(summary)[0], swept)
    table = table[[arm for arm in with_value if arm in table]]
    mean, metric = table.mean(), metric_name(summary)
    best_is_low = summary.direction == "minimize"
    best, extreme = (str(mean.idxmin()), "lowest") if best_is_low else (str(mean.idxmax()), "highest")
    runs = table.rename(columns=with_value).melt(ignore_index=False, var_name=name, value_name=metric).reset_index()
    shown = [arm for arm in (summary.primary, summary.baseline) if np.isfinite(mean.get(arm, np.nan))]
    digits = numbers.digits_to_differ(mean[[*shown, best]])
    marks = {with_value[arm]: (numbers.number(mean[arm], digits), best_is_low) for arm in shown}
    marks[with_value[best]] = (f"{extreme}: {numbers.number(mean[best], digits)}", not best_is_low)
    arms = list(with_value)
    keep = [arm_number(summary, arm) for arm in (summary.baseline, best, summary.primary, arms[0], arms[-1])]

    data = pd.concat([table, mean.to_frame("mean").T]).rename(columns=lambda arm: arm_number(summary, arm))
    data = data.rename_axis("seed").reset_index()
    return (
        f"{metric[0].upper()}{metric[1:]} is {extreme} at {name} {arm_number(summary, best)}",
        charts.chart(
            "swept",
            f"{metric} against {name}",
            f"A line for each of {len(table)} seeds and their mean, "
            f"which is {extreme} at {arm_number(summary, best)}: "
            f"{numbers.number(mean[best], digits)}.",
            "Thin lines are seeds, each with its own split, initialization and batch order, shared by all values; "
            "the thick line is their mean."
            + (" Lines pass over runs that diverged or are missing." if table.isna().to_numpy().any() else ""),
            data.astype(object),
            lambda figure, _wide: charts.swept(figure, runs[[name, metric, "seed"]], keep, marks),
            lambda wide: 330 if wide else 290,
        ),
    )


def arm_chart(summary: Summary, table: pd.DataFrame) -> Chart:
    """The metric of every run, a row an arm; `table` has a column an arm and a row a seed."""
    table = table.rename(columns=lambda arm: arm_number(summary, arm))
    baseline, metric, mean = arm_number(summary, summary.baseline), metric_name(summary), table.mean()
    digits = numbers.digits_to_differ(mean)
    runs = table.melt(var_name="arm", value_name="value").dropna()
    runs["arm"] = pd.Categorical(runs["arm"], list(table))
    return charts.chart(
        "arms",
        f"{metric} of each arm",
        "; ".join(f"{arm}: {numbers.number(value, digits)}" for arm, value in mean.items()),
        f"Small dots: seeds; large ones: their mean; line: the mean of {baseline}.",
        pd.concat([table, mean.to_frame("mean").T]).rename_axis("seed").reset_index().astype(object),
        lambda figure, _wide: charts.measured(figure, runs, baseline, metric, False),
        lambda _wide: 66 + 27 * len(mean),
    )


def noise_pairs(study: Study) -> pd.Series:
    """The A/A differences by seed: the noise floor's arm again minus the same arm, on the same splits."""
    first, again = seed_table(study), seed_table(study, "again")
    arm = study.summary.noise_floor.arm if study.summary.noise_floor else ""
    return (again[arm] - first[arm]).dropna() if arm in first and arm in again else pd.Series(dtype=float)


def paired_chart(study: Study) -> Chart | None:
    """Differences from the baseline, seed by seed, with intervals, the noise floor and the smallest effect."""
    summary, table = study.summary, seed_table(study)
    by_arm = {c.arm: c for c in summary.contrasts if c.baseline == summary.baseline}
    found: dict[str, Contrast | NoiseFloor] = {}
    pairs: dict[str, pd.Series] = {}
    for arm in filter(by_arm.get, arm_values(summary)):
        label = arm_label(summary, arm)
        found[label] = by_arm[arm]
        if {arm, summary.baseline} <= set(table):
            pairs[label] = table[arm] - table[summary.baseline]
    if not found:
        return None
    floor = summary.noise_floor
    if floor is not None:
        label = f"{arm_number(summary, floor.arm)} again"
        found[label], pairs[label] = floor, noise_pairs(study)

    ones, nothing = list(found.values()), (np.nan, np.nan)
    contrasts = pd.DataFrame({"arm": list(found), "noise": [isinstance(one, NoiseFloor) for one in ones]})
    contrasts["difference"] = pd.Series([one.difference for one in ones], dtype=float)
    contrasts[["low", "high"]] = [one.interval or nothing for one in ones]
    contrasts[["lowest", "highest"]] = [getattr(one, "interval_corrected", None) or nothing for one in ones]
    by_seed = pd.DataFrame(pairs)
    data = contrasts[["arm", "difference"]].rename(columns={"difference": "mean"})
    data = data.join(by_seed.T.add_prefix("seed "), on="arm")
    metric, base = metric_name(summary, short=True), arm_label(summary, summary.baseline)
    good = "left" if summary.direction == "minimize" else "right"
    spread = None if floor is None else float(stats.t.ppf(0.975, floor.n - 1)) * floor.sd if floor.n > 1 else None

    def draw(figure: Any, wide: bool) -> None:
        where = f"{metric} − {metric} at {base}" if wide else "difference"
        seeds = by_seed.melt(var_name="arm", value_name="difference").dropna()
        label = f"{where} ({good}: better)"
        charts.paired(figure, contrasts, seeds, summary.smallest_effect, spread, label)

    caption = (
        "Thick bar: 95 % interval for this data set, re-split and re-seeded; thin bar: for data like it; dots: seeds. "
        f"Grey band: differences too small to matter (±{numbers.setting(summary.smallest_effect)})."
    )
    if floor is not None:
        caption += (
            " Last row, the noise floor: the baseline run twice on the same splits with another initialization and "
            "batch order; dotted lines: where 95 % of such pairs fall."
        )
    return charts.chart(
        "paired",
        f"{metric}: paired differences from {base}",
        "; ".join(
            f"{name}: {numbers.signed(c.difference)} {numbers.interval(c.interval)}" for name, c in found.items()
        ),
        caption,
        data,
        draw,
        lambda _wide: 74 + 34 * len(found),
    )


def measure_chart(study: Study, name: str) -> Chart | None:
    """A further measurement of every run, a row an arm."""
    summary, measure = study.summary, study.summary.measures[name]
    if study.runs is None:
        return None
    runs = study.runs[study.runs["kind"] == "run"]
    runs = pd.DataFrame({"arm": runs["arm"], "value": runs[name].astype(float)}).dropna()
    if runs.empty:
        return None
    label = {arm: arm_label(summary, arm) for arm in arm_values(summary)}
    runs["arm"] = pd.Categorical(runs["arm"].map(label), list(label.values()))
    found = [(label[arm], measure.arms[arm]) for arm in label]
    data = pd.DataFrame(
        [
            {
                "arm": arm,
                "mean": numbers.figures(one.mean),
                "difference": numbers.figures(one.difference),
                "95 %": numbers.figures_interval(one.interval),
                "pairs": one.n,
            }
            for arm, one in found
        ]
    )
    return charts.chart(
        f"measure-{re.sub('[^a-z0-9]+', '-', name.lower())}",
        measure.title,
        "; ".join(f"{arm}: {numbers.figures(one.mean)}" for arm, one in found),
        f"Small dots: seeds; large ones: their mean; line: the mean of {label[summary.baseline]}.",
        data.astype(object),
        lambda figure, _wide: charts.measured(
            figure, runs, label[summary.baseline], measure.title, measure.logarithmic
        ),
        lambda _wide: 66 + 27 * len(label),
    )


def learning_chart(study: Study) -> Chart | None:
    """Training and validation loss over epochs, a panel an arm."""
    summary, curves = study.summary, study.curves
    if curves is None or curves.empty:
        return None
    curves = curves[curves["kind"] == "run"]
    arms = [arm for arm in arm_values(summary) if arm in set(curves["arm"])]
    if len(arms) > PANELS:  # the arms in question, and the others evenly
        keep = {summary.baseline, summary.primary, arms[0], arms[-1]}
        rest = [arm for arm in arms if arm not in keep]
        picked = {rest[i] for i in np.linspace(0, len(rest) - 1, PANELS - len(keep)).round().astype(int)}
        arms = [arm for arm in arms if arm in keep | picked]
    curves = curves[curves["arm"].isin(arms)].rename(columns={"train_loss": "training", "valid_loss": "validation"})
    curves = curves.melt(["arm", "seed", "epoch"], ["validation", "training"], var_name="loss")
    curves["value"] = curves["value"].astype(float).where(lambda loss: loss.abs() < charts.LARGEST)
    if curves["value"].isna().all():
        return None
    curves["arm"] = pd.Categorical(curves["arm"], arms).rename_categories(lambda arm: arm_label(summary, arm))
    losses = curves.pivot_table("value", ["arm", "epoch"], "loss", ["mean", "min", "max"], dropna=False, observed=False)
    data = pd.DataFrame(
        {
            "training": losses["mean", "training"],
            "validation": losses["mean", "validation"],
            "validation, lowest": losses["min", "validation"],
            "highest": losses["max", "validation"],
        }
    )
    return charts.chart(
        "learning",
        "Training and validation loss over epochs",
        f"A panel for each of {len(arms)} arms; validation solid, training dashed.",
        "Thin lines are seeds, thick ones their mean; training loss is the mean over an epoch’s batches.",
        data.reset_index(),
        lambda figure, wide: charts.learning(figure, curves, 4 if wide else 2),
        lambda wide: 60 + 150 * -(-len(arms) // (4 if wide else 2)),
    )


def tuning_chart(study: Study) -> Chart | None:
    """Expected best of the first k tuning trials."""
    summary = study.summary
    by_arm = {tuning.arm: tuning for tuning in summary.tuning}
    curves = {arm_label(summary, arm): by_arm[arm].best_of_k for arm in arm_values(summary) if arm in by_arm}
    curves = {label: values for label, values in curves.items() if values}
    if not curves:
        return None
    data = pd.DataFrame({label: pd.Series(values) for label, values in curves.items()})
    data.insert(0, "k", range(1, len(data) + 1))
    long = data.melt("k", var_name="arm", value_name="best").dropna()
    label = f"expected best {metric_name(summary, short=True)}"
    return charts.chart(
        "tuning",
        "Expected best result of the first k tuning trials",
        "; ".join(f"{label}: {numbers.number(values[-1])} after {len(values)}" for label, values in curves.items()),
        "What tuning with fewer trials would have found, on average over all choices of k of them; "
        "on the tuning seeds, so better than on fresh ones.",
        data,
        lambda figure, wide: charts.best_of_k(figure, long, label, 4 if wide else 2),
        lambda wide: 330 if wide else 360,
    )


def contrast_rows(study: Study) -> list[dict[str, Any]]:
    """A row an arm, in the axis' order, the baseline among them without a contrast."""
    summary = study.summary
    by_arm = {c.arm: c for c in summary.contrasts if c.baseline == summary.baseline}
    return [
        {"name": name, "arm": summary.arms[name], "contrast": by_arm.get(name), "number": arm_number(summary, name)}
        for name in arm_values(summary)
    ]


def table_digits(summary: Summary) -> int:
    """Decimals for the table of contrasts: enough to tell apart the two means that the answer speaks of."""
    means = (summary.arms[arm].mean for arm in (summary.primary, summary.baseline) if arm in summary.arms)
    return numbers.digits_to_differ(means, 4)


def missing_runs(study: Study) -> list[str]:
    """Which runs of the plan are not there: '2 of wd = 0.1 (seeds 3, 7)'."""
    if study.runs is None:
        return []
    runs = study.runs[study.runs["kind"] == "run"]
    there = set(zip(runs["arm"], runs["seed"], strict=True))
    lines = []
    for arm in arm_values(study.summary):
        seeds = [seed for seed in study.summary.provenance.seeds if (arm, seed) not in there]
        if seeds:
            lines.append(f"{arm_label(study.summary, arm)}: {numbers.counted(len(seeds), 'seed')} ({ranges(seeds)})")
    return lines


def diverged_runs(study: Study) -> list[str]:
    """Which arms diverged, and how often."""
    return [
        f"{arm_label(study.summary, name)}: {study.summary.arms[name].diverged} of {study.summary.arms[name].n}"
        for name in arm_values(study.summary)
        if study.summary.arms[name].diverged
    ]


def ranges(values: list[int]) -> str:
    """Whole numbers as ranges: 0–9, 12."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in parts)


def commit_note(summary: Summary) -> str | None:
    """What to know of the code behind the runs, where it was not one clean commit."""
    provenance = summary.provenance
    notes = []
    if len(set(provenance.commits)) > 1:
        notes.append(f"The runs come from {len(set(provenance.commits))} commits")
    if provenance.dirty:
        notes.append("the working tree held changes that no commit has" if notes else "Run with uncommitted changes")
    if provenance.commit is None:
        notes.append("the commit is not known" if notes else "The commit is not known")
    return f"{'; '.join(notes)}: no commit gives back exactly these numbers." if notes else None


def context(study: Study) -> dict[str, Any]:
    """All that the template of a study's page shows."""
    return {
        "study": study,
        "summary": study.summary,
        "answer": answer(study.summary),
        "verdict": contrast.verdict if (contrast := primary_contrast(study.summary)) else None,
        "limits": limits(study.summary),
        "commit_note": commit_note(study.summary),
        "swept": swept_chart(study),
        "paired": paired_chart(study),
        "measure_charts": [chart for name in study.summary.measures if (chart := measure_chart(study, name))],
        "learning": learning_chart(study),
        "tuning": tuning_chart(study),
        "differing": differing(study.summary),
        "names": NAMES,
        "metric": metric_name(study.summary, short=True),
        "baseline": arm_label(study.summary, study.summary.baseline),
        "rows": contrast_rows(study),
        "digits": table_digits(study.summary),
        "missing_runs": missing_runs(study),
        "diverged_runs": diverged_runs(study),
        "failed": sum(n for state, n in study.summary.provenance.trials.items() if state.lower().startswith("fail")),
        "seeds": ranges(study.summary.provenance.seeds),
        "arm_label": lambda arm: arm_label(study.summary, arm),
    }
