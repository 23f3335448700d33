"""The benchmarks of growing tables and of a whole large training."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

from bench import movielens_20m, test_movielens_20m, test_scale, training
from bench.harness import PROFILES

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_holds_deferred_against_our_own_dense_steps_at_either_end(profile):
    held = {
        case.rows
        for case in test_scale.cases(profile)
        if (case.implementation, case.baseline, case.batch) == ("native deferred", "native dense", 1024)
    }
    assert min(held) == sum(training.MOVIELENS)
    assert max(held) > 9 * min(held)


@pytest.mark.parametrize("tables", [(3, 7), (7, 3), (11, 11)])
@pytest.mark.parametrize("least", [1, 100])
def test_before_deferred_steps_are_timed_every_row_has_been_read(tables, least):
    users, items, stars = training.every_row(tables, least)
    assert set(users.tolist()) == set(range(tables[0]))
    assert set(items.tolist()) == set(range(tables[1]))
    assert len(stars) >= least


def test_a_warm_epoch_is_in_the_steps_that_fold(monkeypatch):
    made = []
    right = training.fused_trainer
    monkeypatch.setattr(
        training, "fused_trainer", lambda *args, **kwargs: made.append(right(*args, **kwargs)) or made[-1]
    )
    _, epoch = training.warm_epoch("native deferred", 16, (90, 50), steps=7)
    (trainer,) = made
    assert trainer.foldable_from <= trainer.steps_done
    done = trainer.steps_done
    epoch()
    assert trainer.steps_done == done + 7


def test_eager_stops_where_its_schedule_ends():
    ratings = training.drawn_ratings(100, (9, 5))
    short, epoch = training.training("eager", 10, training.constant(3, training.LR, 0.9), (9, 5))
    epoch(ratings)
    long, epoch = training.training("eager", 10, training.constant(10, training.LR, 0.9), (9, 5))
    epoch(ratings)
    assert not torch.equal(short()[0], long()[0])
    with pytest.raises(ValueError, match="an epoch of 10 steps"):
        training.training("native", 10, training.constant(3, training.LR, 0.9), (9, 5))[1](ratings)


@linux
def test_a_peak_of_memory_is_seen_after_it_has_passed_and_forgotten_when_asked():
    before = movielens_20m.forget_peak()
    with mmap.mmap(-1, 80_000_000) as block:  # an array might get memory that earlier tests have left to the process
        block[:: mmap.PAGESIZE] = b"1" * len(range(0, len(block), mmap.PAGESIZE))
    assert 75e6 < movielens_20m.memory()["HWM"] - before < 130e6
    assert movielens_20m.forget_peak() < before + 40e6
    assert movielens_20m.memory()["HWM"] < before + 40e6


@linux
@pytest.mark.parametrize("implementation", ["eager", "native deferred"])
def test_a_whole_training_says_its_steps_its_time_its_memory_and_learns(monkeypatch, implementation):
    monkeypatch.setattr(movielens_20m, "RATINGS", 20_000)
    monkeypatch.setattr(movielens_20m, "HELD_OUT", 2_000)
    monkeypatch.setattr(movielens_20m, "TABLES", (300, 200))
    outcome = movielens_20m.train(implementation, batch=100)
    eager = implementation == "eager"
    assert outcome["steps"] == (movielens_20m.EAGER_STEPS if eager else 5 * 200)
    assert outcome["seconds"] > 0
    assert outcome["memory_bytes"] >= 0
    assert eager or outcome["loss"] < 1  # the drawn ratings' own noise is .9


def test_a_batch_that_cannot_be_is_one_error_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["movielens_20m", "eager", "--batch=0"])
    with pytest.raises(SystemExit, match="2"):
        movielens_20m.main()
    assert "--batch 0: choose a number from 1 to 20,000,000" in capsys.readouterr().err


def test_whole_trainings_are_for_the_full_profile_alone():
    assert [len(test_movielens_20m.cases(profile)) for profile in ("smoke", "default", "full")] == [0, 0, 1]
