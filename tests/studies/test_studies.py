from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

import studies
import studies.__main__ as listing
from studies.evidence.claims import N_CLAIMS, load_parts
from studies.evidence.outside import printable
from studies.lab.results import best, tried
from studies.lab.spec import Metric, Study
from tests.studies import toy


def list_studies(*arguments: str) -> Result:
    return CliRunner().invoke(listing.app, arguments)


@pytest.fixture
def with_toy(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy study as one of the package's, by its file alone."""
    folder = tmp_path_factory.mktemp("more")
    shutil.copy(toy.__file__, folder)
    monkeypatch.setattr(studies, "__path__", [*studies.__path__, str(folder)])
    yield
    sys.modules.pop("studies.toy", None)


@pytest.mark.usefixtures("with_toy")
def test_a_new_study_is_one_file_dropped_in(tmp_path: Path) -> None:
    told = list_studies("--results", str(tmp_path)).stdout
    assert "wd_sweep  Does weight decay 0.1 beat" in told
    assert "toy  Is 1 better than 0?" in told
    assert "regular: 12 seeds, lr retuned by 4 trials per arm and seed, nothing" in told


def test_a_claim_shows_its_parts_what_is_missing_and_how_to_run_it(tmp_path: Path) -> None:
    told = list_studies("--claim", "47", "--results", str(tmp_path)).stdout
    assert told.startswith("Claim 47: ")
    assert [line.split()[0] for line in told.splitlines() if line.startswith("  47")] == ["47a", "47b", "47c", "47d"]
    assert "missing: movielens" in told
    assert "run: python -m studies.overfitting --profile regular" in told
    assert "run: python -m studies.exact" in list_studies("--claim", "79", "--results", str(tmp_path)).stdout
    digits = "run: python -m lesson.data mnist ; python -m studies.mnist --profile regular --digits mnist\n"
    assert digits in list_studies("--claim", "64", "--results", str(tmp_path)).stdout
    assert "run: python -m bench.peers\n" in list_studies("--claim", "1", "--results", str(tmp_path)).stdout


def test_every_data_set_that_a_part_asks_for_is_one_that_a_study_of_the_part_has() -> None:
    data: dict[str, set[str]] = {}
    for study in listing.find_studies():
        for part in study.parts:
            data.setdefault(part.id, set()).update(study.data, ["mnist"] if "digits" in study.stand_in else [])
    for part in load_parts().values():
        if part.kind == "measured" and part.id in data and part.id not in listing.BENCHES:
            assert {*part.conditions} - {"imagenet"} <= data[part.id], part.id


def test_a_claim_shows_its_results(tmp_path: Path) -> None:
    checks = [{"part": "79b", "holds": False, "expected": False, "figure": "0.693 is not 0.3", "check": "loss.natural"}]
    (tmp_path / "exact.json").write_text(json.dumps({"schema_version": 1, "checks": checks, "provenance": {}}))
    told = list_studies("--claim", "79", "--results", str(tmp_path)).stdout
    assert "found: 0.693 is not 0.3 (loss.natural)" in told
    assert "false" in told.splitlines()[1]


@pytest.mark.parametrize("claim", ["0", str(N_CLAIMS + 1), "x"])
def test_a_claim_that_does_not_exist_is_refused(claim: str) -> None:
    result = list_studies("--claim", claim)
    assert result.exit_code == 2
    assert "--claim" in result.stderr


def test_results_are_listed_and_broken_ones_named(tmp_path: Path) -> None:
    assert f"no results in {tmp_path} yet" in list_studies("--results", str(tmp_path)).stdout
    broken = tmp_path / "mydata" / "wd_sweep" / "summary.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    assert f"results that cannot be used: {broken}" in list_studies("--results", str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "it is not a file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: path.symlink_to(path.name), "Too many levels"),
        (os.mkfifo, "it is not a file"),
        (lambda path: path.write_text("[]"), "not a summary of a study"),
        (lambda path: path.write_text("null"), "not a summary of a study"),
        (lambda path: path.write_text("[" * 100_000), "not JSON"),
    ],
)
def test_anything_in_place_of_a_summary_is_one_line_of_the_list(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "a\u202e" / "wd_sweep" / "summary.json"
    path.parent.mkdir(parents=True)
    make(path)
    result = list_studies("--results", str(tmp_path))
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if "cannot be used" in line]
    assert printable(str(path)) in line
    assert said in line


def test_a_summary_that_lies_too_deep_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c" / "d" / "wd_sweep" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    result = list_studies("--results", str(tmp_path))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"problem: {path}: more than 4 folders below")


def test_a_claim_names_the_results_that_it_leaves_out(tmp_path: Path) -> None:
    broken = tmp_path / "wd_sweep" / "movielens" / "quick" / "summary.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    (line,) = list_studies("--claim", "48", "--results", str(tmp_path)).stderr.splitlines()
    assert line.startswith(f"problem: {broken}: not a summary of a study")
    nowhere = list_studies("--claim", "48", "--results", str(tmp_path / "nowhere"))
    assert nowhere.exit_code == 0
    assert nowhere.stderr.startswith(f"problem: {tmp_path / 'nowhere'}: no such folder")
    assert nowhere.stderr.count("\n") == 1


def test_a_folder_of_results_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = list_studies("--results", str(tmp_path / "file"))
    assert (result.exit_code, result.stderr) == (2, f"error: --results {tmp_path / 'file'}: not a folder\n")


@pytest.mark.usefixtures("with_toy")
def test_a_study_that_is_not_called_as_its_file_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("studies.toy")
    monkeypatch.setattr(module, "STUDY", dataclasses.replace(module.STUDY, name="joy"))
    result = list_studies()
    assert result.exit_code == 2
    assert result.stderr == "error: studies/toy.py: its STUDY is called 'joy'; call it 'toy', like its file\n"


def test_a_study_whose_declaration_is_refused_is_one_line_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ValueError("study toy: it needs data, arms and profiles")

    monkeypatch.setattr(importlib, "import_module", refuse)
    result = list_studies()
    assert result.exit_code == 2
    assert re.fullmatch(r"error: studies/\w+\.py: study toy: it needs data, arms and profiles\n", result.stderr)


def test_one_claim_is_named_as_one(tmp_path: Path) -> None:
    told = list_studies("--results", str(tmp_path)).stdout
    assert "  claims 64, 65; data: digits; profiles" in told
    assert "  claim 54; data: movielens; profiles" in told


def test_a_password_in_a_wrong_place_is_not_shown() -> None:
    for arguments in (
        ["me:hunter2@host/db"],
        ["--results", "me:hunter2@host/db"],
        ["--all", "--profile", "me:hunter2@h"],
    ):
        result = list_studies(*arguments)
        assert result.exit_code == 2
        assert "hunter2" not in result.output


@pytest.mark.parametrize("arguments", [("--profile", "quick"), ("--all", "--profile", "nonsense")])
def test_a_profile_that_cannot_be_run_is_one_line(arguments: tuple[str, ...]) -> None:
    result = list_studies(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --profile")
    assert result.stderr.count("\n") == 1


def test_all_runs_one_after_the_other_and_a_failure_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def run(study: Study, profile: str, results: Path) -> int:
        order.append(f"{study.name} {profile} {results}")
        return int(study.name == "toy")

    monkeypatch.setattr(listing, "find_studies", lambda: [toy.STUDY, importlib.import_module("studies.wd_sweep").STUDY])
    monkeypatch.setattr(listing, "_run", run)
    result = list_studies("--all", "--results", str(tmp_path))
    assert order == [f"toy quick {tmp_path}", f"wd_sweep quick {tmp_path}"]
    assert result.exit_code == 1
    first, second, error = result.stderr.splitlines()
    assert first == f"study 1 of 2: toy, {toy.STUDY.profiles['quick'].cost} alone"
    assert second.startswith("study 2 of 2: wd_sweep, ")
    assert error == "error: not finished: toy"


def test_all_runs_each_study_by_its_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = tmp_path / "argv"
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho "$@" > {argv}\nexit 2\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert listing._run(toy.STUDY, "regular", Path("here")) == 2
    assert argv.read_text().split() == ["-m", "studies.toy", "--profile", "regular", "--results", "here"]
    assert os.access(script, os.X_OK)


def test_a_run_that_missed_its_target_is_no_best_choice_where_higher_is_better() -> None:
    study = SimpleNamespace(metrics={"m": Metric("share", better="higher")}, tuned={"lr": None})
    runs = pd.DataFrame({"metric.m": [0.5, math.inf, 0.7], "diverged": False, "setting.lr": [0.1, 0.2, 0.3]})
    assert best(tried(study, runs)) == (0.3,)  # type: ignore[arg-type]
