from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from studies.evidence.provenance import CHECKOUT, digest
from studies.lab.experiment import candidates
from studies.lab.spec import Metric, Outcome, OutcomeError, Profile, Range, beats, effect, factorial, sweep
from tests.studies import toy

NORM = Metric("norm")


def with_part(arm: str = "x=1", other: str = "x=0", **settings: Any) -> dict[str, Any]:
    return {"parts": (beats("48", arm, other, **settings),)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_part("x=3"), "part 48: unknown arm 'x=3'; there are x=0, x=1, x=2"),
        (with_part(metric="speed"), "part 48: unknown metric 'speed'; there are rmse"),
        (with_part(metric="norm") | {"metrics": toy.STUDY.metrics | {"norm": NORM}}, "which direction is better"),
        (
            {"metrics": {"rmse": Metric("RMSE", better="lower")}},
            "part 47: RMSE cannot be judged: .* no smallest effect",
        ),
        ({"metrics": {}}, "a study needs a metric"),
        ({"parts": toy.STUDY.parts * 2}, "part 47: declared twice"),
        ({"parts": (beats("", "x=1", "x=0", "one"), beats("", "x=2", "x=0", "one"))}, "part one: declared twice"),
        ({"metrics": toy.STUDY.metrics | {"lr": NORM}}, "'lr' is both a metric and a setting that is tuned"),
        (
            {"arms": {"x=0": {"x": 0.0, "lr": 0.1}, "x=1": {"x": "one", "lr": 0.1}}},
            "x has numbers in some arms, text or true and false in others",
        ),
        ({"baseline": "x=3"}, "the baseline 'x=3' is not one of the arms x=0, x=1, x=2"),
        ({"tuned": {"momentum": Range(0.1, 1)}}, "momentum is tuned, but the arm 'x=0' has no default for it"),
        (
            {"arms": sweep("x", (0.0, 1.0, 2.0), lr=1)},
            "lr is tuned from 0.01 to 0.9 in whole numbers, like its default, and these are fewer than two",
        ),
        ({"stand_in": {"digits": "5,000 of 70,000"}}, "'digits' is a stand-in, but not one of the study's data sets"),
        (
            {"exploratory": "a net", "parts": tuple(beats("", "x=1", "x=0", str(n)) for n in range(7))},
            "7 parts; an exploratory study has 6 at most",
        ),
        ({"names": {"y": "why"}}, "'y' has a display name, but is neither a setting nor an arm"),
        ({"data": ()}, "it needs data, arms and profiles"),
        ({"profiles": {}}, "it needs data, arms and profiles"),
        ({"arms": {}}, "it needs data, arms and profiles"),
    ],
)
def test_what_cannot_be_answered_is_refused_when_it_is_declared(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^study toy: .*{said}"):
        dataclasses.replace(toy.STUDY, **change)


def test_a_sweep_has_one_arm_for_each_value() -> None:
    arms = sweep("n", (1, 2), lr=0.1, bias=True)
    assert arms == {"n=1": {"n": 1, "lr": 0.1, "bias": True}, "n=2": {"n": 2, "lr": 0.1, "bias": True}}
    assert list(sweep("wd", (0.1234567, 0.1234568, -0.0))) == ["wd=0.1234567", "wd=0.1234568", "wd=0"]
    for twice in ((0.1, 0.1), (1, 1.0), (0.0, -0.0)):
        with pytest.raises(ValueError, match="occurs twice"):
            sweep("wd", twice)


def test_a_factorial_has_every_combination_and_its_effects() -> None:
    arms = factorial(decay={"wd": {"wd": 0.1}, "plain": {"wd": 0}}, norm={"bn": {"bn": True}, "no bn": {"bn": False}})
    assert arms["wd, bn"] == {"wd": 0.1, "bn": True}
    assert list(arms) == ["wd, bn", "wd, no bn", "plain, bn", "plain, no bn"]
    assert effect("22", arms, "wd", "bn", says="together").weights == {
        "wd, bn": 0.5,
        "wd, no bn": -0.5,
        "plain, bn": -0.5,
        "plain, no bn": 0.5,
    }


@pytest.mark.parametrize(
    "factors",
    [
        {"a": {"on": {"wd": 1}, "off": {"wd": 0}}, "b": {"yes": {"wd": 2}, "no": {"bn": 0}}},  # both set wd
        {"a": {"p": {"wd": 1}, "p, q": {"wd": 0}}, "b": {"q, r": {"bn": 1}, "r": {"bn": 0}}},  # "p, q, r" twice
    ],
)
def test_a_factorial_whose_factors_collide_is_refused(factors: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="two combinations have this name, or two factors set the same setting"):
        factorial(**factors)


@pytest.mark.parametrize(
    ("arms", "swept"),
    [
        (toy.STUDY.arms, "x"),
        (sweep("rule", ("dense", "skip"), lr=0.1), None),  # words
        (sweep("bias", (True, False), lr=0.1), None),
        ({"little": {"x": 1, "lr": 0.1}, "much": {"x": 2, "lr": 0.1}}, None),  # names that no value gives
        ({"x=1": {"x": 1, "lr": 0.1}, "x=2": {"x": 2, "lr": 0.2}}, None),  # two settings
    ],
)
def test_arms_that_are_the_values_of_one_setting_are_known_as_that(arms: Any, swept: str | None) -> None:
    study = dataclasses.replace(toy.STUDY, arms=arms, parts=(), baseline=None)
    assert study.swept == swept


def test_a_study_has_its_costs_and_claims_in_words() -> None:
    study = dataclasses.replace(
        toy.STUDY,
        parts=(beats("51a", "x=1", "x=0"), beats("47", "x=1", "x=2"), beats("", "x=2", "x=0")),
        profiles={"quick": Profile(1, 0, "nothing"), "regular": Profile(2, 3, "a minute")},
    )
    assert study.claims == [47, 51]
    assert study.claims_named() == "claims 47, 51"
    assert toy.STUDY.claims_named() == "claim 47"
    assert dataclasses.replace(toy.STUDY, parts=()).claims_named() == "no claim"
    assert study.costs() == [
        "quick: 1 seed, nothing",
        "regular: 2 seeds, lr retuned by 3 trials per arm and seed, a minute",
    ]


def test_the_declaration_has_a_digest_of_what_decides_and_not_of_words() -> None:
    def declared(**change: Any) -> str:
        return digest(dataclasses.replace(toy.STUDY, **change).declared())

    assert declared(title="Other", names={"x": "size"}, limits=("None.",), run=print) == declared()
    others = [
        declared(parts=(beats("47", "x=1", "x=0", by=True),)),
        declared(arms=sweep("x", (0.0, 1.0, 3.0), lr=0.1)),
        declared(metrics={"rmse": Metric("validation RMSE", better="lower", smallest=0.02)}),
        declared(tuned={"lr": Range(0.01, 2)}),
        declared(recipe=2),
    ]
    assert len({declared(), *others}) == 1 + len(others)


def test_the_same_run_has_the_same_key_in_any_process() -> None:
    script = "from tests.studies import toy; print(toy.planned(3).key)"
    command = [sys.executable, "-c", script]
    other = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert other.stdout.strip() == toy.planned(3).key


def test_neither_the_order_of_settings_nor_how_a_number_is_written_changes_the_key() -> None:
    run = dataclasses.replace(toy.planned(3), settings={"x": 0, "bias": True, "kind": "a"})
    assert dataclasses.replace(run, settings=dict(reversed(run.settings.items()))).key == run.key
    assert dataclasses.replace(run, settings={**run.settings, "x": 0.0}).key == run.key
    assert dataclasses.replace(run, settings={**run.settings, "bias": 1}).key != run.key


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(toy.planned(0))])
def test_anything_that_determines_a_run_changes_its_key(field: str) -> None:
    run = toy.planned(3)
    other = {"settings": {"x": 1.0, "lr": 0.2}, "seed": 4, "replicate": 1, "threads": 2, "recipe": 2}
    assert dataclasses.replace(run, **{field: other.get(field, "other")}).key != run.key


def test_a_run_gives_its_settings_as_they_are_and_draws_of_its_own() -> None:
    run = dataclasses.replace(toy.planned(3), settings={"n": 40, "bias": False})
    assert (run["n"], run["bias"]) == (40, False)
    assert type(run["n"]) is int
    draws = [dataclasses.replace(run, seed=seed, replicate=again).draw for seed in range(4) for again in (0, 1)]
    assert len(set(draws)) == 8


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_an_outcome_that_is_not_a_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"norm is {value}; a run that diverged raises DivergenceError"):
        Outcome({"rmse": 1.0, "norm": value})


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome({"rmse": 0.9, "steps": math.inf, "norm": None}, {"loss": [2.0, 1.0]}, 0.5, 90, 10),
        Outcome({}, {"loss": [2.0]}, 0.5, diverged=True),
    ],
)
def test_an_outcome_comes_back_from_json_as_it_was(outcome: Outcome) -> None:
    stored = json.dumps(outcome.stored(), allow_nan=False)
    assert Outcome.restored(json.loads(stored) | {"commit": "0123456789ab"}) == outcome


LR = {"lr": Range(5e-4, 5e-2)}


@pytest.mark.parametrize("count", [3, 6, 8, 16])
def test_candidates_of_one_setting_are_an_even_grid_with_both_ends_beside_the_default(count: int) -> None:
    found = [choice["lr"] for choice in candidates({"lr": 0.004}, LR, count)]
    assert found[0] == 0.004
    assert found[1:] == pytest.approx(np.geomspace(5e-4, 5e-2, count - 1), rel=1e-3)
    assert (found[1], found[-1]) == (5e-4, 5e-2)


def test_a_grid_that_contains_the_default_tries_it_once() -> None:
    found = [choice["lr"] for choice in candidates({"lr": 0.005}, LR, 4)]
    assert found == [0.005, 5e-4, 5e-2, 0.001581]  # another choice takes its place
    assert candidates({"lr": 0.005}, LR, 1) == [{"lr": 0.005}]


@pytest.mark.parametrize("count", [6, 8, 17])
def test_candidates_of_several_settings_spread_to_all_ends_and_whole_numbers_stay_whole(count: int) -> None:
    found = candidates({"lr": 0.005, "n": 10}, LR | {"n": Range(2, 200)}, count)
    assert found[0] == {"lr": 0.005, "n": 10}
    assert all(type(choice["n"]) is int for choice in found)
    assert (min(choice["lr"] for choice in found), max(choice["lr"] for choice in found)) == (5e-4, 5e-2)
    assert (min(choice["n"] for choice in found), max(choice["n"] for choice in found)) == (2, 200)
    # Each quarter of the plane, halved in the logarithm of either setting, has its share.
    quarters = [(choice["lr"] < 5e-3, choice["n"] < 20) for choice in found[1:]]
    share = (count - 1) / 4
    assert all(abs(quarters.count((low, few)) - share) < 2 for low in (True, False) for few in (True, False))


def test_one_other_candidate_lies_within_the_ranges() -> None:
    _, other = candidates({"lr": 0.005, "n": 10}, LR | {"n": Range(2, 200)}, 2)
    assert 5e-4 <= other["lr"] <= 5e-2
    assert 2 <= other["n"] <= 200


def test_a_whole_number_that_comes_again_is_tried_once() -> None:
    found = candidates({"n": 2}, {"n": Range(1, 3)}, 12)
    assert sorted(choice["n"] for choice in found) == [1, 2, 3]


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"metrics": {"rmse": "0.9"}}, r"the metric rmse is '0\.9', not a number"),
        ({"metrics": {"rmse": b"1"}}, "the metric rmse is b'1', not a number"),
        ({"metrics": {"rmse": 1j}}, "the metric rmse is 1j, not a number"),
        ({"metrics": {"rmse": 10**400}}, "the metric rmse is 1000.*, not a number"),
        ({"metrics": {"rmse": np.zeros((2, 2))}}, r"the metric rmse is array.*, not a number"),
        ({"metrics": {"rmse": torch.zeros(3)}}, "the metric rmse is tensor.*, not a number"),
        ({"metrics": {"rmse": 1e308}}, r"the metric rmse is 1e\+308; the largest that can be compared is 1e\+100"),
        ({"metrics": {"rmse": -1e100}}, r"the metric rmse is -1e\+100; the largest"),
        ({"metrics": {7: 1.0}}, "the metrics are {7: 1.0}; they must be values by name"),
        ({"metrics": 0.9}, "the metrics are 0.9; they must be values by name"),
        ({"metrics": {}, "curves": {"loss": [1.0, None]}}, "the curve loss, at 2, is None, not a number"),
        ({"metrics": {}, "curves": {"loss": [1.0, math.nan]}}, "the curve loss is nan at 2; end it before"),
        ({"metrics": {}, "curves": {"loss": 1.0}}, "the curve loss is 1.0, not a row of numbers"),
        ({"metrics": {}, "curves": {"loss": "123"}}, "the curve loss is '123', not a row of numbers"),
        ({"metrics": {}, "seconds": math.nan}, "seconds is nan; it must be a number from 0 on"),
        ({"metrics": {}, "seconds": -1}, "seconds is -1; it must be a number from 0 on"),
        ({"metrics": {}, "n_train": None}, "n_train is None, not a number"),
        ({"metrics": {}, "n_valid": 9.5}, "n_valid is 9.5; it must be a whole number from 0 on"),
        ({"metrics": {}, "diverged": 2}, "diverged is 2, not True or False"),
        ({"metrics": {"rmse": 1.0}, "diverged": True}, "a run that diverged has no metrics; this one has rmse"),
    ],
)
def test_what_no_page_could_show_is_refused_in_one_line(returned: dict[str, Any], said: str) -> None:
    with pytest.raises(OutcomeError, match=f"^{said}") as caught:
        Outcome(**returned)
    assert "\n" not in str(caught.value)


def test_numbers_of_other_libraries_become_plain_ones() -> None:
    outcome = Outcome(
        {"rmse": np.float32(0.5), "norm": torch.tensor(2.0), "missed": np.float64("inf")},
        {"loss": np.array([2, 1], np.float32), "short": torch.tensor([3.0]), "none": (value for value in ())},
        np.float32(0.25),  # type: ignore[arg-type]
        np.int64(90),  # type: ignore[arg-type]
        torch.tensor(10),  # type: ignore[arg-type]
        np.False_,  # type: ignore[arg-type]
    )
    stored = json.loads(json.dumps(outcome.stored(), allow_nan=False))
    assert stored["metrics"] == {"rmse": 0.5, "norm": 2.0, "missed": "missed"}
    assert stored["curves"] == {"loss": [2.0, 1.0], "short": [3.0], "none": []}
    assert (stored["seconds"], stored["n_train"], stored["n_valid"], stored["diverged"]) == (0.25, 90, 10, False)


@pytest.mark.parametrize(
    "change", [{"metrics": None}, {"metrics": {"rmse": 1e308}}, {"curves": {"loss": [math.nan]}}, {"diverged": "no"}]
)
def test_a_stored_outcome_that_was_changed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(OutcomeError):
        Outcome.restored(Outcome({"rmse": 1.0}).stored() | change)
