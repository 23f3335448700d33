from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from reports.figures import drawing
from reports.pages import render
from reports.read import gather
from studies.evidence.schema import Summary, write_summary
from tests.reports import made_up
from tests.reports.made_up import MadeUp

EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" width="1" height="1"/>'


def put(folder: Path, study: MadeUp) -> Summary:
    """Write a made-up study into a folder."""
    write_summary(study.summary, folder / "summary.json")
    study.runs.to_parquet(folder / "runs.parquet")
    study.curves.to_parquet(folder / "curves.parquet")
    return study.summary


@pytest.fixture(name="write_study")
def _write_study() -> Callable[..., Summary]:
    def write(folder: Path, **changes: Any) -> Summary:
        if not changes.keys() <= Summary.model_fields.keys():
            return put(folder, made_up.sweep(**changes))
        usual = _usual()
        return put(folder, usual._replace(summary=Summary.model_validate(usual.summary.model_dump() | changes)))

    return write


@cache
def _usual() -> MadeUp:
    return made_up.sweep()


@pytest.fixture(name="write_benchmarks")
def _write_benchmarks() -> Callable[..., None]:
    def write(folder: Path, raw: dict[str, Any] | None = None) -> None:
        (folder / "benchmarks.json").write_text(json.dumps(raw or made_up.made_up_benchmarks()), encoding="utf-8")

    return write


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with a title, words and data, but without a drawing, which takes most of a page's time."""
    monkeypatch.setattr(drawing, "svg_of", lambda figure, draw: EMPTY)


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with studies of all kinds, benchmarks, exact checks and a calibration: to be read, not changed."""
    folder = tmp_path_factory.mktemp("results")
    put(folder / "wd_sweep" / "movielens" / "quick", made_up.sweep())
    put(folder / "wd_sweep" / "movielens" / "regular", made_up.regular_tuned())
    mine = {"key": "mine", "name": "mine.csv", "checksum": "0", "size": {"ratings": 5_000}}
    put(folder / "wd_sweep" / "mine" / "quick", made_up.sweep(own=True, data=mine))
    put(folder / "optimizers" / "digits" / "quick", made_up.factorial())
    put(folder / "step_time" / "none" / "quick", made_up.timed())
    for name, raw in (
        ("benchmarks", made_up.made_up_benchmarks()),
        ("exact", made_up.made_up_exact()),
        ("calibration", made_up.made_up_calibration()),
    ):
        (folder / f"{name}.json").write_text(json.dumps(raw), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def everything(results: Path) -> dict[str, str]:
    """The pages of `results`, by file name, without drawings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "svg_of", lambda figure, draw: EMPTY)
        pages = render(gather(results))
    assert pages.problems == []
    return pages.html


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Pages by file name, with every kind of figure drawn."""
    folder = tmp_path_factory.mktemp("drawn")
    small = {0.0: 0.938, 0.01: 0.928, 0.1: 0.895, 1.0: 1.011}
    put(folder / "wd_sweep", made_up.sweep(5, small, tuned={"lr": [0.001, 0.002, 0.005, 0.01]}))
    put(folder / "optimizers", made_up.factorial(seeds=8))
    for name, raw in (("benchmarks", made_up.made_up_benchmarks()), ("calibration", made_up.made_up_calibration())):
        (folder / f"{name}.json").write_text(json.dumps(raw), encoding="utf-8")
    return render(gather(folder)).html
