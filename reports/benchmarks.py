"""The page of the benchmarks: ratios to a baseline with intervals, and where the one-hot product wins."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from reports import charts, numbers
from reports.charts import Chart
from studies.evidence.benchmarks import Benchmarks, Timing
from studies.evidence.verdicts import LedgerEvidence

CLAIM = 26  # the lookup is faster than the one-hot product
TITLES = {
    "lookup": "One-hot product against lookup",
    "dot_bias": "Embedding-dot-bias",
    "dot_bias_loss": "Embedding-dot-bias with its loss",
    "adam": "The Adam step",
    "optimizers": "Optimizer steps",
    "training": "Training, an epoch",
    "scale": "A training step as the tables grow",
    "movielens_20m": "Training in MovieLens 20M’s shape",
    "deferred": "Deferred AdamW, a step",
    "deferred_steps": "Deferred steps on a GPU",
}
# What a benchmark is run under, in the order of the page.
CONDITIONS = ("op", "stage", "classes", "rows", "batch", "width", "params")
DEFERRED, DENSE = "native deferred", "native dense"


def plain(name: str) -> str:
    """A name for a reader: one_hot_matmul is one-hot matmul."""
    return name.replace("one_hot", "one-hot").replace("_", " ")


def condition(key: str, value: Any) -> str:
    """A condition in words: batch 64, 10 classes, forward; nothing where it is not set."""
    if value is None:
        return ""
    if key in ("op", "stage"):
        return plain(value)
    return f"{value:,} {key}" if key in ("classes", "params", "rows") else f"{key} {value:,}"


def words(timing: Timing, keys: list[str]) -> str:
    """The conditions `keys` of a timing in words: forward, batch 64."""
    return ", ".join(filter(None, (condition(key, getattr(timing, key)) for key in keys)))


def corner(timing: Timing) -> str:
    """The corner of the grid: '10 classes, batch 4,096, forward'."""
    return words(timing, ["classes", "batch", "stage"])


def one_hot(benchmarks: Benchmarks) -> list[Timing]:
    """Where a one-hot product is held against the lookup."""
    return [t for t in benchmarks.timings if t.group == "lookup" and "one-hot" in plain(t.implementation)]


def lookup_evidence(benchmarks: Benchmarks) -> LedgerEvidence | None:
    """Claim 26 stays open until one-hot products are held against the faster of the lookups, in time and memory."""
    corners = one_hot(benchmarks)
    if not corners:
        return None
    slowest = max(corners, key=lambda t: t.ratio)
    faster = sum(t.ratio_high < 1 for t in corners)
    text = (
        f"{plain(slowest.implementation)} takes {numbers.times(slowest.ratio)} the time of F.embedding at "
        f"{corner(slowest)}, and less than it in {faster} of {len(corners)} corners; but F.embedding has a slow dense "
        "backward, and index_select, a lookup too, is not the baseline yet"
    )
    return LedgerEvidence(CLAIM, "inconclusive", text, source="benchmarks", data=benchmarks.machine.get("CPU"))


def answer(benchmarks: Benchmarks) -> str:
    """What was found in a sentence: the ratio at large, and where one-hot is faster than F.embedding."""
    corners = one_hot(benchmarks)
    if not corners:
        return "The one-hot product was not measured against the lookup in these benchmarks."
    slowest = max(corners, key=lambda t: t.ratio)
    wins = [t for t in corners if t.ratio_high < 1]
    text = (
        f"A one-hot product takes up to {numbers.times(slowest.ratio)} the time of F.embedding ({corner(slowest)}), "
        f"and less than it in {len(wins) or 'none'} of {len(corners)} corners"
    )
    if not wins:
        return f"{text}."
    best = min(wins, key=lambda t: t.ratio)
    return f"{text}, the least at {corner(best)}: {numbers.times(best.ratio)}."


def crossover_chart(benchmarks: Benchmarks) -> Chart | None:
    """Ratio to the lookup against the number of classes, by pass, implementation and batch."""
    corners = [t for t in one_hot(benchmarks) if t.classes and t.batch]
    if not corners:
        return None
    widths = sorted({t.width for t in corners if t.width})
    width = 40 if 40 in widths else widths[len(widths) // 2] if widths else None
    corners = [t for t in corners if t.width == width]

    corners.sort(key=lambda t: (t.stage, t.batch or 0))
    wins = "; ".join(corner(t) for t in corners if t.ratio_high < 1)
    return charts.chart(
        "crossover",
        "Time of one-hot products over the lookup’s, against the number of classes",
        f"Corners in which one-hot is faster: {wins or 'none'}.",
        f"Below the line one-hot is faster. {f'Width {width}. ' if width else ''}Bars: 95 % intervals of the ratio.",
        table(corners, ["stage", "batch", "classes"]),
        lambda figure, wide: charts.crossover(figure, drawn(corners, ["stage"]), wide),
        lambda wide: 430 if wide else 180 + 260 * len({t.stage for t in corners}),
    )


def crossing(timings: list[Timing]) -> tuple[float, str] | None:
    """From how many rows on deferred steps are faster than our own dense ones, and that in words; None if never.

    `timings` are of one batch. Between two measured sizes the ratio is taken for a power of the rows.
    """
    pairs = sorted((t.rows, t.ratio) for t in timings if (t.implementation, t.baseline) == (DEFERRED, DENSE) and t.rows)
    slower = [place for place, (_, ratio) in enumerate(pairs) if ratio >= 1]
    if not pairs or slower[-1:] == [len(pairs) - 1]:
        return None
    after, below_1 = pairs[slower[-1] + 1] if slower else pairs[0]
    if not slower:
        return after, f"in the smallest tables already ({after:,} rows)"
    before, above_1 = pairs[slower[-1]]
    share = math.log(above_1) / math.log(above_1 / below_1)
    rows = before * (after / before) ** share
    digits = 1 - math.floor(math.log10(rows))
    return rows, f"from some {round(rows, digits):,.0f} rows on (measured at {before:,} and {after:,})"


def by_batch(timings: list[Timing]) -> dict[int, list[Timing]]:
    """Timings of each batch, the smallest first."""
    batches = sorted({t.batch for t in timings if t.batch})
    return {batch: [t for t in timings if t.batch == batch] for batch in batches}


def scale_words(timings: list[Timing]) -> str:
    """Where deferred steps begin to pay, and what they bring in the largest tables, batch by batch."""
    said = []
    for batch, own in by_batch(timings).items():
        found = crossing(own)
        where = f"are faster than our own dense ones {found[1]}" if found else "are not faster than our own dense ones"
        text = f"At batch {batch:,} deferred steps {where}"
        largest = max(t.rows or 0 for t in own)
        ratios = [
            f"{numbers.times(t.ratio)} {numbers.times_interval(t.ratio_low, t.ratio_high)} the time of {t.baseline}"
            for t in own
            if t.implementation == DEFERRED and t.rows == largest
        ]
        said.append(f"{text}; at {largest:,} rows they take {' and '.join(ratios)}." if ratios else f"{text}.")
    return " ".join(said)


def step_times(timings: list[Timing]) -> pd.DataFrame:
    """Microseconds a step as charts draw them, a row an implementation, batch and rows.

    The interval is that of the ratio, in the baseline's time; a baseline has none.
    """
    found: dict[tuple[str, int, int], tuple[float, float, float]] = {}
    # What was measured against eager comes first: one yardstick for all lines.
    ours = sorted(timings, key=lambda t: t.baseline == DENSE)
    for timing, is_baseline in [*((t, False) for t in ours), *((t, True) for t in ours)]:
        if timing.rows and timing.batch and (theirs := timing.baseline_s):
            name = plain(timing.baseline if is_baseline else timing.implementation)
            times = (timing.seconds, timing.ratio_low * theirs, timing.ratio_high * theirs)
            found.setdefault((name, timing.batch, timing.rows), (theirs, math.nan, math.nan) if is_baseline else times)
    rows = [(*key, *(1e6 * value for value in values)) for key, values in sorted(found.items())]
    return pd.DataFrame(rows, columns=["implementation", "batch", "rows", "µs a step", "95 % from", "to"])


def scale_chart(timings: list[Timing]) -> Chart | None:
    """Time of a step against the rows of the tables, a line an implementation, a panel a batch."""
    times = step_times(timings)
    if times.empty:
        return None
    epochs = span(sorted({t.steps for t in timings if t.implementation == DEFERRED and t.steps}))
    marks = {batch: found[0] for batch, own in by_batch(timings).items() if (found := crossing(own))}
    text = scale_words(timings)
    return charts.chart(
        "scale",
        "Time of a training step against the rows of the tables",
        text,
        f"{text} Eager is PyTorch with fused AdamW. In a deferred step is its share of the flush that ends an epoch, "
        f"here of {epochs} steps. Bars: 95 % intervals of the ratio, in the baseline’s time.",
        times.astype(object),
        lambda figure, wide: charts.scale(figure, times, marks, wide),
        lambda wide: 420 if wide else 120 + 290 * times["batch"].nunique(),
    )


def training_words(timings: list[Timing]) -> str:
    """Time and memory of whole trainings."""
    said = []
    for t in timings:
        if not (t.training_s and t.epochs and t.ratings and t.memory_bytes and t.params and t.batch):
            continue
        text = (
            f"Batch {t.batch:,}, {plain(t.implementation)}: {t.epochs} epochs of {t.ratings:,} ratings over "
            f"{t.params:,} parameters took {numbers.seconds(t.training_s)}, once, in a process of its own. Above "
            f"ratings and libraries its memory peaked at {numbers.size(t.memory_bytes)}, "
            f"{t.memory_bytes / t.params:.0f} bytes a parameter, the {numbers.size(8 * t.ratings)} of an epoch’s order "
            "included"
        )
        if t.baseline_memory_bytes:
            text += f"; that of {plain(t.baseline)}, after its first steps, at {numbers.size(t.baseline_memory_bytes)}"
        said.append(f"{text}.")
    return " ".join(said)


def drawn(timings: list[Timing], keys: list[str]) -> pd.DataFrame:
    """Timings as charts draw them: in the page's words, `where` saying under which of the conditions `keys`."""
    rows = [
        {"implementation": plain(t.implementation), "ratio": t.ratio, "low": t.ratio_low, "high": t.ratio_high}
        | {"where": words(t, keys), "classes": t.classes, "batch": words(t, ["batch"])}
        for t in timings
    ]
    return pd.DataFrame(rows)


def table(timings: list[Timing], keys: list[str]) -> pd.DataFrame:
    """Ratios as the data of a figure."""
    rows = [
        {"implementation": plain(t.implementation)}
        | {key: getattr(t, key) for key in keys}
        | {"ratio": t.ratio, "95 % from": t.ratio_low, "to": t.ratio_high}
        for t in timings
    ]
    return pd.DataFrame(rows).astype(object).rename(columns={"stage": "pass"})


def varying(timings: list[Timing]) -> list[str]:
    """The conditions in which timings differ."""
    return [key for key in CONDITIONS if len({getattr(t, key) for t in timings}) > 1]


def group_chart(group: str, timings: list[Timing], benchmarks: Benchmarks) -> Chart | None:
    """What shows a group best."""
    if group == "lookup":
        return crossover_chart(benchmarks)
    return scale_chart(timings) if group == "scale" else ratio_chart(group, timings)


def ratio_chart(group: str, timings: list[Timing]) -> Chart:
    """The ratios of a group, block by block of conditions."""
    keys = varying(timings)
    against = baselines(timings)
    return charts.chart(
        f"ratios-{group}",
        f"{TITLES.get(group, plain(group))}: time over the time of {against}",
        "; ".join(f"{words(t, keys)} {plain(t.implementation)}: {numbers.times(t.ratio)}" for t in timings),
        f"Left of the line: faster than {against}. Bars: 95 % intervals of the ratio.",
        table(timings, keys),
        lambda figure, _wide: charts.ratios(figure, drawn(timings, keys), f"time ÷ time of {against}"),
        lambda _wide: 60 + 22 * len(timings) + 28 * len({words(t, keys) for t in timings}),
    )


def baselines(timings: list[Timing]) -> str:
    """What timings are held against."""
    return ", ".join(dict.fromkeys(plain(t.baseline) for t in timings))


def context(benchmarks: Benchmarks) -> dict[str, Any]:
    """All that the template of the benchmarks' page shows."""
    by_group = {group: [t for t in benchmarks.timings if t.group == group] for group in TITLES}
    for t in benchmarks.timings:
        if t.group not in TITLES:
            by_group.setdefault(t.group, []).append(t)
    pairs = sorted(t.ratio_pairs for t in benchmarks.timings)
    return {
        "answer": answer(benchmarks),
        "benchmarks": benchmarks,
        "groups": [
            {
                "title": TITLES.get(group, plain(group)),
                "chart": group_chart(group, timings, benchmarks),
                "trainings": training_words(timings),
                "conditions": varying(timings),
                "baselines": baselines(timings),
                "timings": timings,
            }
            for group, timings in by_group.items()
            if timings
        ],
        "pairs": span(pairs),
        "plain": plain,
    }


def span(values: list[int]) -> str:
    """The ends of sorted whole numbers: 15 or 6–15."""
    return "–".join(f"{end:,}" for end in dict.fromkeys(values[:1] + values[-1:]))
