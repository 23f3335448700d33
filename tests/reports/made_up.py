"""Plausible results, made up for the pages' tests alone: never results of anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from studies.evidence.schema import Summary

BEST = {0.0: 0.938, 0.001: 0.937, 0.01: 0.928, 0.03: 0.911, 0.1: 0.895, 0.2: 0.9, 0.3: 0.922, 1.0: 1.011}
DIGEST = "4edb74e2" * 8


def made_up_runs(seeds: int, values: dict[float, float] = BEST) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and curves that look like a sweep of weight decay."""
    random = np.random.default_rng(7)
    split = random.normal(0, 0.004, seeds)
    runs, curves = [], []
    for kind, wd in [*(("run", value) for value in values), ("again", 0.01)]:
        for seed in range(seeds):
            rmse = values[wd] + split[seed] + random.normal(0, 0.0015)
            key, arm = f"{kind}-{wd}-{seed}", f"wd={wd:g}"
            common = {"key": key, "arm": arm, "kind": kind, "seed": seed}
            runs.append(
                common
                | {"wd": wd, "lr": 0.005, "valid_rmse": rmse, "train_rmse": rmse - 0.3 + wd / 3, "diverged": False}
                | {"seconds": 0.3, "backend": "native", "threads": 1, "commit": "0123abc"}
            )
            for epoch in range(1, 6):
                train = 0.75 + 0.25 / epoch - 0.06 * epoch * (0.2 - min(wd, 0.2)) * 5 + max(0, wd - 0.2) / 2
                valid = rmse**2 + 0.25 / epoch - 0.05
                curves.append(common | {"epoch": epoch, "train_loss": train, "valid_loss": valid})
    return pd.DataFrame(runs), pd.DataFrame(curves)


def made_up_summary(runs: pd.DataFrame, **changes: Any) -> Summary:
    """The summary that fits `runs`, against wd=0.01."""
    table = runs[runs["kind"] == "run"].pivot_table(index="seed", columns="arm", values="valid_rmse")
    n = len(table)
    again = runs[runs["kind"] == "again"].set_index("seed")["valid_rmse"] - table["wd=0.01"]
    contrasts = []
    for arm in table:
        if arm == "wd=0.01":
            continue
        gap = table[arm] - table["wd=0.01"]
        half = stats.t.ppf(0.975, n - 1) * gap.std() / np.sqrt(n)
        middle = gap.mean()
        contrasts.append(
            {
                "arm": arm,
                "baseline": "wd=0.01",
                "metric": "valid_rmse",
                "difference": middle,
                "interval": (middle - half, middle + half),
                "interval_corrected": (middle - 1.5 * half, middle + 1.5 * half),
                "n": n,
                "p": 0.002,
                "p_holm": 0.012,
                "probability_of_improvement": float((gap < 0).mean()),
                "skewness": float(stats.skew(gap)),
                "verdict": "better" if middle < 0 else "worse",
            }
        )
    half = stats.t.ppf(0.975, n - 1) * again.std() / np.sqrt(n)
    fields: dict[str, Any] = {
        "study": "wd_sweep",
        "title": "Weight decay",
        "question": "Does weight decay 0.1 beat fastai’s default 0.01?",
        "claims": [47, 48],
        "metric": "valid_rmse",
        "direction": "minimize",
        "smallest_effect": 0.002,
        "baseline": "wd=0.01",
        "primary": "wd=0.1",
        "profile": "quick",
        "arms": {
            arm: {
                "mean": table[arm].mean(),
                "sd": table[arm].std(),
                "n": n,
                "settings": {"wd": float(arm[3:]), "lr": 0.005, "factors": 40},
            }
            for arm in table
        },
        "contrasts": contrasts,
        "noise_floor": {
            "arm": "wd=0.01",
            "n": n,
            "difference": again.mean(),
            "interval": (again.mean() - half, again.mean() + half),
            "sd": again.std(),
        },
        "evidence": [
            {"claim": 48, "verdict": "holds", "text": "wd=0.1 against wd=0.01: RMSE -0.033 [-0.035, -0.031]; n = 10"}
        ],
        "limits": ["For this data set, re-split and re-seeded.", "One learning rate (0.005) for all values."],
        "data": {
            "name": "MovieLens 100k",
            "checksum": DIGEST,
            "ratings": 100_000,
            "users": 943,
            "items": 1_682,
            "n_train": 90_000,
            "n_valid": 10_000,
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
            "seeds": list(range(n)),
            "trials": {"complete": len(runs)},
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
    return Summary.model_validate(fields | changes)


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
    add("adam", "adam", "wrong", "fused", "step", 0.01, params=107_700)
    rows_of_file[-1]["extra_info"] |= {"accurate": False, "accuracy": "index 3: 0 instead of 0.003"}
    return {
        "machine_info": {"cpu": {"brand_raw": "Xeon", "count": 2}, "python_version": "3.11.9", "system": "Linux"},
        "commit_info": {"id": "0123abc", "dirty": False},
        "benchmarks": rows_of_file,
        "datetime": "2026-11-22T02:00:00+00:00",
        "version": "5.3.1",
    }
