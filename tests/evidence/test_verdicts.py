import json
import os

import pytest

from studies.evidence.schema import ResultsError
from studies.evidence.verdicts import LedgerEvidence, join_verdicts, ledger_verdict, read_ledger


@pytest.mark.parametrize(
    ("expected", "holds", "fails"),
    [
        ("better", ["better"], ["worse", "equivalent"]),
        ("worse", ["worse"], ["better", "equivalent"]),
        ("equivalent", ["equivalent"], ["better", "worse"]),
        ("not better", ["worse", "equivalent"], ["better"]),
        ("not worse", ["better", "equivalent"], ["worse"]),
        ("different", ["better", "worse"], ["equivalent"]),
    ],
)
def test_a_claim_holds_where_contrasts_show_what_it_expects(expected, holds, fails):
    for verdict in holds:
        assert ledger_verdict(expected, [verdict]) == "holds"
        assert ledger_verdict(expected, [verdict, verdict]) == "holds"
        assert ledger_verdict(expected, [verdict, fails[0]]) == "depends"
        assert ledger_verdict(expected, [verdict, "inconclusive"]) == "inconclusive"
    assert ledger_verdict(expected, holds) == "holds"
    assert ledger_verdict(expected, fails) == "fails"
    assert ledger_verdict(expected, ["inconclusive"]) == ledger_verdict(expected, ["preview"]) == "inconclusive"
    assert ledger_verdict(expected, []) == "not run"


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([], "not run"),
        (["not run", "holds"], "holds"),
        (["holds", "holds"], "holds"),
        (["holds", "fails"], "depends"),
        (["holds", "fails", "inconclusive"], "depends"),
        (["depends", "holds"], "depends"),
        (["holds", "inconclusive"], "inconclusive"),
        (["fails", "inconclusive"], "inconclusive"),
        (["true", "true"], "true"),
        (["true", "false"], "false"),
        (["true", "holds"], "holds"),
        (["true", "fails"], "fails"),
        (["true", "inconclusive"], "inconclusive"),
        (["false", "holds", "fails"], "false"),
        (["cited"], "cited"),
    ],
)
def test_verdicts_join_in_any_order(verdicts, together):
    assert join_verdicts(verdicts) == join_verdicts(reversed(verdicts)) == together


def summary(*evidence, data="ml-100k", contrast="better", study="wd_sweep"):
    """The JSON of a summary; evidence as (claim, verdict)."""
    return {
        "study": study,
        "title": "t",
        "question": "q",
        "claims": [claim for claim, _ in evidence],
        "metric": "valid_rmse",
        "direction": "minimize",
        "smallest_effect": 0.01,
        "baseline": "0.01",
        "primary": "0.1",
        "profile": "quick",
        "arms": {arm: {"mean": 0.9, "sd": 0.01, "n": 10, "settings": {}} for arm in ("0.01", "0.1")},
        "contrasts": [
            {
                "arm": "0.1", "baseline": "0.01", "metric": "valid_rmse", "difference": -0.03,
                "interval": [-0.04, -0.02], "interval_corrected": [-0.05, -0.01], "n": 10, "p": 0.002,
                "p_holm": 0.002, "probability_of_improvement": 1, "skewness": None, "verdict": contrast,
            }
        ],
        "noise_floor": None,
        "evidence": [{"claim": c, "verdict": v, "text": f"{data}: claim {c} {v}"} for c, v in evidence],
        "limits": [],
        "data": {
            "name": data, "checksum": "c", "ratings": 10, "users": 2, "items": 5, "n_train": 9, "n_valid": 1,
        },
        "provenance": {
            "command": "c", "commit": None, "dirty": None, "commits": [], "spec_hash": "h", "recipe": 1,
            "backend": "b", "threads": 1, "workers": 1, "seeds": [], "trials": {}, "seconds": 1, "started": "s",
            "finished": "f", "python": "p", "platform": "p", "cpu": "c", "cores": 1, "gpu": None, "versions": {},
        },
    }  # fmt: skip


def write(folder, content):
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "summary.json"


def rows_by_id(ledger):
    return {row.claim.id: row for row in ledger.rows}


def test_without_results_no_claim_is_run_and_the_citation_stands(tmp_path):
    ledger = read_ledger(tmp_path)
    assert [row.claim.id for row in ledger.rows] == list(range(1, 86))
    assert {row.verdict for row in ledger.rows if row.claim.id != 71} == {"not run"}
    assert rows_by_id(ledger)[71].verdict == "cited"
    assert rows_by_id(ledger)[71].missing == ()
    assert rows_by_id(ledger)[48].missing == ("measured",)
    assert ledger.problems == []


def test_a_row_carries_its_evidence_with_study_data_and_file(tmp_path):
    path = write(tmp_path / "wd_sweep", summary((48, "holds")))
    row = rows_by_id(read_ledger(tmp_path))[48]
    assert row.verdict == "holds"
    assert row.evidence == (
        LedgerEvidence(48, "holds", "ml-100k: claim 48 holds", "wd_sweep", "ml-100k", "quick", False, path),
    )
    assert row.missing == ()


def test_a_row_carries_the_slips_that_concern_its_claim(tmp_path):
    assert [slip.id for slip in rows_by_id(read_ledger(tmp_path))[20].slips] == [1, 2]


def test_data_sets_that_disagree_make_a_claim_depend(tmp_path):
    write(tmp_path / "wd_sweep", summary((48, "holds"), (47, "holds")))
    write(tmp_path / "mydata" / "wd_sweep", summary((48, "fails"), (47, "holds"), data="mine"))
    rows = rows_by_id(read_ledger(tmp_path))
    assert rows[48].verdict == "depends"
    assert rows[47].verdict == "holds"
    assert [e.data for e in rows[48].evidence] == ["mine", "ml-100k"]


def test_a_results_folder_of_one_study_is_read_too(tmp_path):
    write(tmp_path / "one", summary((48, "holds")))
    assert rows_by_id(read_ledger(tmp_path / "one"))[48].verdict == "holds"


def test_a_summary_too_deep_to_be_read_is_reported(tmp_path):
    path = write(tmp_path / "a" / "b" / "c", summary((47, "holds")))
    ledger = read_ledger(tmp_path)
    assert (rows_by_id(ledger)[47].verdict, ledger.summaries) == ("not run", {})
    assert f"{path}: more than two folders below" in ledger.problems[0]
    assert rows_by_id(read_ledger(tmp_path / "a"))[47].verdict == "holds"


def test_linked_folders_are_read_once_and_circles_of_links_end(tmp_path):
    elsewhere = write(tmp_path / "elsewhere" / "wd_sweep", summary((48, "holds"))).parent
    results = tmp_path / "results"
    results.mkdir()
    (results / "one").symlink_to(elsewhere)
    (results / "two").symlink_to(elsewhere)
    (results / "around").symlink_to(results)
    ledger = read_ledger(results)
    assert list(ledger.summaries) == [results / "one" / "summary.json"]
    assert ledger.problems == []


def test_a_preview_is_shown_but_overturns_nothing(tmp_path):
    write(tmp_path / "mine" / "wd_sweep", summary((48, "inconclusive"), (47, "inconclusive"), contrast="preview"))
    write(tmp_path / "wd_sweep", summary((48, "holds")))
    rows = rows_by_id(read_ledger(tmp_path))
    assert rows[48].verdict == "holds"
    assert [e.preview for e in rows[48].evidence] == [True, False]
    assert rows[47].verdict == "inconclusive"


def test_evidence_from_elsewhere_is_joined(tmp_path):
    write(tmp_path / "optimizers", summary((51, "holds")))
    more = [
        LedgerEvidence(26, "depends", "lookup 9 times faster at 1000 classes, slower at 10", "benchmarks"),
        LedgerEvidence(51, "true", "largest difference 0", "exact checks"),
    ]
    rows = rows_by_id(read_ledger(tmp_path, more))
    assert (rows[26].verdict, rows[26].evidence) == ("depends", (more[0],))
    assert (rows[51].verdict, rows[51].missing) == ("holds", ())


def test_a_claim_with_one_half_decided_says_that_the_other_is_missing(tmp_path):
    row = rows_by_id(read_ledger(tmp_path, [LedgerEvidence(84, "true", "equal", "exact checks")]))[84]
    assert (row.verdict, row.missing) == ("true", ("measured",))


@pytest.mark.parametrize(
    "broken", ["{", "[]", '{"study": "wd_sweep"}', "\x00", "null", "[" * 100_000, '"\\ud800"', "9" * 5_000, ""]
)
def test_a_broken_summary_is_reported_and_the_others_are_read(tmp_path, broken):
    path = write(tmp_path / "broken", broken)
    write(tmp_path / "wd_sweep", summary((48, "holds")))
    ledger = read_ledger(tmp_path)
    assert rows_by_id(ledger)[48].verdict == "holds"
    assert len(ledger.problems) == 1
    assert str(path) in ledger.problems[0]


@pytest.mark.parametrize("how", ["folder", "dangling", "circle", "pipe"])
def test_a_summary_that_is_no_file_is_reported(tmp_path, how):
    path = tmp_path / "broken" / "summary.json"
    path.parent.mkdir()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if how == "dangling" else path)
    (problem,) = read_ledger(tmp_path).problems
    assert problem.startswith(f"{path}: ")
    assert "Run the study again" in problem


def test_evidence_for_an_unknown_claim_is_reported(tmp_path):
    path = write(tmp_path / "wd_sweep", summary((99, "holds")))
    ledger = read_ledger(tmp_path, [LedgerEvidence(0, "true", "t", "exact checks")])
    assert [str(path) in ledger.problems[0], "99" in ledger.problems[0]] == [True, True]
    assert "exact checks" in ledger.problems[1]
    assert len(ledger.rows) == 85


def test_a_missing_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ResultsError, match="nowhere"):
        read_ledger(tmp_path / "nowhere")
