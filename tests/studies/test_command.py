"""The command line of the toy study in this process; see test_killed.py for real processes."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from lesson.data import Ratings, open_ratings, split
from studies.evidence import provenance, schema
from studies.evidence.schema import Summary, read_summary
from studies.lab import storage
from studies.lab.command import command
from studies.lab.replacing import Extent
from studies.lab.results import covered
from studies.lab.source import Source, open_source, prepare
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
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith(("toy: ", "note: "))]
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
    assert sweep.summary().limits[-1] == "Missing: 4 of 16 runs."
    assert len(trained()) == n_trained


def test_more_seeds_arms_and_profiles_reuse_what_is_done(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "2")
    assert len(trained()) == 8
    sweep("--seeds", "3", "--values", "0,1,2,5")
    assert len(trained()) == 8 + 4 + 3
    (sweep.folder / "summary.json").unlink()
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
    assert "left out: 4 runs that failed; the first:" in result.stderr
    assert "ArithmeticError: seed 1 is unlucky" in result.stderr
    assert sweep.summary().provenance.trials == {"COMPLETE": 8, "FAIL": 4}
    assert sweep.summary().limits[-1] == "Missing: 4 of 12 runs."
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
        ("--device mps", "--device mps: runs are made on cpu, or on cuda"),
        ("--device cpu:1", "--device cpu:1: runs are made on cpu, or on cuda"),
        ("--device cuda:9", "--device cuda:9: of GPUs torch sees "),
        ("--values 0,05", "--values 0,05: is 05 half of a decimal? Write 0.05"),
        ("--values 1,007", "is 007 half of a decimal? Write 1.007"),
        ("--values 007", "is 007 half of a decimal? Write 0.7"),
        ("--values 0,-05", "is -05 half of a decimal?"),
        ("--values nan", "nan is no finite number"),
        ("--values 1e999", "1e999 is no finite number"),
        ("--profile regular --trials 1", "--trials 1: that is the default alone"),
        ("--storage nonsense", "storage nonsense: cannot be opened"),
        ("--storage sqlite:///", "forgets all runs when the command ends"),
        ("--results=", "--results: the path is empty"),
        ("--user who", "no user column"),
        ("--sep ;", "user"),
        ("--encoding nonsense", "there is no such encoding"),
        ("--ratings=", "--ratings: the path is empty"),
        ("--storage=", "--storage: the URL is empty"),
        ("--export", "there are no runs to export"),
        ("--fresh --export", "--export rebuilds the files from the very runs that --fresh sets aside"),
        ("--fresh --storage sqlite:///x.db", "--fresh sets a file aside"),
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
    before, n_trained = files(sweep.folder), len(trained())
    line = refused(sweep("--seeds", "2", "--values", "1,5"))
    assert line == (
        f"error: {sweep.folder} holds more (profile quick, 3 seeds, nothing tuned, 3 arms) than this run would leave "
        "(profile quick, 2 seeds, nothing tuned, 3 arms, without x=2); name another folder by --results, or set that "
        "aside by --fresh"
    )
    assert files(sweep.folder) == before
    assert len(trained()) == n_trained


@pytest.mark.parametrize(
    ("change", "is_greater"),
    [
        ({}, False),
        ({"profile": "regular"}, True),
        ({"profile": "renamed since"}, True),
        ({"seeds": 11}, True),
        ({"trials": 5}, True),
        ({"arms": frozenset("abc")}, True),
        ({"arms": frozenset("a")}, False),
        ({"seeds": 9, "profile": "regular", "trials": 5, "arms": frozenset("abc")}, False),  # a preview has no verdict
    ],
)
def test_a_result_is_greater_that_holds_anything_another_lacks(change: dict[str, Any], is_greater: bool) -> None:
    one = Extent(profile="quick", seeds=10, trials=4, arms=frozenset("ab"))
    assert dataclasses.replace(one, **change).exceeds(one, ["quick", "regular"]) is is_greater


def test_of_two_previews_the_greater_stays() -> None:
    one = Extent(profile="quick", seeds=2, trials=0, arms=frozenset("ab"))
    assert dataclasses.replace(one, seeds=3).exceeds(one, ["quick"])
    assert not one.exceeds(dataclasses.replace(one, seeds=3), ["quick"])


def test_a_tuned_result_replaces_an_untuned_one_and_itself_and_not_the_other_way_round(sweep: Command) -> None:
    sweep("--seeds", "2")
    for _ in range(2):
        result = sweep("--seeds", "2", "--trials", "3")
        assert result.exit_code == 0, result.output
    assert "tuned by 3 trials an arm, 3 arms) than this run would leave" in refused(sweep("--seeds", "2"))


def test_who_asks_to_keep_has_the_greater_result_kept_and_no_error(sweep: Command, trained: Trained) -> None:
    assert sweep("--seeds", "3", "--keep").exit_code == 0
    before, n_trained = files(sweep.folder), len(trained())
    result = sweep("--seeds", "2", "--keep")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"kept what is there: {sweep.folder} holds more (profile quick, 3 seeds")
    assert files(sweep.folder) == before
    assert len(trained()) == n_trained == 12


def test_fresh_runs_set_the_earlier_result_aside_whatever_it_holds(sweep: Command) -> None:
    sweep("--seeds", "3")
    before = files(sweep.folder)
    assert sweep("--seeds", "2", "--fresh").exit_code == 0
    assert sweep.summary().provenance.seeds == [0, 1]
    aside = {path.name.split(".until-")[0]: path.read_bytes() for path in sweep.folder.glob("*.until-*")}
    assert aside == before


def test_a_greater_result_that_another_leaves_meanwhile_stays(sweep: Command, tmp_path: Path) -> None:
    sweep("--seeds", "3", "--results", str(tmp_path / "other"))
    theirs = (tmp_path / "other" / "toy" / "summary.json").read_bytes()

    def run(job: Run, ratings: object) -> Outcome:
        (sweep.folder / "summary.json").write_bytes(theirs)
        return toy.run(job)

    sweep.run_by(run)
    assert "holds more (profile quick, 3 seeds" in refused(sweep("--seeds", "2"))
    assert (sweep.folder / "summary.json").read_bytes() == theirs
    assert not (sweep.folder / "runs.parquet").exists()


def test_a_run_that_loses_an_arm_replaces_no_result_that_has_it_and_tells_why(sweep: Command) -> None:
    sweep("--seeds", "2")
    before = (sweep.folder / "summary.json").read_bytes()
    (sweep.folder / "trials.log").unlink()

    def run(job: Run, ratings: object) -> Outcome:
        if job.settings["x"] == 2:
            raise ArithmeticError("2 is unlucky")
        return toy.run(job)

    sweep.run_by(run)
    result = sweep("--seeds", "2")
    assert result.exit_code == 2
    assert "ArithmeticError: 2 is unlucky" in result.stderr
    assert "2 arms, without x=2)" in result.stderr
    assert (sweep.folder / "summary.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("summary.json", lambda path: path.write_text('{"theirs": 1}'), "It is no result of this study's"),
        ("summary.json", Path.mkdir, "cannot be read (it is no file)"),
        ("summary.json", lambda path: path.symlink_to("nowhere"), "cannot be read (No such file"),
        ("runs.parquet", lambda path: pd.DataFrame({"theirs": [1]}).to_parquet(path), "is no table of a study"),
        ("curves.parquet", lambda path: path.write_text("not ours"), "is no table of a study"),
        ("runs.parquet", Path.mkdir, "is no table of a study"),
    ],
)
def test_what_another_program_wrote_is_not_replaced_and_fresh_runs_set_it_aside(
    sweep: Command, trained: Trained, name: str, make: Make, said: str
) -> None:
    sweep.folder.mkdir(parents=True)
    make(sweep.folder / name)
    before = files(sweep.folder)
    line = refused(sweep("--seeds", "1"))
    assert said in line
    assert line.endswith("; name another folder by --results, or set that aside by --fresh")
    assert files(sweep.folder) == before
    assert trained() == []
    assert sweep("--seeds", "1", "--fresh").exit_code == 0
    assert sweep.summary().study == "toy"
    assert len(list(sweep.folder.glob(f"{name}.until-*"))) == 1


def test_a_folder_where_a_table_should_be_is_found_before_any_run(sweep: Command, trained: Trained) -> None:
    sweep("--seeds", "1")
    (sweep.folder / "runs.parquet").unlink()
    (sweep.folder / "runs.parquet").mkdir()
    assert "runs.parquet is no table of a study" in refused(sweep("--seeds", "2"))
    assert len(trained()) == 4


def test_a_result_of_another_study_is_not_replaced(sweep: Command) -> None:
    sweep("--seeds", "1")
    path = sweep.folder / "summary.json"
    path.write_text(
        path.read_text().replace('"study":"toy"', '"study":"joy"').replace('"study": "toy"', '"study": "joy"')
    )
    assert "holds results of another study, joy" in refused(sweep("--seeds", "1"))


def test_tables_of_a_command_that_was_killed_before_its_summary_are_replaced(sweep: Command) -> None:
    sweep("--seeds", "2")
    (sweep.folder / "summary.json").unlink()
    assert sweep("--seeds", "1").exit_code == 0


def test_what_cannot_be_written_whole_leaves_the_earlier_result_as_it_was(
    sweep: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("--seeds", "1")
    before = files(sweep.folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(schema, "write_summary", full)
    assert "No space left on device" in refused(sweep("--seeds", "2"))
    now = files(sweep.folder)
    assert {name: now[name] for name in before if name != "trials.log"} == {
        name: content for name, content in before.items() if name != "trials.log"
    }
    assert now.keys() == before.keys()


def test_where_nothing_can_be_learnt_of_a_validation_row_there_are_no_runs_and_no_verdict(
    sweep: Command, trained: Trained, tmp_path: Path
) -> None:
    once = tmp_path / "once.csv"
    once.write_text("user,item,rating\n" + "".join(f"u{k},i{k},{1 + k % 5}\n" for k in range(500)))
    line = refused(sweep("--ratings", str(once)))
    assert "training has seen both user and item of 0 of 50 validation rows" in line
    assert trained() == []


def test_a_result_says_of_how_many_validation_rows_something_can_be_learnt(sweep: Command, tmp_path: Path) -> None:
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
    assert told in sweep.summary().limits


def test_a_study_of_one_backend_refuses_another_before_any_run(sweep: Command, trained: Trained) -> None:
    sweep.study = dataclasses.replace(sweep.study, backend="triton")
    assert "--device cpu is for the native backend; toy runs on triton alone" in refused(sweep())
    assert trained() == []


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
    (written,) = (tmp_path / "results").glob("*/toy/summary.json")
    summary = read_summary(written)
    assert summary.data.name == written.parent.parent.name
    assert summary.data.name.isprintable()
    assert all(text.isprintable() for text in [*summary.limits, summary.provenance.command])


def test_results_go_to_a_folder_of_any_name(sweep: Command, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"two\nlines, turned\xe2\x80\xae, no utf-8 \xff")
    for seeds in ("1", "2"):
        result = sweep("--results", str(folder), "--seeds", seeds)
        assert result.exit_code == 0, result.output
    assert len(pd.read_parquet((folder / "toy" / "runs.parquet").open("rb"))) == 8
    (folder / "toy" / "summary.json").unlink()
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
    assert (tmp_path / "results" / "ratings" / "toy" / "summary.json").exists()


def test_settings_reach_a_run_as_the_study_declares_them(sweep: Command) -> None:
    given: list[object] = []

    def run(job: Run, ratings: object) -> Outcome:
        given.extend(job.settings[name] for name in ("n_factors", "bias", "x"))
        return toy.run(job)

    arms = {arm: {**settings, "n_factors": 40, "bias": True} for arm, settings in toy.STUDY.arms.items()}
    sweep.study = dataclasses.replace(sweep.study, arms=arms, run=run)
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
    ],
)
def test_a_password_that_stands_in_a_wrong_place_is_not_shown(
    sweep: Command, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    result = sweep(*arguments)
    assert result.exit_code == 2
    assert "hunter2" not in result.output


def test_a_fault_of_ours_is_told_in_full_but_for_a_password(sweep: Command, monkeypatch: pytest.MonkeyPatch) -> None:
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
    sweep.study = dataclasses.replace(sweep.study, claims=(47, 48), value=None)
    assert "(claims 47, 48)" in sweep("--help").stdout
    assert "--values" not in sweep("--help").stdout


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
    liked = sweep.summary().data
    assert (liked.users, liked.items, liked.ratings) == (20, 30, 300)
    assert len(trained()) == 4
    assert "holds results for other ratings" in refused(sweep(*read, "dislik\u00e9"))
    assert sweep(*read, "dislik\u00e9", "--fresh").exit_code == 0
    assert sweep.summary().data.checksum != liked.checksum
    assert len(set(trained())) == len(trained()) == 8


def test_a_worker_reads_the_ratings_as_the_command_does(sweep: Command) -> None:
    source = Source(sweep.ratings, {"user": "item", "item": "user"})
    table, _ = open_source(source)
    given: list[Ratings] = []
    prepare(lambda job, ratings: given.append(ratings), source, table.checksum, 1)((0, toy.planned(0)))
    assert (len(given[0].user_ids), len(given[0].item_ids)) == (30, 20)
    with pytest.raises(ValueError, match="changed since the sweep began"):
        prepare(toy.run, Source(sweep.ratings), table.checksum, 1)


def test_how_to_read_a_file_is_refused_where_none_is_named() -> None:
    result = CliRunner().invoke(command(toy.STUDY), ["--item", "film"])
    assert refused(result) == "error: --item: says how to read a file of your own; name that by --ratings"


def test_ratings_that_changed_since_the_sweep_began_are_not_trained_on(sweep: Command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="changed since the sweep began"):
        prepare(toy.run, Source(sweep.ratings), "checksum of something else", 1)
