from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.inputs import gather
from reports.pages import render
from studies.evidence.schema import Summary, write_summary
from tests.reports.made_up import made_up_benchmarks, made_up_runs, made_up_summary


def write_study(folder: Path, seeds: int = 10, **changes: Any) -> Summary:
    """Write a made-up study into a folder; keywords replace fields of its summary."""
    runs, curves = made_up_runs(seeds)
    summary = made_up_summary(runs, **changes)
    write_summary(summary, folder / "summary.json")
    runs.to_parquet(folder / "runs.parquet")
    curves.to_parquet(folder / "curves.parquet")
    return summary


def write_benchmarks(folder: Path, raw: dict[str, Any] | None = None) -> None:
    """Write a made-up benchmarks.json into a folder."""
    (folder / "benchmarks.json").write_text(json.dumps(raw or made_up_benchmarks()), encoding="utf-8")


@pytest.fixture(name="write_study")
def _write_study() -> Callable[..., Summary]:
    return write_study


@pytest.fixture(name="write_benchmarks")
def _write_benchmarks() -> Callable[..., None]:
    return write_benchmarks


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study and benchmarks: to be read, not changed."""
    folder = tmp_path_factory.mktemp("results")
    write_study(folder / "wd_sweep")
    write_benchmarks(folder)
    return folder


@pytest.fixture(scope="session")
def everything(results: Path) -> dict[str, str]:
    """The pages of `results`, by file name."""
    return render(gather(results)).html
