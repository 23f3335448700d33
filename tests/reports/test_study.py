"""The sentences and the charts of a study's page."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reports import charts, study
from reports.study import Study
from tests.reports.made_up import BEST, made_up_runs, made_up_summary


@pytest.fixture(scope="module")
def runs():
    return made_up_runs(10)[0]


def with_primary(runs, **changes):
    """A summary whose answering contrast has other fields."""
    summary = made_up_summary(runs)
    contrasts = [c.model_copy(update=changes) if c.arm == "wd=0.1" else c for c in summary.contrasts]
    return summary.model_copy(update={"contrasts": contrasts})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "Yes, on MovieLens 100k: RMSE 0.895 against 0.927, "
            "a paired difference of −0.032 [−0.034, −0.031], 10 seeds.",
        ),
        ({"negligible": True}, "Yes, though by too little to matter, on MovieLens 100k: RMSE"),
        ({"verdict": "worse", "difference": 0.03, "interval": (0.02, 0.04)}, "No, it is worse on MovieLens 100k: RMSE"),
        (
            {"verdict": "worse", "difference": 0.03, "interval": (0.02, 0.04)},
            "a paired difference of 0.030 [0.020, 0.040]",
        ),
        ({"verdict": "equivalent"}, "No difference that matters on MovieLens 100k: RMSE"),
        ({"verdict": "inconclusive", "difference": 0.001, "interval": (-0.002, 0.004)}, "Undecided on MovieLens 100k"),
        (
            {"verdict": "inconclusive", "difference": 0.001, "interval": (-0.002, 0.004)},
            "0.001 [−0.002, +0.004], 10 seeds.",
        ),
        ({"verdict": "preview", "n": 3}, "No verdict from so few runs on MovieLens 100k: RMSE"),
        (
            {"verdict": "worse", "difference": None, "interval": None, "diverged": (3, 0), "p_holm": 0.012},
            "No, it is worse on MovieLens 100k: 3 of 10 runs diverged at 0.1 and 0 of 10 at 0.01 (rank-based p = 0.01",
        ),
    ],
)
def test_the_answer_is_one_sentence_with_verdict_figures_interval_and_n(runs, changes, sentence):
    assert sentence in study.answer(with_primary(runs, **changes))


def test_the_answer_is_the_same_whichever_of_the_two_arms_is_the_baseline(runs):
    turned = {"arm": "wd=0.01", "baseline": "wd=0.1", "verdict": "worse"}
    turned |= {"difference": 0.032, "interval": (0.031, 0.034), "interval_corrected": (0.030, 0.034)}
    contrast = study.primary_contrast(made_up_summary(runs)).model_copy(update=turned)
    summary = made_up_summary(runs, baseline="wd=0.1", primary="wd=0.01", contrasts=[contrast.model_dump()])
    assert study.answer(summary) == (
        "Yes, on MovieLens 100k: RMSE 0.895 against 0.927, a paired difference of −0.032 [−0.034, −0.031], 10 seeds."
    )
    assert "[−0.034, −0.030]" in " ".join(study.limits(summary))


def test_a_question_that_does_not_name_both_arms_is_answered_with_their_names(runs):
    question = "What does weight decay do?"
    assert study.answer(made_up_summary(runs, question=question)).startswith("0.1 is better than 0.01 on MovieLens")
    undecided = with_primary(runs, verdict="inconclusive").model_copy(update={"question": question})
    assert study.answer(undecided).startswith("Undecided between 0.1 and 0.01 on MovieLens")


def test_without_the_contrast_that_answers_the_page_says_so(runs):
    assert "lack the contrast" in study.answer(made_up_summary(runs, primary="wd=0.5"))


def test_the_limits_give_the_wider_interval_and_the_profile(runs):
    said = " ".join(study.limits(made_up_summary(runs)))
    assert "One learning rate (0.005) for all values." in said
    assert "data like it" in said
    assert "[−0.034, −0.030]" in said
    assert "Quick profile" in said


def test_only_settings_that_differ_are_columns_and_the_swept_one_comes_first(runs):
    summary = made_up_summary(runs)
    assert study.differing(summary) == ["wd"]
    arms = {
        name: arm.model_copy(update={"settings": {"lr": 0.1 / (1 + i), "wd": arm.settings["wd"]}})
        for i, (name, arm) in enumerate(summary.arms.items())
    }
    tuning = [{"arm": "wd=0", "chosen": {"lr": 0.1}, "on_edge": True, "trials": [], "best_of_k": []}]
    assert study.differing(made_up_summary(runs, arms=arms, tuning=tuning)) == ["wd", "lr"]


def test_an_arm_that_repeats_a_value_is_named_and_not_on_the_axis(runs, tmp_path):
    summary = made_up_summary(runs)
    arms = summary.arms | {"wd=0.1, lr as by default": summary.arms["wd=0.1"]}
    summary = summary.model_copy(update={"arms": arms})
    values = study.arm_values(summary)
    assert list(values.values()) == [*BEST, "wd=0.1, lr as by default"]
    assert study.arm_label(summary, "wd=0.1") == "wd = 0.1"
    again = runs[runs["arm"] == "wd=0.1"].assign(arm="wd=0.1, lr as by default")
    heading, chart = study.swept_chart(page_of(summary, pd.concat([runs, again]), tmp_path))
    assert heading == "Validation RMSE is lowest at weight decay 0.1"
    assert len(chart.data.columns) == 1 + len(BEST)


def drawn_texts(drawing):
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)


def test_zero_stands_apart_on_a_logarithmic_axis():
    axes = Figure().subplots()
    charts.value_axis(axes, [0.0, 0.01, 0.1, 1.0])
    at = axes.xaxis.get_transform().transform([0.0, 0.01, 0.1, 1.0])
    assert at[0] < at[1]
    assert at[2] - at[1] == pytest.approx(at[3] - at[2])
    assert [text.get_text() for text in axes.texts] == ["//"], "the change of scale is marked"


def test_arms_without_numbers_stand_one_after_another(runs, tmp_path):
    summary, names = made_up_summary(runs), [*"hgfedcba"]
    arms = {
        arm: old.model_copy(update={"settings": {"rule": name}})
        for name, (arm, old) in zip(names, summary.arms.items(), strict=True)
    }
    _, chart = study.swept_chart(page_of(summary.model_copy(update={"arms": arms}), runs, tmp_path))
    assert [text for text in drawn_texts(chart.wide) if text in names] == names


def test_of_many_values_the_axis_names_those_in_question(tmp_path):
    runs, _ = made_up_runs(3, {round(0.01 * i, 2): 0.9 + 0.001 * i for i in range(40)})
    _, chart = study.swept_chart(page_of(made_up_summary(runs), runs, tmp_path))
    wide, narrow = ({text for text in drawn_texts(one) if text in chart.data} for one in (chart.wide, chart.narrow))
    assert {"0", "0.01", "0.1", "0.39"} <= narrow
    assert len(narrow) < len(wide) < 40


def page_of(summary, runs, tmp_path, curves=None):
    return Study("wd_sweep.html", tmp_path, summary, runs, curves)


def test_diverged_runs_are_no_number_in_a_chart_and_are_listed(runs, tmp_path):
    summary, runs = made_up_summary(runs), runs.copy()
    lost = (runs["arm"] == "wd=1") & (runs["seed"] < 4) & (runs["kind"] == "run")
    runs.loc[lost, "diverged"] = True
    runs.loc[lost, "valid_rmse"] = np.nan
    summary.arms["wd=1"] = summary.arms["wd=1"].model_copy(update={"diverged": 4})
    one = page_of(summary, runs, tmp_path)
    assert study.seed_table(one)["wd=1"].isna().sum() == 4
    assert study.diverged_runs(one) == ["wd = 1: 4 of 10"]
    assert study.swept_chart(one) is not None
    assert study.paired_chart(one) is not None


def test_an_arm_of_which_every_run_diverged_still_has_a_page(runs, tmp_path):
    summary, runs = made_up_summary(runs), runs.copy()
    runs.loc[runs["arm"] == "wd=1", ["diverged", "valid_rmse"]] = [True, np.nan]
    summary.arms["wd=1"] = summary.arms["wd=1"].model_copy(update={"mean": None, "sd": None, "diverged": 10})
    gone = {"difference": None, "interval": None, "interval_corrected": None, "diverged": (10, 0)}
    contrasts = [c.model_copy(update=gone) if c.arm == "wd=1" else c for c in summary.contrasts]
    one = page_of(summary.model_copy(update={"contrasts": contrasts}), runs, tmp_path)
    chart = study.paired_chart(one)
    assert chart is not None
    assert "diverged: see the table" in chart.wide
    assert study.swept_chart(one) is not None


def test_missing_runs_are_named_by_arm_and_seed(runs, tmp_path):
    kept = runs[~((runs["arm"] == "wd=0.1") & runs["seed"].isin([3, 4, 7]))]
    assert study.missing_runs(page_of(made_up_summary(runs), kept, tmp_path)) == ["wd = 0.1: 3 seeds (3–4, 7)"]
    assert study.missing_runs(page_of(made_up_summary(runs), runs, tmp_path)) == []


def test_the_chart_names_the_best_value_and_its_data_has_every_seed(runs, tmp_path):
    heading, chart = study.swept_chart(page_of(made_up_summary(runs), runs, tmp_path))
    assert heading == "Validation RMSE is lowest at weight decay 0.1"
    assert "lowest: 0.895" in chart.wide
    assert list(chart.data["seed"]) == [*range(10), "mean"]
    assert list(chart.data.columns[1:]) == ["0", "0.001", "0.01", "0.03", "0.1", "0.2", "0.3", "1"]


def test_means_that_differ_are_labelled_differently(runs, tmp_path):
    means = {"wd=0.01": 0.82042, "wd=0.1": 0.82037}
    summary = made_up_summary(runs)
    arms = {name: arm.model_copy(update={"mean": means.get(name, arm.mean)}) for name, arm in summary.arms.items()}
    summary = summary.model_copy(update={"arms": arms})
    flat = runs.assign(valid_rmse=runs["arm"].map(means).fillna(runs["valid_rmse"]))
    _, chart = study.swept_chart(page_of(summary, flat, tmp_path))
    assert {"lowest: 0.82037", "0.82042"} <= set(drawn_texts(chart.wide))
    assert "RMSE 0.82037 against 0.82042" in study.answer(summary)
    assert study.table_digits(summary) == 5


def test_arms_that_differ_in_a_late_digit_have_labels_of_their_own(runs):
    arm = {"mean": 0.9, "sd": 0.01, "n": 3}
    arms = {name: arm | {"settings": {"wd": wd}} for name, wd in (("a", 0.0100001), ("b", 0.0100002))}
    summary = made_up_summary(runs, arms=arms, baseline="a", primary="b", contrasts=[], noise_floor=None)
    assert [study.arm_label(summary, arm) for arm in arms] == ["wd = 0.0100001", "wd = 0.0100002"]


def test_differences_show_every_seed_and_the_noise_floor(runs, tmp_path):
    chart = study.paired_chart(page_of(made_up_summary(runs), runs, tmp_path))
    assert len(chart.data) == len(BEST)  # every value but the baseline, and the baseline again
    assert chart.data["arm"].iloc[-1] == "0.01 again"
    gaps = chart.data.set_index("arm").loc["wd = 0.1", [f"seed {seed}" for seed in range(10)]].astype(float)
    table = study.seed_table(page_of(made_up_summary(runs), runs, tmp_path))
    assert np.allclose(gaps, table["wd=0.1"] - table["wd=0.01"])


def test_tuning_is_shown_where_there_was_tuning(runs, tmp_path):
    tuning = [
        {
            "arm": arm,
            "chosen": {"lr": 0.01},
            "on_edge": False,
            "trials": [{"lr": 0.01}],
            "best_of_k": [0.95, 0.93, 0.92],
        }
        for arm in ("wd=0.01", "wd=0.1")
    ]
    summary = made_up_summary(runs, tuning=tuning)
    chart = study.tuning_chart(page_of(summary, runs, tmp_path))
    assert list(chart.data.columns) == ["k", "wd = 0.01", "wd = 0.1"]
    assert study.tuning_chart(page_of(made_up_summary(runs), runs, tmp_path)) is None


def with_measure(runs, **changes):
    """A summary and runs with a measurement beside the metric, ten times as large in each arm as in the last."""
    arms = {f"wd={value:g}": 1e-6 * 10**place for place, value in enumerate(BEST)}
    measured = {
        arm: {"mean": mean, "n": 10, "difference": mean - 1e-4, "interval": (mean - 2e-4, mean)}
        for arm, mean in arms.items()
    }
    measure = {"title": "distance to <b>", "logarithmic": True, "arms": measured} | changes
    runs = runs.assign(distance=runs["arm"].map(arms) * (1 + runs["seed"] / 100))
    return made_up_summary(runs, measures={"distance": measure}), runs


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_further_measurement_is_charted_with_its_data(runs, tmp_path, logarithmic):
    summary, runs = with_measure(runs, logarithmic=logarithmic)
    chart = study.measure_chart(page_of(summary, runs, tmp_path), "distance")
    assert list(chart.data["arm"]) == [f"wd = {value:g}" for value in BEST]
    assert list(chart.data.iloc[0]) == ["wd = 0", "1.00·10⁻⁶", "−9.90·10⁻⁵", "[−1.99·10⁻⁴, 1.00·10⁻⁶]", 10]
    assert ("10⁻⁶" in drawn_texts(chart.wide)) == logarithmic
    assert "distance to &lt;b&gt;" in chart.wide


def test_a_measurements_chart_leaves_out_the_runs_of_the_noise_floor(runs, tmp_path):
    summary, runs = with_measure(runs)
    again = runs["kind"] == "again"
    with_them, without = runs.assign(distance=runs["distance"].where(~again, 1.0)), runs[~again]
    charts = [study.measure_chart(page_of(summary, those, tmp_path), "distance") for those in (with_them, without)]
    assert charts[0].wide == charts[1].wide


def test_of_a_measurement_large_dots_stand_at_means_and_a_line_at_the_baselines():
    runs = pd.DataFrame({"arm": pd.Categorical([*"aabb"], [*"ab"]), "value": [1.0, 3.0, 4.0, 8.0]})
    figure = Figure()
    charts.measured(figure, runs, "b", "norm", False)
    (axes,) = figure.axes
    _, means = axes.collections
    assert means.get_offsets().tolist() == [[2, 0], [6, 1]]
    assert set(axes.lines[0].get_xdata()) == {6}


def test_long_words_leave_room_for_what_they_name(runs, tmp_path):
    name = "weight decay as the lesson has it in its notes"
    summary, runs = with_measure(runs, title="norm of the vectors of frequent films, the most rated tenth")
    arms = {arm: old.model_copy(update={"settings": {"rule": f"{name} {arm}"}}) for arm, old in summary.arms.items()}
    one = page_of(summary.model_copy(update={"arms": arms}), runs, tmp_path)
    for chart in (study.measure_chart(one, "distance"), study.paired_chart(one), study.swept_chart(one)[1]):
        assert max(map(len, drawn_texts(chart.narrow))) < 40
        assert any(text.endswith(" …") for text in drawn_texts(chart.narrow))
        assert f"{name} wd=0.1" in chart.narrow, "the description has the whole name"


def test_a_measurement_that_no_run_has_is_no_chart_and_one_that_is_not_positive_has_a_plain_axis(runs, tmp_path):
    summary, runs = with_measure(runs)
    nothing = page_of(summary, runs.assign(distance=np.nan), tmp_path)
    assert study.measure_chart(nothing, "distance") is None
    chart = study.measure_chart(page_of(summary, runs.assign(distance=0.0), tmp_path), "distance")
    assert not any("⁻" in text for text in drawn_texts(chart.wide))


def test_many_arms_keep_the_question_in_the_learning_curves(tmp_path):
    values = {round(0.01 * i, 2): 0.9 + 0.001 * i for i in range(20)}
    runs, curves = made_up_runs(3, values)
    one = page_of(made_up_summary(runs), runs, tmp_path, curves)
    shown = pd.unique(study.learning_chart(one).data["arm"])
    assert len(shown) == study.PANELS
    assert {"wd = 0", "wd = 0.01", "wd = 0.1", "wd = 0.19"} <= set(shown)


def test_learning_curves_come_in_the_order_of_the_axis_lost_arms_included(tmp_path):
    runs, curves = made_up_runs(3)
    curves.loc[curves["arm"] == "wd=1", ["train_loss", "valid_loss"]] = [np.inf, np.nan]
    one = page_of(made_up_summary(runs), runs, tmp_path, curves.sample(frac=1, random_state=0))
    chart = study.learning_chart(one)
    in_order = [f"wd = {value:g}" for value in BEST]
    assert list(pd.unique(chart.data["arm"])) == in_order
    assert [text for text in drawn_texts(chart.wide) if text in in_order] == in_order


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        ({"dirty": True}, "Run with uncommitted changes"),
        ({"commits": ["a", "b"]}, "The runs come from 2 commits"),
        ({"commit": None}, "The commit is not known"),
    ],
)
def test_code_that_was_not_one_clean_commit_is_said(runs, changes, note):
    summary = made_up_summary(runs)
    provenance = summary.provenance.model_copy(update=changes)
    said = study.commit_note(summary.model_copy(update={"provenance": provenance}))
    assert (note is None and said is None) or said.startswith(note)
