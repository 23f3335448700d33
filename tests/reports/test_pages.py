"""What the command writes: whole pages, from whatever is there."""

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from typer.testing import CliRunner

from reports import __main__ as command
from reports.inputs import gather, page_name
from reports.pages import render
from tests.reports.made_up import made_up_benchmarks

VOID = {"meta", "link", "br", "input", "hr", "img"}
SVG_TEXT = "{http://www.w3.org/2000/svg}text"
SVG_OF_PAGE = re.compile(r"<svg.*?</svg>", re.DOTALL)


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


def test_every_page_is_well_formed_small_and_loads_nothing_from_outside(everything):
    assert set(everything) == {"index.html", "wd_sweep.html", "benchmarks.html"}
    for page in everything.values():
        parser = parsed(page)
        assert len(parser.ids) == len(set(parser.ids)), "an id stands twice"
        assert all(address.startswith(("#", "data:")) for address in parser.loaded)
        assert not re.search(r"url\((?!#)|@import", page)
        assert len(page.encode()) < 2_000_000


def test_every_chart_is_xml_with_a_title_a_description_and_its_data(everything):
    for name, figures in (("wd_sweep.html", 3), ("benchmarks.html", 5)):
        drawings = SVG_OF_PAGE.findall(everything[name])
        assert len(drawings) == 2 * figures == 2 * everything[name].count("Data of this figure")
        for drawing in drawings:
            svg = ElementTree.fromstring(drawing)
            assert svg.get("role") == "img"
            for place, part in enumerate(("title", "desc")):
                assert svg[place].tag.endswith(part)
                assert svg[place].text
                assert svg[place].get("id") in svg.get("aria-labelledby").split()


def test_charts_take_their_colors_from_the_page(everything):
    for drawing in SVG_OF_PAGE.findall("".join(everything.values())):
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", drawing)
        assert "currentColor" in drawing


def test_links_between_pages_lead_somewhere(everything):
    ids = {name: set(parsed(page).ids) for name, page in everything.items()}
    for name, page in everything.items():
        for link in parsed(page).links:
            target, _, fragment = link.partition("#")
            assert not fragment or fragment in ids[target or name]
            assert (target or name) in everything


def test_the_same_results_give_the_same_bytes(results, everything):
    assert render(gather(results)).html == everything


def test_strings_from_outside_are_escaped_in_pages_and_charts(tmp_path, write_study, write_benchmarks):
    evil = "<script>alert('$x^2$')</script>"
    summary = write_study(tmp_path / "study", question=evil, limits=[evil], tuning=[])
    text = (tmp_path / "study" / "summary.json").read_text().replace('wd=0.1"', f'{evil}"')
    arms = json.loads(text)
    for arm in arms["arms"].values():  # no value to stand for an arm: its name is shown
        arm["settings"] = {"factors": 40}
    (tmp_path / "study" / "summary.json").write_text(json.dumps(arms))
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        row["extra_info"]["implementation"] += evil
    write_benchmarks(tmp_path, raw)
    assert summary.question == evil

    for name, page in render(gather(tmp_path)).html.items():
        assert "<script>alert" not in page
        assert page.count("<script>") == 1, f"{name} has a script of its own and no other"
        parsed(page)
        texts = [
            text.text
            for drawing in SVG_OF_PAGE.findall(page)
            for text in ElementTree.fromstring(drawing).iter(SVG_TEXT)
        ]
        assert not texts or evil in "".join(texts), "a chart shows the name as it is, no formula"


# Overrides, embeddings, isolates and marks of direction, and what steers a terminal or breaks XML.
ACTING = "\u202e\u202d\u202a\u202b\u202c\u2066\u2067\u2068\u2069\u200e\u200f\u061c\x00\x08\x1b\x7f\x9b\ufffe"


def test_text_from_outside_turns_no_page_round_and_steers_no_terminal(tmp_path, write_study, write_benchmarks):
    evil = f"a{ACTING}z"
    named = "a" + "\ufffd" * len(ACTING) + "z"
    folder = tmp_path / ("study" + ACTING.replace("\x00", ""))
    summary = write_study(folder, question=evil, limits=[evil], title=evil, baseline="wd=0.01")
    for name in ("summary.json", "runs.parquet", "curves.parquet"):
        path = folder / name
        if name == "summary.json":
            written = json.loads(path.read_text())
            for arm in written["arms"].values():  # no value to stand for an arm: its name is shown
                arm["settings"] = {"factors": 40}
            written["data"] |= {"name": evil, "terms": evil}
            path.write_text(json.dumps(written).replace('wd=0.1"', f'{json.dumps(evil)[1:-1]}"'))
        else:
            frame = pd.read_parquet(path)
            frame.assign(arm=frame["arm"].replace("wd=0.1", evil)).to_parquet(path)
    raw = made_up_benchmarks()
    for row in raw["benchmarks"]:
        row["extra_info"]["implementation"] += evil
    write_benchmarks(tmp_path, raw)
    (tmp_path / f"broken{ACTING[0]}\n").mkdir()
    (tmp_path / f"broken{ACTING[0]}\n" / "summary.json").write_text("{")
    assert summary.question == evil

    outcome = run("--results", tmp_path, "--out", tmp_path / "html")

    pages = {path.name: path.read_text("utf-8") for path in (tmp_path / "html").iterdir()}
    assert len(pages) == 3
    for page in pages.values():
        parsed(page)
        assert not set(page) & set(ACTING)
        for drawing in SVG_OF_PAGE.findall(page):
            ElementTree.fromstring(drawing)
    study = next(page for name, page in pages.items() if name.startswith("study"))
    assert study.count(named) > 10
    assert any(named in drawing for drawing in SVG_OF_PAGE.findall(study)), "a chart shows what is left of the name"
    assert outcome.stderr.count("problem: ") == 1
    assert not set(outcome.stdout + outcome.stderr) & set(ACTING)
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_a_folder_whose_name_is_no_text_gets_its_page(tmp_path, write_study):
    write_study(tmp_path / "study")
    (tmp_path / "study").rename(tmp_path / os.fsdecode(b"caf\xe9"))
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
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", everything["wd_sweep.html"])
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t", everything["wd_sweep.html"])
    assert any(text.startswith("−0.") for text in drawn)
    for text in drawn + cells:
        assert not re.search(r"(?<!\d)-\d|(?<!\d)\.\d", text), text


def test_without_results_the_page_says_which_command_makes_them(tmp_path):
    outcome = run("--results", tmp_path, "--out", tmp_path / "html")
    assert outcome.exit_code == 0
    index = (tmp_path / "html" / "index.html").read_text()
    for place in (index, outcome.stderr):
        assert "tox run -e report" in place
        assert "tox run -e bench" in place
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
    assert "Yes, on MovieLens 100k" in page
    assert ("swept-wide-title" in page) == (name == "curves.parquet")
    assert ("learning-wide-title" in page) == (name == "runs.parquet")


def test_own_data_gets_a_page_of_its_own(tmp_path, write_study):
    write_study(tmp_path / "wd_sweep")
    write_study(tmp_path / "my data" / "wd_sweep")
    assert {one.page for one in gather(tmp_path).studies} == {"wd_sweep.html", "wd_sweep-my-data.html"}


def test_no_study_can_take_the_name_of_another_page():
    assert page_name(Path("r/index"), Path("r"), {"index.html"}) == "index-2.html"


def test_a_planned_test_is_not_taken_for_evidence(everything):
    rows = re.findall(r'<tr id="claim-.*?</tr>', everything["index.html"], re.DOTALL)
    for row in rows:
        assert ("not run</span>" in row) == ("<em>Planned test:</em>" in row)


def test_the_index_shows_all_claims_and_slips_and_filters_without_a_script(everything):
    index = everything["index.html"]
    ids = parsed(index).ids
    assert all(f"claim-{number}" in ids for number in range(1, 86))
    assert all(f"slip-{number}" in ids for number in range(1, 25))
    assert "body:has(#verdict-not-run:checked)" in index
    assert "body:has(#topic-weight-decay:checked)" in index
    assert re.search(r"2 of the lesson’s 85 claims put to the test: 1 holds, 1 inconclusive\.", index)


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


def test_further_measurements_stand_in_a_table_by_arm(tmp_path, write_study, results):
    arms = json.loads((results / "wd_sweep" / "summary.json").read_text())["arms"]
    measured = {arm: {"mean": 0.409, "n": 10, "difference": -0.178, "interval": (-0.2, -0.16)} for arm in arms}
    measure = {"title": "training <RMSE>", "logarithmic": False, "arms": measured}
    write_study(tmp_path / "wd_sweep", measures={"train_rmse": measure})
    page = render(gather(tmp_path)).html["wd_sweep.html"]
    parsed(page)
    assert "training &lt;RMSE&gt;</th>" in page
    assert page.count("<td>0.409<small>−0.178<br>[−0.200, −0.160]</small></td>") == len(arms) - 1
    assert "measure-train-rmse-wide-title" in page


def test_runs_without_a_declared_measurement_cost_the_charts_alone(tmp_path, write_study, results):
    arms = json.loads((results / "wd_sweep" / "summary.json").read_text())["arms"]
    measure = {"title": "missing", "logarithmic": False, "arms": {arm: {"mean": None, "n": 0} for arm in arms}}
    write_study(tmp_path / "wd_sweep", measures={"elsewhere": measure})
    page = render(gather(tmp_path)).html["wd_sweep.html"]
    assert "it lacks the columns elsewhere" in page
    assert "Yes, on MovieLens 100k" in page
