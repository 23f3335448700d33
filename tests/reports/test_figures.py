"""The figures: what they say, which data they hold, and once, that all of them are drawn."""

import dataclasses
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from reports import arms, figures
from reports.figures import best_of_k, curves, drawing, metrics, paired, parts, ratios, swept, to_target, tuned
from reports.read import Study
from tests.reports import made_up
from tests.reports.made_up import BEST, RMSE

undrawn = pytest.mark.usefixtures("no_drawing")  # where words and data are read alone
SVG_OF_PAGE = re.compile(r"<svg.*?</svg>", re.DOTALL)


def page(study, **changes):
    return Study("page.html", None, study.summary.model_copy(update=changes), study.runs, study.curves)


@pytest.fixture(scope="module")
def sweep():
    return made_up.sweep()


@pytest.fixture(scope="module")
def tuned_sweep():
    return made_up.regular_tuned(8)


@pytest.fixture(scope="module")
def optimizers():
    return made_up.factorial()


def only(charts):
    (chart,) = charts
    return chart


def drawn_texts(drawing):
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing)


# With every drawing


def test_every_figure_is_drawn_with_a_title_a_description_its_data_and_the_colors_of_the_page(drawn):
    kinds = set()
    for page in drawn.values():
        drawings = SVG_OF_PAGE.findall(page)
        assert len(drawings) == 2 * page.count("Data of this figure")
        for text in drawings:
            svg = ElementTree.fromstring(text)
            assert svg.get("role") == "img"
            for place, tag in enumerate(("title", "desc")):
                assert svg[place].tag.endswith(tag)
                assert svg[place].text
                assert svg[place].get("id") in svg.get("aria-labelledby").split()
            assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", text)
            assert "currentColor" in text
            assert "$" not in "".join(ElementTree.fromstring(text).itertext())  # a tick that matplotlib would typeset
            kinds.add(svg[0].get("id").removesuffix("-wide-title").removesuffix("-narrow-title"))
        assert len(page.encode()) < 2_000_000
    kinds = {re.sub("^(metric|curves|ratios|to-target|behind)-.*", r"\1", kind) for kind in kinds}
    study = {"parts", "swept", "metric", "paired", "curves", "tuned", "best-of-k", "to-target", "behind"}
    assert kinds == study | {"crossover", "ratios", "scale", "calibration"}


def test_names_from_outside_are_shown_in_drawings_as_they_are_without_what_acts(sweep):
    names = {"wd=0.1": "<b>$x^2$\u202e"}
    chart = only(paired.charts(page(sweep, names=names)))
    for one in (chart.wide, chart.narrow):
        svg = ElementTree.fromstring(one)
        svg.remove(svg[1])  # its description
        assert "<b>$x^2$\ufffd" in "".join(svg.itertext())
        assert "\u202e" not in one


def test_the_same_results_give_the_same_drawing(sweep):
    first, again = (only(paired.charts(page(sweep))) for _ in range(2))
    assert first.wide == again.wide


def test_numbers_in_drawings_have_a_zero_before_the_point_and_a_true_minus(drawn):
    texts = drawn_texts("".join(drawn.values()))
    assert any(text.startswith("−0.") for text in texts)
    assert not [text for text in texts if re.search(r"(?<!\d)-\d|(?<!\d)\.\d", text)]


def test_the_lowest_value_is_named_inside_the_axes_at_either_end():
    for values in ({0.0: 0.9, 0.1: 0.92, 1.0: 0.94}, {0.0: 0.94, 0.1: 0.92, 1.0: 0.9}):
        study = made_up.made_up(
            {f"a={v:g}": {"a": v} for v in values}, {"m": {f"a={v:g}": m for v, m in values.items()}}, {"m": RMSE}, []
        )
        chart = only(swept.charts(page(study)))
        svg = chart.narrow
        (x,) = re.findall(r'<text style="[^"]*"[^>]*x="([\d.]+)"[^>]*>lowest', svg)
        anchor = re.search(r'<text style="([^"]*)"[^>]*>lowest', svg)[1]
        assert ("text-anchor: end" in anchor) == (values[1.0] < values[0.0]), "it grows into the axes"
        ticks = [float(at) for at in re.findall(r'<text style="[^"]*text-anchor: middle[^"]*"[^>]*x="([\d.]+)"', svg)]
        assert min(ticks) - 20 < float(x) < max(ticks) + 20


def test_zero_stands_apart_on_a_logarithmic_axis():
    axes = Figure().subplots()
    drawing.value_axis(axes, [0.0, 0.01, 0.1, 1.0])
    at = axes.xaxis.get_transform().transform([0.0, 0.01, 0.1, 1.0])
    assert at[0] < at[1]
    assert at[2] - at[1] == pytest.approx(at[3] - at[2])
    assert [text.get_text() for text in axes.texts] == ["//"], "the change of scale is marked"


def test_of_many_values_the_axis_names_those_in_question():
    study = made_up.sweep(3, {round(0.01 * i, 2): 0.9 + 0.001 * i for i in range(40)})
    chart = only(swept.charts(page(study)))
    labels = {f"{0.01 * i:g}" for i in range(40)}
    wide, narrow = ({text for text in drawn_texts(one) if text in labels} for one in (chart.wide, chart.narrow))
    assert {"0", "0.01"} <= narrow
    assert len(narrow) < len(wide) < 40


def test_long_words_leave_room_for_what_they_name(sweep):
    name = "weight decay as the lesson has it in its notes"
    names = {arm: f"{name} {arm}" for arm in sweep.summary.arms}
    for chart in (*metrics.charts(page(sweep, names=names)), *paired.charts(page(sweep, names=names))):
        assert max(map(len, drawn_texts(chart.narrow))) < 40
        assert any(text.endswith(" …") for text in drawn_texts(chart.narrow))
        assert f"{name} wd=0.1" in chart.narrow, "the description has the whole name"


def test_of_a_metric_large_dots_stand_at_means_and_a_line_at_the_baselines():
    runs = pd.DataFrame({"arm": pd.Categorical([*"aabb"], [*"ab"]), "value": [1.0, 3.0, 4.0, 8.0]})
    figure = Figure()
    figures.arms.draw(figure, runs, "b", "norm", False)
    (axes,) = figure.axes
    _, means = axes.collections
    assert means.get_offsets().tolist() == [[2, 0], [6, 1]]
    assert set(axes.lines[0].get_xdata()) == {6}


def test_the_color_and_the_marker_of_a_ratio_say_whether_it_is_faster():
    assert len({ratios.look_of(0.5, 0.9), ratios.look_of(0.9, 1.1), ratios.look_of(1.1, 2.0)}) == 3
    assert ratios.look_of(0.2, 0.3) == ratios.look_of(0.5, 0.9)


FEW = {
    "one row": lambda frame: frame.head(1),
    "no numbers": lambda frame: frame.assign(**dict.fromkeys(frame.filter(regex="^metric|value"), np.nan)),
    "large losses": lambda frame: frame.assign(value=1e308) if "value" in frame else frame,
    "one number": lambda frame: frame.assign(**dict.fromkeys(frame.filter(regex="^metric|value"), 0.9)),
}


@pytest.mark.parametrize(
    "few",
    ["one row", "no numbers", *(pytest.param(few, marks=pytest.mark.slow) for few in ("large losses", "one number"))],
)
def test_of_few_rows_and_odd_ones_figures_are_drawn_for_all_that(few, recwarn):
    small = made_up.sweep(3, {0.0: 0.9, 0.01: 0.89, 0.1: 0.88}, epochs=2)
    odd = Study("page.html", None, small.summary, FEW[few](small.runs), FEW[few](small.curves))
    assert figures.of_study(odd)["arms"]
    assert [str(warning.message) for warning in recwarn] == []


# Without drawings


@undrawn
def test_a_study_has_the_figures_that_its_data_allow(sweep, tuned_sweep, optimizers):
    def titles(study):
        return {section: [chart.title for chart in found] for section, found in figures.of_study(page(study)).items()}

    assert titles(sweep) == {
        "parts": ["Every part with its interval, in margins"],
        "arms": ["Validation RMSE is lowest at weight decay 0.1", "Paired differences from wd=0.01"],
        "metrics": ["Training RMSE of each arm"],
        "curves": ["Loss against epoch"],
    }
    assert titles(tuned_sweep)["tuning"] == [
        "Validation RMSE over weight decay and learning rate",
        "Expected best result of the first k tuning trials",
    ]
    assert titles(optimizers) == {
        "parts": ["Every part with its interval, in margins"],
        "arms": [
            "Validation accuracy of each arm",
            "Seeds that reach the target: steps to the target",
            "Performance profile: steps to the target",
        ],
        "metrics": ["Log10 of the steps to the target of each arm", "Norm of the weights of each arm"],
        "curves": ["Loss against epoch", "Gradient norm against epoch"],
    }
    assert titles(made_up.timed()) == {"arms": ["Log10 of time over the plain step’s of each arm"]}


@undrawn
def test_the_data_of_the_swept_value_have_every_seed(sweep):
    chart = only(swept.charts(page(sweep)))
    assert list(chart.data["seed"]) == [*range(10), "mean"]
    assert list(chart.data.columns[1:]) == [f"wd={value:g}" for value in BEST]


@undrawn
def test_means_that_differ_are_written_differently():
    chart = only(swept.charts(page(made_up.sweep(3, {0.0: 0.9, 0.01: 0.82042, 0.1: 0.82037}, sd=1e-7))))
    assert "wd=0.01: 0.82042" in chart.narrow
    assert "wd=0.1: 0.82037" in chart.narrow


@undrawn
def test_arms_that_differ_in_more_than_the_swept_value_are_lines_of_their_own():
    sizes = {f"{opt}, {lr}": {"opt": opt, "lr": lr} for opt in ("sgd", "adam") for lr in (0.1, 0.01, 0.001)}
    study = made_up.made_up(sizes, {"m": dict.fromkeys(sizes, 1.0)}, {"m": RMSE}, [], names={"opt": "optimizer"})
    sweep = arms.sweep_of(study.summary)
    assert sweep.setting == "lr"
    assert list(sweep.places.values()) == [0.001, 0.001, 0.01, 0.01, 0.1, 0.1]
    assert set(sweep.lines.values()) == {"optimizer sgd", "optimizer adam"}


@undrawn
def test_a_setting_that_is_on_or_off_is_named_or_denied():
    settings = {f"{bn}, {lr}": {"bn": bn, "lr": lr} for bn in (True, False) for lr in (0.1, 0.01, 0.001)}
    study = made_up.made_up(settings, {"m": dict.fromkeys(settings, 1.0)}, {"m": RMSE}, [], names={"bn": "BatchNorm"})
    assert set(arms.sweep_of(study.summary).lines.values()) == {"BatchNorm", "no BatchNorm"}


@undrawn
def test_an_arm_that_repeats_a_value_is_a_line_of_its_own(sweep):
    again = sweep.summary.arms | {"wd=0.1, untuned": sweep.summary.arms["wd=0.1"]}
    found = arms.sweep_of(sweep.summary.model_copy(update={"arms": again}))
    assert found.lines["wd=0.1, untuned"] == "wd=0.1, untuned"
    assert found.lines["wd=0.1"] == ""


@undrawn
def test_words_or_two_values_are_not_a_sweep(optimizers):
    assert arms.sweep_of(optimizers.summary) is None
    assert arms.sweep_of(made_up.timed().summary) is None


@undrawn
def test_differences_show_every_seed_and_the_noise_floor(sweep):
    chart = only(paired.charts(page(sweep)))
    assert len(chart.data) == len(BEST)  # every value but the baseline, and the baseline again
    assert chart.data["arm"].iloc[-1] == "wd=0.01 repeat"
    gaps = chart.data.set_index("arm").loc["wd=0.1", [f"seed {seed}" for seed in range(10)]].astype(float)
    table = arms.by_seed(page(sweep), "valid_rmse")
    assert np.allclose(gaps, table["wd=0.1"] - table["wd=0.01"])


@undrawn
def test_a_margin_that_is_a_share_is_one_of_the_baselines_mean(sweep):
    share = {"valid_rmse": sweep.summary.metrics["valid_rmse"].model_copy(update={"smallest": "0.2 %"})}
    metrics_used = sweep.summary.metrics | share
    mean = sweep.summary.arms["wd=0.01"].metrics["valid_rmse"].mean
    assert paired.margin_of(page(sweep, metrics=metrics_used)) == pytest.approx(0.002 * mean)
    share["valid_rmse"] = share["valid_rmse"].model_copy(update={"smallest": "little"})
    assert paired.margin_of(page(sweep, metrics=metrics_used | share)) is None


@undrawn
def test_runs_that_diverged_are_nan_in_a_figure():
    study = made_up.sweep(diverged=[("wd=1", seed) for seed in range(4)])
    assert arms.by_seed(page(study), "valid_rmse")["wd=1"].isna().sum() == 4
    assert "Lines skip runs that failed" in only(swept.charts(page(study))).caption


def test_an_arm_of_which_every_run_diverged_still_has_its_row():
    study = made_up.sweep(diverged=[("wd=1", seed) for seed in range(10)])
    chart = only(paired.charts(page(study)))
    assert "failed: see the table" in chart.wide
    assert swept.charts(page(study))


@undrawn
def test_every_part_and_every_rival_has_a_row_in_margins(optimizers):
    chart = only(parts.charts(page(optimizers)))
    assert list(chart.data["part"][:3]) == [f"6: against {rival}" for rival in ("momentum", "rmsprop", "sgd")]
    first = optimizers.summary.parts[0].rivals[0]
    assert chart.data["estimate"][0] == pytest.approx(first.estimate / 0.004)
    assert chart.data["to"][2] == np.inf


@undrawn
def test_training_and_validation_share_a_figure_and_other_curves_have_their_own(sweep, optimizers):
    chart = only(curves.charts(page(sweep)))
    assert list(chart.data.columns[:3]) == ["arm", "epoch", "training loss"]
    assert "validation loss" in chart.data
    assert len(curves.charts(page(optimizers))) == 2


@undrawn
def test_curves_come_in_the_order_of_declaration_lost_arms_included(sweep):
    shuffled = sweep.curves.sample(frac=1, random_state=0)
    shuffled.loc[shuffled["arm"] == "wd=1", "value"] = np.inf
    chart = only(curves.charts(Study("", None, sweep.summary, sweep.runs, shuffled)))
    assert list(pd.unique(chart.data["arm"])) == [f"wd={value:g}" for value in BEST]


@undrawn
def test_of_many_arms_the_curves_keep_those_in_question():
    chart = only(curves.charts(page(made_up.sweep(3, {round(0.01 * i, 2): 0.9 + 0.001 * i for i in range(20)}))))
    shown = pd.unique(chart.data["arm"])
    assert len(shown) == curves.PANELS
    assert {"wd=0", "wd=0.01", "wd=0.1", "wd=0.19"} <= set(shown)
    assert "12 of 20 arms are left out" in chart.caption


def test_a_thousand_steps_of_many_seeds_stay_a_small_drawing():
    study = made_up.sweep(10, {0.0: 0.9, 0.01: 0.9, 0.1: 0.9}, epochs=500)
    rough = study.curves.assign(value=lambda frame: frame["value"] + np.random.default_rng(0).normal(size=len(frame)))
    chart = only(curves.charts(Study("", None, study.summary, study.runs, rough)))
    assert len(chart.wide) < 300_000
    assert len(chart.data) <= 60
    assert {1, 500} <= set(chart.data["epoch"])


@undrawn
def test_tuning_is_a_map_over_the_swept_and_the_tuned_setting_or_over_two_tuned_ones(tuned_sweep, optimizers):
    found = tuned.map_of(page(tuned_sweep))
    assert (found.x, found.y) == ("wd", "lr")
    assert len(found.trials) == 30
    assert found.trials["chosen"].sum() == 5
    assert tuned.map_of(page(optimizers)) is None
    both = made_up.factorial(tuned={"lr": [0.1, 0.2, 0.3, 0.4], "momentum": [0.0, 0.5, 0.8, 0.9]})
    found = tuned.map_of(page(both))
    assert (found.x, found.y, found.trials["panel"].nunique()) == ("lr", "momentum", 4)
    one = made_up.factorial(tuned={"lr": [0.1, 0.2, 0.3, 0.4]})
    assert tuned.map_of(page(one)) is None, "one setting alone is no map"


def test_a_map_of_two_tuned_settings_is_drawn_a_panel_an_arm():
    both = made_up.factorial(tuned={"lr": [0.001, 0.02, 0.3, 4], "momentum": [0.0, 0.5, 0.8, 0.9]})
    chart = only(tuned.charts(page(both)))
    assert {"sgd", "momentum", "rmsprop", "adam"} <= set(drawn_texts(chart.wide))


@undrawn
def test_two_metrics_whose_names_look_alike_have_drawings_of_their_own():
    arms_of = {"a": {"x": 1}, "b": {"x": 2}}
    means = {name: {"a": 1.0, "b": 2.0} for name in ("first", "a_b", "a b")}
    study = made_up.made_up(arms_of, means, dict.fromkeys(means, RMSE), [])
    ids = [identifier for chart in metrics.charts(page(study)) for identifier in re.findall('id="([^"]*)"', chart.wide)]
    assert len(ids) == len(set(ids)) == 4


@undrawn
def test_best_of_k_has_a_column_an_arm(tuned_sweep):
    chart = only(best_of_k.charts(page(tuned_sweep)))
    assert list(chart.data.columns) == ["k", *tuned_sweep.summary.arms]


@undrawn
def test_a_new_figure_is_a_new_file_in_a_section_of_its_own(sweep, monkeypatch):
    class Module:
        SECTION, PLACE = "Weights over steps", 1

        @staticmethod
        def charts(study):
            return paired.charts(study)

    monkeypatch.setattr(figures, "_modules", lambda: [Module])
    assert list(figures.of_study(page(sweep))) == ["Weights over steps"]


# Time to target


@undrawn
def test_the_share_of_seeds_that_reached_the_target_counts_those_that_missed_it(optimizers):
    needed, behind = to_target.charts(page(optimizers))
    of_sgd = needed.data[needed.data["arm"] == "sgd"]
    values = 10 ** arms.by_seed(page(optimizers), "steps")["sgd"].dropna()
    seeds = optimizers.runs["seed"].nunique()
    assert of_sgd["share of seeds"].iloc[-1] == pytest.approx(len(values) / seeds)
    assert of_sgd["share of seeds"].is_monotonic_increasing
    at, share = of_sgd.iloc[len(of_sgd) // 2, 1:]
    assert share == pytest.approx((values <= at).sum() / seeds)
    assert f"sgd: {seeds - len(values)} of {seeds}" in needed.caption
    assert f"sgd: {seeds - len(values)} of {seeds}" in behind.caption


def test_if_only_an_arm_that_is_not_drawn_reached_the_target_it_is_drawn(optimizers, monkeypatch):
    study = page(optimizers)
    runs = study.runs.copy()
    runs.loc[runs["arm"] != "adam", "metric.steps"] = None
    monkeypatch.setattr(to_target, "shown_arms", lambda summary, most: ["sgd"])
    charts = to_target.charts(dataclasses.replace(study, runs=runs))
    assert [set(chart.data["arm"]) for chart in charts] == [{"adam"}, {"adam"}]
    assert all("Runs that missed it or diverged: sgd: " in chart.caption for chart in charts)


@undrawn
def test_the_performance_profile_begins_with_the_share_of_seeds_an_arm_is_best_in(optimizers):
    _, behind = to_target.charts(page(optimizers))
    first = behind.data.groupby("arm").first()
    table = arms.by_seed(page(optimizers), "steps")
    best = table.idxmin(axis=1).value_counts(normalize=True)
    for arm, share in best.items():
        assert first.loc[arm].tolist() == [1.0, pytest.approx(share)]
