"""How peers are talked to, timed in turns, resumed, and survived: with a peer of a few lines in place of a library."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bench.peers import __main__ as command
from bench.peers import environments
from bench.peers.declared import COMPARISONS, PEERS, RUNNERS, Peer
from bench.peers.runners import protocol
from lesson import collab_learner, load_ratings
from lesson.data import split
from studies.evidence.peers import Point, read_peers
from studies.evidence.schema import ResultsError

FAKE = Path(__file__).parent / "fake_peer.py"


@pytest.fixture
def data(tmp_path):
    random = np.random.default_rng(0)
    rows = [f"{user},{item},{random.integers(1, 6)}" for user in range(20) for item in range(15)]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,rating", *rows]))
    return load_ratings(tmp_path / "ratings.csv")


def peer(name, seeds=2, epochs=(2,), **settings):
    return Peer(name, name.title(), FAKE, settings, epochs, seeds, None, "a fake")


def points(results, name):
    return {row.seed: row.points for row in next(p for p in results.peers if p.name == name).rows}


def test_the_rmse_is_computed_from_predictions_and_rows_come_from_every_epoch_or_fit(data, tmp_path):
    results = command.measure(
        [peer("each"), peer("whole", epochs=(1, 3))], lambda _: data, tmp_path / "peers.json", "the command"
    )

    stars = data.valid.ratings.double().numpy()
    guess = float(data.train.ratings.mean())
    found = points(results, "each")
    assert [point.epochs for point in found[1]] == [1, 2]
    for seed in (0, 1):
        assert found[seed][0].rmse == pytest.approx(np.sqrt(np.mean((guess + seed - stars) ** 2)), rel=1e-6)
    assert [point.epochs for point in points(results, "whole")[0]] == [1, 1, 2, 3]  # the fake tells every epoch
    assert 0 < found[0][0].seconds <= found[0][1].seconds
    assert read_peers(tmp_path / "peers.json") == results
    assert results.peers[0].drawn.rows == len(data.train) + 2
    assert results.peers[0].drawn.distinct == 20  # users, of which 7 is one
    assert results.peers[0].versions == {"numpy": np.__version__}


def test_the_clock_stops_while_predictions_are_made(data, tmp_path):
    results = command.measure(
        [peer("one", seeds=1, epochs=(3,), clock="made up")], lambda _: data, tmp_path / "peers.json", ""
    )
    assert [point.seconds for point in points(results, "one")[0]] == [1, 2, 3]


def test_a_short_fit_comes_before_all_others_and_then_they_take_turns(data, tmp_path):
    log = tmp_path / "log"
    both = [peer(name, who=name, log=str(log)) for name in ("a", "b")]
    command.measure(both, lambda _: data, tmp_path / "peers.json", "")
    warm, round_0, round_1 = ["a 0 1/1", "b 0 1/1"], ["a 0 1/2", "b 0 1/2"], ["b 1 1/2", "a 1 1/2"]
    lines = log.read_text().splitlines()
    assert [line for line in lines if " 2/2" not in line] == [*warm, *round_0, *round_1]
    assert len(lines) == 10


def test_what_is_finished_is_not_done_again(data, tmp_path):
    command.measure([peer("one", seeds=1), peer("two", seeds=1)], lambda _: data, tmp_path / "peers.json", "")
    first = points(read_peers(tmp_path / "peers.json"), "one")[0]

    results = command.measure([peer("one", seeds=3)], lambda _: data, tmp_path / "peers.json", "")

    assert points(results, "one")[0] == first
    assert sorted(points(results, "one")) == [0, 1, 2]
    assert sorted(points(results, "two")) == [0]  # not asked for, not lost


def test_a_file_says_by_whom_its_rows_were_measured_and_changes_only_with_a_row(data, tmp_path, monkeypatch):
    path = tmp_path / "peers.json"
    monkeypatch.setattr(command.provenance, "commit", lambda: ("first", False))
    command.measure([peer("a", seeds=1), peer("b", seeds=1)], lambda _: data, path, "the first command")
    before = path.read_bytes()
    monkeypatch.setattr(command.provenance, "commit", lambda: ("second", False))
    again = command.measure([peer("a", seeds=1)], lambda _: data, path, "the second command")
    assert (again.command, again.commit) == ("the first command", "first")
    assert path.read_bytes() == before

    bad = peer("bad", seeds=1, refuses="no compiler")
    failed = command.measure([bad], lambda _: data, path, "the second command")
    assert read_peers(path) == failed
    assert failed.peers[0].failure is not None
    assert (failed.command, failed.commit, failed.finished) == ("the first command", "first", again.finished)

    more = command.measure([peer("a", seeds=2)], lambda _: data, path, "the third command")
    assert (more.command, more.commit) == ("the third command", "second")
    assert [row.commit for row in more.peers[0].rows] == ["first", "second"]


def test_other_settings_begin_anew_and_other_data_are_refused(data, tmp_path):
    command.measure([peer("one", seeds=1)], lambda _: data, tmp_path / "peers.json", "")
    results = command.measure([peer("one", seeds=1, off=1)], lambda _: data, tmp_path / "peers.json", "")
    assert results.peers[0].settings == {"off": 1}
    assert len(results.peers[0].rows) == 1
    results = command.measure([peer("one", seeds=1, off=1, epochs=(1,))], lambda _: data, tmp_path / "peers.json", "")
    assert [point.epochs for point in points(results, "one")[0]] == [1]
    for where, key, was, what in (
        ("data", "checksum", "other", "data"),
        ("machine", "cpu", "other", "processor"),
        (None, "threads", 99, "number of threads"),
    ):
        changed = json.loads((tmp_path / "peers.json").read_text())
        (changed[where] if where else changed)[key] = was
        elsewhere = tmp_path / key
        elsewhere.mkdir()
        (elsewhere / "peers.json").write_text(json.dumps(changed))
        with pytest.raises(ResultsError, match=rf"another {what} .*--results"):
            command.measure([peer("one")], lambda _: data, elsewhere / "peers.json", "")


def test_rows_of_another_version_are_not_added_to_and_uncommitted_changes_are_not_forgotten(data, tmp_path):
    command.measure([peer("one", seeds=1)], lambda _: data, tmp_path / "peers.json", "")
    changed = json.loads((tmp_path / "peers.json").read_text())
    changed["dirty"], changed["started"] = True, "long ago"
    changed["peers"][0]["versions"] = {"numpy": "0.1"}
    (tmp_path / "peers.json").write_text(json.dumps(changed))
    results = command.measure([peer("one", seeds=2)], lambda _: data, tmp_path / "peers.json", "")
    assert "measured with {'numpy': '0.1'} before" in results.peers[0].failure
    assert sorted(points(results, "one")) == [0]
    assert (results.dirty, results.started) == (True, "long ago")


@pytest.mark.parametrize(
    ("settings", "reason", "rows"),
    [
        ({"dies": [1, 2]}, "it ended with status 1: out of memory", [0]),
        ({"refuses": "no compiler"}, "it ended with status 1: no compiler", []),
        ({"lacks": 1}, r"it predicted \[29\] ratings instead of \[30\]", []),
        ({"clock": "made up", "epoch_seconds": 0}, r"it answered .*which is not an epoch with seconds above 0", []),
    ],
)
def test_a_peer_that_fails_is_reported_with_its_last_output_and_stops_no_other(data, tmp_path, settings, reason, rows):
    results = command.measure([peer("bad", **settings), peer("good")], lambda _: data, tmp_path / "peers.json", "")
    bad, good = results.peers
    assert bad.failure is not None
    assert re.fullmatch(reason, bad.failure)
    assert [row.seed for row in bad.rows] == rows
    assert [row.seed for row in good.rows] == [0, 1]
    assert good.failure is None


def test_predictions_that_are_not_numbers_have_no_rmse(data, tmp_path):
    results = command.measure([peer("one", seeds=1, off=float("inf"))], lambda _: data, tmp_path / "peers.json", "")
    assert [point.rmse for point in points(results, "one")[0]] == [None, None]


def test_peers_take_turns_and_each_seed_another_one_begins():
    order = []

    def fit(name, n):
        for epoch in range(1, n + 1):
            order.append(f"{name}{epoch}")
            yield Point(epochs=epoch, seconds=1, rmse=1)

    done = dict(command.take_turns({"a": fit("a", 1), "b": fit("b", 3)}, first=1))
    assert order == ["b1", "a1", "b2", "b3"]
    assert {name: len(its) for name, its in done.items()} == {"a": 1, "b": 3}


def test_an_environment_that_cannot_be_made_says_what_pip_says(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("./nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(environments.NoEnvironmentError, match=r"pip cannot install mine.txt: ERROR: .*nowhere"):
        environments.python_of(tmp_path / "mine.txt", tmp_path / "environments")


def test_an_environment_is_made_once_and_again_when_its_list_changes(tmp_path):
    listed = tmp_path / "mine.txt"
    listed.write_text("# nothing")
    python = Path(environments.python_of(listed, tmp_path / "environments"))
    mark = python.parent / "mark"
    mark.touch()
    assert environments.python_of(listed, tmp_path / "environments") == str(python)
    assert mark.exists()
    listed.write_text("# nothing else")
    environments.python_of(listed, tmp_path / "environments")
    assert not mark.exists()
    assert python.exists()


def test_our_runner_trains_what_the_learner_trains(data, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(RUNNERS))
    from bench.peers.runners import ours

    settings = {"n_factors": 4, "y_range": [0, 5.5], "wd": 0.1, "lr": 5e-3, "pct_start": 0.3, "bs": 64}
    training = protocol.Ratings(*(getattr(data.train, name).numpy() for name in protocol.Ratings._fields))
    scores = []
    users, items = data.valid.users.numpy(), data.valid.items.numpy()
    ours.train(
        ours.prepare(training, settings), 3, 2, settings, lambda predict, _: scores.append(predict(users, items))
    )
    learn = collab_learner(data, n_factors=4, y_range=(0, 5.5), wd=0.1, seed=3, quiet=True)
    learn.fit_one_cycle(2, 5e-3)
    assert torch.sqrt(torch.mean((scores[-1] - data.valid.ratings) ** 2)).item() == pytest.approx(
        learn.validate() ** 0.5, rel=1e-6
    )


def test_the_averaged_runner_chooses_settings_on_training_rows_and_predicts_the_mean_of_its_trainings(
    data, monkeypatch
):
    monkeypatch.syspath_prepend(str(RUNNERS))
    from bench.peers.runners import averaged, ours

    settings = {"n_factors": 4, "y_range": [0, 5.5], "bs": 64, "models": 3, "tried": 2, "held": 0.2}
    good = {"wd": 0.1, "lr": 5e-3, "pct_start": 0.3, "epochs": 2}
    bad = good | {"wd": 1e4}  # it keeps every weight at 0, and predicts the middle of the scale for everybody
    training = protocol.Ratings(*(getattr(data.train, name).numpy() for name in protocol.Ratings._fields))
    users, items = data.valid.users.numpy(), data.valid.items.numpy()
    columns, found = ours.prepare(training, settings), []

    def predictions(*candidates):
        those = settings | {"candidates": candidates}
        averaged.train(columns, 1, 5, those, lambda predict, _: found.append(predict(users, items)))
        return found[-1]

    trainers = []
    for number in range(3):
        *_, trainer = ours.trained(columns, ours.table_sizes(columns), 1000 + number, 2, settings | good)
        trainers.append(trainer.scores(data.valid.users, data.valid.items))
    assert torch.allclose(predictions(good), torch.stack(trainers).mean(0), rtol=1e-6)
    assert torch.equal(predictions(bad, good), predictions(good))
    assert torch.equal(predictions(good, bad), predictions(good))
    assert not torch.equal(predictions(bad), predictions(good))


def test_each_seed_of_several_splits_has_the_rows_of_its_split(data, tmp_path):
    parts = [split(data.ratings, seed=seed) for seed in (1, 2)]
    results = command.measure(
        [peer("one"), peer("two", seeds=1)], parts.__getitem__, tmp_path / "peers-fresh.json", "", splits="fresh"
    )
    for seed, part in enumerate(parts):
        guess = float(part.train.ratings.mean()) + seed
        expected = np.sqrt(np.mean((guess - part.valid.ratings.double().numpy()) ** 2))
        assert points(results, "one")[seed][-1].rmse == pytest.approx(expected, rel=1e-6)
    assert [row.seed for row in results.peers[1].rows] == [0]
    assert read_peers(tmp_path / "peers-fresh.json").splits == "fresh"
    with pytest.raises(ResultsError, match=r"another kind of split \(fresh, now fifths\)"):
        command.measure([peer("one")], parts.__getitem__, tmp_path / "peers-fresh.json", "", splits="fifths")


def test_u1_to_u5_are_the_fifths_of_the_file_in_its_order():
    fifths = [COMPARISONS["fifths"].split(number) for number in range(5)]
    assert np.array_equal(np.concatenate([part.valid_rows for part in fifths]), np.arange(100_000))
    # u1.test as GroupLens ships it has 459 users and 1,410 films.
    assert len(np.unique(fifths[0].ratings.user[:20_000])) == 459
    assert len(np.unique(fifths[0].ratings.item[:20_000])) == 1410


def test_every_declared_peer_has_its_runner_and_its_pinned_requirements():
    every = {one.name: one for comparison in COMPARISONS.values() for one in comparison.peers}
    assert len({one.name for one in PEERS}) == len(PEERS)
    assert len({one.title for one in every.values()}) == len(every)
    for one in every.values():
        assert one.runner.exists()
        assert one.requirements is None or "==" in one.requirements.read_text()


def test_an_unknown_peer_is_an_error_that_names_the_known_ones():
    outcome = CliRunner().invoke(command.app, ["--peers", "cornac,netflix"])
    assert outcome.exit_code == 2
    assert "unknown netflix; there are dotbias, " in outcome.output


def test_a_peer_that_has_no_row_in_that_comparison_is_an_error():
    outcome = CliRunner().invoke(command.app, ["--peers", "cornac,fastai", "--splits", "fresh"])
    assert outcome.exit_code == 2
    assert "fastai is not compared with --splits fresh; there are dotbias, " in outcome.output
    outcome = CliRunner().invoke(command.app, ["--peers", "myfm-everything"])
    assert outcome.exit_code == 2
    assert "myfm-everything is not compared with --splits one; there are dotbias, " in outcome.output


def test_more_seeds_than_there_are_splits_are_refused_before_any_work():
    outcome = CliRunner().invoke(command.app, ["--splits", "fifths", "--seeds", "6"])
    assert outcome.exit_code == 2
    assert "--seeds 6: --splits fifths has 5 splits, one for each seed" in outcome.output
