"""The ledger's page: what it opens with, what stands where, and what its filters leave."""

import html
import json
import re

import pytest

from reports.pages import ledger, render
from reports.read import gather
from tests.reports import made_up
from tests.reports.conftest import put

pytestmark = pytest.mark.usefixtures("no_drawing")


@pytest.fixture(scope="module")
def inputs(results):
    return gather(results)


@pytest.fixture(scope="module")
def index(everything):
    return everything["index.html"]


def row_of(index, claim):
    """A claim's cells, as text."""
    row = re.search(f'<tr id="claim-{claim}".*?</tr>', index, re.DOTALL)[0]
    cells = re.findall("<t[hd].*?</t[hd]>", row, re.DOTALL)
    texts = (html.unescape(re.sub("<.*?>", " ", cell, flags=re.DOTALL)) for cell in cells)
    return [" ".join(text.split()) for text in texts]


def test_it_opens_with_what_was_found_and_what_is_wrong_by_chance(inputs, index):
    assert ledger.answer(inputs) in index
    assert re.match(r"\d+ of the lesson’s 85 claims tested: 1 holds so far, ", ledger.answer(inputs))
    assert inputs.ledger.judged > 0
    expected = f"{inputs.ledger.expected_false:.1f}"
    assert f"at most {expected} are wrong by chance alone" in index


def test_the_counts_are_of_claims_that_were_tested(inputs):
    tested = [row for row in inputs.ledger.rows if ledger.group_of(row) in ("measured", "calculated")]
    counted = [int(n) for n in re.findall(r"(?::|,) (\d+) ", ledger.answer(inputs))]
    assert ledger.answer(inputs).startswith(f"{len(tested)} of")
    assert sum(counted) == len(tested)


def test_a_claim_of_which_a_side_check_alone_was_run_is_not_counted_as_tested(tmp_path):
    check = made_up.made_up_exact()["checks"][0] | {"part": "66a"}
    (tmp_path / "exact.json").write_text(json.dumps(made_up.made_up_exact() | {"checks": [check]}))
    inputs = gather(tmp_path)
    assert inputs.ledger.rows[65].parts[0].exact
    assert ledger.group_of(inputs.ledger.rows[65]) == "not-run"
    assert ledger.answer(inputs).startswith("None of the lesson’s 85 claims")


def test_measured_claims_come_first_and_what_was_not_run_is_folded(index):
    headings = re.findall(r"<h2>([^:<]+)", index)
    assert headings[:4] == ["Measured", "Calculated, or read in the code", "Cited, not tested here", "Not run yet"]
    folded = re.search(r'<details id="not-run">.*?</section>', index, re.DOTALL)[0]
    assert 'id="claim-48"' not in folded
    rows = '<tr id="claim-[0-9]+" data-verdict="not-run"'
    assert len(re.findall(rows, folded)) == len(re.findall(rows, index)) > 50


def test_every_claim_and_every_slip_is_there_once(index):
    assert re.findall(r'id="claim-(\d+)"', index).__len__() == 85
    assert {int(i) for i in re.findall(r'id="claim-(\d+)"', index)} == set(range(1, 86))
    assert {int(i) for i in re.findall(r'id="slip-(\d+)"', index)} == set(range(1, 25))


def test_a_claim_has_its_verdict_certainty_with_footnotes_evidence_and_own_data(index):
    _, claim, verdict, found, own = row_of(index, 48)
    assert claim.startswith("A weight decay of 0.1 generally works better than the default of 0.01.")
    assert verdict.startswith("holds so far (1 of 5) certainty low one data set for a general sentence")
    assert "the interval reaches the margin" in verdict
    assert found.startswith(
        "MovieLens 100k : validation RMSE lower by 0.0019 [0.0002, 0.0036] (20 seeds, regular, tuned"
    )
    assert "1 result superseded MovieLens 100k : validation RMSE lower by 0.034" in found
    assert "Not run on filmtrust, digits, adult, flights." in found
    assert own.startswith("mine.csv : validation RMSE lower by 0.034")
    number = re.search(r'<a href="#doubt-(\d)">the interval reaches the margin<sup>\1</sup>', index)[1]
    assert f'<li id="doubt-{number}"><em>the interval reaches the margin</em>.' in index


def test_a_stand_in_and_parts_that_are_open_are_worded(index):
    assert row_of(index, 6)[2].startswith("holds on a stand-in certainty very low")
    assert row_of(index, 47)[2] == "inconclusive, 2 of 4 parts open"
    assert "47a holds With too much decay" in row_of(index, 47)[3]
    assert "(asked: less than 0.10×)" in row_of(index, 77)[3]


def test_exact_checks_stand_with_their_figure(index):
    assert (
        "25a true A one-hot vector times a matrix is a row of it. equal to the bit lookup.same" in row_of(index, 25)[3]
    )
    assert row_of(index, 79)[2].startswith("false")
    assert "Checked: 0.1 · 0.9 = 0.09" in index


def test_a_planned_test_is_not_taken_for_evidence(index):
    for row in re.findall(r'<tr id="claim-.*?</tr>', index, re.DOTALL):
        if 'data-verdict="not-run"' in row:
            assert "<em>Planned test:</em>" in row
            assert "<li>" not in row


def test_the_table_of_results_has_one_line_per_page(index, everything):
    table = re.search('aria-label="Results on these pages"><table.*?</table>', index, re.DOTALL)[0]
    assert table.count("<tr>") - 1 == len(everything) - 1
    assert "mine.csv, your own" in table


def test_a_filter_that_matches_nothing_leaves_no_heading_and_says_so(index):
    rule = "body:has(#verdict-false:checked):has(#topic-framing:checked) .nothing { display: block; }"
    assert rule in index
    assert "No claim of this topic has this verdict." in index
    assert '.group:not(:has(tr[data-verdict="holds-so-far"]))' in index


def test_many_conditions_are_folded_after_the_first(tmp_path):
    (tmp_path / "benchmarks.json").write_text(json.dumps(lookups()))
    index = render(gather(tmp_path)).html["index.html"]
    found = row_of(index, 26)[3]
    assert re.search(r"12 more: \d+ of all 16 yes, \d+ no", found)
    assert "time over the lookup's" in found
    assert re.match(r"26a depends on the data: yes on \d+ of 16 ", found)
    assert re.fullmatch(r"depends on the data: yes on \d+ of 16 .*", row_of(index, 26)[2])
    assert "(20 pairs, yes)" in found


def lookups():
    """Benchmarks whose implementations have the names that claim 26 asks about."""
    raw = made_up.made_up_benchmarks()
    for row in raw["benchmarks"]:
        info = row["extra_info"]
        info["implementation"] = {"one_hot": "one_hot_matmul"}.get(info["implementation"], info["implementation"])
    return raw


def test_evidence_is_counted_with_its_figures_not_its_words(tmp_path, results):
    put(tmp_path / "optimizers", made_up.factorial())
    inputs = gather(tmp_path)
    (evidence,) = (e for row in inputs.ledger.rows for e in row.evidence if e.found.part == "6")
    found = ledger.found_of(inputs, evidence)
    assert found.page == "optimizers.html"
    assert found.text.startswith("validation accuracy lower by ")
    assert found.text.endswith(", against momentum")
    assert found.about == "10 seeds, quick"


def test_without_results_no_claim_was_tested(tmp_path):
    inputs = gather(tmp_path)
    assert ledger.answer(inputs) == "None of the lesson’s 85 claims has been tested yet."
    assert ledger.chance(inputs) is None
