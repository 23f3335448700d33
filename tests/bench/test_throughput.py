"""Trainings per minute on the whole machine, in miniature."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from torch.multiprocessing.spawn import ProcessException

from bench import throughput
from bench.throughput import Arrangement
from lesson import load_ratings


@pytest.fixture
def load(tmp_path):
    random = np.random.default_rng(0)
    rows = [f"{user},{item},{random.integers(1, 6)}" for user in range(20) for item in range(15)]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,rating", *rows]))
    return partial(load_ratings, tmp_path / "ratings.csv")


@pytest.mark.slow
def test_each_arrangement_has_its_turn(load):
    turns = [Arrangement("dotbias", 2, 1), Arrangement("eager", 1, 2)]
    rates = throughput.take_turns(turns, 1, load, seconds=0.01)
    assert list(rates) == turns
    assert (rates > 0).all(axis=None)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise OSError("no such disk")


def load_unless_first(load, instead, marker):
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return load()
    return instead()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instead", "complaint"),
    [(kill, "process . terminated with signal SIGKILL"), (fail, "no such disk")],
)
def test_a_process_that_dies_is_an_error_and_nobody_waits_for_it(load, instead, complaint, tmp_path):
    load = partial(load_unless_first, load, instead, tmp_path / "marker")
    with pytest.raises(ProcessException, match=complaint):
        throughput.take_turns([Arrangement("dotbias", 2, 1)], 1, load, seconds=0.01)


def test_pytorchs_best_is_that_of_all_rounds_and_the_ratio_is_taken_round_by_round():
    turns = throughput.arrangements(cores=4)
    rates = pd.DataFrame([[100, 1, 2], [90, 4, 3], [120, 1, 3]], columns=pd.MultiIndex.from_tuples(turns))
    assert turns == [("dotbias", 4, 1), ("eager", 4, 1), ("eager", 1, 4)]
    assert "40.0 times as many (from 30.0 to 50.0) as eager PyTorch at its best, 1 × 4" in throughput.summary(rates)


def test_on_one_core_pytorch_has_one_arrangement():
    assert throughput.arrangements(cores=1) == [("dotbias", 1, 1), ("eager", 1, 1)]


def test_no_rounds_are_one_error_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["throughput", "--rounds=0"])
    with pytest.raises(SystemExit, match="2"):
        throughput.main()
    assert "--rounds 0: choose at least one" in capsys.readouterr().err
