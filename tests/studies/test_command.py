"""The command line of the toy study in this process; see test_killed.py for real processes."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner, Result

from lesson import DataError, DivergenceError
from lesson.data import Ratings, open_ratings, split
from lesson.data.catalog import CATALOG
from reports.read import gather
from studies.evidence import provenance, schema
from studies.evidence.ledger import evidence_of
from studies.evidence.outcomes import expected_half_width
from studies.evidence.provenance import source_of
from studies.evidence.schema import Summary, find_summaries, read_summary
from studies.lab import storage
from studies.lab.command import command
from studies.lab.replacing import Extent
from studies.lab.results import covered
from studies.lab.source import Source, open_source, outcome_of, own_options, prepare, unlearnable
from studies.lab.spec import TUNING_SEEDS_FROM, Metric, Outcome, Profile, Range, Run, Study, beats, exceeds
from studies.lab.workers import Finished
from tests.studies import toy
from tests.studies.conftest import Inline

Trained = Callable[[], list[str]]
FILES = ("summary.json", "runs.parquet", "curves.parquet")


class Command:
    """`python -m tests.studies.toy --ratings small.csv`, with workers in this process.

    Attributes:
        study: what is run.
        data: the options that say on which data.
        folder: of all profiles' results on the small ratings.
        custom: of those of other seeds, trials or values.
    """

    def __init__(self, ratings: Path, results: Path) -> None:
        self.study, self.ratings, self.results = toy.STUDY, ratings, results
        self.data = ["--ratings", str(ratings)]
        self.folder = results / "toy" / "small"
        self.custom = self.folder / "custom"

    def __call__(self, *arguments: str) -> Result:
        given = [*self.data, "--results", str(self.results), "--workers", "1", *arguments]
        return CliRunner().invoke(command(self.study), given)

    def done(self, *arguments: str) -> Result:
        """The same, of a command that succeeds."""
        result = self(*arguments)
        assert result.exit_code == 0, result.output
        return result

    def summary(self, profile: str = "custom", data: str = "small") -> Summary:
        return read_summary(self.results / "toy" / data / profile / "summary.json")

    def runs(self, profile: str = "custom") -> pd.DataFrame:
        return pd.read_parquet(self.folder / profile / "runs.parquet")

    def change(self, **fields: Any) -> None:
        """Declare the study otherwise."""
        self.study: Study = dataclasses.replace(self.study, **fields)


@pytest.fixture
def sweep(inline: None, ratings_csv: Path, tmp_path: Path) -> Command:
    return Command(ratings_csv, tmp_path / "results")


def refused(result: Result) -> str:
    """The one line that a command said that cannot be carried out."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith(("toy: ", "toy, ", "note: "))]
    assert line.startswith("error: ")
    return line


def one_line(text: str, start: str) -> str:
    """The line that starts so."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return line


def test_a_sweep_leaves_runs_curves_and_a_summary(sweep: Command) -> None:
    result = sweep.done()
    summary, runs = sweep.summary("quick"), sweep.runs("quick")
    assert list(summary.arms) == ["x=0", "x=1", "x=2"]
    assert [(c.arm, c.difference, c.n) for c in summary.contrasts] == [
        ("x=1", pytest.approx(1), 10),
        ("x=2", pytest.approx(4), 10),
    ]
    (part,) = summary.parts
    assert (part.part, part.outcome, part.reason, part.n) == ("47", "no", "worse by more than m", 10)
    assert (part.estimate, part.interval, summary.preliminary) == (pytest.approx(-1), "corrected t", True)
    assert (summary.data.key, summary.data.size, summary.own) == (
        "small",
        {"ratings": 300, "users": 20, "items": 30},
        True,
    )
    assert summary.noise_floor is not None
    assert summary.provenance.trials == {"COMPLETE": 40}
    assert summary.provenance.seconds == 40 * 0.25
    assert runs["key"].is_unique
    assert list(runs) == [
        *("key", "arm", "kind", "seed", "data", "setting.x", "setting.lr", "metric.rmse", "diverged", "seconds"),
        *("n_train", "n_valid", "device", "threads", "commit"),
    ]
    assert runs.groupby(["kind", "arm"]).size().to_dict() == {
        ("run", "x=0"): 10,
        ("run", "x=1"): 10,
        ("run", "x=2"): 10,
        ("repeat", "x=0"): 10,
    }
    curves = pd.read_parquet(sweep.folder / "quick" / "curves.parquet")
    assert list(curves) == ["key", "arm", "kind", "seed", "x", "curve", "value"]
    assert curves.groupby("curve")["x"].value_counts().to_dict() == {
        (curve, place): len(runs) for curve in ("train_loss", "valid_loss") for place in (1, 2)
    }
    last = curves[(curves["curve"] == "train_loss") & (curves["x"] == 2)].set_index("key")["value"]
    assert last.to_dict() == runs.set_index("key")["metric.rmse"].to_dict()
    assert "claim 47: x=1 beats x=0: no, worse by more than the margin: -1 [-1, -1]" in result.stdout
    assert str(sweep.folder / "quick") in result.stdout


def test_the_same_storage_gives_the_same_bytes(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: ("0123456789ab", False))
    files = [sweep.custom / name for name in FILES]
    sweep("--seeds", "3")
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    sweep.done("--seeds", "3")
    assert [path.read_bytes() for path in files] == before


def test_runs_of_a_dirty_tree_say_so_for_ever(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: ("0123456789ab", True))
    sweep("--seeds", "1")
    monkeypatch.setattr(provenance, "commit", lambda: ("0123456789ab", False))
    sweep("--seeds", "2")
    assert sweep.summary().provenance.dirty
    assert sweep.summary().provenance.commits == ["0123456789ab"]
    assert set(sweep.runs()["commit"]) == {"0123456789ab", "0123456789ab-dirty"}


def test_an_export_rebuilds_the_files_and_trains_nothing(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "3")
    before, n_trained = sweep.runs(), len(trained())
    (sweep.custom / "runs.parquet").unlink()
    sweep.done("--seeds", "4", "--export")
    pd.testing.assert_frame_equal(sweep.runs(), before)
    assert sweep.summary().notes[-1] == "Missing: 4 of 16 runs."
    assert len(trained()) == n_trained


def test_an_export_takes_no_untuned_run_for_a_tuned_one(sweep: Command) -> None:
    sweep()  # leaves runs with the default rate
    sweep("--profile", "regular", "--seeds", "2")
    sweep.done("--profile", "regular", "--export")
    runs = sweep.runs("regular")
    assert set(runs.loc[runs["arm"] == "x=1", "seed"]) - {*range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + 4)} == {0, 1}
    assert sweep.summary("regular").arms["x=1"].n == 2
    assert "Missing: " in sweep.summary("regular").notes[-1]


def test_more_seeds_arms_and_profiles_reuse_what_is_done(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "2")
    assert len(trained()) == 8
    sweep("--seeds", "3", "--values", "0,1,2,5")
    assert len(trained()) == 8 + 4 + 3
    (sweep.custom / "summary.json").unlink()
    sweep.done("--profile", "regular", "--seeds", "2")
    runs = sweep.runs()
    assert (runs["kind"] == "tuning").sum() == 2 * 3 * 4 * 2  # seeds, arms, trials, tuning seeds of each seed
    assert len(set(trained())) == len(trained())
    n_trained = len(trained())
    sweep.done("--profile", "regular", "--seeds", "3", "--trials", "6")
    tuning = 2 * 3 * 2 * 2 + 3 * 6 * 2  # two more trials of two seeds; all of a third
    assert tuning <= len(trained()) - n_trained <= tuning + 3 * 5  # and what is confirmed


def test_values_are_the_same_however_they_are_written(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "1", "--values", "1,2")
    sweep("--seeds", "1", "--values", "1.0,2e0,2")
    sweep.change(arms={f"x={x}": {"x": x, "lr": 0.1} for x in (0, 1, 2)})
    sweep("--seeds", "1")
    assert len(trained()) == 4
    assert list(sweep.summary().arms) == ["x=0", "x=1", "x=2"]


def test_other_seeds_trials_and_values_are_a_result_of_their_own(sweep: Command) -> None:
    sweep.change(profiles={"quick": Profile(2, 0, "nothing"), "regular": Profile(3, 2, "nothing")})
    sweep.done()
    before = files(sweep.folder / "quick")
    for arguments in (
        ["--seeds", "3"],
        ["--trials", "2"],
        ["--values", "1,5"],
        ["--profile", "regular", "--seeds", "2"],
    ):
        sweep.done(*arguments, "--fresh")
        assert sweep.summary().profile == "custom"
    assert files(sweep.folder / "quick") == before
    sweep.done("--seeds", "2", "--trials", "0")  # which are the profile's own
    assert sorted(path.name for path in sweep.folder.iterdir() if path.is_dir()) == ["custom", "quick"]


def test_runs_whose_rate_is_not_chosen_yet_are_missing(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        if job.seed >= TUNING_SEEDS_FROM + toy.STUDY.tuning_seeds:
            raise ValueError("the second seed's tuning fails")
        return toy.run(job)

    sweep.change(run=run)
    sweep("--seeds", "2", "--trials", "2")
    # Of 24 of tuning, 6 that confirm, 2 repeats and 2 with the default rate, the second seed's but the last.
    assert "Missing: 16 of 34 runs." in sweep.summary().notes


def interrupted(job: Run, data: object) -> Outcome:
    """Ctrl-C in the first run."""
    raise KeyboardInterrupt


def test_quick_and_regular_both_stay_and_every_look_is_counted(sweep: Command) -> None:
    sweep.change(profiles={"quick": Profile(2, 0, "nothing"), "regular": Profile(3, 2, "nothing")})
    for _ in range(2):
        sweep.done()
    assert sweep.summary("quick").looks == 1  # the same runs again show nothing new
    sweep.done("--profile", "regular")
    assert (sweep.summary("regular").looks, sweep.summary("quick").looks) == (2, 1)
    sweep.done("--seeds", "4")
    assert sweep.summary().looks == 3
    sweep.change(run=interrupted)
    assert sweep("--seeds", "5", "--fresh").exit_code == 130  # which sets aside what was seen, but nobody forgets it
    sweep.change(run=toy.run)
    sweep.done("--seeds", "5")
    assert sweep.summary().looks == 4


def test_what_another_command_shows_while_runs_are_made_is_a_look_before(sweep: Command, tmp_path: Path) -> None:
    sweep("--seeds", "3", "--results", str(tmp_path / "other"))
    theirs = (tmp_path / "other" / "toy" / "small" / "custom" / "summary.json").read_bytes()

    def run(job: Run, data: object) -> Outcome:
        (sweep.folder / "regular").mkdir(parents=True, exist_ok=True)
        (sweep.folder / "regular" / "summary.json").write_bytes(theirs)
        return toy.run(job)

    sweep.change(run=run)
    sweep.done("--seeds", "2")
    assert sweep.summary().looks == 2


def test_a_part_that_is_changed_after_a_look_is_marked_and_keeps_its_first_digest(sweep: Command) -> None:
    sweep.done()
    first = sweep.summary("quick").parts[0]
    sweep.change(parts=(beats("47", "x=1", "x=0", by=True), beats("", "x=1", "x=2")))
    sweep.done("--seeds", "3")
    found = sweep.summary().parts
    assert [part.changed for part in (first, *found)] == [False, True, True]
    assert found[0].declared == first.declared
    sweep.done("--fresh")
    assert [part.changed for part in sweep.summary("quick").parts] == [True, True]


def test_the_quick_profile_says_how_wide_the_regular_ones_interval_will_be(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        """The arms' noise is their own, so that their differences spread."""
        return dataclasses.replace(
            toy.run(job), metrics={"rmse": toy.run(dataclasses.replace(job, replicate=int(job["x"]))).metrics["rmse"]}
        )

    sweep.change(run=run)
    told = one_line(sweep.done().stdout, "claim 47")
    values = sweep.runs("quick").query("kind == 'run'").pivot_table("metric.rmse", "seed", "arm")
    width = expected_half_width((values["x=1"] - values["x=0"]).std(), 12, 10 / 90)
    assert sweep.summary("quick").parts[0].expected_half_width == pytest.approx(width)
    assert told.endswith(f"the regular profile's interval will reach about {width:.2g} to each side")
    assert "regular profile" not in sweep.done("--seeds", "11").stdout


def best_rate(seed: int) -> float:
    """What the test of tuning makes the best rate for a confirming seed."""
    return 0.02 if seed % 2 else 0.5


def tuned_by_seed(job: Run, data: object) -> Outcome:
    """A run whose best rate goes by the seed that it tunes for."""
    best = best_rate((job.seed - TUNING_SEEDS_FROM) // 2)
    return Outcome({"rmse": job["x"] + abs(math.log(job["lr"] / best))}, n_train=90, n_valid=10)


def test_each_seed_tunes_for_itself_on_seeds_of_its_own(sweep: Command) -> None:
    sweep.change(run=tuned_by_seed)
    sweep.done("--seeds", "4", "--trials", "4")
    summary, runs = sweep.summary(), sweep.runs()
    tuning, confirmed = runs[runs["kind"] == "tuning"], runs[runs["kind"] == "run"]
    assert sorted(tuning["seed"].unique()) == list(range(TUNING_SEEDS_FROM, TUNING_SEEDS_FROM + 4 * 2))
    tried = tuning["setting.lr"].unique()
    assert len(tried) == 4
    for row in confirmed[confirmed["arm"].isin(sweep.study.arms)].itertuples():
        assert row[confirmed.columns.get_loc("setting.lr") + 1] == min(
            tried, key=lambda lr: abs(math.log(lr / best_rate(row.seed)))
        )
    repeat = runs[runs["kind"] == "repeat"].set_index("seed")["setting.lr"]
    assert repeat.to_dict() == confirmed[confirmed["arm"] == "x=0"].set_index("seed")["setting.lr"].to_dict()
    assert repeat.nunique() == 2
    assert summary.arms["x=1"].settings == {"x": 1.0}  # the rate is each seed's own
    assert summary.arms["x=0, lr as by default"].settings == {"x": 0.0, "lr": 0.1}
    assert set(confirmed.loc[confirmed["arm"] == "x=0, lr as by default", "setting.lr"]) == {0.1}


def test_a_summary_says_how_each_arm_was_tuned(sweep: Command) -> None:
    sweep.done("--seeds", "2", "--trials", "4")
    tuning = sweep.runs().query("kind == 'tuning'")
    found = sweep.summary().tuning
    assert [one.arm for one in found] == ["x=0", "x=1", "x=2"]
    for one in found:
        of_arm = tuning[tuning["arm"] == one.arm]
        assert one.chosen == {"lr": of_arm["setting.lr"].min()}  # of the toy the lowest is the best
        assert one.on_edge == ["lr"]
        means = of_arm.groupby("setting.lr")["metric.rmse"].mean()
        assert {trial["lr"]: trial["rmse"] for trial in one.trials} == pytest.approx(means.to_dict())
        assert one.trials[0]["lr"] == 0.1
        assert one.best_of_k[-1] == pytest.approx(means.drop(0.1).min())


def test_an_arm_is_not_tuned_if_a_seed_tried_the_default_alone(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        second = job.seed >= TUNING_SEEDS_FROM + toy.STUDY.tuning_seeds
        if second and job["x"] == 1 and job["lr"] != 0.1:
            raise ValueError("only the default rate works")
        return toy.run(job)

    sweep.change(run=run)
    assert sweep("--seeds", "2", "--trials", "3").exit_code == 1
    summary = sweep.summary()
    assert {tuning.arm: (len(tuning.trials), tuning.fewest) for tuning in summary.tuning} == {
        "x=0": (3, 3),
        "x=1": (3, 1),
        "x=2": (3, 3),
    }
    assert [one.tuned for one in evidence_of(summary)] == [False]


def test_where_higher_is_better_the_highest_is_chosen(sweep: Command) -> None:
    sweep.change(metrics={"rmse": Metric("reward", better="higher", smallest=0.01)})
    sweep.done("--profile", "regular", "--seeds", "2")
    rates = sweep.runs().query("kind == 'tuning'")["setting.lr"]
    assert sweep.summary().tuning[0].chosen == {"lr": rates.max()}
    assert sweep.summary().parts[0].estimate == pytest.approx(1)


def test_several_settings_are_tuned_together_and_whole_numbers_stay_whole(sweep: Command) -> None:
    seen: list[Any] = []

    def run(job: Run, data: object) -> Outcome:
        seen.append(job["n"])
        return Outcome(
            {"rmse": job["x"] + abs(math.log(job["lr"] / 0.3)) + abs(math.log(job["n"] / 30))}, n_train=90, n_valid=10
        )

    arms = {arm: {**settings, "n": 10} for arm, settings in toy.STUDY.arms.items()}
    sweep.change(run=run, arms=arms, tuned={"lr": Range(0.01, 1), "n": Range(2, 200)})
    result = sweep.done("--seeds", "2", "--trials", "9")
    assert {type(n) for n in seen} == {int}
    summary, runs = sweep.summary(), sweep.runs()
    tried = runs.query("kind == 'tuning'")[["setting.lr", "setting.n"]].drop_duplicates()
    lr, n = min(
        tried.itertuples(index=False), key=lambda pair: abs(math.log(pair[0] / 0.3)) + abs(math.log(pair[1] / 30))
    )
    assert summary.tuning[1].chosen == {"lr": lr, "n": n}
    chosen = runs[(runs["arm"] == "x=1") & (runs["kind"] == "run")]
    assert set(zip(chosen["setting.lr"], chosen["setting.n"], strict=True)) == {(lr, n)}
    assert summary.arms["x=0, lr and n as by default"].settings == {"x": 0.0, "lr": 0.1, "n": 10}
    assert "toy, tuning lr and n: " in result.stderr


def diverging(x: float) -> Callable[[Run, object], Outcome]:
    """The toy's run, in which the arm of a value always diverges."""

    def run(job: Run, data: object) -> Outcome:
        if job["x"] == x:
            raise DivergenceError("as told")
        return toy.run(job)

    return run


def test_an_arm_that_diverges_at_every_rate_is_shown_as_that(sweep: Command) -> None:
    sweep.change(run=diverging(2), parts=(beats("", "x=1", "x=2"), beats("", "x=2", "x=1")))
    result = sweep.done("--seeds", "8", "--trials", "2")
    summary = sweep.summary()
    assert (summary.arms["x=2"].metrics["rmse"].mean, summary.arms["x=2"].diverged) == (None, 8)
    assert [(part.outcome, part.diverged, part.estimate) for part in summary.parts] == [
        ("yes", 8, None),
        ("no", 8, None),
    ]
    assert one_line(result.stdout, "x=2  ").endswith("n = 8, 8 diverged")
    assert {trial["rmse"] for trial in summary.tuning[2].trials} == {None}


def test_where_every_run_diverges_the_summary_says_so_and_nothing_is_decided(sweep: Command) -> None:
    sweep.change(
        arms={name: settings | {"lr": 2.0} for name, settings in sweep.study.arms.items()},
        parts=(beats("47", "x=1", "x=0"), exceeds("64", "x=1", 0.85)),
    )
    result = sweep.done()
    summary = sweep.summary("quick")
    assert {arm.diverged for arm in summary.arms.values()} == {10}
    assert [(part.outcome, part.n, part.dropped) for part in summary.parts] == [
        ("inconclusive", 0, 10),
        ("no", 10, 0),
    ]
    assert one_line(result.stdout, "x=0  ").endswith("n = 10, 10 diverged")


def failing(**settings: float) -> Callable[[Run, object], Outcome]:
    """The toy's run, which fails with these settings unless it tunes."""

    def run(job: Run, data: object) -> Outcome:
        if not job.tuning and settings.items() <= job.settings.items():
            raise ValueError("as told")
        return toy.run(job)

    return run


def test_an_arm_of_no_part_and_the_baseline_may_fail_after_they_were_tuned(sweep: Command) -> None:
    sweep.change(run=failing(x=2), parts=(beats("", "x=1", "x=0"),))
    assert sweep("--trials", "2", "--seeds", "8").exit_code == 1
    summary = sweep.summary()
    assert "x=2" not in summary.arms
    assert {tuning.arm for tuning in summary.tuning} == {"x=0", "x=1"}
    sweep.change(run=failing(x=0), parts=(beats("", "x=1", "x=2"),))
    assert sweep("--trials", "2", "--seeds", "8", "--fresh").exit_code == 1
    summary = sweep.summary()
    assert (summary.baseline, summary.contrasts, summary.noise_floor) == (None, [], None)
    assert list(summary.arms) == ["x=1", "x=2"]
    assert [part.outcome for part in summary.parts] == ["yes"]
    sweep.change(run=toy.run)
    sweep.done("--trials", "2", "--seeds", "8")
    assert sweep.summary().baseline == "x=0"


def test_a_result_whose_arm_lost_runs_is_as_preliminary_as_what_is_left(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        if job["x"] == 1 and job.seed >= 9:
            raise ValueError("as told")
        return toy.run(job)

    sweep.change(profiles={"regular": Profile(seeds=20, trials=0, cost="nothing")})
    sweep.done()
    assert not sweep.summary("regular").preliminary
    sweep.change(run=run)
    assert sweep("--fresh").exit_code == 1
    assert sweep.summary("regular").preliminary


def test_values_that_leave_out_the_answers_arms_ask_what_the_first_part_left_says(sweep: Command) -> None:
    sweep.change(parts=(beats("47", "x=1", "x=0"), beats("48", "x=2", "x=0", says="two beats none")))
    sweep.done("--values", "1,2")
    assert sweep.summary().question == "Is 1 better than 0?"
    sweep.done("--values", "2,3", "--fresh")
    assert sweep.summary().question == "Does this hold: two beats none?"
    assert not any(part.changed for part in sweep.summary().parts)
    sweep.done()
    assert [part.changed for part in sweep.summary("quick").parts] == [False, False]


def test_values_of_a_setting_of_whole_numbers_are_whole(sweep: Command) -> None:
    sweep.change(arms={f"x={x}": {"x": x, "lr": 0.1} for x in range(3)})
    line = refused(sweep("--values", "1,2.5"))
    assert line == "error: --values 1,2.5: 2.5 is not a whole number; write numbers separated by commas"
    assert "such as 1,2." in " ".join(sweep("--help").stdout.split())
    sweep.change(arms={f"x={x:g}": {"x": x, "lr": 0.1} for x in (0, 0.5, 1)})
    sweep.done("--values", "0.25,1", "--seeds", "1")
    assert list(sweep.summary().arms) == ["x=0", "x=0.25", "x=1"]


def test_curves_stand_at_the_places_that_the_study_declares(sweep: Command) -> None:
    sweep.change(x="length", places=(5, 20))
    sweep.done()
    curves = pd.read_parquet(sweep.folder / "quick" / "curves.parquet")
    assert curves["x"].unique().tolist() == [5, 20]


def test_times_on_another_processor_are_taken_again_and_other_runs_are_used_with_a_note(
    sweep: Command, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.done("--seeds", "2")
    made = len(trained())
    monkeypatch.setattr("studies.evidence.provenance.cpu", lambda: "another")
    sweep.done("--seeds", "2")
    assert len(trained()) == made
    assert sweep.summary().notes[-1].startswith(f"Of {made} runs, other processors made {made} on ")
    sweep.change(alone=True)
    sweep.done("--seeds", "2")
    assert len(trained()) == 2 * made
    assert "other processors" not in "".join(sweep.summary().notes)
    line = refused(sweep("--storage", "sqlite:///x.db"))
    assert line == "error: --storage: toy measures time, which belongs to one machine: leave it out"


def test_a_part_whose_only_arm_always_diverges_is_decided_by_that(sweep: Command) -> None:
    sweep.change(run=diverging(1), parts=(exceeds("64", "x=1", 0.85), beats("47", "x=1", "x=0")))
    sweep.done()
    alone, against = sweep.summary("quick").parts
    assert (alone.outcome, alone.diverged) == ("no", 10)
    assert (against.outcome, against.diverged) == ("no", 10)


def test_a_missed_target_and_a_divergence_are_distinguished(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        if job["x"] == 1 and job.seed < 2:
            raise DivergenceError("as told")
        if job["x"] == 1 and job.seed < 5:
            return dataclasses.replace(toy.run(job), metrics={"rmse": math.inf})
        return toy.run(job)

    sweep.change(run=run)
    result = sweep.done()
    arm = sweep.summary("quick").arms["x=1"]
    assert (arm.n, arm.diverged, arm.missed, arm.metrics["rmse"].n) == (10, 2, 3, 5)
    (part,) = sweep.summary("quick").parts
    assert (part.n, part.diverged, part.missed, part.interval) == (10, 2, 3, "corrected median")
    assert one_line(result.stdout, "x=1  ").endswith("n = 10, 2 diverged, 3 missed")
    runs = sweep.runs("quick").query("arm == 'x=1'")
    assert runs.loc[runs["metric.rmse"].isna(), "diverged"].tolist() == [True] * 2 + [False] * 3
    assert runs["metric.rmse"].max() < math.inf


def test_data_with_nothing_to_measure_are_neither_missed_nor_diverged(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        rare = None if job.seed == 0 else job["x"]
        return dataclasses.replace(toy.run(job), metrics={**toy.run(job).metrics, "rare": rare})

    rare = Metric("rare", better="lower", smallest=0.1)
    sweep.change(run=run, metrics=toy.STUDY.metrics | {"rare": rare}, parts=(beats("", "x=1", "x=0", metric="rare"),))
    sweep.done()
    summary = sweep.summary("quick")
    (part,) = summary.parts
    assert (part.n, part.missed, part.dropped, summary.arms["x=1"].missed) == (9, 0, 0, 0)
    assert summary.arms["x=1"].metrics["rare"].n == 9
    assert (summary.measures["rare"].arms["x=1"].difference, summary.measures["rare"].arms["x=1"].n) == (1, 9)


def test_what_diverges_keeps_the_epochs_before_and_its_time() -> None:
    outcome = outcome_of(toy.run, dataclasses.replace(toy.planned(3), settings={"x": 0.0, "lr": 2.0}), None)
    assert (outcome.diverged, outcome.metrics) == (True, {})
    assert {name: len(curve) for name, curve in outcome.curves.items()} == {"train_loss": 1, "valid_loss": 1}
    assert outcome.seconds > 0


def test_each_arm_has_the_rows_of_its_own_and_the_fewest_decide_how_splits_overlap(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        rows = {0: 90, 1: 45, 2: 10}[job["x"]]
        spread = 0.1 * job["x"] * (job.seed % 3)
        return Outcome({"rmse": job["x"] + spread}, n_train=rows, n_valid=10)

    sweep.change(run=run, parts=(beats("47", "x=1", "x=0"),))
    sweep.done()
    summary = sweep.summary("quick")
    assert {arm: (found.n_train, found.n_valid) for arm, found in summary.arms.items()} == {
        "x=0": (90, 10),
        "x=1": (45, 10),
        "x=2": (10, 10),
    }
    (part,) = summary.parts
    gap = pd.Series([1 + 0.1 * (seed % 3) for seed in range(10)])
    assert part.high is not None
    assert part.low is not None
    assert (part.high - part.low) / 2 == pytest.approx(expected_half_width(gap.std(), 10, 10 / 45))


def test_a_study_whose_seeds_draw_their_data_afresh_needs_no_rows_and_says_so(sweep: Command) -> None:
    sweep.change(resplits=False, run=lambda job, data: Outcome({"rmse": job["x"] + 0.1 * (job.seed % 2)}))
    sweep.done()
    summary = sweep.summary("quick")
    assert (summary.parts[0].interval, summary.arms["x=1"].n_train) == ("t", None)
    assert summary.limits[0] == "The result is for small, re-seeded."
    assert summary.provenance.seconds > 0  # where a run does not say what it trained, all of it counts


def test_a_study_without_a_baseline_compares_nothing_and_has_no_noise_floor(sweep: Command) -> None:
    sweep.change(baseline=None, parts=(exceeds("64", "x=0", 2.0), exceeds("", "x=2", 2.0)))
    result = sweep.done()
    summary, runs = sweep.summary("quick"), sweep.runs("quick")
    assert (summary.baseline, summary.noise_floor, summary.contrasts, summary.measures) == (None, None, [], {})
    assert [part.outcome for part in summary.parts] == ["yes", "no"]
    assert set(runs["kind"]) == {"run"}
    assert "claim 64: x=0 is better than 2: yes" in result.stdout
    assert "baseline" not in sweep("--help").stdout
    sweep.done("--profile", "regular", "--seeds", "2")
    assert list(sweep.summary().arms) == ["x=0", "x=1", "x=2"]
    sweep.done("--seeds", "2", "--values", "3,4", "--fresh")
    assert sweep.summary().question == "Is x=4 better than x=3?"
    assert list(sweep.summary().arms) == ["x=3", "x=4"]


def test_a_study_without_parts_describes(sweep: Command) -> None:
    sweep.change(parts=())
    sweep.done()
    assert sweep.summary("quick").parts == []
    assert [contrast.arm for contrast in sweep.summary("quick").contrasts] == ["x=1", "x=2"]


def test_what_takes_times_is_run_alone(sweep: Command, trained: Trained) -> None:
    sweep.change(alone=True)
    line = refused(sweep("--workers", "2"))
    assert line == "error: --workers 2: toy measures time, so it makes one run at a time"
    assert trained() == []
    sweep.done("--seeds", "1")
    result = CliRunner().invoke(command(sweep.study), [*sweep.data, "--results", str(sweep.results), "--seeds", "2"])
    assert result.exit_code == 0
    assert sweep.summary().provenance.workers == 1
    assert sweep.summary().timed
    assert "--workers" not in sweep("--help").stdout


def test_runs_that_only_a_cpu_can_make_are_refused_a_gpu(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    sweep.change(cpu_only=True)
    assert refused(sweep("--device", "cuda")) == "error: --device cuda: toy runs only on a CPU"
    assert "--device" not in sweep("--help").stdout


@pytest.fixture
def catalog(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The toy study on two data sets of the catalog, one of which the small ratings stand for."""
    entry = CATALOG["movielens"]._replace(open=lambda: open_ratings(sweep.ratings))
    monkeypatch.setitem(CATALOG, "movielens", entry)
    sweep.change(data=("movielens", "made"))
    sweep.data = []
    return sweep


def test_several_data_sets_are_run_one_after_the_other_each_a_result_of_its_own(
    catalog: Command, trained: Trained
) -> None:
    result = catalog.done("--seeds", "2", "--data", "movielens,made")
    paths, _ = find_summaries(catalog.results)
    assert [str(path.relative_to(catalog.results)) for path in paths] == [
        "toy/made/custom/summary.json",
        "toy/movielens/custom/summary.json",
    ]
    made, movielens = map(read_summary, paths)
    assert [(summary.data.key, summary.own, summary.looks) for summary in (movielens, made)] == [
        ("movielens", False, 1),
        ("made", False, 1),
    ]
    assert len(set(trained())) == len(trained()) == 2 * 8
    assert ("toy, movielens: 0 of 8 runs" in result.stderr, "toy, made: 0 of 8 runs" in result.stderr) == (True, True)
    assert result.stdout.count("Is 1 better than 0?") == 2


def test_nothing_runs_where_the_result_on_one_of_several_data_sets_cannot_be_written(
    catalog: Command, trained: Trained
) -> None:
    (catalog.results / "toy" / "made" / "custom" / "runs.parquet").mkdir(parents=True)
    assert "runs.parquet is not a study's table" in refused(catalog("--seeds", "2", "--profile", "regular"))
    assert trained() == []


def test_values_of_a_study_whose_first_metric_cannot_be_judged_are_one_line(sweep: Command) -> None:
    metrics = {"rmse": Metric("RMSE"), "score": toy.STUDY.metrics["rmse"]}
    part = dataclasses.replace(toy.STUDY.parts[0], metric="score")
    sweep.change(metrics=metrics, parts=(part,))
    assert "--values 5: study toy: part '" in refused(sweep("--values", "5"))


def test_a_quick_look_is_at_the_first_data_set_alone(catalog: Command) -> None:
    catalog.done("--seeds", "1")
    assert [path.name for path in (catalog.results / "toy").iterdir()] == ["movielens"]
    assert "[default: movielens if quick, else all]" in " ".join(catalog("--help").stdout.split())
    assert "quick: 10 seeds, on movielens alone, nothing" in catalog.study.costs()


def test_some_of_the_data_sets_are_named_and_others_refused(catalog: Command, trained: Trained) -> None:
    result = catalog.done("--seeds", "1", "--data", "made, made")
    assert result.stdout.count("Is 1 better than 0?") == 1
    assert [path.name for path in (catalog.results / "toy").iterdir()] == ["made"]
    assert "--data digits: toy has movielens, made" in refused(catalog("--data", "made,digits"))
    assert "choose one" in refused(catalog("--data", "made", "--ratings", str(catalog.ratings)))
    assert len(trained()) == 4
    assert "--data" in catalog("--help").stdout
    catalog.change(data=("movielens",))
    assert "--data" not in catalog("--help").stdout


def test_ones_own_data_take_the_place_of_all_others(catalog: Command) -> None:
    catalog.done("--seeds", "1", "--ratings", str(catalog.ratings))
    assert [path.name for path in (catalog.results / "toy").iterdir()] == ["small"]
    assert catalog.summary().own


def test_ones_own_file_that_is_called_as_a_data_set_is_kept_apart_from_it(catalog: Command, tmp_path: Path) -> None:
    path = tmp_path / "movielens.csv"
    path.write_bytes(catalog.ratings.read_bytes())
    catalog.done("--seeds", "1", "--ratings", str(path))
    assert [path.name for path in (catalog.results / "toy").iterdir()] == ["own movielens"]


def test_data_that_stand_in_for_others_say_so_and_ones_own_do_not(catalog: Command) -> None:
    catalog.change(data=("movielens",), stand_in={"movielens": "300 of its ratings"})
    catalog.done("--seeds", "1")
    there = catalog.summary(data="movielens")
    assert there.protocol == "stand-in"
    assert "The data is 300 of its ratings: a stand-in neither proves nor refutes a claim." in there.limits
    catalog.done("--seeds", "1", "--ratings", str(catalog.ratings))
    assert catalog.summary().protocol == "as stated"
    assert "stand-in" not in " ".join(catalog.summary().limits)


def test_where_nothing_was_tuned_and_could_have_been_it_says_so(sweep: Command) -> None:
    sweep.change(names={"lr": "learning rate"}, limits=("A toy.",))
    sweep.done("--seeds", "1")
    said = "Every arm uses the default learning rate; the regular profile retunes it for each arm."
    assert sweep.summary().limits == ["The result is for small, re-split and re-seeded.", "A toy.", said]
    sweep.done("--seeds", "1", "--trials", "2")
    assert said not in sweep.summary().limits


def test_one_seed_gives_no_verdict_and_does_not_count_as_diverged(sweep: Command) -> None:
    result = sweep.done("--seeds", "1")
    assert "inconclusive, too few seeds" in result.stdout
    assert "diverged" not in result.stdout


def test_failed_runs_are_left_out_reported_and_end_with_status_1(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        if job.seed == 1:
            raise ArithmeticError("seed 1 is unlucky\x1b[2J")
        return toy.run(job)

    sweep.change(run=run)
    result = sweep("--seeds", "3")
    assert result.exit_code == 1
    assert "left out 4 runs that failed; the first:" in result.stderr
    assert r"ArithmeticError: seed 1 is unlucky\x1b[2J" in result.stderr
    assert sweep.summary().provenance.trials == {"COMPLETE": 8, "FAIL": 4}
    assert sweep.summary().notes[-1] == "Missing: 4 of 12 runs."
    sweep.change(run=toy.run)
    sweep.done("--seeds", "3")


def test_runs_that_exceeded_their_limit_are_named_in_the_summary(
    sweep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []

    def wait(pool: Inline, seconds: float, limit: float) -> Iterator[Finished]:
        limits.append(limit)
        for finished in ended(pool, seconds, limit):
            late = finished.job[1].seed == 1 and finished.job[1]["x"] == 2
            yield dataclasses.replace(finished, how="late", result="ended after 7 seconds") if late else finished

    ended = Inline.wait
    with monkeypatch.context() as patch:
        patch.setattr(Inline, "wait", wait)
        result = sweep("--seeds", "2", "--timeout", "7")
    assert result.exit_code == 1
    assert set(limits) == {7}
    assert result.stderr.splitlines()[-1] == "toy, x 2.0, lr 0.1, seed 1: ended after 7 seconds"
    assert sweep.summary().provenance.trials == {"COMPLETE": 7, "TIMED OUT": 1}
    assert sweep.summary().notes[-2:] == [
        "Missing: 1 of 8 runs.",
        "Ended because they exceeded their time limit: 1 run, such as toy, x 2.0, lr 0.1, seed 1.",
    ]
    sweep.done("--seeds", "2")
    assert sweep.summary().provenance.trials == {"COMPLETE": 8, "TIMED OUT": 1}
    assert not any("time limit" in note for note in sweep.summary().notes)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_a_limit_that_is_none_is_refused(sweep: Command, text: str) -> None:
    result = sweep("--timeout", text)
    assert result.exit_code == 2
    assert "timeout" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_arm_of_the_answer_that_never_finishes_is_one_line_and_leaves_no_summary(sweep: Command) -> None:
    def run(job: Run, data: object) -> Outcome:
        if job["x"] == 0:
            raise ArithmeticError("no baseline today")
        return toy.run(job)

    sweep.change(run=run)
    result = sweep("--seeds", "2")
    assert result.exit_code == 2
    assert "error: toy, small: no run of x=0 finished: ArithmeticError: no baseline today" in result.stderr
    assert not (sweep.custom / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--profile nonsense", "--profile nonsense: there are quick, regular"),
        ("--values a,b", "could not convert string to float: 'a'"),
        ("--values=", "could not convert string to float"),
        ("--values 0", "one arm has nothing to be compared with"),
        ("--values 0,0.0", "one arm has nothing to be compared with"),
        ("--device nonsense", "--device nonsense: "),
        ("--ratings /no/such/file.csv", "/no/such/file.csv: cannot be read"),
        ("--device mps", "--device mps: choose cpu, or cuda"),
        ("--device cpu:1", "--device cpu:1: choose cpu, or cuda"),
        ("--device cuda:9", "--device cuda:9: torch sees "),
        ("--values 0,05", "--values 0,05: is 05 half of a decimal? Write 0.05"),
        ("--values 1,007", "is 007 half of a decimal? Write 1.007"),
        ("--values 007", "is 007 half of a decimal? Write 0.7"),
        ("--values 0,-05", "is -05 half of a decimal?"),
        ("--values nan", "nan is not a finite number"),
        ("--values 1e999", "1e999 is not a finite number"),
        ("--profile regular --trials 1", "--trials 1: one trial is the default alone"),
        ("--storage nonsense", "storage nonsense: cannot be opened"),
        ("--storage sqlite:///", "loses all runs when the command ends"),
        ("--results=", "--results: the path is empty"),
        ("--user who", "no user column"),
        ("--sep ;", "user"),
        ("--split sideways", "random, time or user"),
        ("--split time", "no time column"),
        ("--encoding nonsense", "there is no such encoding"),
        ("--ratings=", "--ratings: the path is empty"),
        ("--storage=", "--storage: the URL is empty"),
        ("--export", "there are no runs to export"),
        ("--fresh --export", "--export needs the runs that --fresh sets aside"),
        ("--fresh --storage sqlite:///x.db", "--fresh works on a file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_touches_nothing(sweep: Command, arguments: str, told: str) -> None:
    before = sorted(sweep.results.rglob("*"))
    assert told in refused(sweep(*arguments.split()))
    assert [path for path in sorted(sweep.results.rglob("*")) if path.is_file()] == before


Make = Callable[[Path], object]


def files(folder: Path) -> dict[str, bytes]:
    """What stands in a folder, but for locks."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and ".lock" not in path.name}


def test_a_result_that_holds_more_is_not_replaced(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "3")
    before, n_trained = files(sweep.custom), len(trained())
    line = refused(sweep("--seeds", "2", "--values", "1,5"))
    assert line == (
        f"error: {sweep.custom} holds more (profile custom, 3 seeds, nothing tuned, 3 arms) than this run would write "
        "(profile custom, 2 seeds, nothing tuned, 3 arms, without x=2); name another folder with --results, or set "
        "that aside with --fresh"
    )
    assert files(sweep.custom) == before
    assert len(trained()) == n_trained


@pytest.mark.parametrize(
    ("change", "is_greater"),
    [
        ({}, False),
        ({"seeds": 11}, True),
        ({"trials": 5}, True),
        ({"fewest": 11}, True),
        ({"fewest": 9}, False),
        ({"arms": frozenset("abc")}, True),
        ({"arms": frozenset("a")}, False),
        ({"seeds": 7, "trials": 5, "arms": frozenset("abc")}, False),  # a preview has no verdict
    ],
)
def test_a_result_is_greater_that_holds_anything_another_lacks(change: dict[str, Any], is_greater: bool) -> None:
    one = Extent(profile="quick", seeds=10, trials=4, arms=frozenset("ab"), fewest=10)
    assert dataclasses.replace(one, **change).exceeds(one) is is_greater


def test_of_two_previews_the_greater_stays() -> None:
    one = Extent(profile="quick", seeds=2, trials=0, arms=frozenset("ab"), fewest=2)
    assert dataclasses.replace(one, seeds=3).exceeds(one)
    assert not one.exceeds(dataclasses.replace(one, seeds=3))


def test_a_tuned_result_replaces_an_untuned_one_and_itself_and_not_the_other_way_round(sweep: Command) -> None:
    sweep("--seeds", "2")
    for _ in range(2):
        result = sweep("--seeds", "2", "--trials", "3")
        assert result.exit_code == 0, result.output
    assert "tuned by 3 trials per arm, 3 arms) than this run would write" in refused(sweep("--seeds", "2"))


def test_fresh_runs_set_the_earlier_result_aside_whatever_it_holds(sweep: Command) -> None:
    sweep("--seeds", "3")
    before = files(sweep.custom) | files(sweep.folder)
    assert sweep("--seeds", "2", "--fresh").exit_code == 0
    assert sweep.summary().provenance.seeds == [0, 1]
    aside = {path.name.split(".until-")[0]: path.read_bytes() for path in sweep.folder.rglob("*.until-*")}
    assert aside == before


def test_a_greater_result_that_another_leaves_meanwhile_stays(sweep: Command, tmp_path: Path) -> None:
    sweep("--seeds", "3", "--results", str(tmp_path / "other"))
    theirs = (tmp_path / "other" / "toy" / "small" / "custom" / "summary.json").read_bytes()

    def run(job: Run, data: object) -> Outcome:
        sweep.custom.mkdir(parents=True, exist_ok=True)
        (sweep.custom / "summary.json").write_bytes(theirs)
        return toy.run(job)

    sweep.change(run=run)
    assert "holds more (profile custom, 3 seeds" in refused(sweep("--seeds", "2"))
    assert (sweep.custom / "summary.json").read_bytes() == theirs
    assert not (sweep.custom / "runs.parquet").exists()


def test_a_run_that_loses_an_arm_replaces_no_result_that_has_it_and_says_why(sweep: Command) -> None:
    sweep("--seeds", "2")
    before = (sweep.custom / "summary.json").read_bytes()
    (sweep.folder / "trials.log").unlink()

    def run(job: Run, data: object) -> Outcome:
        if job["x"] == 2:
            raise ArithmeticError("2 is unlucky")
        return toy.run(job)

    sweep.change(run=run)
    result = sweep("--seeds", "2")
    assert result.exit_code == 2
    assert "ArithmeticError: 2 is unlucky" in result.stderr
    assert "2 arms, without x=2)" in result.stderr
    assert (sweep.custom / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("summary.json", lambda path: path.write_text('{"theirs": 1}'), "It is not a result of this study"),
        ("summary.json", Path.mkdir, "cannot be read (it is not a file)"),
        ("summary.json", lambda path: path.symlink_to("nowhere"), "cannot be read (No such file"),
        ("runs.parquet", lambda path: pd.DataFrame({"theirs": [1]}).to_parquet(path), "is not a study's table"),
        ("curves.parquet", lambda path: path.write_text("not ours"), "is not a study's table"),
        ("runs.parquet", Path.mkdir, "is not a study's table"),
    ],
)
def test_what_another_program_wrote_is_not_replaced_and_fresh_runs_set_it_aside(
    sweep: Command, trained: Trained, name: str, make: Make, said: str
) -> None:
    sweep.custom.mkdir(parents=True)
    make(sweep.custom / name)
    before = files(sweep.custom)
    line = refused(sweep("--seeds", "1"))
    assert said in line
    assert line.endswith("; name another folder with --results, or set that aside with --fresh")
    assert files(sweep.custom) == before
    assert trained() == []
    assert sweep("--seeds", "1", "--fresh").exit_code == 0
    assert sweep.summary().study == "toy"
    assert len(list(sweep.custom.glob(f"{name}.until-*"))) == 1


def test_a_folder_where_a_table_should_be_is_found_before_any_run(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "1")
    (sweep.custom / "runs.parquet").unlink()
    (sweep.custom / "runs.parquet").mkdir()
    assert "runs.parquet is not a study's table" in refused(sweep("--seeds", "2"))
    assert len(trained()) == 4


def test_a_result_of_another_study_is_not_replaced(sweep: Command) -> None:
    sweep("--seeds", "1")
    path = sweep.custom / "summary.json"
    path.write_text(
        path.read_text().replace('"study":"toy"', '"study":"joy"').replace('"study": "toy"', '"study": "joy"')
    )
    assert "holds results of another study, joy" in refused(sweep("--seeds", "1"))


def test_tables_of_a_command_that_was_killed_before_its_summary_are_replaced(sweep: Command) -> None:
    sweep("--seeds", "2")
    (sweep.custom / "summary.json").unlink()
    assert sweep("--seeds", "1").exit_code == 0


def test_what_cannot_be_written_whole_leaves_the_earlier_result_as_it_was(
    sweep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("--seeds", "1")
    before = files(sweep.custom)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(schema, "write_summary", full)
    assert "No space left on device" in refused(sweep("--seeds", "2"))
    assert files(sweep.custom) == before


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_between_the_files_leaves_no_page_of_two_results_and_the_same_command_mends_it(
    sweep: Command, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    class Killed(BaseException):
        pass

    sweep.done("--seeds", "1")
    replaced = iter(range(3))
    replace = Path.replace

    def killed(path: Path, target: Path) -> Any:
        if target.parent == sweep.custom and next(replaced) == renames:
            (sweep.custom / ".writing-killed").mkdir()
            raise Killed
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        try:
            sweep("--seeds", "2")
        except Killed:
            assert renames < 3
    (study,) = gather(sweep.results).studies
    seeds = study.summary.seeds
    assert seeds == (2 if renames == 3 else 1)
    shown = [table is not None for table in (study.runs, study.curves)]
    assert shown == {0: [True, True], 1: [False, True], 2: [False, False], 3: [True, True]}[renames]
    assert all(table is None or set(table["seed"]) == set(range(seeds)) for table in (study.runs, study.curves))
    for problem, name in zip(study.problems, ("runs", "curves"), strict=False):
        assert f"{name}.parquet cannot be used (it belongs to another result than the summary beside it)" in problem
        assert problem.endswith(f"To make it again: {study.summary.provenance.command}")
    sweep.done("--seeds", "2")
    (study,) = gather(sweep.results).studies
    assert not study.problems
    assert study.summary.seeds == 2
    assert sorted(path.name for path in sweep.custom.iterdir()) == sorted(FILES)


def test_strays_of_killed_commands_are_removed_and_nothing_else(sweep: Command) -> None:
    sweep.done("--seeds", "1")
    (sweep.custom / ".writing-abc").mkdir()
    (sweep.custom / ".writing-abc" / "runs.parquet").write_text("half")
    (sweep.custom / ".summary.json.abc").touch()
    kept = [sweep.custom / ".hidden", sweep.folder / "trials.log.torn-2", sweep.custom / "notes.txt"]
    for path in kept:
        path.write_text("mine")
    (sweep.folder / "trials.log.torn-1").touch()
    sweep.done("--seeds", "1")
    assert all(path.read_text() == "mine" for path in kept)
    assert sorted(path.name for path in sweep.custom.iterdir()) == sorted([*FILES, ".hidden", "notes.txt"])
    assert not (sweep.folder / "trials.log.torn-1").exists()


def test_where_nothing_can_be_learned_of_a_validation_row_there_are_no_runs_and_no_verdict(
    sweep: Command, trained: Trained, tmp_path: Path
) -> None:
    once = tmp_path / "once.csv"
    once.write_text("user,item,rating\n" + "".join(f"u{k},i{k},{1 + k % 5}\n" for k in range(500)))
    line = refused(sweep("--ratings", str(once)))
    assert "training has seen both user and item of 0 of 50 validation rows" in line
    assert trained() == []


def test_ratings_that_are_all_the_same_are_refused(sweep: Command, trained: Trained, tmp_path: Path) -> None:
    same = tmp_path / "same.csv"
    same.write_text("user,item,rating\n" + "".join(f"u{k % 5},i{k // 5},3\n" for k in range(50)))
    line = refused(sweep("--ratings", str(same)))
    assert "every rating is 3" in line
    assert line.endswith("there is nothing to learn")
    assert trained() == []


def test_a_result_says_of_how_many_validation_rows_something_can_be_learned(sweep: Command, tmp_path: Path) -> None:
    some = tmp_path / "some.csv"
    rows = [f"u{k},i{k},{1 + k % 5}" for k in range(400)] + [f"a{k % 10},b{k // 10},{1 + k % 5}" for k in range(100)]
    some.write_text("\n".join(["user,item,rating", *rows, ""]))
    result = sweep("--ratings", str(some), "--seeds", "1")
    data = split(open_ratings(some), seed=0)
    known = {(int(u > 0) & int(i > 0)) for u, i in zip(data.valid.users, data.valid.items, strict=True)}
    count = sum(bool(u) and bool(i) for u, i in zip(data.valid.users, data.valid.items, strict=True))
    assert known == {0, 1}
    told = f"Training has seen both user and item of {count} of 50 validation rows (in the first split)."
    assert f"note: {told}" in result.stderr
    assert told in sweep.summary(data="some").notes


def test_of_a_study_that_splits_in_its_own_way_nothing_is_said_about_the_usual_splits(tmp_path: Path) -> None:
    strangers = tmp_path / "strangers.csv"  # in the usual split training has never seen a validation row's user
    strangers.write_text("user,item,rating\n" + "".join(f"u{k},i{k},{1 + k % 5}\n" for k in range(50)))
    source = Source("movielens", strangers)
    assert open_source(source, 1, own_split=True)[1] == []
    with pytest.raises(DataError, match="training has seen both user and item of 0 of 5 validation rows"):
        open_source(source, 1)


@pytest.mark.parametrize("name", ["ladder", "ncf", "new_users"])
@pytest.mark.parametrize(("users", "items"), [(50, 50), (50, 1), (5, 50)])
def test_studies_that_split_in_their_own_way_refuse_ratings_that_share_nothing(
    tmp_path: Path, name: str, users: int, items: int
) -> None:
    apart = tmp_path / "apart.csv"
    apart.write_text("user,item,rating\n" + "".join(f"u{k % users},i{k % items},{1 + k % 5}\n" for k in range(50)))
    study = importlib.import_module(f"studies.{name}").STUDY
    assert study.own_split
    with pytest.raises(DataError, match="nobody has rated two items, or no two users have rated the same one"):
        study.check(open_source(Source("movielens", apart), 1, own_split=True)[0])


def test_seeds_that_validate_on_the_same_rows_speak_of_training_alone(sweep: Command, tmp_path: Path) -> None:
    """No interval for similar data, and a word on tuning with the same rows."""
    timed = tmp_path / "timed.csv"
    rows = [f"{k % 20},{k % 30},{1 + k % 5},{k}" for k in range(300)]
    timed.write_text("\n".join(["user,item,rating,time", *rows, ""]))
    sweep.done("--ratings", str(timed), "--split", "time", "--seeds", "8", "--trials", "2")
    summary = sweep.summary(data="timed")
    assert summary.parts[0].interval != "corrected t"
    assert "The result is for timed, re-seeded." in summary.limits
    assert "Settings were tuned on these rows, too." in summary.limits
    sweep.done("--ratings", str(timed), "--seeds", "8", "--fresh")
    again = sweep.summary(data="timed")
    assert again.parts[0].interval == "corrected t"
    assert not any("tuned on these rows" in said for said in again.limits)


def test_cpu_has_one_name_and_its_runs_one_key(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "1", "--device", "cpu:0")
    sweep("--seeds", "1")
    assert len(trained()) == 4


@pytest.mark.parametrize("stem", [b"turned\xe2\x80\xaevsc", b"no utf-8 \xff\xfe, two\nlines\x1b[31m"])
def test_a_file_of_any_name_is_run_to_the_end_under_a_name_on_one_line_that_runs_one_way(
    inline: None, ratings_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stem: bytes
) -> None:
    path = tmp_path / os.fsdecode(stem + b".csv")
    path.write_bytes(ratings_csv.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["toy", "--ratings", str(path)])
    arguments = ["--ratings", str(path), "--seeds", "1", "--workers", "1"]
    result = CliRunner().invoke(command(toy.STUDY), arguments)
    assert result.exit_code == 0, result.output
    assert all(line.isprintable() for line in result.output.splitlines())
    (written,) = (tmp_path / "results" / "toy").glob("*/custom/summary.json")
    summary = read_summary(written)
    assert summary.data.key == written.parent.parent.name
    assert summary.data.name.isprintable()
    assert all(text.isprintable() for text in [*summary.limits, summary.provenance.command])


def test_results_go_to_a_folder_of_any_name(sweep: Command, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"two\nlines, turned\xe2\x80\xae, no utf-8 \xff")
    for seeds in ("1", "2"):
        result = sweep("--results", str(folder), "--seeds", seeds)
        assert result.exit_code == 0, result.output
    assert len(pd.read_parquet((folder / "toy" / "small" / "custom" / "runs.parquet").open("rb"))) == 8
    (folder / "toy" / "small" / "custom" / "summary.json").unlink()
    assert sweep("--results", str(folder), "--seeds", "1").exit_code == 0


@pytest.mark.parametrize("name", ["...csv", "..csv"])
def test_no_file_of_ratings_leads_out_of_the_results(
    inline: None, ratings_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(ratings_csv.read_bytes())
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command(toy.STUDY), ["--ratings", name, "--seeds", "1", "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["toy"]
    assert len(list((tmp_path / "results" / "toy").glob("*/custom/summary.json"))) == 1


def test_settings_reach_a_run_as_the_study_declares_them(sweep: Command) -> None:
    given: list[object] = []

    def run(job: Run, data: object) -> Outcome:
        given.extend(job[name] for name in ("n_factors", "bias", "x"))
        return toy.run(job)

    arms = {arm: {**settings, "n_factors": 40, "bias": True} for arm, settings in toy.STUDY.arms.items()}
    sweep.change(arms=arms, run=run)
    assert sweep("--seeds", "1").exit_code == 0
    assert [type(value) for value in given[:3]] == [int, bool, float]
    assert sweep.summary().arms["x=1"].settings == {"x": 1.0, "lr": 0.1, "n_factors": 40, "bias": True}


def test_time_by_the_clock_leaves_pauses_out_and_counts_what_ran_side_by_side_once() -> None:
    def at(second: int) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)

    spans = [(0, 10), (2, 5), (8, 12), (100, 101), (100, 100)]
    assert covered([(at(began), at(ended)) for began, ended in spans]) == 13
    assert covered([]) == 0


def test_a_summary_holds_the_time_by_the_clock(sweep: Command) -> None:
    began = time.monotonic()
    sweep("--seeds", "1")
    wall = sweep.summary().provenance.wall_seconds
    assert wall is not None
    assert 0 < wall < time.monotonic() - began


@pytest.mark.parametrize(
    "arguments",
    [
        ["postgresql://me:hunter2@host/db"],
        ["--storag", "me:hunter2@host/db"],
        ["--storage", "me:hunter2@host/db"],
        ["--storage", "me/hunter2@host/db"],
        ["--storage", "host=here password=hunter2"],
        ["--profile", "me:hunter2@host/db"],
        ["--values", "postgresql://me:hunter2@host/db"],
        ["--device", "postgresql:/me:hunter2@host/db"],
        ["--seeds", "me:hunter2@host/db"],
        ["--results", "postgresql://me:hunter2@host/db"],
        ["--ratings", "postgresql://me:hunter2@host/db"],
        ["--data", "postgresql://me:hunter2@host/db"],
        ["--user", "postgresql://me:hunter2@host/db"],
        ["--encoding", "me:hunter2@host/db"],
    ],
)
def test_a_password_in_a_wrong_place_is_not_shown(
    sweep: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    result = sweep(*arguments)
    assert result.exit_code == 2
    assert "hunter2" not in result.output


def test_a_bug_prints_a_traceback_without_passwords(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise KeyError("postgresql://me:hunter2@host/db") from RuntimeError("lost me/hunter2@there")

    monkeypatch.setattr(storage, "open_storage", break_down)
    result = sweep("--storage", "me/hunter2@there")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "KeyError: 'postgresql://***" in result.stderr
    assert "RuntimeError: lost ***" in result.stderr
    assert "hunter2" not in result.stderr


def test_help_names_one_claim_as_one_and_offers_no_option_that_is_refused(sweep: Command) -> None:
    assert "(claim 47)" in sweep("--help").stdout
    assert "--values" in sweep("--help").stdout
    words = {"some": {"x": 1.0, "kind": "a"}, "more": {"x": 1.0, "kind": "b"}}
    parts = (beats("47", "some", "more"), beats("48a", "more", "some"))
    sweep.change(arms=words, parts=parts, baseline=None, tuned={})
    assert "(claims 47, 48)" in sweep("--help").stdout
    assert "--values" not in sweep("--help").stdout
    assert "--trials" not in sweep("--help").stdout


def test_values_are_refused_where_arms_are_none(sweep: Command) -> None:
    sweep.change(arms={"low": {"x": 0.0}, "high": {"x": 1.0}}, parts=(), baseline=None, tuned={})
    assert "the arms of toy are low, high, not values" in refused(sweep("--values", "1"))
    assert "--trials 3: toy tunes nothing" in refused(sweep("--trials", "3"))


@pytest.mark.parametrize("option", ["--seeds", "--workers"])
def test_a_count_below_one_is_refused(sweep: Command, option: str) -> None:
    result = sweep(option, "0")
    assert result.exit_code == 2
    assert option in result.stderr


def test_a_folder_of_results_that_is_a_file_is_one_line(sweep: Command, ratings_csv: Path) -> None:
    before = ratings_csv.read_bytes()
    assert "Not a directory" in refused(sweep("--results", str(ratings_csv)))
    assert ratings_csv.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_results_that_is_not_ours_is_one_line(sweep: Command, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused(sweep("--results", str(tmp_path / "locked")))


def test_a_device_that_is_not_here_sets_nothing_aside(sweep: Command) -> None:
    sweep("--seeds", "1")
    refused(sweep("--fresh", "--device", "nonsense"))
    assert not list(sweep.folder.glob("*until*"))


def test_other_ratings_are_other_runs_and_replace_no_results(sweep: Command, trained: Trained, tmp_path: Path) -> None:
    sweep("--seeds", "1")
    fewer = tmp_path / "small.csv"
    fewer.write_text("".join(sweep.ratings.read_text().splitlines(keepends=True)[:-1]))
    other = ["--seeds", "1", "--ratings", str(fewer)]
    assert "holds results for other data (small, 300 ratings, 20 users, 30 items)" in refused(sweep(*other))
    sweep(*other, "--results", str(tmp_path / "other"))
    assert len(set(trained())) == len(trained()) == 8


def test_ratings_are_read_as_the_options_say_and_by_other_columns_they_are_other_data(
    sweep: Command, trained: Trained, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.txt"
    rows = [line.split(",") for line in sweep.ratings.read_text(encoding="utf-8").splitlines()[1:]]
    text = "".join(f"{user};{item};{stars};{6 - int(stars)}\n" for user, item, stars in rows)
    path.write_text("who;what;like;dislik\u00e9\n" + text, encoding="latin-1")
    read = ["--ratings", str(path), "--seeds", "1", "--sep", ";", "--encoding", "latin-1"]
    read += ["--user", "who", "--item", "what", "--rating"]
    result = sweep(*read, "like")
    assert result.exit_code == 0, result.output
    assert "users are column 'who'" in result.stderr
    liked = sweep.summary(data="theirs").data
    assert liked.size == {"ratings": 300, "users": 20, "items": 30}
    assert len(trained()) == 4
    assert "holds results for other data" in refused(sweep(*read, "dislik\u00e9"))
    assert sweep(*read, "dislik\u00e9", "--fresh").exit_code == 0
    assert sweep.summary(data="theirs").data.checksum != liked.checksum
    assert len(set(trained())) == len(trained()) == 8


def test_a_worker_reads_the_ratings_as_the_command_does(sweep: Command) -> None:
    source = Source("movielens", sweep.ratings, {"user": "item", "item": "user"})
    table, _ = open_source(source, 1)
    given: list[Ratings] = []

    def run(job: Run, data: Ratings) -> Outcome:
        given.append(data)
        return toy.run(job)

    prepare(run, source_of(run), source, table.origin.checksum, 1)((0, toy.planned(0)))
    assert (len(given[0].user_ids), len(given[0].item_ids)) == (30, 20)
    with pytest.raises(DataError, match="changed since the sweep began"):
        prepare(toy.run, source_of(toy.run), Source("movielens", sweep.ratings), table.origin.checksum, 1)


def test_reading_options_without_a_file_are_refused() -> None:
    result = CliRunner().invoke(command(toy.STUDY), ["--item", "film"])
    assert refused(result) == "error: --item: describes your own file; name the file with --ratings"


def test_ratings_that_changed_since_the_sweep_began_are_not_trained_on(sweep: Command, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="changed since the sweep began"):
        prepare(toy.run, source_of(toy.run), Source("movielens", sweep.ratings), "checksum of something else", 1)


def test_a_worker_that_starts_after_the_studys_file_was_edited_makes_no_run(sweep: Command) -> None:
    with pytest.raises(DataError, match=r"toy\.py: changed since the sweep began"):
        prepare(toy.run, "digest of an earlier text", Source("movielens", sweep.ratings), "any", 1)


def misspelled(job: Run, data: Any) -> Outcome:
    return Outcome({"rsme": toy.run(job, data).metrics["rmse"]})


def test_a_run_whose_metrics_the_study_does_not_declare_is_an_error_and_is_not_stored(sweep: Command) -> None:
    sweep.change(run=misspelled)
    result = sweep()
    assert result.exit_code == 2
    assert "a run returned the metrics rsme; the study declares rmse" in result.stderr
    sweep.change(run=toy.run)
    assert sweep.done()
    assert sweep.summary("quick").provenance.trials["COMPLETE"] == 40


def test_a_run_that_does_not_say_how_it_split_is_an_error_and_is_not_stored(sweep: Command) -> None:
    sweep.change(run=lambda job, data: Outcome({"rmse": job["x"]}, n_train=90))
    result = sweep()
    assert (result.exit_code, "Traceback" in result.stderr) == (2, False)
    assert "x 0.0, lr 0.1, seed 0: a run returned no n_train or n_valid" in result.stderr
    sweep.change(metrics={"rmse": Metric("seconds", better="lower", smallest=0.01, resplit=False)})
    sweep.done()


def test_a_metric_that_no_split_moves_is_described_without_the_correction(sweep: Command) -> None:
    sweep.done()
    assert sweep.summary("quick").contrasts[0].interval_corrected is not None
    sweep.change(metrics={"rmse": Metric("seconds", better="lower", smallest=0.01, resplit=False)})
    sweep.done()
    assert sweep.summary("quick").contrasts[0].interval_corrected is None


def test_a_run_whose_outcome_is_none_is_one_line_and_the_others_stay(sweep: Command) -> None:
    def run(job: Run, data: object) -> Any:
        if job.seed == 1:
            return {"rmse": 1.0}
        return toy.run(job)

    sweep.change(run=run)
    result = sweep("--seeds", "3")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    *_, told = result.stderr.splitlines()
    assert told == "toy, x 0.0, lr 0.1, seed 1: a run returned dict; it must return an Outcome"
    sweep.change(run=lambda job, data: Outcome({"rmse": 1e308}))
    (told,) = [line for line in sweep("--seeds", "3").stderr.splitlines() if line.startswith("toy, x 0.0")]
    assert told.startswith("toy, x 0.0, lr 0.1, seed 1: the metric rmse is 1e+308; the largest that can be compared")
    sweep.change(run=toy.run)
    sweep.done("--seeds", "3")


def test_runs_without_a_metric_that_the_study_has_now_are_done_again(sweep: Command, trained: Trained) -> None:
    sweep.done("--seeds", "2")
    before = len(trained())

    def run(job: Run, data: object) -> Outcome:
        return Outcome({**toy.run(job).metrics, "norm": job["x"]}, n_train=90, n_valid=10)

    sweep.change(run=run, metrics={**toy.STUDY.metrics, "norm": Metric("norm")})
    sweep.done("--seeds", "2")
    assert len(trained()) == 2 * before
    assert sweep.summary().arms["x=2"].metrics["norm"].mean == 2
    sweep.change(run=toy.run, metrics=toy.STUDY.metrics)  # a metric less: what is there has all that is needed
    sweep.done("--seeds", "2")
    assert len(trained()) == 2 * before


@pytest.mark.parametrize("change", [{"metrics": {"rmse": 1e308}}, {"metrics": []}, {"curves": {"loss": [None]}}])
def test_a_stored_outcome_that_cannot_be_shown_is_not_used_and_its_run_done_again(
    sweep: Command, trained: Trained, change: dict[str, Any]
) -> None:
    sweep.done("--seeds", "1")
    before = len(trained())
    journal = sweep.folder / "trials.log"
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    for record in records:
        record.get("user_attr", {}).get("outcome", {}).update(change)
    journal.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    sweep.done("--seeds", "1")
    assert sorted(trained()[before:]) == sorted(trained()[:before])


def test_runs_of_an_earlier_version_of_the_file_are_used_and_a_note_says_so(
    sweep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.done()
    usual = sweep.summary("quick").notes
    monkeypatch.setattr("studies.evidence.provenance.source_of", lambda function: "another")
    sweep.done()
    *others, note = sweep.summary("quick").notes
    assert others == usual
    assert note.startswith("40 of 40 runs were made by an earlier version of the study's file.")
    sweep.done("--fresh")
    assert sweep.summary("quick").notes == usual


def test_a_study_of_unknown_data_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ValueError, match=r"study toy: unknown data 'cifar'; there are movielens, "):
        own_options(dataclasses.replace(toy.STUDY, data=("cifar",)))


@pytest.mark.parametrize("planted", [0.0, 0.5])
def test_ratings_from_which_nothing_can_be_learned_are_told(tmp_path: Path, planted: float) -> None:
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(40 * 60, 2000, replace=False), 60)
    means = 3 + rng.normal(0, planted, 40)[user] + rng.normal(0, planted, 60)[item]
    stars = np.clip(np.round(means + rng.normal(0, 1, 2000)), 1, 5)
    rows = [f"{u},{i},{star:g}" for u, i, star in zip(user, item, stars, strict=True)]
    (tmp_path / "r.csv").write_text("\n".join(["user,item,rating", *rows]))
    told = unlearnable(open_ratings(tmp_path / "r.csv"))
    assert ["is not shown to predict these ratings better" in note for note in told] == [True] * (planted == 0)
