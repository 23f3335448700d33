"""The calibration's page: every cell, the bad ones too."""

import json

import pytest

from reports.pages import calibration, render
from reports.read import gather
from tests.reports.made_up import made_up_calibration

pytestmark = pytest.mark.usefixtures("no_drawing")


def found(**changes):
    return calibration.Calibration.model_validate(made_up_calibration() | changes)


def test_the_answer_counts_the_cells_above_the_bar_and_names_the_worst():
    assert calibration.answer(found()) == (
        "In 18 of 54 cells the rules are wrong more often than 0.05, none of them held to it; at worst 0.120: "
        "form “superior”, numbers “lognormal”, 10 seeds."
    )
    assert "18 of them held to it" in calibration.answer(found(barred=["lognormal"]))
    assert calibration.answer(found(bar=0.2)) == "In none of 54 cells are the rules wrong more often than 0.2."
    assert calibration.answer(found(cells=[])) == "Nothing was simulated."


def test_the_form_whose_rivals_no_arm_has_is_shown_and_not_held_to_the_bar():
    (cell, *_) = found(barred=["lognormal"]).cells
    unheld = cell.model_copy(update={"shape": "lognormal", "form": calibration.UNHELD, "false_yes": 0.3})
    assert "1 of 1 cell " in calibration.answer(found(barred=["lognormal"], cells=[unheld.model_dump()]))
    assert "none of them held to it" in calibration.answer(found(barred=["lognormal"], cells=[unheld.model_dump()]))


def test_what_few_simulations_explain_is_not_above_the_bar():
    assert found(studies=100).tolerated > 0.12
    assert not any(map(found(studies=100).above, found().cells))


def test_a_line_is_the_worst_of_a_shape():
    lines = calibration.lines(found())
    assert len(lines) == 9
    assert (lines[-1].shape, lines[-1].n, lines[-1].above, lines[-1].cells) == ("lognormal", 40, 6, 6)
    assert not lines[-1].barred


def test_the_page_shows_every_cell_and_marks_the_bad_ones(everything):
    page = everything["calibration.html"]
    assert page.count('<td class="l bad">above</td>') == 18
    assert page.count('<td class="l">below</td>') == 36
    assert "python -m studies.calibration --studies 20000 --seed 0" in page


@pytest.mark.parametrize(
    "change",
    [{"bar": 2}, {"cells": [{}]}, {"schema_version": 2}, {"barred": None}],
    ids=lambda change: next(iter(change)),
)
def test_an_invalid_file_is_a_problem_and_has_no_page(tmp_path, change):
    (tmp_path / "calibration.json").write_text(json.dumps(made_up_calibration() | change))
    pages = render(gather(tmp_path))
    assert "calibration.html" not in pages.html
    (problem,) = pages.problems
    assert problem.startswith(f"{tmp_path / 'calibration.json'}: not a calibration")
