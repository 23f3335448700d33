from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest

from studies.evidence.provenance import CHECKOUT
from studies.lab.experiment import candidates
from studies.lab.spec import Measure, Outcome
from tests.studies import toy


def test_the_same_run_has_the_same_key_in_any_process() -> None:
    script = "from tests.studies import toy; print(toy.planned(3).key)"
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert other.stdout.strip() == toy.planned(3).key


def test_the_order_of_settings_does_not_change_the_key() -> None:
    run = toy.planned(3)
    assert dataclasses.replace(run, settings=dict(reversed(run.settings.items()))).key == run.key


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(toy.planned(0))])
def test_anything_that_determines_a_run_changes_its_key(field: str) -> None:
    run = toy.planned(3)
    other = {"settings": {"x": 1.0, "lr": 0.2}, "seed": 4, "replicate": 1, "threads": 2, "recipe": 2}
    assert dataclasses.replace(run, **{field: other.get(field, "other")}).key != run.key


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_outcome_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="diverged has the value None"):
        Outcome(value, [1.0], [1.0], 0.0, 1, 1)
    with pytest.raises(ValueError, match="None says that there is nothing to measure"):
        Outcome(1.0, [1.0], [1.0], 0.0, 1, 1, measures={"norm": value})


def test_what_a_run_measures_beside_the_metric_is_declared() -> None:
    measures = {"norm": Measure("norm of vectors"), "time": Measure("seconds", logarithmic=True)}
    declared = dataclasses.replace(toy.STUDY, measures=measures).declared()
    assert declared == toy.STUDY.declared() | {"measures": {"norm": "norm of vectors", "time": "seconds"}}


def test_every_arm_tries_the_default_and_more_trials_keep_the_earlier_ones() -> None:
    few, many = candidates(0.005, 5e-4, 5e-2, 4), candidates(0.005, 5e-4, 5e-2, 16)
    assert many[:4] == few
    assert many[0] == 0.005
    assert len(set(many)) == 16
    assert all(5e-4 <= value <= 5e-2 for value in many)
    assert candidates(0.005, 5e-4, 5e-2, 1) == [0.005]
