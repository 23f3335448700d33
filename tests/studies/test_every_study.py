"""What holds of every study: declared as the ledger needs it, and its run measures what it declares."""

from __future__ import annotations

import importlib
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lesson.data import Adult, Curves, Digits, Images, Made, PlantedRatings, open_ratings, open_table
from lesson.pretraining import NewTask, Recipe
from studies.__main__ import find_studies
from studies.evidence.claims import load_parts
from studies.lab.experiment import candidates
from studies.lab.source import outcome_of
from studies.lab.spec import Outcome, Run, Study

STUDIES = find_studies()
# What makes a run small where small data do not: constants of the study's module.
SMALLER: dict[str, dict[str, Any]] = {
    "activations": {"STEPS": 20},
    "approximation": {"STEPS": 20},
    "entity_embeddings": {"ROWS": 60, "VALID": 20, "EPOCHS": 1, "BATCH": 16, "TREES": 3},
    "freezing": {"ROWS": 4, "BS": 2, "EPOCHS": 2, "peak_growth": lambda *_: 4096},  # test_freezing.py measures it
    "giant_models": {"STEPS": 20},
    "gradient_sizes": {"EVERY": 1},
    "lookup": {"BATCHES": (4, 8)},
    "mnist": {"STEPS": 20},
    "mnist_tuned": {"STEPS": 20},
    "ncf": {"EPOCHS": 1, "RIVALS": 5},
    "planted_factors": {"EPOCHS": 1},
    "pruning": {"STEPS": 20},
    "regularizers": {"STEPS": 20},
    "super_convergence": {"LENGTHS": (1, 2), "TARGET": 9.0, "LOWER": 9.0},
    "transfer": {"ROWS": 16, "EPOCHS": 1},
    "wd_nets": {"STEPS": 20},
}
SEEDS = {"quick": 10, "regular": 20, "full": 40}
EXPLORATORY_SEEDS = {"quick": 1, "regular": 8, "full": 16}


@pytest.fixture(scope="module")
def data(ratings_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Small data in the place of the catalog's."""
    path = tmp_path_factory.mktemp("table") / "rows.csv"
    path.write_text(
        "shop,size,sold\n" + "".join(f"{'abc'[k % 3]},{k % 7},{'yes' if k % 5 else 'no'}\n" for k in range(200))
    )
    table = open_table(path, "sold")
    people = Adult("0" * 64, np.arange(200.0)[:, None] % 7, np.arange(200)[:, None] % 3, torch.arange(200) % 2)
    vars(people)["table"] = table  # instead of the census's
    drawn = torch.Generator().manual_seed(0)
    digits = Digits("few digits", "0" * 64, torch.rand(200, 784, generator=drawn), torch.arange(200) % 10)
    return {
        "movielens": open_ratings(ratings_csv),
        "filmtrust": open_ratings(ratings_csv),
        "digits": digits,
        "made": Made(),
        "uci-digits": digits,
        "adult": people,
        "flights": table,
        "new-digits": NewTask(
            Images.from_arrays(digits.x[:40].view(-1, 28, 28), digits.y[:40] % 5, size=32),
            recipe=Recipe(layers=(1, 1, 1, 1), rows=20, epochs=1, bs=16),
            folder=tmp_path_factory.mktemp("cache"),
        ),
        "made-1d": Curves(),
        "made-ratings": PlantedRatings(),
    }


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_study_is_declared_in_full(study: Study) -> None:
    module = importlib.import_module(f"studies.{study.name}")
    assert module.STUDY is study
    assert callable(module.main)
    assert list(study.profiles) == ["quick", "regular", "full"]
    least = EXPLORATORY_SEEDS if study.exploratory else SEEDS
    assert all(study.profiles[name].seeds >= seeds for name, seeds in least.items())
    assert study.tuned or not any(profile.trials for profile in study.profiles.values())
    assert study.parts
    assert all(load_parts()[part.id].kind == "measured" for part in study.parts if part.id)
    for setting, searched in study.tuned.items():
        assert all(searched.low <= settings[setting] <= searched.high for settings in study.arms.values())
    for settings, trials in product(study.arms.values(), {profile.trials for profile in study.profiles.values()} - {0}):
        default = {name: settings[name] for name in study.tuned}
        assert not study.tuned or len(candidates(default, study.tuned, trials)) == trials


def arms_of(study: Study) -> list[Any]:
    """Its arms, for `parametrize`. Of those that differ in numbers alone, all but the first and the last are slow."""
    alike: dict[Any, list[str]] = {}
    for arm, settings in study.arms.items():
        words = {name: value if isinstance(value, (str, bool)) else None for name, value in settings.items()}
        alike.setdefault(str(words), []).append(arm)
    ends = {arm for arms in alike.values() for arm in (arms[0], arms[-1])}
    return [
        pytest.param(study, arm, id=f"{study.name}, {arm}", marks=[] if arm in ends else pytest.mark.slow)
        for arm in study.arms
    ]


@pytest.mark.parametrize(("study", "arm"), [of_arm for study in STUDIES for of_arm in arms_of(study)])
def test_a_run_of_every_arm_measures_what_its_study_declares(
    study: Study, arm: str, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, smaller in SMALLER.get(study.name, {}).items():
        monkeypatch.setattr(importlib.import_module(f"studies.{study.name}"), name, smaller)
    for name in study.data:
        job = Run(study.name, study.recipe, name, data[name].origin.checksum, study.arms[arm], seed=3)
        outcome = outcome_of(study.run, job, data[name])
        assert not outcome.diverged
        assert outcome.metrics.keys() == study.metrics.keys()
        assert all(value is None or math.isfinite(value) for value in outcome.metrics.values())
        assert outcome.metrics[next(iter(study.metrics))] is not None
        assert outcome.seconds > 0
        assert (outcome.n_train > 0) == (outcome.n_valid > 0) == study.resplits
        assert Outcome.restored(outcome.stored()) == outcome
