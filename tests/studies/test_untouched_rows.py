from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lesson.data import Ratings, open_ratings, split
from studies import untouched_rows, wd_sweep
from studies.lab.source import outcome_of
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
    return Run("any", 1, "small", "checksum", dict(settings), seed=3)


def test_dense_runs_are_the_lessons_recipe(ratings: Ratings, outcomes: dict[str, Outcome]) -> None:
    lesson = wd_sweep.run(job({"wd": 0.1, "lr": 5e-3}), ratings)
    assert outcomes["dense"].metrics["rmse"] == pytest.approx(lesson.metrics["rmse"], rel=1e-5)
    assert outcomes["dense"].curves["valid_loss"] == pytest.approx(lesson.curves["valid_loss"], rel=1e-5)


def test_exact_rules_stay_near_float64_and_approximate_ones_do_not(outcomes: dict[str, Outcome]) -> None:
    distance = {arm: float(outcome.metrics["distance"] or 0) for arm, outcome in outcomes.items()}
    assert all(distance[arm] < 1e-5 for arm in ("dense", "folded"))
    assert all(distance[arm] > 1e-4 for arm in set(distance) - {"dense", "folded"})


def test_only_rows_without_decay_keep_the_norm_they_began_with(outcomes: dict[str, Outcome]) -> None:
    never = {arm: float(outcome.metrics["never_norm"] or 0) for arm, outcome in outcomes.items()}
    kept = {"skip", "skip decay", "no decay"}
    assert len({never[arm] for arm in kept}) == 1
    assert never["skip"] > never["dense"]
    decayed = never.keys() - kept
    assert all(never[arm] == pytest.approx(never["dense"], rel=1e-5) for arm in decayed)


def test_data_without_rare_films_have_nothing_to_measure_of_them(ratings: Ratings, monkeypatch: Any) -> None:
    monkeypatch.setattr(untouched_rows, "RARE", -1)
    metrics = untouched_rows.run(job({"rule": "dense"}), ratings).metrics
    assert (metrics["rare_norm"], metrics["rare_rmse"]) == (None, None)
    assert metrics["frequent_norm"] is not None


def test_measurements_are_of_the_films_that_they_name(ratings: Ratings, monkeypatch: Any) -> None:
    monkeypatch.setattr(untouched_rows, "RARE", 8)
    data = split(ratings, seed=3)
    data.valid.items[0] = 0  # a film that training does not know
    ours, exact = (untouched_rows.trainer(data, 0, *how) for how in (("skip", torch.float32), ("dense", torch.float64)))
    for training in (ours, exact):
        next(untouched_rows.epochs(training, data, 0))
    counts = Counter(data.train.items.tolist())
    items = ours.weights()[1].double().numpy()
    norm = {row: math.sqrt(sum(x * x for x in items[row])) for row in range(len(items))}
    often = np.quantile(list(counts.values()), 0.9)
    errors = [
        (ours.scores(user[None], item[None]).item() - stars.item()) ** 2
        for user, item, stars in zip(data.valid.users, data.valid.items, data.valid.ratings, strict=True)
        if 1 <= counts[item.item()] <= 8
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


def test_the_time_is_ours_over_dense_in_turns(ratings: Ratings, monkeypatch: Any) -> None:
    clock, order = [0.0], []
    train = untouched_rows.epochs

    def as_long_as_told(training: Any, *rest: Any) -> Iterator[float]:
        for loss in train(training, *rest):
            if training.weights()[0].dtype == torch.float32:
                order.append(training.mode)
            clock[0] += 3.0 if training.mode == "skip" else 2.0
            yield loss

    monkeypatch.setattr(untouched_rows, "epochs", as_long_as_told)
    monkeypatch.setattr("studies.lab.timing.time.perf_counter", lambda: clock[0])
    outcome = untouched_rows.run(job({"rule": "skip"}), ratings)
    assert (outcome.metrics["time"], outcome.seconds) == (1.5, 15.0)
    assert order == ["skip", "dense", "dense", "skip"] * 2 + ["skip", "dense"]


def test_a_run_that_diverges_has_the_losses_before_and_no_measurements(ratings: Ratings, monkeypatch: Any) -> None:
    errors = iter([1.0, math.nan])
    monkeypatch.setattr(untouched_rows, "error", lambda *_: next(errors))
    outcome = outcome_of(untouched_rows.run, job({"rule": "dense"}), ratings)
    assert (outcome.diverged, outcome.metrics) == (True, {})
    assert outcome.curves["valid_loss"] == [1.0]


def test_a_replicate_starts_elsewhere_on_the_same_split(ratings: Ratings, outcomes: dict[str, Outcome]) -> None:
    again = untouched_rows.run(dataclasses.replace(job({"rule": "dense"}), replicate=1), ratings)
    assert again.n_valid == outcomes["dense"].n_valid
    assert again.metrics != outcomes["dense"].metrics
