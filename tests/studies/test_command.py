"""The command line of the toy study in this process; see test_killed.py for real processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from studies.evidence import provenance
from studies.evidence.schema import Summary, read_summary
from studies.lab.command import command
from studies.lab.spec import Outcome, Run
from tests.studies import toy

Trained = Callable[[], list[str]]


class Command:
    """`python -m tests.studies.toy`, with workers in this process."""

    def __init__(self, ratings: Path, results: Path) -> None:
        self.ratings, self.results, self.study = ratings, results, toy.STUDY
        self.folder = results / "toy"

    def __call__(self, *arguments: str) -> Result:
        given = ["--ratings", str(self.ratings), "--results", str(self.results), "--workers", "1", *arguments]
        return CliRunner().invoke(command(self.study), given)

    def summary(self) -> Summary:
        return read_summary(self.folder / "summary.json")

    def runs(self) -> pd.DataFrame:
        return pd.read_parquet(self.folder / "runs.parquet")

    def run_by(self, run: Callable[[Run, object], Outcome]) -> None:
        self.study = dataclasses.replace(self.study, run=run)


@pytest.fixture
def sweep(inline: None, ratings_csv: Path, tmp_path: Path) -> Command:
    return Command(ratings_csv, tmp_path / "results")


def refused(result: Result) -> str:
    """The one line that a command said that cannot be carried out."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("toy: ")]
    assert line.startswith("error: ")
    return line


def test_a_sweep_leaves_runs_curves_and_a_summary(sweep: Command) -> None:
    result = sweep()
    assert result.exit_code == 0, result.output
    summary, runs = sweep.summary(), sweep.runs()
    assert list(summary.arms) == ["x=0", "x=1", "x=2"]
    assert [(c.arm, c.verdict, c.n) for c in summary.contrasts] == [("x=1", "worse", 10), ("x=2", "worse", 10)]
    assert summary.contrasts[0].difference == pytest.approx(1)
    assert summary.noise_floor is not None
    assert summary.provenance.trials == {"COMPLETE": 40}
    assert summary.provenance.seconds == 40 * 0.25
    assert runs["key"].is_unique
    assert runs.groupby(["kind", "arm"]).size().to_dict() == {
        ("run", "x=0"): 10,
        ("run", "x=1"): 10,
        ("run", "x=2"): 10,
        ("again", "x=0"): 10,
    }
    assert len(pd.read_parquet(sweep.folder / "curves.parquet")) == 2 * len(runs)
    assert "x=1" in result.stdout
    assert str(sweep.folder) in result.stdout


def test_the_same_storage_gives_the_same_bytes(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "commit", lambda: ("0123456789ab", False))
    files = [sweep.folder / name for name in ("summary.json", "runs.parquet", "curves.parquet")]
    sweep("--seeds", "3")
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    assert sweep("--seeds", "3").exit_code == 0
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
    (sweep.folder / "runs.parquet").unlink()
    assert sweep("--seeds", "4", "--export").exit_code == 0
    pd.testing.assert_frame_equal(sweep.runs(), before)
    assert sweep.summary().limits[-1] == "4 of 16 runs are missing."
    assert len(trained()) == n_trained


def test_more_seeds_arms_and_profiles_reuse_what_is_done(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "2")
    assert len(trained()) == 8
    sweep("--seeds", "3", "--values", "0,1,2,5")
    assert len(trained()) == 8 + 4 + 3
    sweep("--profile", "regular", "--seeds", "2")
    tuned = 3 * 4 * 2
    runs = sweep.runs()
    assert (runs["kind"] == "tuning").sum() == tuned
    assert len(set(trained())) == len(trained())
    n_trained = len(trained())
    sweep("--profile", "regular", "--seeds", "3", "--trials", "6")
    assert len(trained()) - n_trained <= 3 * 2 * 2 + 4 * 3 + 3  # two more trials on two seeds, then confirmation


def test_values_are_the_same_however_they_are_written(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "1", "--values", "1,2")
    sweep("--seeds", "1", "--values", "1.0,2e0,2")
    sweep.study = dataclasses.replace(sweep.study, arms={f"x={x}": {"x": x, "lr": 0.1} for x in (0, 1, 2)})
    sweep("--seeds", "1")
    assert len(trained()) == 4
    assert list(sweep.summary().arms) == ["x=0", "x=1", "x=2"]


def test_tuning_chooses_for_every_arm_on_seeds_that_are_not_confirmed_on(sweep: Command) -> None:
    sweep("--profile", "regular")
    summary, runs = sweep.summary(), sweep.runs()
    tuned = {tuning.arm: tuning.chosen["lr"] for tuning in summary.tuning}
    assert tuned == dict.fromkeys(["x=0", "x=1", "x=2"], min(runs.loc[runs["kind"] == "tuning", "lr"]))
    assert summary.arms["x=1"].settings == {"x": 1.0, "lr": tuned["x=1"]}
    assert summary.arms["x=0, lr as by default"].settings == {"x": 0.0, "lr": 0.1}
    assert all(tuning.on_edge and len(tuning.trials) == 4 for tuning in summary.tuning)
    seeds = runs.groupby("kind")["seed"].unique()
    assert not set(seeds["tuning"]) & (set(seeds["run"]) | set(seeds["again"]))


def test_an_arm_that_diverges_at_every_rate_is_shown_as_that(sweep: Command) -> None:
    def run(job: Run, ratings: object) -> Outcome:
        outcome = toy.run(job)
        return dataclasses.replace(outcome, value=None) if job.settings["x"] == 2 else outcome

    sweep.run_by(run)
    result = sweep("--profile", "regular")
    assert result.exit_code == 0, result.output
    summary = sweep.summary()
    assert (summary.arms["x=2"].mean, summary.arms["x=2"].diverged) == (None, 12)
    assert [c.verdict for c in summary.contrasts if c.arm == "x=2"] == ["worse"]
    assert "diverged: 12, baseline 0" in result.stdout
    assert {trial["valid_rmse"] for trial in summary.tuning[2].trials} == {None}


def test_one_seed_is_a_preview_and_not_called_diverged(sweep: Command) -> None:
    result = sweep("--seeds", "1")
    assert result.exit_code == 0, result.output
    assert "preview" in result.stdout
    assert "diverged" not in result.stdout


def test_runs_that_raise_are_left_out_told_and_end_with_status_1(sweep: Command) -> None:
    def run(job: Run, ratings: object) -> Outcome:
        if job.seed == 1:
            raise ArithmeticError("seed 1 is unlucky")
        return toy.run(job)

    sweep.run_by(run)
    result = sweep("--seeds", "3")
    assert result.exit_code == 1
    assert "4 runs failed and are left out" in result.stderr
    assert "ArithmeticError: seed 1 is unlucky" in result.stderr
    assert sweep.summary().provenance.trials == {"COMPLETE": 8, "FAIL": 4}
    assert sweep.summary().limits[-1] == "4 of 12 runs are missing."
    sweep.run_by(toy.run)
    assert sweep("--seeds", "3").exit_code == 0


def test_a_baseline_that_never_finishes_is_one_line_and_leaves_no_summary(sweep: Command) -> None:
    def run(job: Run, ratings: object) -> Outcome:
        if job.settings["x"] == 0:
            raise ArithmeticError("no baseline today")
        return toy.run(job)

    sweep.run_by(run)
    assert "none of x=0 finished: ArithmeticError: no baseline today" in refused(sweep("--seeds", "2"))
    assert not (sweep.folder / "summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--profile nonsense", "--profile nonsense: there are quick, regular"),
        ("--values a,b", "could not convert string to float: 'a'"),
        ("--values=", "could not convert string to float"),
        ("--values 0", "nothing to compare with the baseline"),
        ("--values 0,0.0", "nothing to compare with the baseline"),
        ("--device nonsense", "--device nonsense: "),
        ("--ratings /no/such/file.csv", "/no/such/file.csv: cannot be read"),
        ("--storage nonsense", "storage nonsense: cannot be opened"),
        ("--export", "there are no runs to export"),
        ("--fresh --export", "there are no runs to export"),
        ("--fresh --storage sqlite:///x.db", "--fresh sets a file aside"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_touches_nothing(sweep: Command, arguments: str, told: str) -> None:
    before = sorted(sweep.results.rglob("*"))
    assert told in refused(sweep(*arguments.split()))
    assert [path for path in sorted(sweep.results.rglob("*")) if path.is_file()] == before


def test_values_are_refused_where_arms_are_none(sweep: Command) -> None:
    sweep.study = dataclasses.replace(sweep.study, value=None)
    assert "the arms of toy are x=0, x=1, x=2, no values" in refused(sweep("--values", "1"))


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
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("".join(sweep.ratings.read_text().splitlines(keepends=True)[:-1]))
    other = ["--seeds", "1", "--ratings", str(fewer)]
    assert "holds results for other ratings" in refused(sweep(*other))
    sweep(*other, "--results", str(tmp_path / "other"))
    assert len(set(trained())) == len(trained()) == 8


def test_ratings_that_changed_since_the_sweep_began_are_not_trained_on(sweep: Command, tmp_path: Path) -> None:
    from studies.lab.command import _prepare

    with pytest.raises(ValueError, match="changed since the sweep began"):
        _prepare(toy.run, sweep.ratings, "checksum of something else")
