"""Names timings, words their conditions, and lays them out as tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from studies.evidence.benchmarks import Benchmarks, Timing

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
    "tables": "A training step of a net for tables",
    "nets": "Small nets, an epoch",
}
# The conditions of a benchmark, in the order of the page.
CONDITIONS = ("op", "stage", "classes", "rows", "batch", "width", "params")


def plain(name: str) -> str:
    """A name for a reader: one_hot_matmul is one-hot matmul."""
    return name.replace("one_hot", "one-hot").replace("_", " ")


def implementation(timing: Timing) -> str:
    """The name of what was timed; a baseline timed against itself is marked as a repeat."""
    name = plain(timing.implementation)
    return f"{name} repeat (A/A)" if timing.implementation == timing.baseline else name


def title(group: str) -> str:
    """A group's heading."""
    return TITLES.get(group, plain(group))


def condition(key: str, value: Any) -> str:
    """A condition in words: batch 64, 10 classes, forward; empty if it is not set."""
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
    """The timings that compare a one-hot product with the lookup."""
    return [t for t in benchmarks.timings if t.group == "lookup" and "one-hot" in plain(t.implementation)]


def drawn(timings: list[Timing], keys: list[str]) -> pd.DataFrame:
    """Timings for charts, in the page's words; `where` has the conditions `keys`."""
    rows = [
        {"implementation": implementation(t), "ratio": t.ratio, "low": t.ratio_low, "high": t.ratio_high}
        | {"where": words(t, keys), "classes": t.classes, "batch": words(t, ["batch"])}
        for t in timings
    ]
    return pd.DataFrame(rows)


def table(timings: list[Timing], keys: list[str]) -> pd.DataFrame:
    """Ratios as the data table of a figure."""
    rows = [
        {"implementation": implementation(t)}
        | {key: getattr(t, key) for key in keys}
        | {"ratio": t.ratio, "95 % from": t.ratio_low, "to": t.ratio_high}
        for t in timings
    ]
    return pd.DataFrame(rows).astype(object).rename(columns={"stage": "pass"})


def varying(timings: list[Timing]) -> list[str]:
    """The conditions in which timings differ."""
    return [key for key in CONDITIONS if len({getattr(t, key) for t in timings}) > 1]


def baselines(timings: list[Timing]) -> str:
    """The baselines of timings."""
    return ", ".join(dict.fromkeys(plain(t.baseline) for t in timings))


def span(values: list[int]) -> str:
    """The ends of sorted whole numbers: 15 or 6–15."""
    return "–".join(f"{end:,}" for end in dict.fromkeys(values[:1] + values[-1:]))
