from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from lesson.data import Ratings, open_ratings
from studies import wd_sweep
from studies.evidence.provenance import CHECKOUT
from studies.evidence.schema import Contrast, read_summary
from studies.lab.spec import Run
from studies.wd_sweep import STUDY


@pytest.fixture(scope="module")
def ratings(ratings_csv: Path) -> Ratings:
    return open_ratings(ratings_csv)


def job(wd: float, seed: int = 0, replicate: int = 0, lr: float = 5e-3) -> Run:
    settings = {"wd": wd, "lr": lr}
    return Run("wd_sweep", settings, seed, replicate, "data", backend="reference", device="cpu", threads=1, recipe=1)


def seen_by(run: Run, ratings: Ratings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a run starts from: split, initialization, batch order; and its outcome."""
    seen: dict[str, Any] = {}
    make = wd_sweep.collab_learner

    def watched(data: Any, **settings: Any) -> Any:
        learn = make(data, **settings)
        seen["split"] = torch.stack([data.valid.users, data.valid.items])
        seen["initialization"] = torch.cat([table.detach().flatten() for table in learn.model.tables()])
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
    assert none["outcome"].value != much["outcome"].value


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


def test_a_run_that_diverges_has_no_value_but_the_epochs_before(ratings: Ratings) -> None:
    outcome = wd_sweep.run(job(0.1, lr=1e30), ratings)
    assert outcome.value is None
    assert len(outcome.train_loss) == len(outcome.valid_loss) < wd_sweep.EPOCHS


@pytest.mark.parametrize("wd", [-0.1, float("nan"), float("inf")])
def test_what_is_no_weight_decay_is_no_arm(wd: float) -> None:
    with pytest.raises(ValueError, match="is no weight decay"):
        wd_sweep.arm(wd)


def test_arms_that_differ_have_different_names() -> None:
    assert wd_sweep.arm(0.1234567)[0] != wd_sweep.arm(0.1234568)[0]
    assert wd_sweep.arm(-0.0) == wd_sweep.arm(0)


def test_the_study_is_declared_as_its_claims_need() -> None:
    assert list(STUDY.arms) == ["wd=0", "wd=0.001", "wd=0.01", "wd=0.03", "wd=0.1", "wd=0.3", "wd=1"]
    assert (STUDY.baseline, STUDY.primary) == ("wd=0.1", "wd=0.01")
    seeds_and_trials = {name: (profile.seeds, profile.trials) for name, profile in STUDY.profiles.items()}
    assert seeds_and_trials == {"quick": (10, 0), "regular": (20, 16), "full": (40, 16)}


def contrast(arm: str, **differing: Any) -> Contrast:
    fields: dict[str, Any] = {
        "arm": arm,
        "baseline": "wd=0.1",
        "metric": "valid_rmse",
        "difference": 0.03,
        "interval": (0.02, 0.04),
        "interval_corrected": None,
        "n": 10,
        "p": 0.002,
        "p_holm": 0.004,
        "probability_of_improvement": 0.0,
        "skewness": None,
        "verdict": "worse",
    }
    return Contrast(**fields | differing)


def test_claim_48_holds_where_the_default_is_worse_and_47_is_open_where_both_ends_are() -> None:
    arms = [contrast("wd=0"), contrast("wd=0.01"), contrast("wd=1")]
    found = {evidence.claim: evidence for evidence in wd_sweep.evidence(arms, tuned=False, _measures={})}
    assert {claim: evidence.verdict for claim, evidence in found.items()} == {47: "inconclusive", 48: "holds"}
    assert found[48].text.endswith("one rate, 0.005, for both")
    assert wd_sweep.evidence(arms, tuned=True, _measures={})[0].text.endswith("rate retuned for each")
    arms[2] = contrast("wd=1", verdict="better")
    assert {found.claim: found.verdict for found in wd_sweep.evidence(arms, tuned=False, _measures={})}[47] == "fails"
    assert wd_sweep.evidence([contrast("wd=0.3")], tuned=False, _measures={}) == []


def test_what_the_ledger_is_told_names_divergence_only_where_there_was_some() -> None:
    assert wd_sweep.told([contrast("wd=1")]) == "wd=1 against wd=0.1: RMSE +0.0300 [+0.0200, +0.0400]; n = 10"
    assert wd_sweep.told([contrast("wd=1", interval=None, n=1)]) == "wd=1 against wd=0.1: RMSE +0.0300; n = 1"
    diverged = contrast("wd=1", difference=None, interval=None, diverged=(4, 1))
    assert wd_sweep.told([diverged]) == "wd=1 diverged in 4 runs, wd=0.1 in 1; n = 10"


def test_the_command_leaves_results_that_can_be_read(ratings_csv: Path, tmp_path: Path) -> None:
    values = "0.01,1e308"  # the second diverges
    arguments = ["--ratings", str(ratings_csv), "--seeds", "2", "--values", values, "--results", str(tmp_path)]
    command = [sys.executable, "-m", "studies.wd_sweep", *arguments, "--workers", "1"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "preview" in done.stdout
    assert "Warning" not in done.stderr
    folder = tmp_path / "wd_sweep"
    summary = read_summary(folder / "summary.json")
    assert summary.study == "wd_sweep"
    assert summary.data.ratings == 300
    assert summary.provenance.command.startswith("python -m studies.wd_sweep --ratings ")
    assert {arm: figures.settings for arm, figures in summary.arms.items()} == {
        "wd=0.1": {"wd": 0.1, "lr": 0.005},
        "wd=0.01": {"wd": 0.01, "lr": 0.005},
        "wd=1e+308": {"wd": 1e308, "lr": 0.005},
    }
    runs, curves = (pd.read_parquet(folder / f"{name}.parquet") for name in ("runs", "curves"))
    assert list(runs.columns) == [
        *("key", "arm", "kind", "seed", "wd", "lr", "valid_rmse", "diverged", "seconds", "backend", "threads", "commit")
    ]
    assert list(curves.columns) == ["key", "arm", "kind", "seed", "epoch", "train_loss", "valid_loss"]
    assert len(runs) == 8
    assert list(runs.loc[runs["diverged"], "arm"]) == ["wd=1e+308"] * 2
    whole = runs[~runs["diverged"]]
    assert (curves["key"].value_counts()[whole["key"]] == wd_sweep.EPOCHS).all()
    last = curves.groupby("key")["valid_loss"].last() ** 0.5
    pd.testing.assert_series_equal(whole.set_index("key")["valid_rmse"], last.loc[whole["key"]], check_names=False)
