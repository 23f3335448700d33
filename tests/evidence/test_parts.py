from __future__ import annotations

import dataclasses
import math

import pytest

from studies.evidence.parts import (
    Metric,
    Part,
    beats,
    best,
    check_parts,
    declared,
    differs,
    effect,
    equals,
    exceeds,
    not_worse,
)

METRICS = {
    "rmse": Metric("RMSE", "lower", "0.2 %"),
    "accuracy": Metric("accuracy", "higher", 0.005),
    "norm": Metric("norm", "lower"),
    "seconds": Metric("seconds", smallest=1.0),
}
ARMS = ["a", "b", "c"]
PART = beats("48", "a", "b")


def test_the_makers_read_as_the_sentence_they_stand_for():
    assert beats("48", "a", "b").says == "a beats b"
    assert not_worse("", "a", "b", "as good").says == "as good"
    forms = [make("1", "a", "b").form for make in (beats, not_worse, equals, differs)]
    assert forms == ["superior", "noninferior", "equivalent", "different"]
    assert exceeds("64", "a", 0.85, metric="accuracy").against == 0.85
    assert best("6", "a", ARMS).weights == {"a": 1, "b": -1, "c": -1}


@pytest.mark.parametrize("part", [PART, best("6", "a", ARMS), exceeds("64", "a", 0.9, by=True), equals("", "a", "b")])
def test_a_part_of_known_arms_and_metrics_passes(part):
    check_parts([part], ARMS, METRICS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"a": 1, "z": -1}}, "part 48: unknown arm 'z'; there are a, b, c"),
        ({"metric": "speed"}, "unknown metric 'speed'; there are rmse, accuracy, norm, seconds"),
        ({"metric": "norm"}, "no smallest effect"),
        ({"metric": "seconds"}, "which direction is better"),
        ({"weights": {"a": math.nan, "b": 1}}, "finite"),
        ({"weights": {"a": 0.0}}, "has no arm with a weight"),
        ({"weights": {}}, "has no arm with a weight"),
        ({"against": math.inf}, "finite"),
        ({"id": "048"}, "not the id of a part"),
        ({"id": "slip 3"}, "not the id of a part"),
        ({"form": "better"}, "unknown form 'better'"),
        ({"form": "equivalent", "by": True}, '"by" is only for superior'),
        ({"form": "best", "weights": {"a": 1}}, '"best" needs one arm with weight 1'),
        ({"form": "best", "weights": {"a": 1, "b": 1}}, '"best" needs one arm with weight 1'),
        ({"form": "best", "against": 1.0}, "compares with its rivals"),
    ],
    ids=str,
)
def test_a_part_that_cannot_be_judged_is_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_parts([dataclasses.replace(PART, **change)], ARMS, METRICS)
    assert "\n" not in str(caught.value)


def test_two_parts_of_one_id_are_refused_and_two_without_one_are_not():
    with pytest.raises(ValueError, match="part 48: declared twice"):
        check_parts([PART, PART], ARMS, METRICS)
    check_parts([beats("", "a", "b"), beats("", "a", "c")], ARMS, METRICS)


def test_a_study_without_a_metric_is_refused():
    with pytest.raises(ValueError, match="needs a metric"):
        check_parts([], ARMS, {})


@pytest.mark.parametrize("smallest", [0, -1.0, math.nan, math.inf, "2", "two %", "0 %", "-1 %"])
def test_an_invalid_margin_is_refused_with_the_metrics_title(smallest):
    with pytest.raises(ValueError, match="RMSE"):
        Metric("RMSE", "lower", smallest)


def test_a_margin_is_absolute_or_a_share_of_the_reference():
    assert Metric("error", "lower", 0.005).margin(0.9) == 0.005
    assert Metric("loss", "lower", "2%").margin(-0.5) == pytest.approx(0.01)


FACTORIAL = {
    "neither": {"wd": 0, "bn": False},
    "wd": {"wd": 0.1, "bn": False},
    "bn": {"wd": 0, "bn": True},
    "both": {"wd": 0.1, "bn": True},
}


def test_effects_of_a_factorial_are_differences_of_means():
    assert effect("85", FACTORIAL, "wd", says="").weights == {"neither": -0.5, "wd": 0.5, "bn": -0.5, "both": 0.5}
    assert effect("85", FACTORIAL, "wd", "bn", says="").weights == {"neither": 0.5, "wd": -0.5, "bn": -0.5, "both": 0.5}


def test_an_effect_of_a_setting_that_is_not_a_factor_is_refused():
    with pytest.raises(ValueError, match="no setting 'lr'"):
        effect("85", FACTORIAL, "lr", says="")
    with pytest.raises(ValueError, match="'wd' is not on in half"):
        effect("85", {"a": {"wd": 1}, "b": {"wd": 0.1}}, "wd", says="")


def test_the_digest_of_a_declaration_knows_the_margin_and_not_the_words():
    digest = declared(PART, METRICS)
    assert declared(dataclasses.replace(PART, says="other words", weights={"b": -1, "a": 1.0}), METRICS) == digest
    others = [
        declared(dataclasses.replace(PART, by=True), METRICS),
        declared(dataclasses.replace(PART, against=1.0), METRICS),
        declared(PART, METRICS | {"rmse": Metric("RMSE", "lower", "0.3 %")}),
        declared(Part("48", "", PART.weights, "different"), METRICS),
    ]
    assert len({digest, *others}) == 5
