from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lesson.data import Ratings, open_ratings, split
from studies import untouched_rows, wd_sweep
from studies.evidence.provenance import CHECKOUT
from studies.evidence.schema import Contrast, Measure, Measured, read_summary
from studies.lab.spec import Outcome, Run
from studies.untouched_rows import STUDY


@pytest.fixture(scope="module")
def ratings(ratings_csv: Path) -> Ratings:
    return open_ratings(ratings_csv)


@pytest.fixture(scope="module")
def outcomes(ratings: Ratings) -> dict[str, Outcome]:
    """A run of each arm, on one seed."""
    return {arm: untouched_rows.run(job(settings), ratings) for arm, settings in STUDY.arms.items()}


def job(settings: Any) -> Run:
    return Run("any", dict(settings), 3, 0, "data", backend="native", device="cpu", threads=1, recipe=1)


def test_dense_runs_are_the_lessons_recipe(ratings: Ratings, outcomes: dict[str, Outcome]) -> None:
    lesson = wd_sweep.run(job({"wd": 0.1, "lr": 5e-3}), ratings)
    assert outcomes["dense"].value == pytest.approx(lesson.value, rel=1e-5)
    assert outcomes["dense"].valid_loss == pytest.approx(lesson.valid_loss, rel=1e-5)


def test_exact_rules_stay_near_float64_and_approximate_ones_do_not(outcomes: dict[str, Outcome]) -> None:
    distance = {arm: outcome.measures["distance"] for arm, outcome in outcomes.items()}
    assert all(distance[arm] < 1e-5 for arm in ("dense", "deferred"))
    assert all(distance[arm] > 1e-4 for arm in set(distance) - {"dense", "deferred"})


def test_only_skipped_rows_keep_the_norm_they_began_with(outcomes: dict[str, Outcome]) -> None:
    never = {arm: outcome.measures["never_norm"] for arm, outcome in outcomes.items()}
    assert never["skip"] == never["skip decay"] > never["dense"]
    decayed = never.keys() - {"skip", "skip decay"}
    assert all(never[arm] == pytest.approx(never["dense"], rel=1e-5) for arm in decayed)


def test_data_without_rare_films_have_nothing_to_measure_of_them(ratings: Ratings, monkeypatch: Any) -> None:
    monkeypatch.setattr(untouched_rows, "RARE", -1)
    measures = untouched_rows.run(job({"rule": "dense"}), ratings).measures
    assert (measures["rare_norm"], measures["rare_rmse"]) == (None, None)
    assert measures["frequent_norm"] is not None


def test_measurements_are_of_the_films_that_they_name(ratings: Ratings, monkeypatch: Any) -> None:
    monkeypatch.setattr(untouched_rows, "RARE", 8)
    data = split(ratings, seed=3)
    ours, exact = (untouched_rows.trainer(data, 0, *how) for how in (("skip", torch.float32), ("dense", torch.float64)))
    for training in (ours, exact):
        untouched_rows.timed_epoch(training, data, torch.arange(len(data.train)))
    counts = Counter(data.train.items.tolist())
    items = ours.weights()[1].double().numpy()
    norm = {row: math.sqrt(sum(x * x for x in items[row])) for row in range(len(items))}
    often = np.quantile(list(counts.values()), 0.9)
    errors = [
        (ours.scores(user[None], item[None]).item() - stars.item()) ** 2
        for user, item, stars in zip(data.valid.users, data.valid.items, data.valid.ratings, strict=True)
        if counts[item.item()] <= 8
    ]
    apart = sum(((a.double() - b) ** 2).sum().item() for a, b in zip(ours.weights(), exact.weights(), strict=True))
    whole = sum((b**2).sum().item() for b in exact.weights())
    expected = {
        "distance": math.sqrt(apart / whole),
        "rare_norm": np.mean([norm[row] for row, count in counts.items() if count <= 8]),
        "never_norm": norm[0],
        "frequent_norm": np.mean([norm[row] for row, count in counts.items() if count >= often]),
        "rare_rmse": np.mean(errors) ** 0.5,
    }
    assert 8 in counts.values()
    assert errors
    assert untouched_rows.measured(ours, exact, data) == pytest.approx(expected, rel=1e-5)


def test_the_time_is_ours_over_dense_and_either_goes_first_in_turn(ratings: Ratings, monkeypatch: Any) -> None:
    timed, order = untouched_rows.timed_epoch, []

    def as_long_as_told(training: Any, *rest: Any) -> tuple[float, float]:
        if training.weights()[0].dtype == torch.float32:
            order.append(training.mode)
        return timed(training, *rest)[0], 3.0 if training.mode == "skip" else 2.0

    monkeypatch.setattr(untouched_rows, "timed_epoch", as_long_as_told)
    outcome = untouched_rows.run(job({"rule": "skip"}), ratings)
    assert (outcome.measures["time"], outcome.seconds) == (1.5, 15.0)
    assert order == ["skip", "dense", "dense", "skip"] * 2 + ["skip", "dense"]


def test_a_run_that_diverges_has_no_value_and_no_measurements(ratings: Ratings, monkeypatch: Any) -> None:
    errors = iter([1.0, math.nan])
    monkeypatch.setattr(untouched_rows, "error", lambda *_: next(errors))
    outcome = untouched_rows.run(job({"rule": "dense"}), ratings)
    assert (outcome.value, outcome.valid_loss, outcome.measures) == (None, [1.0], {})


def test_a_replicate_starts_elsewhere_on_the_same_split(ratings: Ratings, outcomes: dict[str, Outcome]) -> None:
    again = untouched_rows.run(dataclasses.replace(job({"rule": "dense"}), replicate=1), ratings)
    assert again.n_valid == outcomes["dense"].n_valid
    assert again.value != outcomes["dense"].value


def contrast(verdict: str, **differing: Any) -> Contrast:
    fields: dict[str, Any] = {
        "arm": "skip decay",
        "baseline": "dense",
        "metric": "valid_rmse",
        "difference": 0.0037,
        "interval": (0.003, 0.0044),
        "interval_corrected": None,
        "n": 10,
        "p": 0.002,
        "p_holm": 0.004,
        "probability_of_improvement": 0.0,
        "skewness": None,
        "verdict": verdict,
    }
    return Contrast(**fields | differing)


@pytest.mark.parametrize(
    ("interval", "n", "verdict"),
    [
        ((0.1, 0.13), 10, "holds"),
        ((-0.13, -0.1), 10, "holds"),
        ((-0.01, 0.24), 10, "inconclusive"),
        ((0.1, 0.13), 9, "inconclusive"),
        (None, 10, "inconclusive"),
    ],
)
def test_claim_54_is_what_skipping_decay_alone_does_to_rare_films(interval: Any, n: int, verdict: str) -> None:
    measures = {
        name: Measure(title=name, logarithmic=False, arms={"skip decay": Measured(mean=1.0, n=n, **figures)})
        for name, figures in {
            "rare_norm": {"difference": interval and sum(interval) / 2, "interval": interval},
            "rare_rmse": {},
        }.items()
    }
    (found,) = untouched_rows.evidence([contrast("worse")], False, measures)
    assert (found.claim, found.verdict) == (54, verdict)
    assert "momentum as it is" in found.text


def test_without_skipped_runs_nothing_is_said_of_claim_54() -> None:
    assert untouched_rows.evidence([], False, {}) == []


def study(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "studies.untouched_rows", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)


def test_the_command_leaves_measurements_paired_by_seed(ratings_csv: Path, tmp_path: Path) -> None:
    done = study("--ratings", str(ratings_csv), "--seeds", "2", "--results", str(tmp_path), "--workers", "1")
    assert done.returncode == 0, done.stderr
    summary = read_summary(tmp_path / "untouched_rows" / "summary.json")
    runs = pd.read_parquet(tmp_path / "untouched_rows" / "runs.parquet")
    assert set(STUDY.measures) <= set(runs)
    assert summary.arms["skip"].settings == {"rule": "skip"}
    runs = runs[runs["kind"] == "run"].set_index(["arm", "seed"])
    for name, measure in summary.measures.items():
        assert measure.title == STUDY.measures[name].title
        gap = runs.loc["skip", name] - runs.loc["dense", name]
        assert measure.arms["skip"].difference == pytest.approx(gap.mean())
        assert measure.arms["skip"].n == gap.count()
        if gap.count() == 2:  # a seed may validate no rare film
            interval = stats.ttest_1samp(gap, 0).confidence_interval(0.95)
            assert measure.arms["skip"].interval == pytest.approx(tuple(interval))
        assert measure.arms["dense"].difference is None
        assert measure.arms["dense"].mean == pytest.approx(runs.loc["dense", name].mean())


def test_what_the_study_does_not_have_is_refused(tmp_path: Path) -> None:
    done = study("--trials", "3", "--results", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == "error: --trials 3: untouched_rows tunes nothing\n"
