"""Plausible results, made up for the pages' tests alone: never results of anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from studies.evidence import statistics
from studies.evidence.outcomes import judge_part
from studies.evidence.parts import Metric, Part, beats, best, differs, equals, exceeds, not_worse
from studies.evidence.schema import Summary

BEST = {0.0: 0.938, 0.001: 0.937, 0.01: 0.928, 0.03: 0.911, 0.1: 0.895, 0.2: 0.9, 0.3: 0.922, 1.0: 1.011}
DIGEST = "4edb74e2" * 8
RMSE = Metric("validation RMSE", "lower", 0.002)
NEVER: Sequence[tuple[str, int]] = ()


class MadeUp(NamedTuple):
    """A study's three files."""

    summary: Summary
    runs: pd.DataFrame
    curves: pd.DataFrame


def made_up(
    arms: Mapping[str, Mapping[str, Any]],
    means: Mapping[str, Mapping[str, float]],
    metrics: Mapping[str, Metric],
    parts: Sequence[Part],
    *,
    seeds: int = 10,
    baseline: str | None = None,
    overlap: float | None = 1 / 9,
    sd: float = 0.0015,
    repeat: bool = False,
    diverged: Sequence[tuple[str, int]] = NEVER,
    missed: Sequence[tuple[str, int]] = NEVER,
    regular: int | None = None,
    tuned: Mapping[str, Sequence[float]] | None = None,
    curve: Callable[[str, float], Mapping[str, float]] | None = None,
    epochs: int = 5,
    **changes: Any,
) -> MadeUp:
    """A study judged and described as the lab does it.

    Args:
        arms: settings by arm.
        means: by metric and arm.
        metrics: as declared.
        parts: as declared.
        seeds: from 0 on.
        baseline: an arm, if there is one.
        overlap: n_valid/n_train; None where seeds do not re-split.
        sd: of a run beside what its seed adds.
        repeat: whether the baseline was run twice.
        diverged: arms and seeds of runs that diverged.
        missed: arms and seeds of runs that missed their target, on the first metric.
        regular: seeds of the regular profile.
        tuned: values that tuning tried, by setting.
        curve: by arm and share of the run done, values by name.
        epochs: of the curves.
        **changes: fields of the summary.
    """
    random = np.random.default_rng(7)
    split, first = random.normal(0, 3 * sd, seeds), next(iter(metrics))
    runs, rows = [], []
    for kind, arm in [*(("run", arm) for arm in arms), *([("repeat", baseline)] if repeat and baseline else [])]:
        for seed in range(seeds):
            key, lost = f"{kind}-{arm}-{seed}", kind == "run" and (arm, seed) in diverged
            common = {"key": key, "arm": arm, "kind": kind, "seed": seed}
            values: dict[str, float | None] = {
                f"metric.{name}": means[name][arm] + split[seed] + random.normal(0, sd) for name in metrics
            }
            if lost:
                values = dict.fromkeys(values)
            if kind == "run" and (arm, seed) in missed:
                values[f"metric.{first}"] = None
            settings = {f"setting.{name}": value for name, value in arms[arm].items()}
            rest = {"data": DIGEST, "seconds": 0.3, "n_train": 90_000, "n_valid": 10_000, "device": "cpu"}
            runs.append(common | settings | values | {"diverged": lost, "threads": 1, "commit": "0123abc"} | rest)
            for epoch in range(1, epochs + 1) if curve else ():
                for name, value in curve(arm, epoch / epochs).items():
                    rows.append(common | {"x": float(epoch), "curve": name, "value": value + split[seed]})
    frame = pd.DataFrame(runs).astype({f"metric.{name}": float for name in metrics})
    types = {"key": str, "arm": str, "kind": str, "seed": int, "x": float, "curve": str, "value": float}
    curves = pd.DataFrame(rows, columns=list(types)).astype(types)
    run = frame[frame["kind"] == "run"]

    def by_arm(metric: str, kind: str = "run") -> dict[str, dict[int, float | None]]:
        own = frame[frame["kind"] == kind]
        column = f"metric.{metric}"
        return {
            arm: {int(s): None if np.isnan(v) else float(v) for s, v in zip(g["seed"], g[column], strict=True)}
            for arm, g in own.groupby("arm", sort=False)
        }

    values = {name: by_arm(name) for name in metrics}
    overlaps = None if overlap is None else dict.fromkeys(arms, overlap)
    lost_seeds = {arm: [seed for name, seed in diverged if name == arm] for arm in arms}
    found = [
        judge_part(part, values, metrics, overlap=overlaps, diverged=lost_seeds, regular=regular) for part in parts
    ]
    measured = {
        arm: {
            name: {"mean": _or_none(g[f"metric.{name}"].mean()), "sd": _or_none(g[f"metric.{name}"].std())}
            | {"n": int(g[f"metric.{name}"].notna().sum())}
            for name in metrics
        }
        for arm, g in run.groupby("arm", sort=False)
    }
    fields: dict[str, Any] = {
        "study": "wd_sweep",
        "title": "Weight decay",
        "question": "Does weight decay 0.1 beat fastai’s default 0.01?",
        "profile": "quick" if seeds < 20 else "regular",
        "metrics": {
            name: {"title": m.title, "better": m.better, "smallest": m.smallest, "logarithmic": m.logarithmic}
            | {"to_target": m.to_target}
            for name, m in metrics.items()
        },
        "arms": {
            arm: {
                "settings": dict(settings),
                "n": seeds,
                "diverged": len(lost_seeds[arm]),
                "missed": sum(name == arm for name, _ in missed),
                "n_train": 90_000,
                "n_valid": 10_000,
                "metrics": measured[arm],
            }
            for arm, settings in arms.items()
        },
        "baseline": baseline,
        "parts": [part.model_dump() for part in found],
        "preliminary": seeds < 20,
        "limits": ["One learning rate (0.005) for all values."],
        "data": {
            "key": "movielens",
            "name": "MovieLens 100k",
            "checksum": DIGEST,
            "size": {"ratings": 100_000, "users": 943, "items": 1_682},
            "terms": "For research; not to be redistributed.",
            "citation": "F. M. Harper and J. A. Konstan (2015). The MovieLens Datasets. ACM TiiS 5, 4.",
        },
        "provenance": {
            "command": "python -m studies.wd_sweep --profile quick",
            "commit": "0123abc",
            "dirty": False,
            "commits": ["0123abc"],
            "spec_hash": "4f1c77aa",
            "recipe": 1,
            "backend": "native",
            "threads": 1,
            "workers": 2,
            "seeds": list(range(seeds)),
            "trials": {"COMPLETE": len(runs)},
            "seconds": 23.4,
            "wall_seconds": 12.5,
            "started": "2026-11-22T02:00:00+00:00",
            "finished": "2026-11-22T02:00:23+00:00",
            "python": "3.11.9",
            "platform": "Linux x86_64",
            "cpu": "Xeon",
            "cores": 2,
            "gpu": None,
            "versions": {"torch": "2.13.0", "optuna": "5.0.0"},
        },
    }
    if baseline is not None:
        fields["contrasts"] = statistics.describe(
            values[first], baseline=baseline, metric=first, better=metrics[first].better, overlap=overlaps
        )
        fields["measures"] = {
            name: {"title": metrics[name].title, "logarithmic": metrics[name].logarithmic}
            | {"arms": {arm: _measured(values[name][arm], values[name][baseline], arm != baseline) for arm in arms}}
            for name in list(metrics)[1:]
        }
    if repeat and baseline is not None:
        floor = statistics.noise_floor(baseline, values[first][baseline], by_arm(first, "repeat")[baseline])
        fields["noise_floor"] = floor
    if tuned is not None:
        fields["tuning"] = [_tuning(arm, tuned, first, means[first][arm], random) for arm in arms]
    return MadeUp(Summary.model_validate(fields | changes), frame, curves)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _measured(ours: Mapping[int, float | None], theirs: Mapping[int, float | None], other: bool) -> dict[str, Any]:
    known = {seed: value for seed, value in ours.items() if value is not None}
    pairs = [value - theirs[seed] for seed, value in known.items() if theirs[seed] is not None]
    mean = float(np.mean(list(known.values()))) if known else None
    if not other or len(pairs) < 2:
        return {"mean": mean, "n": len(known)}
    return {
        "mean": mean,
        "n": len(pairs),
        "difference": float(np.mean(pairs)),
        "interval": statistics.t_interval(pairs),
    }


def _tuning(
    arm: str, tuned: Mapping[str, Sequence[float]], metric: str, mean: float, random: np.random.Generator
) -> dict[str, Any]:
    trials: list[dict[str, float | None]] = [
        {name: float(values[place]) for name, values in tuned.items()} | {metric: mean + 0.01 * abs(place - 2)}
        for place in range(len(next(iter(tuned.values()))))
    ]
    for trial in trials:
        trial[metric] = None if trial is trials[0] else (trial[metric] or 0) + abs(random.normal(0, 0.002))
    known = [trial for trial in trials if trial[metric] is not None]
    chosen = min(known, key=lambda trial: trial[metric] or 0)
    return {
        "arm": arm,
        "chosen": {name: chosen[name] for name in tuned},
        "on_edge": [name for name, values in tuned.items() if chosen[name] in (values[0], values[-1])],
        "trials": trials,
        "best_of_k": statistics.expected_best_of_k([trial[metric] or 0.0 for trial in known], "lower"),
        "fewest": len(trials),
    }


# Studies of several kinds


def _losses(arm: str, done: float) -> dict[str, float]:
    wd = float(arm.partition("=")[2] or 0.05)
    train = 0.75 + 0.05 / done - 0.3 * done * (0.2 - min(wd, 0.2)) * 5 + max(0, wd - 0.2) / 2
    return {"train_loss": train, "valid_loss": 0.8 + 0.05 / done + wd / 20}


def sweep(seeds: int = 10, values: Mapping[float, float] = BEST, **changes: Any) -> MadeUp:
    """A sweep against a baseline, with a noise floor and a further metric."""
    arms = {f"wd={value:g}": {"wd": value, "lr": 0.005, "factors": 40} for value in values}
    means = {
        "valid_rmse": {f"wd={value:g}": mean for value, mean in values.items()},
        "train_rmse": {f"wd={value:g}": mean - 0.3 + value / 3 for value, mean in values.items()},
    }
    parts = [beats("48", "wd=0.1", "wd=0.01", "Decay 0.1 is better than fastai’s default of 0.01.")]
    if 1.0 in values:
        parts += [
            beats("47c", "wd=0.1", "wd=0", "Without decay it is worse."),
            beats("47a", "wd=0.1", "wd=1", "With too much decay it is worse."),
        ]
    more = {"repeat": True, "curve": _losses, "regular": 20 if seeds < 20 else None}
    names = {
        "wd": "weight decay",
        "lr": "learning rate",
        "train_loss": "training loss",
        "valid_loss": "validation loss",
    }
    metrics = {"valid_rmse": RMSE, "train_rmse": Metric("training RMSE")}
    return made_up(arms, means, metrics, parts, seeds=seeds, baseline="wd=0.01", **(more | {"names": names} | changes))


def regular_tuned(seeds: int = 20, **changes: Any) -> MadeUp:
    """The same sweep with the learning rate tuned: the effect is about the margin."""
    values = {0.0: 0.8972, 0.01: 0.8971, 0.03: 0.8962, 0.1: 0.8951, 0.3: 0.8988}
    return sweep(seeds, values, tuned={"lr": [0.001, 0.002, 0.005, 0.01, 0.02, 0.04]}, **changes)


def factorial(**changes: Any) -> MadeUp:
    """Optimizers on digits that stand in for others: no baseline, many parts, a rival, runs that diverged."""
    arms = {name: {"optimizer": name} for name in ("sgd", "momentum", "rmsprop", "adam")}
    means = {
        "accuracy": {"sgd": 0.914, "momentum": 0.937, "rmsprop": 0.9352, "adam": 0.936},
        "steps": {"sgd": 3.1, "momentum": 2.6, "rmsprop": 2.4, "adam": 2.3},
        "norm": {"sgd": 1.5, "momentum": 2.5, "rmsprop": 25.0, "adam": 60.0},
    }
    metrics = {
        "accuracy": Metric("validation accuracy", "higher", 0.004),
        "steps": Metric("log10 of the steps to the target", "lower", 0.1, to_target=True, resplit=False),
        "norm": Metric("norm of the weights", logarithmic=True),
    }
    parts = [
        best("6", "adam", ["momentum", "rmsprop", "sgd"], "Adam is among the best."),
        equals("", "adam", "momentum", "Adam and momentum are equally accurate."),
        differs("", "momentum", "rmsprop", "Momentum and RMSprop differ."),
        not_worse("", "sgd", "adam", "Plain SGD is not worse than Adam."),
        exceeds("", "sgd", 0.9, "Plain SGD is better than 0.9."),
        Part("77a", "Adam needs a tenth of SGD’s steps.", {"adam": 1, "sgd": -1}, "superior", "steps", -1.0),
        Part(
            "",
            "The gain of Adam over RMSprop is as large as that of momentum over SGD.",
            {"adam": 1, "rmsprop": -1, "momentum": -1, "sgd": 1},
            "superior",
        ),
    ]
    more = {
        "study": "optimizers",
        "title": "Optimizers",
        "question": "Is Adam as good as any other optimizer?",
        "protocol": "stand-in",
        "data": {"key": "digits", "name": "5,000 digits", "checksum": DIGEST, "size": {"images": 5_000}},
        "diverged": [("sgd", 3), ("sgd", 7)],
        "curve": lambda arm, done: {"loss": 1 / (1 + 5 * done), "gradient norm": 3 - done},
    }
    return made_up(arms, means, metrics, parts, **(more | changes))


def timed(**changes: Any) -> MadeUp:
    """A study that runs alone: ratios of times, no baseline, no split, no curves."""
    arms = {"fused": {"fused": True}, "plain": {"fused": False}}
    means = {"ratio": {"fused": -0.31, "plain": 0.001}}
    metrics = {"ratio": Metric("log10 of time over the plain step’s", "lower", 0.02, resplit=False)}
    parts = [exceeds("15a", "fused", 0.0, "The fused step is faster.")]
    more = {
        "study": "step_time",
        "title": "Time of a step",
        "question": "Is the fused step faster?",
        "overlap": None,
        "sd": 0.01,
    }
    return made_up(arms, means, metrics, parts, **(more | changes))


def made_up_benchmarks() -> dict[str, Any]:
    """A pytest-benchmark file in which one-hot trains faster at ten classes and nowhere else."""
    rows_of_file = []

    def add(group: str, op: str, implementation: str, baseline: str, stage: str, ratio: float, **more: Any) -> None:
        microseconds = 15e-6 * ratio
        rows_of_file.append(
            {
                "group": group,
                "name": f"test_{op}[{implementation}-{stage}-{'-'.join(map(str, more.values()))}]",
                "stats": {"median": microseconds, "min": microseconds, "rounds": 20},
                "extra_info": {"op": op, "implementation": implementation, "baseline": baseline, "pass": stage}
                | {"ratio": ratio, "ratio_low": ratio * 0.93, "ratio_high": ratio * 1.06, "ratio_pairs": 20}
                | {"accurate": True, "accuracy": "within 2·K·u·Σ|ab|"}
                | more,
            }
        )

    for stage in ("forward", "forward+backward"):
        for batch in (64, 4096):
            for classes in (10, 100, 1_000, 10_000):
                forward = stage == "forward"
                built = (0.56 if forward else 0.11) * classes ** (0.75 if forward else 0.8) * (2 if batch > 64 else 1)
                more = {"classes": classes, "batch": batch, "width": 40}
                add("lookup", "lookup", "embedding", "embedding", stage, 1.0, **more)
                add("lookup", "lookup", "one_hot", "embedding", stage, built, **more)
                add("lookup", "lookup", "prebuilt one-hot", "embedding", stage, built / 4, **more)
    for stage in ("forward", "forward+backward"):
        for implementation, ratio in (("native", 0.2), ("reference", 1.0), ("compile", 0.8)):
            more = {"batch": 512, "width": 40, "bytes": 327_680, "gb_per_s": 4.2 / ratio, "floor_fraction": 0.2 / ratio}
            add("dot_bias", "dot_bias", implementation, "reference", stage, ratio, **more)
    for params in (107_700, 1_100_000):
        for implementation, ratio in (("loop", 2.8), ("fused", 1.0), ("native", 0.9)):
            more = {"params": params, "bytes": 28 * params, "gb_per_s": 12.0, "floor_fraction": 0.64}
            add("adam", "adam", implementation, "fused", "step", ratio, **more)
    for rows, deferred, dense in ((2_627, 415e-6, 360e-6), (26_000, 0.6e-3, 3e-3), (165_000, 1e-3, 19e-3)):
        eager = 1e-3 + 2e-7 * rows
        for ours, theirs, seconds, baseline_s in (
            ("native dense", "eager", dense, eager),
            ("native deferred", "eager", deferred, eager),
            ("native deferred", "native dense", deferred, dense),
        ):
            more = {"rows": rows, "batch": 1024, "width": 40, "params": 41 * rows}
            more |= {"baseline_s": baseline_s, "steps": 1000 if ours == "native deferred" else 10}
            add("scale", "training", ours, theirs, "step", seconds / baseline_s, **more)
            rows_of_file[-1]["stats"]["median"] = seconds
    more = {"rows": 165_000, "batch": 4096, "params": 6_765_000, "baseline_s": 0.05, "memory_bytes": 260_000_000}
    more |= {"baseline_memory_bytes": 295_000_000, "training_s": 64.5, "ratings": 20_000_000, "epochs": 5}
    add("movielens_20m", "training", "native deferred", "eager", "step", 0.05, **more)
    for implementation, state, loss in (("fused", 861_672, 0.4471), ("8-bit", 238_560, 0.4472)):
        more = {"params": 107_700, "state_bytes": state, "train_loss": loss}
        add("optimizers", "Adam", implementation, "fused", "step", 1.0, **more)
    add("optimizers", "Adam", "triton", "fused", "step", 1.0, params=107_700)
    add("adam", "adam", "wrong", "fused", "step", 0.01, params=107_700)
    rows_of_file[-1]["extra_info"] |= {"accurate": False, "accuracy": "index 3: 0 instead of 0.003"}
    return {
        "machine_info": {"cpu": {"brand_raw": "Xeon", "count": 2}, "python_version": "3.11.9", "system": "Linux"},
        "commit_info": {"id": "0123abc", "dirty": False},
        "benchmarks": rows_of_file,
        "datetime": "2026-11-22T02:00:00+00:00",
        "version": "5.3.1",
    }


def made_up_exact() -> dict[str, Any]:
    """An `exact.json` of three checks: a true one, a false one that was expected, and a slip's."""
    checks = [
        {
            "part": "25a",
            "holds": True,
            "expected": True,
            "figure": "equal to the bit",
            "check": "lookup.same",
        },
        {"part": "79b", "holds": False, "expected": False, "figure": "2.303 is no 1", "check": "loss.natural"},
        {"part": "slip 15", "holds": True, "expected": True, "figure": "0.1 · 0.9 = 0.09", "check": "slips.momentum"},
    ]
    common = {"by_construction": False, "source": None, "seconds": 0.01}
    return {"schema_version": 1, "checks": [common | check for check in checks], "provenance": {"commit": "0123abc"}}


def made_up_calibration() -> dict[str, Any]:
    """A `calibration.json` with a cell above the bar."""
    shapes = {"normal": 0.04, "exponential": 0.045, "lognormal": 0.12}
    cells = [
        {"shape": shape, "mirrored": mirrored, "n": n, "interval": "corrected t", "form": form}
        | {"coverage": 1 - share, "false_yes": share / (1 + mirrored), "false_no": share / n * 10}
        for shape, share in shapes.items()
        for mirrored in (False, True)
        for n in (10, 20, 40)
        for form in ("superior", "equivalent", "best")
    ]
    return {
        "schema_version": 1,
        "studies": 20_000,
        "seed": 0,
        "margin": 2.0,
        "rivals": 5,
        "bar": 0.05,
        "barred": ["normal", "exponential"],
        "provenance": {"commit": "0123abc", "dirty": False, "versions": {"numpy": "2.3"}},
        "cells": cells,
    }
