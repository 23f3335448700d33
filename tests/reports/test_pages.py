"""What the command writes: whole pages, from whatever is there."""

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from reports import __main__ as command
from reports import pages
from reports.pages import render
from reports.pages.study import commit_note
from reports.read import gather, page_name
from tests.reports import made_up
from tests.reports.made_up import made_up_benchmarks

VOID = {"meta", "link", "br", "input", "hr", "img"}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open; collects ids, links and outside resources."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.loaded, self.tags = [], [], [], [], set()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        self.loaded += [attributes[key] for key in ("src", "srcset", "data", "poster") if key in attributes]
        if tag in ("link", "use"):
            self.loaded += [value for key, value in attrs if key.endswith("href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> at {self.getpos()} closes nothing"
        last = self.open.pop()
        assert last == tag, f"</{tag}> at {self.getpos()} where <{last}> is open"


def parsed(page):
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    return parser


def run(*arguments):
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


pytestmark = pytest.mark.usefixtures("no_drawing")
STUDY = "wd_sweep-movielens-quick.html"


def test_every_page_is_well_formed_and_loads_nothing_from_outside(everything):
    assert set(everything) == {
        "index.html",
        "benchmarks.html",
        "calibration.html",
        "optimizers-digits-quick.html",
        "step_time-none-quick.html",
        "wd_sweep-mine-quick.html",
        "wd_sweep-movielens-quick.html",
        "wd_sweep-movielens-regular.html",
    }
    for page in everything.values():
        parser = parsed(page)
        assert len(parser.ids) == len(set(parser.ids)), "an id stands twice"
        assert all(address.startswith(("#", "data:")) for address in parser.loaded)
        assert not re.search(r"url\((?!#)|@import", page)


def test_links_between_pages_lead_somewhere(everything):
    ids = {name: set(parsed(page).ids) for name, page in everything.items()}
    for name, page in everything.items():
        for link in parsed(page).links:
            target, _, fragment = link.partition("#")
            assert not fragment or fragment in ids[target or name]
            assert (target or name) in everything


def test_the_same_results_give_the_same_bytes(results, everything):
    assert render(gather(results)).html == everything


def rename_arm(folder, old, new):
    """Give an arm another name in all three files of a study."""
    path = folder / "summary.json"
    path.write_text(path.read_text().replace(json.dumps(old), json.dumps(new)))
    for name in ("runs.parquet", "curves.parquet"):
        frame = pd.read_parquet(folder / name)
        frame.assign(arm=frame["arm"].replace(old, new)).to_parquet(folder / name)


def test_strings_from_outside_are_escaped(tmp_path, write_study, write_benchmarks):
    evil = "<script>alert('$x^2$')</script>"
    data = {"key": evil, "name": evil, "checksum": evil, "size": {evil: 1}, "terms": evil, "citation": evil}
    names = {"wd": evil, "lr": evil}
    write_study(tmp_path / "one", question=evil, title=evil, limits=[evil], notes=[evil], data=data, names=names)
    rename_arm(tmp_path / "one", "wd=0.1", evil)
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        row["extra_info"]["implementation"] += evil
    write_benchmarks(tmp_path, raw)

    found = render(gather(tmp_path))
    assert found.problems == []
    for name, page in found.html.items():
        assert "<script>alert" not in page
        assert page.count("<script>") == 1, f"{name} has a script of its own and no other"
        parsed(page)
    assert found.html["one.html"].count("&lt;script&gt;") > 20


# Overrides, embeddings, isolates and marks of direction, and what steers a terminal or breaks XML.
ACTING = "\u202e\u202d\u202a\u202b\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c\x00\x08\x1b\x7f\x9b\ufffe"


def test_text_from_outside_turns_no_page_round_and_steers_no_terminal(tmp_path, write_study, write_benchmarks):
    evil = f"a{ACTING}z"
    named = "a" + "\ufffd" * len(ACTING) + "z"
    folder = tmp_path / ("study" + ACTING.replace("\x00", ""))
    data = {"key": "x", "name": evil, "checksum": evil, "size": {evil: 1}, "terms": evil}
    write_study(folder, question=evil, limits=[evil], title=evil, data=data)
    rename_arm(folder, "wd=0.1", evil)
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        row["extra_info"]["implementation"] += evil
    write_benchmarks(tmp_path, raw)
    (tmp_path / f"broken{ACTING[0]}\n").mkdir()
    (tmp_path / f"broken{ACTING[0]}\n" / "summary.json").write_text("{")

    outcome = run("--results", tmp_path, "--out", tmp_path / "html")

    pages = {path.name: path.read_text("utf-8") for path in (tmp_path / "html").iterdir()}
    assert len(pages) == 3
    for page in pages.values():
        parsed(page)
        assert not set(page) & set(ACTING)
    study = next(page for name, page in pages.items() if name.startswith("study"))
    assert study.count(named) > 10
    assert outcome.stderr.count("problem: ") == 1
    assert not set(outcome.stdout + outcome.stderr) & set(ACTING)
    assert [line.partition(":")[0] for line in outcome.stderr.splitlines()] == ["problem", "missing"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_a_folder_whose_name_is_not_text_gets_its_page(tmp_path, write_study):
    write_study(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    outcome = run("--results", tmp_path, "--out", tmp_path / "html")
    assert (outcome.exit_code, outcome.exception) == (0, None)
    assert (tmp_path / "html" / "caf-.html").exists()


def test_a_page_of_a_long_name_can_be_written(tmp_path):
    parts = ["\U0001d538" * 60, "b" * 200, "c" * 200]
    name = page_name(tmp_path.joinpath(*parts), tmp_path, set())
    (tmp_path / f".{name}.12345678").write_text("")
    assert page_name(tmp_path / "Index", tmp_path, {"index.html"}) == "Index-2.html"


def test_problems_stand_on_the_index_and_on_stderr_and_in_the_exit_status(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep")
    (tmp_path / "wd_sweep" / "runs.parquet").write_bytes(b"garbage")
    (tmp_path / "peers.json").symlink_to("nowhere")
    (tmp_path / "benchmarks.json").mkdir()
    outcome = run("--results", tmp_path, "--out", tmp_path / "html")
    index = (tmp_path / "html" / "index.html").read_text()
    assert outcome.exit_code == 1
    for name in ("wd_sweep/runs.parquet", "peers.json", "benchmarks.json"):
        assert f"problem: {tmp_path / name}" in outcome.stderr
        assert f"<b>Problem:</b> {tmp_path / name}" in index


def test_numbers_have_a_zero_before_the_point_and_a_true_minus(everything):
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t", everything[STUDY])
    assert any(text.startswith("−0.") for text in cells)
    assert not [text for text in cells if re.search(r"(?<!\d)-\d|(?<!\d)\.\d", text)]


def test_without_results_the_page_says_which_command_makes_them(tmp_path):
    outcome = run("--results", tmp_path, "--out", tmp_path / "html")
    assert outcome.exit_code == 0
    index = (tmp_path / "html" / "index.html").read_text()
    for place in (index, outcome.stderr):
        assert "tox run -e report" in place
        assert "tox run -e bench" in place
        assert "python -m studies.exact" in place
    assert "None of the lesson’s 85 claims" in index
    assert str(tmp_path / "html" / "index.html") in outcome.stdout


def test_a_missing_folder_is_one_error_and_loses_no_page(tmp_path):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("earlier")
    outcome = run("--results", tmp_path / "nowhere", "--out", tmp_path / "html")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error:")
    assert "nowhere" in outcome.stderr
    assert (tmp_path / "html" / "index.html").read_text() == "earlier"


@pytest.mark.parametrize("out", ["a file", "below a file", "a folder that cannot be written"])
def test_where_no_page_can_be_written_is_said_before_any_is_drawn(tmp_path, monkeypatch, out):
    monkeypatch.setattr("reports.pages.render", lambda inputs: pytest.fail("drawn for nothing"))
    folder = tmp_path / "html"
    if out == "a folder that cannot be written":
        folder.mkdir()
        monkeypatch.setattr(command.tempfile, "TemporaryFile", refuse)  # root may write anywhere
    else:
        folder.write_text("mine")
    outcome = run("--results", tmp_path, "--out", folder / "below" if out == "below a file" else folder)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith(f"error: --out {folder}")
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
    assert folder.is_dir() or folder.read_text() == "mine"


def refuse(**_):
    raise PermissionError(13, "Permission denied")


def test_a_page_whose_place_is_taken_by_a_folder_is_one_error(tmp_path):
    (tmp_path / "html" / "index.html").mkdir(parents=True)
    outcome = run("--results", tmp_path, "--out", tmp_path / "html")
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith(f"error: {tmp_path / 'html' / 'index.html'}: ")
    assert outcome.stderr.count("\n") == 1


def test_help_has_no_boxes():
    shown = run("--help").stdout
    assert "--results DIR" in shown
    assert not re.search("[\u2500-\u257f]", shown)


def test_a_broken_summary_is_said_and_the_rest_is_rendered(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "summary.json").write_text("{")
    outcome = run("--results", tmp_path, "--out", tmp_path / "html")
    assert outcome.exit_code == 1
    assert outcome.stderr.startswith(f"problem: {tmp_path / 'broken' / 'summary.json'}: ")
    assert "not JSON" in (tmp_path / "html" / "index.html").read_text()
    assert (tmp_path / "html" / "wd_sweep.html").exists()


def test_broken_benchmarks_are_said_and_the_rest_is_rendered(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep")
    (tmp_path / "benchmarks.json").write_text('{"benchmarks": [1]}')
    pages = render(gather(tmp_path)).html
    assert "benchmarks.html" not in pages
    assert "benchmarks.json" in pages["index.html"]


@pytest.mark.parametrize("name", ["runs.parquet", "curves.parquet"])
@pytest.mark.parametrize("how", ["absent", "garbage"])
def test_a_table_that_cannot_be_read_costs_its_charts_alone(tmp_path, write_study, name, how):
    write_study(tmp_path / "wd_sweep")
    table = tmp_path / "wd_sweep" / name
    table.unlink() if how == "absent" else table.write_bytes(b"garbage")
    page = render(gather(tmp_path)).html["wd_sweep.html"]
    assert name in page
    assert "Yes, by more than 0.002, on MovieLens 100k" in page
    assert ("swept-wide-title" in page) == (name == "curves.parquet")
    assert ("curves-0-loss-wide-title" in page) == (name == "runs.parquet")
    assert "parts-wide-title" in page


def test_a_study_on_other_data_or_with_another_profile_has_a_page_of_its_own_and_links_to_it(everything):
    page = everything[STUDY]
    assert 'The same study: <a href="wd_sweep-mine-quick.html">mine.csv, quick</a>' in page
    assert '<a href="wd_sweep-movielens-regular.html">MovieLens 100k, regular</a>' in page


def test_no_study_can_take_the_name_of_another_page():
    assert page_name(Path("r/index"), Path("r"), {"index.html"}) == "index-2.html"


@pytest.mark.parametrize("name", ["benchmarks", "peers", "calibration"])
def test_a_study_whose_folder_is_named_like_a_page_does_not_replace_it(tmp_path, write_study, write_benchmarks, name):
    write_study(tmp_path / name)
    write_benchmarks(tmp_path)
    pages = render(gather(tmp_path)).html
    assert f"{name}-2.html" in pages
    assert "How fast are the lookup" in pages["benchmarks.html"]


def test_links_say_what_the_pages_are(everything):
    page = everything[STUDY]
    navigation = re.search("<nav.*?</nav>", page, re.DOTALL)[0]
    assert re.findall(">([^<]+)</a>", navigation) == ["Ledger", "Weight decay", "Benchmarks", "Calibration"]
    assert 'aria-current="page">Weight decay' in navigation


@pytest.mark.parametrize(("wall", "shown"), [(12.0, "12 s, 2026-11-22 02:00"), (None, "2026-11-22 02:00")])
def test_training_time_is_not_called_wall_time(tmp_path, write_study, wall, shown):
    path = tmp_path / "wd_sweep" / "summary.json"
    write_study(path.parent)
    raw = json.loads(path.read_text())
    raw["provenance"]["wall_seconds"] = wall
    path.write_text(json.dumps(raw))
    page = render(gather(tmp_path)).html["wd_sweep.html"]
    assert "<dt>training time</dt><dd>23 s, summed over runs</dd>" in page
    assert f"<dt>wall time</dt><dd>{shown}" in page


def rows_of(page, label):
    """The rows of a table, each a list of its cells' texts."""
    table = re.search(f'aria-label="{label}"><table.*?</table>', page, re.DOTALL)[0]
    rows = re.findall("<tr.*?</tr>", table, re.DOTALL)
    strip = re.compile("<.*?>", re.DOTALL)
    return [[" ".join(strip.sub(" ", c).split()) for c in re.findall("<t[hd].*?</t[hd]>", r, re.DOTALL)] for r in rows]


def test_every_part_is_shown_with_outcome_estimate_interval_margin_and_expectation(everything):
    head, first, *others = rows_of(everything[STUDY], "Parts")
    assert head == ["part", "outcome", "estimate", "95 % interval", "margin", "expected", "seeds"]
    assert first == [
        "Decay 0.1 is better than fastai’s default of 0.01. claim 48 · validation RMSE",
        "yes, by more than 0.002",
        "+0.034",
        "[0.032, 0.036] for data like these",
        "0.002",
        "± 0.001",
        "10",
    ]
    assert len(others) == 2


def test_the_best_is_followed_by_its_rivals_and_failed_runs_are_counted(everything):
    head, first, *rows = rows_of(everything["optimizers-digits-quick.html"], "Parts")
    assert head[-1] == "failed"
    assert "expected" not in head
    assert first[1] == "yes, no rival is better by 0.004"
    assert [row[0] for row in rows[:3]] == ["against momentum", "against rmsprop", "against sgd"]
    assert rows[2][-1] == "2 diverged"
    assert rows[-1][1] == "inconclusive, runs failed in a sum of several arms"


def test_the_table_of_arms_describes_and_gives_no_verdict(everything):
    head, *rows = rows_of(everything[STUDY], "Arms")
    means = ["arm", "weight decay", "validation RMSE"]
    assert head == [*means, "difference", "95 %", "similar data", "p (Holm)", "improves"]
    assert len(rows) == 8
    assert rows[2][0] == "wd=0.01 baseline"
    assert rows[2][3:] == [""] * 5
    assert "by sign flips [" in rows[4][4], "skewed differences have the other interval in the same cell"
    assert "it decides nothing" in everything[STUDY]


def test_without_a_baseline_arms_have_means_alone_and_lost_runs_are_named(everything):
    page = everything["optimizers-digits-quick.html"]
    assert rows_of(page, "Arms")[0] == ["arm", "optimizer", "validation accuracy", "failed"]
    assert "<dt>diverged</dt><dd>sgd: 2 of 10</dd>" in page
    assert "The noise floor" not in page


def test_a_study_without_a_split_or_curves_has_its_page(everything):
    page = everything["step_time-none-quick.html"]
    assert "Training curves" not in page
    assert rows_of(page, "Parts")[1][2:4] == ["+0.320", "[0.298, 0.337] for these data, skewed"]


def test_further_metrics_stand_in_a_table_by_arm(everything):
    head, *rows = rows_of(everything[STUDY], "Further metrics")
    assert head == ["arm", "training RMSE"]
    assert len(rows) == 8
    assert re.fullmatch(r"0\.\d{3} 0\.00655 \[0\.00531, 0\.00780\]", rows[0][1])
    assert re.fullmatch(r"0\.\d{3}", rows[2][1]), "the baseline has no difference from itself"


def test_what_was_tuned_and_what_lies_at_the_edge_is_said(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep", tuned={"lr": [0.001, 0.002, 0.005]})
    page = render(gather(tmp_path)).html["wd_sweep.html"]
    edge = "learning rate: a wider range may be better"
    assert rows_of(page, "Tuning")[1] == ["wd=0", "learning rate 0.005", "3", edge]


def test_runs_without_a_declared_metric_cost_the_charts_alone(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep")
    table = tmp_path / "wd_sweep" / "runs.parquet"
    pd.read_parquet(table).drop(columns="metric.train_rmse").to_parquet(table)
    page = render(gather(tmp_path)).html["wd_sweep.html"]
    assert "it lacks the columns metric.train_rmse" in page
    assert "on MovieLens 100k" in page


def test_missing_runs_are_named_by_arm_and_seed(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep")
    table = tmp_path / "wd_sweep" / "runs.parquet"
    runs = pd.read_parquet(table)
    runs[~((runs["arm"] == "wd=0.1") & runs["seed"].isin([3, 4, 7]))].to_parquet(table)
    assert "<dd>wd=0.1: 3 seeds (3–4, 7)</dd>" in render(gather(tmp_path)).html["wd_sweep.html"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        ({"dirty": True}, "Run with uncommitted changes"),
        ({"commits": ["a", "b"]}, "The runs come from 2 commits"),
        ({"commit": None}, "The commit is not known"),
        ({"commit": "b", "commits": ["a"]}, "The runs come from commit a, this summary from b"),
    ],
)
def test_code_that_was_not_one_clean_commit_is_said(changes, note):
    summary = made_up.sweep(3).summary
    said = commit_note(summary.model_copy(update={"provenance": summary.provenance.model_copy(update=changes)}))
    assert (note is None and said is None) or said.startswith(note)


def test_a_new_page_is_a_new_file(tmp_path, monkeypatch):
    class Module:
        PLACE = 1

        @staticmethod
        def plan(inputs):
            return [pages.Page("new.html", "New", "undrawn.html.j2", tmp_path, lambda: {"answer": "42."})]

    monkeypatch.setattr(pages, "_modules", lambda: [*MODULES, Module])
    html = render(gather(tmp_path)).html
    assert '<a href="new.html">New</a>' in html["index.html"]
    assert "42." in html["index.html"]


MODULES = pages._modules()


def test_an_inconclusive_part_says_what_would_decide_it(write_study, tmp_path):
    """On the study's page and in the ledger; a decided part says nothing."""
    folder = tmp_path / "wd_sweep" / "movielens" / "quick"
    first, *others = [part.model_dump() for part in write_study(folder).parts]
    undecided = {"outcome": "inconclusive", "reason": "the interval reaches the margin", "interval": "t"}
    figures = {"estimate": 0.001, "low": -0.003, "high": 0.005, "margin": 0.002, "form": "superior", "by": False}
    write_study(folder, parts=[first | undecided | figures, *others])
    html = render(gather(tmp_path)).html
    for page in ("index.html", STUDY):
        assert len(re.findall("half-width 2 margins; about [0-9]+0 seeds would decide it if the", html[page])) == 1


def test_pages_that_cannot_even_be_planned_cost_no_other(tmp_path, write_benchmarks, monkeypatch):
    write_benchmarks(tmp_path)

    def fails(inputs):
        raise RecursionError("too deep")

    monkeypatch.setattr(pages.films, "plan", fails)
    outcome = render(gather(tmp_path))
    (problem,) = (said for said in outcome.problems if "no page of films could be planned" in said)
    assert "RecursionError: too deep" in problem
    assert {"index.html", "benchmarks.html"} <= set(outcome.html)


def test_a_page_whose_results_are_gone_keeps_no_old_numbers_and_pages_of_others_stay(
    tmp_path, write_study, write_benchmarks
):
    results, out = tmp_path / "results", tmp_path / "pages"
    write_study(results / "wd_sweep" / "movielens" / "quick")
    write_benchmarks(results)
    assert run("--results", results, "--out", out).exit_code == 0
    copy = (out / STUDY).read_text()
    (out / "copy.html").write_text(copy)
    (out / "own.html").write_text("<p>mine</p>")
    (results / "benchmarks.json").write_text("{")
    (results / "wd_sweep" / "movielens" / "quick" / "summary.json").unlink()
    outcome = run("--results", results, "--out", out)
    for name in ("benchmarks.html", STUDY):
        parsed(text := (out / name).read_text())
        assert "This page is withdrawn" in text
        assert "RMSE" not in text
        assert f"withdrawn: {out / name}: " in outcome.stderr
    assert "This page is withdrawn" not in (out / "index.html").read_text()
    assert (out / "copy.html").read_text() == copy
    assert (out / "own.html").read_text() == "<p>mine</p>"
    assert "withdrawn" not in run("--results", results, "--out", out).stderr  # said once
