"""How often the rules that judge are wrong; margins for chance are rarer than 1 in 10,000."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from studies import calibration
from studies.calibration import BAR, SEEDS, SHAPES, Cell, app, broken, calibrate, table
from studies.evidence.outcomes import deciding_intervals

STUDIES = 300
DRAWN = ("normal", "exponential", "rare bad seeds", "overlapping splits")


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return calibrate(STUDIES, shapes=DRAWN)


def test_every_shape_number_of_seeds_and_form_has_a_cell_and_its_mirror_image(cells: list[Cell]) -> None:
    assert len(cells) == len(DRAWN) * len(SEEDS) * 7 * 2
    assert len({(cell.shape, cell.n, cell.form, cell.mirrored) for cell in cells}) == len(cells)


def test_where_there_is_a_bar_false_decisions_stay_below_it(cells: list[Cell]) -> None:
    assert broken(cells, STUDIES) == []


def test_lost_coverage_is_shown_where_bad_seeds_are_rare(cells: list[Cell]) -> None:
    rare = [cell.coverage for cell in cells if cell.shape == "rare bad seeds" and cell.n == 10]
    normal = [cell.coverage for cell in cells if cell.shape == "normal"]
    assert max(rare) < 0.93 < min(normal)


def test_splits_that_overlap_need_the_correction(cells: list[Cell]) -> None:
    corrected = [cell.coverage for cell in cells if cell.shape == "overlapping splits"]
    d = SHAPES["overlapping splits"](np.random.default_rng(0), (STUDIES, 1, 40))[:, 0]
    low, high, _ = deciding_intervals(d, None)
    assert np.mean((low <= 0) & (high >= 0)) < 0.75 < 0.93 < min(corrected)


def test_the_table_has_a_line_a_shape_and_number_of_seeds(cells: list[Cell]) -> None:
    assert len(table(cells).splitlines()) == 1 + len(DRAWN) * len(SEEDS)


def test_a_cell_above_its_bar_is_reported_and_one_without_a_bar_is_not() -> None:
    bad = Cell("normal", False, 10, "t", "superior", 0.9, 2 * BAR, 0.0)
    assert broken([bad], 20_000) == [bad]
    assert broken([Cell("lognormal", False, 10, "t", "superior", 0.9, 2 * BAR, 0.0)], 20_000) == []


def test_the_command_writes_every_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SHAPES", {"normal": SHAPES["normal"]})
    monkeypatch.setattr(calibration, "SEEDS", (10,))
    out = tmp_path / "new" / "calibration.json"
    result = CliRunner().invoke(app, ["--studies", "200", "--out", str(out)])
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text(encoding="utf-8"))
    assert (content["studies"], len(content["cells"])) == (200, 14)
    assert content["cells"][0]["shape"] == "normal"


@pytest.mark.parametrize(
    ("content", "told"),
    [('{"studies": 400, "cells": []}', "has 400 studies, this would have 200"), ('{"mine": 1}', "is no calibration")],
)
def test_neither_a_greater_calibration_nor_another_file_is_replaced(tmp_path: Path, content: str, told: str) -> None:
    out = tmp_path / "calibration.json"
    out.write_text(content)
    result = CliRunner().invoke(app, ["--studies", "200", "--out", str(out)])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.endswith(f"calibration.json {told}: it is kept; name another file with --out")
    assert out.read_text() == content


def test_a_file_that_cannot_be_written_is_one_line_before_anything_is_simulated(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "file" / "x.json")])
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert "cannot be written" in line
