"""The benchmarks' page: what it concludes, and what it does not show."""

import json
import re
from pathlib import Path

import pytest

from reports import numbers, timings
from reports.figures import ratios, scale
from reports.pages import benchmarks, render
from reports.read import gather
from reports.timings import implementation
from studies.evidence.benchmarks import read_benchmarks
from tests.reports.made_up import made_up_benchmarks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def read(tmp_path, write_benchmarks):
    def read_raw(raw):
        write_benchmarks(tmp_path, raw)
        return read_benchmarks(tmp_path / "benchmarks.json")

    return read_raw


def with_ratios(change):
    """The made-up file with `change(row's extra_info)` applied to every one-hot row."""
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        if "one" in row["extra_info"]["implementation"]:
            change(row["extra_info"])
    return raw


def test_a_ratio_below_one_whose_interval_is_not_is_not_called_faster(read):
    raw = with_ratios(
        lambda info: info.update(ratio=max(info["ratio"], 0.95), ratio_high=max(info["ratio_high"], 1.05))
    )
    assert benchmarks.answer(read(raw)).endswith("and is faster in none of 16 corners.")


def test_the_answer_names_the_ratio_at_large_and_where_one_hot_is_faster(read):
    assert benchmarks.answer(read(made_up_benchmarks())) == (
        "A one-hot product takes up to 1,120× the lookup’s time (10,000 classes, batch 4,096, forward); the best "
        "one is faster in 3 of 16 corners, at best with 0.17× (10 classes, batch 64, forward+backward)."
    )


def test_a_baseline_timed_against_itself_says_so(read, everything, no_drawing):
    found = read(made_up_benchmarks())
    repeats = [t for t in found.timings if t.implementation == t.baseline]
    assert repeats
    assert {implementation(t) for t in repeats} == {
        "embedding repeat (A/A)",
        "reference repeat (A/A)",
        "fused repeat (A/A)",
    }
    assert (
        "reference repeat (A/A)" in ratios.chart("dot_bias", [t for t in found.timings if t.group == "dot_bias"]).narrow
    )
    assert '<th scope="row">reference repeat (A/A)</th>' in everything["benchmarks.html"]


def test_an_optimizers_state_and_what_its_steps_buy_stand_beside_its_time(everything):
    """8-bit, then one of which neither is known; no other group has the columns."""
    page = everything["benchmarks.html"]
    assert page.count('<th scope="col">training loss</th>') == 1
    rows = page[: page.index("<em>Training loss</em>")].rsplit("<tbody>", 1)[1].split("<tr>")
    (eight_bit,) = (row for row in rows if ">8-bit</th>" in row)
    assert '<td data-sort="238560">239 kB</td>' in eight_bit
    assert "<td>0.4472</td>" in eight_bit
    (triton,) = (row for row in rows if ">triton</th>" in row)
    assert triton.count(f"<td>{numbers.MISSING}</td>") == 1  # its loss
    assert f'<td data-sort="">{numbers.MISSING}</td>' in triton  # its state


def test_without_lookup_rows_there_is_no_answer_and_no_failure(read):
    raw = made_up_benchmarks()
    raw["benchmarks"] = [row for row in raw["benchmarks"] if row["group"] == "adam"]
    found = read(raw)
    assert "not measured" in benchmarks.answer(found)


def test_what_failed_its_accuracy_check_shows_no_time_and_no_ratio(read, tmp_path, no_drawing):
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        if row["extra_info"]["implementation"] == "wrong":
            row["stats"]["median"] = 123.456
            set_ratio(row["extra_info"], 0.0123)
    assert [name for name, _ in read(raw).inaccurate] == ["test_adam[wrong-step-107700]"]
    page = render(gather(tmp_path)).html["benchmarks.html"]
    assert "Not timed: failed the accuracy check" in page
    assert "index 3: 0 instead of 0.003" in page
    assert "2 min" not in page
    assert "0.01×" not in page


def test_what_was_not_timed_is_said_with_its_reason(read, tmp_path, no_drawing):
    info = {"op": "lookup", "implementation": "one_hot_matmul"}
    raw = made_up_benchmarks() | {
        "not_timed": [
            {"fullname": "bench/a.py::test_a[large]", "extra_info": info, "reason": "it takes 40 GiB"},
            {"fullname": "bench/a.py::test_a[bad]", "extra_info": info | {"accurate": False, "accuracy": "NaN"}},
        ]
    }
    found = read(raw)
    assert ("test_a[large]", "it takes 40 GiB") in found.not_timed
    assert ("test_a[bad]", "NaN") in found.inaccurate
    assert "it takes 40 GiB" in render(gather(tmp_path)).html["benchmarks.html"]


def test_a_row_that_contradicts_itself_is_left_out_with_its_reason_and_no_other_is(read):
    raw = made_up_benchmarks()
    every = read(raw)
    first = raw["benchmarks"][0]
    first["extra_info"].update(ratio=1.2, ratio_low=1.04, ratio_high=1.1)
    found = read(raw)
    assert found.timings == every.timings[1:]
    assert (first["name"], "the ratio 1.2 lies outside its interval [1.04, 1.1]") in found.not_timed


def test_the_profile_is_named_and_a_quick_look_is_called_one(tmp_path, write_benchmarks, no_drawing):
    for profile, quick in (("smoke", True), ("full", False)):
        write_benchmarks(tmp_path, made_up_benchmarks() | {"bench_profile": profile})
        html = render(gather(tmp_path)).html
        assert f"<dt>profile</dt><dd>{profile}</dd>" in html["benchmarks.html"]
        assert ("a quick look" in html["benchmarks.html"]) is quick
        assert f'data-label="profile">{profile}<' in html["index.html"]


def test_every_group_of_benchmarks_has_a_heading():
    marks = (re.search(r'benchmark\(group="(\w+)"\)', path.read_text()) for path in ROOT.glob("bench/test_*.py"))
    groups = {mark[1] for mark in marks if mark}
    assert len(groups) > 8
    assert groups <= set(timings.TITLES)


def test_groups_come_in_order_and_unknown_ones_last(read, no_drawing):
    raw = made_up_benchmarks()
    raw["benchmarks"][0]["group"] = "new_group"
    titles = [group["title"] for group in benchmarks.context_of(read(raw))["groups"]]
    assert titles == [
        "One-hot product against lookup",
        "Embedding-dot-bias",
        "The Adam step",
        "Optimizer steps",
        "A training step as the tables grow",
        "Training in MovieLens 20M’s shape",
        "new group",
    ]


def scaled(read, change=lambda info: None):
    """The timings of the made-up tables that grow, after `change(extra_info)`."""
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        change(row["extra_info"])
    return [t for t in read(raw).timings if t.group == "scale"]


def set_ratio(info, ratio):
    info.update(ratio=ratio, ratio_low=0.9 * ratio, ratio_high=1.1 * ratio)


def slower_below(rows):
    def change(info):
        if info["baseline"] == "native dense":
            set_ratio(info, 2.0 if info["rows"] < rows else 0.5)

    return change


def test_deferred_steps_pay_from_where_the_ratio_to_our_own_dense_ones_crosses_one(read):
    # 1.15 at 2,627 rows, 0.2 at 26,000: log 1.15 / log(1.15 / 0.2) of the way, in powers of ten.
    rows, text = scale.crossing(scaled(read))
    assert rows == pytest.approx(2_627 * (26_000 / 2_627) ** 0.0812, rel=1e-3)
    assert text == "from some 3,200 rows on (measured at 2,627 and 26,000)"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (0, "are faster than our own dense ones in the smallest tables already (2,627 rows)"),
        (100_000, "are faster than our own dense ones from some 65,000 rows on (measured at 26,000 and 165,000)"),
        (10**9, "are not faster than our own dense ones; at 165,000 rows they take"),
    ],
)
def test_where_deferred_steps_pay_is_said_at_either_end_too(read, rows, said):
    assert f"At batch 1,024 deferred steps {said}" in scale.scale_words(scaled(read, slower_below(rows)))


def test_a_ratio_that_comes_back_above_one_crosses_where_it_falls_for_good(read):
    def change(info):
        if info["baseline"] == "native dense":
            set_ratio(info, {2_627: 0.9, 26_000: 1.1, 165_000: 0.5}[info["rows"]])

    assert 26_000 < scale.crossing(scaled(read, change))[0] < 165_000


def test_every_size_has_a_time_for_every_implementation_and_the_ratios_interval(read):
    times = scale.step_times(scaled(read)).set_index(["implementation", "rows"])
    assert len(times) == 9
    eager, deferred = times.loc[("eager", 26_000)], times.loc[("native deferred", 26_000)]
    assert eager["µs a step"] == pytest.approx(6_200)
    assert eager[["95 % from", "to"]].isna().all()
    assert list(deferred[["µs a step", "95 % from", "to"]]) == pytest.approx([600, 0.93 * 600, 1.06 * 600])


def test_the_time_of_a_line_is_the_one_measured_beside_eager(read):
    timings = scaled(read)
    timings = [t.model_copy(update={"seconds": 9.9}) if t.baseline == "native dense" else t for t in timings]
    assert scale.step_times(timings)["µs a step"].max() < 9e6
    assert scale.step_times(timings[::-1])["µs a step"].max() < 9e6


def test_tables_of_one_size_alone_have_room_on_their_axis(read, recwarn):
    chart = scale.chart([t for t in scaled(read) if t.rows == 165_000])  # which its logarithm does not give back
    assert ">100,000<" in chart.wide
    assert [str(warning.message) for warning in recwarn] == []


def test_without_eager_the_dense_steps_still_have_their_line(read):
    times = scale.step_times([t for t in scaled(read) if t.baseline == "native dense"])
    assert set(times["implementation"]) == {"native dense", "native deferred"}


def test_a_whole_training_has_its_time_and_memory_on_the_page(everything):
    page = everything["benchmarks.html"]
    assert (
        "5 epochs of 20,000,000 ratings over 6,765,000 parameters took 1 min 4 s, once, in a separate process. "
        "Above ratings and libraries, its memory peaked at 260 MB, 38 bytes per parameter, with 160 MB for an epoch’s "
        "order; that of eager, after its first steps, at 295 MB."
    ) in page


def test_a_run_on_a_gpu_has_its_own_page(tmp_path, write_benchmarks, no_drawing):
    raw = made_up_benchmarks() | {"tests": {"passed": 260, "failed": 2}}
    raw["machine_info"]["gpu"] = "Some <GPU>"
    for row in raw["benchmarks"]:
        row["extra_info"]["host_s"] = 3.7e-5
    (tmp_path / "gpu.json").write_text(json.dumps(raw))
    write_benchmarks(tmp_path)
    pages = render(gather(tmp_path)).html
    page = pages["gpu.html"]
    assert "260 tests passed and 2 failed on Some &lt;GPU&gt;. Triton’s kernels are faster than their" in page
    assert '<td data-sort="3.7e-05">37 µs</td>' in page
    assert "<em>Host</em>" in page
    assert "<em>Host</em>" not in pages["benchmarks.html"]

    (tmp_path / "gpu.json").write_text("{")
    inputs = gather(tmp_path)
    broken = render(inputs)
    assert "gpu.html" not in broken.html
    assert any("gpu.json" in problem for problem in broken.problems)
