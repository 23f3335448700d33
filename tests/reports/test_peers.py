"""The peers' page: times to the target with misses, what is left out, and text from outside."""

import math
import re

import pandas as pd
import pytest
from matplotlib.figure import Figure

from reports.figures import quality
from reports.pages import peers, render
from reports.read import gather
from studies.evidence.ledger import read_ledger
from studies.evidence.peers import (
    RIVALS,
    Peer,
    PeerResults,
    Point,
    Row,
    epoch_time,
    rival_finding,
    time_to_target,
    write_peers,
)

pytestmark = pytest.mark.usefixtures("no_drawing")


def made_up(name, fits, **more):
    """A peer whose seeds have these (epochs, seconds, rmse)."""
    rows = [
        Row(seed=seed, round=f"{seed}", commit=None, points=[Point(epochs=e, seconds=s, rmse=r) for e, s, r in fit])
        for seed, fit in enumerate(fits)
    ]
    fields = {"title": name, "settings": {"bs": 64}, "epochs": [1], "note": ""}
    return Peer(name=name, rows=rows, **(fields | more))


def results(*them):
    size = {"ratings": 10, "train": 9, "valid": 1}
    data = {"key": "movielens", "name": "MovieLens 100k", "checksum": "0", "size": size}
    machine = {"python": "3.11", "platform": "Linux", "cpu": "Xeon", "cores": 2, "versions": {}}
    fields = {"command": "", "commit": None, "dirty": False, "started": "2026-11-22", "finished": "2026-11-22"}
    return PeerResults(**fields, threads=2, machine=machine, data=data, peers=list(them))


CORNAC = made_up("cornac", [[(20, 0.05, 0.902)]] * 7)


def test_a_miss_counts_as_infinite_in_the_median_ratio():
    hit, late, miss = [(1, 0.04, 0.91), (2, 0.08, 0.896)], [(1, 0.1, 0.8)], [(1, 0.04, 0.897)]
    ratio = time_to_target(made_up("a", [hit] * 3 + [late] + [miss] * 3), CORNAC)
    assert ratio.ratio == pytest.approx(2.0)
    assert (ratio.n, ratio.misses) == (7, 3)
    assert math.isinf(ratio.high)
    assert math.isinf(time_to_target(made_up("a", [hit] * 3 + [miss] * 4), CORNAC).ratio)


def test_the_interval_of_a_median_is_the_sign_tests_and_there_is_none_below_six():
    cornac = made_up("cornac", [[(20, 0.5, 0.902)]] * 9)
    twice = [[(1, seconds, 0.8)] for seconds in (2.5, 1.5, 4.5, 0.5, 3.5, 1, 4, 3, 2)]
    ratio = time_to_target(made_up("a", twice), cornac)
    # Of nine, the second and the second last: their interval misses a median in 20 of 512 cases, the next in 92.
    assert (ratio.ratio, ratio.low, ratio.high) == pytest.approx((5, 2, 8))
    few = time_to_target(made_up("a", twice[:5]), cornac)
    assert (few.ratio, few.low, few.high, few.n) == (5, None, None, 5)


def test_the_reference_is_its_fit_of_twenty_epochs():
    cornac = made_up("cornac", [[(5, 0.01, 0.91), (20, 0.05, 0.902), (30, 0.08, 0.9)]])
    assert time_to_target(made_up("a", [[(1, 0.1, 0.8)]]), cornac).ratio == pytest.approx(2)
    assert peers.reference_text(results(cornac)) == "cornac’s 20 epochs (50 ms, ending at an RMSE of 0.9020)"


def test_a_reference_without_its_fit_of_twenty_epochs_is_none(tmp_path):
    cornac = made_up("cornac", [[(20, 0.05, 0.902)], [(30, 0.08, 0.9)]])
    assert results(cornac).reference() is None
    write_peers(results(made_up("dotbias-quick", [[(1, 0.1, 0.8)]]), cornac), tmp_path / "peers.json")
    pages = render(gather(tmp_path))
    assert pages.problems == []
    assert "cornac’s 20 epochs, which were not measured" in pages.html["peers.html"]


def test_epochs_of_fits_that_each_began_anew_are_not_compared():
    anew = made_up("anew", [[(1, 2.0, 0.9), (2, 1.5, 0.9)]])
    once = made_up("once", [[(1, 2.0, 0.9), (2, 3.0, 0.9)]])
    assert epoch_time(anew, once) is None
    assert epoch_time(once, anew) is None
    whole = made_up("whole", [[(5, 4.0, 0.9)]])  # one evaluation at the end of a fit of five epochs
    assert epoch_time(whole, once) is None


@pytest.mark.parametrize(
    ("fits", "epochs"),
    [
        ([[(1, 1, 0.8), (2, 2, 0.91), (4, 4, 0.93)], [(1, 1, 0.8), (2, 2, 0.93), (4, 4, 0.92)]], 2),
        ([[(2, 2, 0.91), (4, 4, 0.93)], [(2, 2, None), (4, 4, 0.92)]], 4),
    ],
    ids=["the lowest mean", "numbers before none"],
)
def test_the_best_number_of_epochs_is_one_at_which_fits_end(fits, epochs):
    assert [point.epochs for point in made_up("a", fits, epochs=[2, 4]).best()] == [epochs] * 2


def test_only_what_took_turns_is_compared():
    alone = made_up("a", [[(1, 0.05, 0.8)]])
    alone.rows[0].round = "another"
    assert time_to_target(alone, CORNAC) is None


def test_epochs_are_compared_one_by_one():
    slow = made_up("slow", [[(1, 4.0, 0.9), (2, 10.0, 0.9)]])
    fast = made_up("fast", [[(1, 2.0, 0.9), (2, 3.0, 0.9)]])
    assert epoch_time(slow, fast).ratio == pytest.approx((2 + 6) / 2)


def test_the_answer_holds_our_time_against_cornacs_and_fastais_epochs_against_ours():
    quick = made_up("dotbias-quick", [[(1, 0.1, 0.89)]] * 6 + [[(1, 0.1, 0.9)]])
    stock, lesson = made_up("fastai", [[(1, 20.0, 0.91)]]), made_up("dotbias", [[(1, 1.0, 0.89)]])
    told = peers.answer(results(quick, CORNAC, stock, lesson))
    assert "takes 2.0× [2.0×, ∞×] the time of cornac" in told
    assert "; 7 seeds, 1 missed; an epoch of fastai takes 20× as long as one of dotbias." in told


def test_epochs_are_compared_with_those_of_the_same_batch_size_alone():
    fits = [[(1, 1.0, 0.89)]]
    them = [made_up("dotbias", fits), made_up("dotbias-quick", fits, settings={"bs": 256}), made_up("pytorch", fits)]
    assert [peer.name for peer, _ in peers.context_of(results(*them), [])["epoch_times"]] == ["pytorch"]


def test_the_table_has_the_best_first_and_says_who_was_late_and_who_never_came(tmp_path):
    slow = made_up("slow", [[(1, seconds, rmse)] for seconds, rmse in ((2.0, 0.9), (4.0, 0.91), (3.0, 0.89))])
    good = made_up("good", [[(1, 1.0, 0.89), (2, 2.0, rmse)] for rmse in (0.87, 0.88, 0.89)], epochs=[2])
    cornac = made_up("cornac", [[(20, 0.5, 0.902)]] * 3, epochs=[20], versions={"cornac": "2.4", "numpy": "2.5"})
    write_peers(results(slow, good, cornac), tmp_path / "peers.json")
    table = re.search('<table class="sortable">.*?</table>', render(gather(tmp_path)).html["peers.html"], re.DOTALL)[0]
    rows = [re.findall("<t[hd].*?</t[hd]>", row) for row in re.findall("<tr.*?</tr>", table, re.DOTALL)]
    assert [[re.sub("<.*?>", "", cell) for cell in row] for row in rows[1:]] == [
        ["good", "0.8800 ± 0.0100", "2", "2.0 s", "1.0 s", "2.0×", "–", "0 of 3"],
        ["slow", "0.9000 ± 0.0100", "1", "3.0 s", "never", "∞", "", "2 of 3"],
        ["cornaccornac 2.4", "0.9020 ± 0.0000", "20", "500 ms", "never", "∞", "", "3 of 3"],
    ]


def test_the_page_says_who_failed_and_escapes_what_comes_from_outside(tmp_path):
    quick = made_up("dotbias-quick", [[(1, 0.05, 0.89)]] * 7)
    failed = Peer(name="bad", title="<b>bad</b>", settings={}, epochs=[1], note="", failure="no <script>")
    write_peers(results(quick, CORNAC, failed), tmp_path / "peers.json")
    pages = render(gather(tmp_path)).html
    page = pages["peers.html"]
    assert "To an RMSE of 0.896 dotbias takes 1.00× [1.00×,\xa01.00×] the time of cornac’s 20 epochs" in page
    assert "&lt;b&gt;bad&lt;/b&gt;: no &lt;script&gt;" in page
    assert "<b>bad" not in page
    assert 'href="peers.html"' in pages["index.html"]
    assert page == render(gather(tmp_path)).html["peers.html"]


def test_a_ratio_without_an_interval_is_sorted_as_what_has_no_value(tmp_path):
    write_peers(results(made_up("few", [[(1, 0.05, 0.89)]]), CORNAC), tmp_path / "peers.json")
    assert '<td data-sort="">–</td>' in render(gather(tmp_path)).html["peers.html"]


def on_splits():
    """Five fresh splits: ours averaged, a rival worse by .004 to .008, and one worse than that."""
    ours = [[(5, 2.0, 0.88 + 0.002 * split)] for split in range(5)]
    rival = [[(200, 20.0, 0.88 + 0.002 * split + gap)] for split, gap in enumerate((0.004, 0.005, 0.006, 0.007, 0.008))]
    found = results(
        made_up("dotbias-averaged", ours, title="ours averaged", epochs=[5]),
        made_up("myfm-40", rival, title="myFM", epochs=[200]),
        made_up("cornac", [[(20, 0.1, 0.91)]] * 5, title="cornac", epochs=[20]),
    )
    size = {"ratings": 100, "train": 90, "valid": 10}
    return found.model_copy(update={"splits": "fresh", "data": found.data.model_copy(update={"size": size})})


def test_the_page_opens_with_the_averaged_trainings_against_the_best_rival_on_each_split(tmp_path):
    write_peers(on_splits(), tmp_path / "peers-fresh.json")
    page = render(gather(tmp_path)).html["peers.html"]
    # s = .00158, t = 2.776 at four degrees of freedom, times the root of 1/5 + 10/90: half a width of .0024.
    assert (
        "On 5 fresh splits (90/10), averaged trainings of dotbias come to an RMSE of 0.8840 in 2.0 s, myFM to" in page
    )
    assert "myFM minus dotbias: +0.0060 [+0.0036,\xa0+0.0084]" in page
    assert "How each gets there" not in page
    write_peers(results(CORNAC), tmp_path / "peers.json")
    both = render(gather(tmp_path)).html["peers.html"]
    assert both.index("fresh splits (90/10)") < both.index("How each gets there: one split")


def test_who_lacks_a_split_is_not_ranked_and_not_in_the_answer(tmp_path):
    found = on_splits()
    first = found.peers[2].rows[0]  # cornac's on the easiest split
    found.peers[2].rows = [first.model_copy(update={"points": [first.points[0].model_copy(update={"rmse": 0.8805})]})]
    front = peers.front(found)
    assert [line.peer.title for line, _ in front.lines] == ["ours averaged", "myFM"]
    assert "myFM minus dotbias: +0.0060" in front.answer
    write_peers(found, tmp_path / "peers-fresh.json")
    page = render(gather(tmp_path)).html["peers.html"]
    assert "Not ranked, because they were not measured on every split: cornac." in page
    assert page.index('">myFM<') < page.index('">cornac<')
    found.peers[0].rows.pop()
    assert peers.front(found).answer == ""  # ours, which the answer is about


def test_splits_on_which_the_rival_is_better_are_said_as_plainly(tmp_path):
    found = on_splits()
    found.peers[1].rows = [
        row.model_copy(update={"points": [row.points[0].model_copy(update={"rmse": 0.87 + 0.002 * row.seed})]})
        for row in found.peers[1].rows
    ]
    write_peers(found, tmp_path / "peers-fresh.json")
    assert "myFM minus dotbias: −0.0100" in render(gather(tmp_path)).html["peers.html"]


def on_one_fold():
    """u1 with everything known: dotbias to the second and to the day, and two of myFM."""

    def seeds(name, title, seconds, *rmse):
        return made_up(name, [[(8, seconds, one)] for one in rmse], title=title, epochs=[8])

    found = results(
        seeds("dotbias-everything-day", "ours to the day", 2.0, 0.884, 0.885, 0.886),
        seeds("dotbias-everything", "ours to the second", 3.0, 0.874, 0.875, 0.876),
        seeds("myfm-everything", "myFM", 30.0, 0.884, 0.887),
        seeds("myfm-everything-ordinal", "myFM ordinal", 40.0, 0.887, 0.889),
    )
    return found.model_copy(update={"splits": "everything"})


def test_the_page_compares_on_one_fold_what_knows_the_day_with_what_knows_the_day_and_gives_no_interval(tmp_path):
    write_peers(on_one_fold(), tmp_path / "peers-everything.json")
    page = render(gather(tmp_path)).html["peers.html"]
    assert (
        "dotbias comes to 0.8750 in 3.0 s if the second of a rating is known, to 0.8850 in 2.0 s if the day is. "
        "The best other (myFM) comes to 0.8855 in 30 s; minus dotbias to the day: +0.0010."
        in re.sub("[\xa0\u202f]", " ", page)
    )
    table = re.search('<table class="sortable">.*?</table>', page, re.DOTALL)[0]
    rows = [re.findall("<t[hd].*?</t[hd]>", row) for row in re.findall("<tr.*?</tr>", table, re.DOTALL)]
    assert [[re.sub("<.*?>", "", cell) for cell in row] for row in rows[1:]] == [
        ["ours to the second", "0.8750 ± 0.0010", "3.0 s", "−0.0100", "3"],
        ["ours to the day", "0.8850 ± 0.0010", "2.0 s", "", "3"],
        ["myFM", "0.8855 ± 0.0021", "30 s", "+0.0010", "2"],
        ["myFM ordinal", "0.8880 ± 0.0014", "40 s", "+0.0035", "2"],
    ]
    assert "[" not in re.sub("<.*?>", "", table)
    for said in ("One fold", "may be later ones", "it is not a forecast", "so there is no interval"):
        assert said.lower() in page.lower()


def test_the_fold_stands_between_the_splits_and_the_one_split(tmp_path):
    write_peers(on_splits(), tmp_path / "peers-fresh.json")
    write_peers(on_one_fold(), tmp_path / "peers-everything.json")
    write_peers(results(CORNAC), tmp_path / "peers.json")
    page = render(gather(tmp_path)).html["peers.html"]
    places = [page.index(f"<h2>{words}") for words in ("How far each goes", "With everything", "How each gets there")]
    assert places == sorted(places)
    assert "seeds vary initialization and order. So there" in page
    (tmp_path / "peers-everything.json").unlink()
    assert "it is not a forecast" not in render(gather(tmp_path)).html["peers.html"]


def test_a_comparison_on_several_splits_is_no_evidence_about_one(tmp_path):
    write_peers(on_splits(), tmp_path / "peers.json")
    assert not [c for row in read_ledger(tmp_path).rows for part in row.parts for c in part.conditions]


def test_everything_a_peer_reports_is_escaped(tmp_path):
    evil = "<b>evil</b>"
    told = {"note": evil, "versions": {evil: evil, "fastai": evil}, "settings": {evil: evil, "bs": 64}}
    drawn = {"rows": 9, "distinct": 6}
    them = [
        made_up(name, [[(1, 0.05, 0.89)]] * 2, **told | {"title": f"{evil} {name}"}, drawn=drawn)
        for name in ("dotbias", "fastai")
    ]
    write_peers(results(*them), tmp_path / "peers.json")
    page = render(gather(tmp_path)).html["peers.html"]
    assert "&lt;b&gt;evil" in page
    assert "<b>" not in page


def test_commits_are_named_in_order():
    peer = made_up("a", [[(1, 0.05, 0.89)]] * 6)
    for row, commit in zip(peer.rows, "cafedb", strict=True):
        row.commit = commit
    assert peers.commit_ids(results(peer)) == [*"abcdef"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a", "b"], "measured at several commits: a, b."),
        (["b", "b"], "measured at another commit than below: b."),
        (["a", "a"], None),
    ],
)
def test_rows_of_another_commit_than_the_files_are_told(tmp_path, rows, said):
    peer = made_up("x", [[(1, 0.05, 0.89)]] * 2)
    for row, commit in zip(peer.rows, rows, strict=True):
        row.commit = commit
    write_peers(results(peer).model_copy(update={"commit": "a"}), tmp_path / "peers.json")
    page = render(gather(tmp_path)).html["peers.html"]
    assert said in page if said else "measured at" not in page


def test_a_peers_settings_are_in_words_and_by_comparison_where_they_differ():
    several = {"bs": 64, "y_range": [0, 5.5], "candidates": [{"wd": 0.1, "lr": 5e-3}, {"wd": 86_400}]}
    one = results(
        made_up("cornac", [[(5, 0.1, 0.91)]], epochs=[5, 10]), made_up("a", [[(1, 1, 0.9)]], settings=several)
    )
    fresh = results(made_up("cornac", [[(20, 0.1, 0.91)]], epochs=[20])).model_copy(update={"splits": "fresh"})
    fifths = fresh.model_copy(update={"splits": "fifths"})
    assert [(peer.name, ran) for peer, ran in peers.run_with([fresh, fifths, one])] == [
        ("cornac", "On fresh splits and on u1 to u5: bs 64; epochs 20. On one split: bs 64; epochs 5, 10"),
        ("a", "bs 64, y_range [0, 5.5], candidates [(wd 0.1, lr 0.005), (wd 86400)]; epochs 1"),
    ]


@pytest.mark.parametrize(("rmse", "top"), [([0.9, 0.91, 1.2], 0.97), ([1.02, 1.0, 0.9], 1.026), ([0.9, 0.91], 0.9105)])
def test_a_chart_that_cuts_values_off_says_so_and_never_cuts_most(rmse, top):
    fits = [[(epochs, float(epochs), one) for epochs, one in enumerate(rmse, 1)]]
    found = results(made_up("a", fits, epochs=[1, 2, 3]))
    assert ("Above 0.97 values are cut off." in quality.chart(found, "").caption) is (top == 0.97)
    rows = [{"peer": "a", "seed": 0, "epochs": e, "seconds": s, "rmse": r} for e, s, r in fits[0]]
    figure = Figure()
    quality.draw(figure, pd.DataFrame(rows), None, 1)
    assert figure.axes[0].get_ylim()[1] == pytest.approx(top, abs=1e-3)


@pytest.mark.parametrize("name", ["other", "cornac", "dotbias", "fastai"])
def test_a_page_of_failures_alone_can_be_drawn(tmp_path, name):
    failed = Peer(name=name, title="bad", settings={}, epochs=[1], note="", failure="no network")
    write_peers(results(failed), tmp_path / "peers.json")
    assert "no network" in render(gather(tmp_path)).html["peers.html"]


def test_fastai_shows_what_it_draws(tmp_path):
    stock = made_up("fastai", [[(1, 1.0, 0.91)]] * 2, drawn={"rows": 9, "distinct": 6}, versions={"fastai": "2.8.12"})
    distinct = made_up("fastai-distinct", [[(1, 1.0, 0.89)]] * 2, drawn={"rows": 9, "distinct": 9})
    shown = peers.sampling(results(stock, distinct))
    assert shown["expected"] == pytest.approx(1 - (8 / 9) ** 9)
    assert shown["difference"] == pytest.approx(0.02)


def test_a_file_with_other_content_is_a_problem_not_a_failure(tmp_path):
    (tmp_path / "peers.json").write_text("{}")
    pages = render(gather(tmp_path))
    assert "peers.json: not a comparison" in pages.problems[0]
    assert "peers.html" not in pages.html


def near(name, rmse, **more):
    """A peer with ten seeds whose RMSE is nearly this."""
    return made_up(name, [[(1, 0.1, rmse + 1e-4 * (seed % 3))] for seed in range(10)], **more)


def test_the_lessons_model_is_judged_against_its_best_rival_whatever_others_train_by_torch():
    ours, eager = near("dotbias", 0.893), near("pytorch", 0.5)
    cornac, *others = (near(name, 0.902) for name in ("cornac", "libmf", "lenskit", "surprise"))
    found = rival_finding(results(ours, cornac, *others, near("myfm", 0.9), eager))
    assert (found.part, found.outcome, found.n, found.interval) == ("1a", "yes", 10, "t")
    found = rival_finding(results(ours, cornac, *others, near("myfm", 0.885, title="myFM")))
    assert (found.outcome, found.reason) == ("no", "a rival better by m")
    assert rival_finding(results(ours, cornac, *others, eager)) is None  # the best one may be the one that is not there
    assert rival_finding(results(cornac, *others, near("myfm", 0.9))) is None


def test_each_seed_of_a_rival_counts_at_the_number_of_epochs_that_is_best_for_all():
    fits = [[(1, 0.1, 0.95), (2, 0.2, 0.90)], [(1, 0.1, 0.88), (2, 0.2, 0.91)]]
    assert made_up("cornac", fits, epochs=[1, 2]).rmse_by_seed() == {0: 0.90, 1: 0.91}


def test_the_ledger_shows_the_rivals_as_evidence_on_claim_1(tmp_path):
    rivals = [near(name, 0.902) for name in RIVALS]
    write_peers(results(near("dotbias", 0.893), *rivals), tmp_path / "peers.json")
    (evidence,) = [c.used for row in read_ledger(tmp_path).rows for part in row.parts for c in part.conditions]
    assert (evidence.found.part, evidence.source, evidence.data, evidence.tuned) == ("1a", "peers", "movielens", False)
    page = render(gather(tmp_path)).html["index.html"]
    assert '<a href="peers.html">MovieLens 100k</a>' in page
    assert "validation RMSE lower by 0.009" in page
    (tmp_path / "peers.json").write_text("{}")
    broken = read_ledger(tmp_path)
    assert not [c for row in broken.rows for part in row.parts for c in part.conditions]
    assert len(broken.problems) == len(gather(tmp_path).problems) == 1
