from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lesson.data import Ratings, open_ratings
from studies import wd_sweep
from studies.lab.source import outcome_of
from studies.lab.spec import Run


@pytest.fixture(scope="module")
def ratings(ratings_csv: Path) -> Ratings:
    return open_ratings(ratings_csv)


def job(wd: float, seed: int = 0, replicate: int = 0, lr: float = 5e-3) -> Run:
    return Run("wd_sweep", 1, "small", "checksum", {"wd": wd, "lr": lr}, seed, replicate)


def seen_by(run: Run, ratings: Ratings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a run starts from: split, initialization, batch order; and its outcome."""
    seen: dict[str, Any] = {}
    make = wd_sweep.collab_learner

    def watched(data: Any, *arguments: Any, **settings: Any) -> Any:
        learn = make(data, *arguments, **settings)
        seen["split"] = torch.stack([data.valid.users, data.valid.items])
        seen["initialization"] = torch.cat([table.detach().flatten() for table in learn.model.parameters()])
        seen["order"] = learn._order.get_state()
        return learn

    with monkeypatch.context() as patch:
        patch.setattr(wd_sweep, "collab_learner", watched)
        seen["outcome"] = wd_sweep.run(run, ratings)
    return seen


def same(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {name for name in ("split", "initialization", "order") if torch.equal(one[name], other[name])}


def test_for_a_seed_every_decay_sees_the_same_split_initialization_and_order(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    none, much = (seen_by(job(wd), ratings, monkeypatch) for wd in (0.0, 1.0))
    assert same(none, much) == {"split", "initialization", "order"}
    assert none["outcome"].metrics != much["outcome"].metrics


def test_another_seed_changes_split_initialization_and_order(ratings: Ratings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert same(*(seen_by(job(0.1, seed), ratings, monkeypatch) for seed in (0, 1))) == set()


def test_the_noise_floor_keeps_the_split_and_draws_the_rest_anew(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [seen_by(job(0.1, 0, replicate), ratings, monkeypatch) for replicate in (0, 1)]
    assert same(*twice) == {"split"}


def test_a_second_run_of_one_seed_is_never_another_seeds_first(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = [
        seen_by(job(0.1, seed, replicate), ratings, monkeypatch)["order"] for seed in range(3) for replicate in (0, 1)
    ]
    assert len({bytes(state.tolist()) for state in starts}) == 6


def test_the_error_is_that_of_the_last_epoch(ratings: Ratings) -> None:
    outcome = wd_sweep.run(job(0.1), ratings)
    assert len(outcome.curves["valid_loss"]) == wd_sweep.EPOCHS
    assert outcome.metrics == {"rmse": outcome.curves["valid_loss"][-1] ** 0.5}


def test_a_run_that_diverges_has_no_error_but_the_epochs_before(ratings: Ratings) -> None:
    outcome = outcome_of(wd_sweep.run, job(0.1, lr=1e30), ratings)
    assert (outcome.diverged, outcome.metrics) == (True, {})
    assert len(outcome.curves["train_loss"]) == len(outcome.curves["valid_loss"]) < wd_sweep.EPOCHS
