"""The peers' page: times to the target with misses, what is left out, and text from outside."""

import math

import pytest

from reports import peers
from reports.__main__ import gather, render
from studies.evidence.peers import Peer, PeerResults, Point, Row, epoch_time, time_to_target, write_peers


def made_up(name, fits, **more):
    """A peer whose seeds have these (epochs, seconds, rmse)."""
    rows = [
        Row(seed=seed, round=f"{seed}", commit=None, points=[Point(epochs=e, seconds=s, rmse=r) for e, s, r in fit])
        for seed, fit in enumerate(fits)
    ]
    return Peer(name=name, title=name, settings={"bs": 64}, epochs=[1], note="", rows=rows, **more)


def results(*them):
    data = {
        "name": "MovieLens 100k",
        "checksum": "0",
        "ratings": 10,
        "users": 2,
        "items": 5,
        "n_train": 9,
        "n_valid": 1,
    }
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


def test_only_what_took_turns_is_compared():
    alone = made_up("a", [[(1, 0.05, 0.8)]])
    alone.rows[0].round = "another"
    assert time_to_target(alone, CORNAC) is None


def test_epochs_are_compared_one_by_one():
    slow = made_up("slow", [[(1, 4.0, 0.9), (2, 10.0, 0.9)]])
    fast = made_up("fast", [[(1, 2.0, 0.9), (2, 3.0, 0.9)]])
    assert epoch_time(slow, fast).ratio == pytest.approx((2 + 6) / 2)


def test_the_page_says_who_failed_and_escapes_what_comes_from_outside(tmp_path):
    quick = made_up("dotbias-quick", [[(1, 0.05, 0.89)]] * 7)
    failed = Peer(name="bad", title="<b>bad</b>", settings={}, epochs=[1], note="", failure="no <script>")
    write_peers(results(quick, CORNAC, failed), tmp_path / "peers.json")
    pages = render(gather(tmp_path))
    page = pages["peers.html"]
    assert "To an RMSE of 0.896 dotbias takes 1.00× [1.00×, 1.00×] the time of cornac’s 20 epochs" in page
    assert "&lt;b&gt;bad&lt;/b&gt;: no &lt;script&gt;" in page
    assert "<b>bad" not in page
    assert 'href="peers.html"' in pages["index.html"]
    assert page == render(gather(tmp_path))["peers.html"]


def test_a_page_of_failures_alone_can_be_drawn(tmp_path):
    failed = Peer(name="bad", title="bad", settings={}, epochs=[1], note="", failure="no network")
    write_peers(results(failed), tmp_path / "peers.json")
    assert "no network" in render(gather(tmp_path))["peers.html"]


def test_fastai_shows_what_it_draws(tmp_path):
    stock = made_up("fastai", [[(1, 1.0, 0.91)]] * 2, drawn={"rows": 9, "distinct": 6}, versions={"fastai": "2.8.12"})
    distinct = made_up("fastai-distinct", [[(1, 1.0, 0.89)]] * 2, drawn={"rows": 9, "distinct": 9})
    shown = peers.sampling(results(stock, distinct))
    assert shown["expected"] == pytest.approx(1 - (8 / 9) ** 9)
    assert shown["difference"] == pytest.approx(0.02)


def test_a_file_that_is_no_such_result_is_a_problem_not_a_failure(tmp_path):
    (tmp_path / "peers.json").write_text("{}")
    inputs = gather(tmp_path)
    assert "peers.json: no comparison" in inputs.problems[0]
    assert "peers.html" not in render(inputs)
