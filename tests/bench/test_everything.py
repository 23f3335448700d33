"""Everything that is known: what runners are told, what they make of it, and that they never see what they predict."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bench.peers import __main__ as command
from bench.peers.conversation import Runner, export, export_everything
from bench.peers.declared import COMPARISONS, RUNNERS, WITH_EVERYTHING
from bench.peers.known import everything_known
from bench.peers.runners import protocol
from lesson import load_ratings

OURS = WITH_EVERYTHING[0]
USERS, FILMS = 60, 40
# A few films: longer steps of what they share would be too long, and small weights would leave 0 too late.
GENTLE = {"n_factors": 4, "models": 2, "implicit_rate": 0.05, "deviation": 0.1}


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(RUNNERS))
    from bench.peers.runners import everything

    return everything


@pytest.fixture
def loops(runner):
    import everything_loops  # by the name that the runner knows it by

    return everything_loops


def made_about(random, users=USERS, films=FILMS):
    return protocol.About(
        random.integers(15, 70, users),
        random.choice(["F", "M"], users),
        random.choice(["artist", "other"], users),
        random.choice(["01234", "94043"], users),
        np.arange(films)[:, None] % 18 == np.arange(18),
        np.where(np.arange(films) == 7, 0, 1950 + np.arange(films)),
    )


def made_up(moods=0.0, tastes=1.2, seed=0):
    """Ratings of everybody for every film, and which of them are training rows; ten films of a user share a minute."""
    random = np.random.default_rng(seed)
    users, films = (grid.ravel() for grid in np.meshgrid(np.arange(USERS), np.arange(FILMS), indexing="ij"))
    sittings = random.permuted(np.tile(np.arange(FILMS) // 10, (USERS, 1)), axis=1).ravel()
    scores = tastes * random.choice([-1, 1], USERS)[users] * random.choice([-1, 1], FILMS)[films]
    scores = scores + moods * random.choice([-1, 1], (USERS, 4))[users, sittings]
    ratings = np.clip(np.round(3 + scores + 0.3 * random.standard_normal(len(users))), 1, 5).astype(np.float32)
    seconds = 880_000_020 + 600 * sittings + random.integers(0, 40, len(users))
    return protocol.Rows(users, films, seconds), ratings, random.random(len(users)) < 0.8, made_about(random)


def predictions(runner, rows, ratings, training, about, settings=OURS.settings, asked=None, epochs=8, seed=0):
    settings = {**settings, **GENTLE}
    known = protocol.Rows(*(column[training] for column in rows))
    asked = protocol.Rows(*(column[~training] for column in rows)) if asked is None else asked
    prepared = runner.prepare(protocol.Everything(known, ratings[training], about), settings)
    found = []
    runner.train(prepared, seed, epochs, settings, lambda predict, done: found.append((predict(asked), done)))
    ((predicted, done),) = found
    assert done == epochs
    return predicted


def rmse(predicted, ratings):
    return float(np.sqrt(np.mean((predicted - ratings) ** 2)))


def by_biases(rows, ratings, training):
    """Predictions of the least squares fit of a user's and a film's bias."""
    ones = np.concatenate([np.eye(USERS)[rows.users], np.eye(FILMS)[rows.films]], axis=1)
    return ones[~training] @ np.linalg.lstsq(ones[training], ratings[training], rcond=None)[0]


def test_it_learns_tastes_which_biases_alone_do_not(runner):
    rows, ratings, training, about = made_up()
    ours = rmse(predictions(runner, rows, ratings, training, about, epochs=20), ratings[~training])
    assert ours < 0.7 * rmse(by_biases(rows, ratings, training), ratings[~training])


def test_it_learns_moods_where_it_knows_the_minute_and_not_where_it_knows_the_day(runner):
    rows, ratings, training, about = made_up(moods=1.2, tastes=0)
    exact, by_day = (
        rmse(predictions(runner, rows, ratings, training, about, peer.settings, epochs=20), ratings[~training])
        for peer in WITH_EVERYTHING[:2]
    )
    assert exact < 0.8 * by_day


def test_windows_belong_to_a_user_and_those_without_a_training_row_have_no_bias(runner):
    rows = protocol.Rows(np.array([3, 3, 3, 5, 5]), np.arange(5), np.array([100, 109, 110, 100, 205]))
    windows = runner.make_windows(rows, [(10, 6), (100, 8)])
    assert windows.of.tolist() == [[0, 4], [0, 4], [1, 4], [2, 5], [3, 6]]
    assert windows.decays.tolist() == pytest.approx([3, 6, 6, 6, 8 / 3, 8, 8])
    assert np.array_equal(runner.windows_of(rows, [(10, 6), (100, 8)], windows), windows.of)
    asked = protocol.Rows(np.array([3, 5, 4, 9]), np.zeros(4, int), np.array([119, 195, 100, 10**9]))
    assert runner.windows_of(asked, [(10, 6), (100, 8)], windows).tolist() == [[1, 4], [7, 5], [7, 7], [7, 7]]


def test_bags_hold_who_rated_what_over_the_root_of_their_number_and_side_features(runner):
    about = made_about(np.random.default_rng(0), 3, 2)._replace(
        ages=np.array([20, 24, 25]), sexes=np.array(["F", "M", "F"]), occupations=np.array(["a"] * 3),
        zips=np.array(["94043", "90210", "T8H1N"]), years=np.array([1994, 0]),
        genres=np.arange(18) < np.array([[2], [0]]),
    )  # fmt: skip
    rows = protocol.Rows(np.array([0, 0, 1]), np.array([0, 1, 1]), np.arange(3))
    settings = OURS.settings | {"implicit_rate": 2, "side_rate": 3, "implicit_decay": 4, "side_decay": 5}
    prepared = runner.prepare(protocol.Everything(rows, np.array([1, 3, 5], np.float32), about), settings)

    def bag(side, row):
        inside = slice(*prepared[side].bags.starts[row : row + 2])
        return dict(zip(prepared[side].bags.members[inside].tolist(), prepared[side].bags.weights[inside], strict=True))

    # Of users: two films, two ages, two sexes, an occupation, two first characters of zip codes.
    assert bag(0, 0) == pytest.approx({0: 0.5**0.5, 1: 0.5**0.5, 2: 1, 4: 1, 6: 1, 7: 1})
    assert bag(0, 1) == pytest.approx({1: 1, 2: 1, 5: 1, 6: 1, 7: 1})
    assert bag(0, 2) == pytest.approx({3: 1, 4: 1, 6: 1, 8: 1})
    # Of films: three users, 18 genres, 1994 and the usual year.
    assert bag(1, 0) == pytest.approx({0: 1, 3: 0.5**0.5, 4: 0.5**0.5, 21: 1})
    assert bag(1, 1) == pytest.approx({0: 0.5**0.5, 1: 0.5**0.5, 22: 1})
    assert prepared.users.bags.rates.tolist() == [2, 2, *[3] * 7]
    assert prepared.users.bags.decays.tolist() == [4, 4, *[5] * 7]
    assert prepared.stars.tolist() == [0, 2, 4]
    assert prepared.users.starts.tolist() == [0, 2, 3, 3]
    assert prepared.films.starts.tolist() == [0, 1, 3]
    assert prepared.users.bias_decays.tolist() == [1, 2, 2]


def test_every_rating_is_visited_once_grouped_by_its_row(runner):
    number = np.random.default_rng(0).integers(0, 9, 200)
    side = runner.make_side(number, 10, None, OURS.settings)
    orders = [runner.random_order(side, np.random.default_rng(seed)) for seed in (1, 2)]
    for rows, ratings in orders:
        assert sorted(rows.tolist()) == list(range(10))
        assert sorted(ratings.tolist()) == list(range(200))
        for row in range(10):
            assert set(number[ratings[side.starts[row] : side.starts[row + 1]]].tolist()) <= {row}
    assert not np.array_equal(orders[0][1], orders[1][1])


@pytest.mark.parametrize("stars", range(5))
def test_the_slope_is_the_derivative_of_the_log_likelihood_which_thresholds_climb_too(loops, stars):
    start = np.array([-2, -1, 0.5, 1.5])

    def likelihood(score, thresholds):
        at_most = np.concatenate([[0], 1 / (1 + np.exp(score - thresholds)), [1]])
        return np.log(at_most[stars + 1] - at_most[stars])

    thresholds = start.astype(np.float32)
    found = loops.slope(np.float32(0.3), stars, thresholds, np.float32(1e-3))
    expected = (likelihood(0.3 + 1e-5, start) - likelihood(0.3 - 1e-5, start)) / 2e-5
    assert found == pytest.approx(expected, rel=1e-4)
    for place, nudge in enumerate(1e-5 * np.eye(4)):
        by_threshold = (likelihood(0.3, start + nudge) - likelihood(0.3, start - nudge)) / 2e-5
        assert (thresholds[place] - start[place]) / 1e-4 == pytest.approx(by_threshold, abs=5e-3)


def test_a_prediction_is_the_mean_of_the_probabilities_of_stars(loops):
    thresholds = np.array([-2, -1, 0.5, 1.5], np.float32)
    user, film = np.array([[0.5, 2, 0.1]], np.float32), np.array([[1, -0.25, 0.2]], np.float32)
    windows, biases = np.array([[0, 2]], np.int32), np.array([0.4, 9, -0.1], np.float32)
    found = np.zeros(1, np.float32)
    loops.mean_stars(np.array([0]), np.array([0]), windows, user, film, biases, thresholds, found)
    at_most = 1 / (1 + np.exp(0.6 - thresholds))
    assert found[0] == pytest.approx(np.diff([0, *at_most, 1]) @ [1, 2, 3, 4, 5], rel=1e-5)


def test_predictions_are_the_mean_over_trainings_and_depend_on_the_seed_alone(runner, monkeypatch):
    rows, ratings, training, about = made_up()
    first = predictions(runner, rows, ratings, training, about)
    assert np.array_equal(predictions(runner, rows, ratings, training, about), first)
    assert not np.array_equal(predictions(runner, rows, ratings, training, about, seed=1), first)
    numbers = iter((1, 4))
    monkeypatch.setattr(runner, "mean_stars", lambda *arguments: arguments[-1].fill(next(numbers)))
    assert set(predictions(runner, rows, ratings, training, about).tolist()) == {2.5}


def test_whom_and_what_training_never_saw_is_predicted_from_its_side_information(runner):
    rows, ratings, training, about = made_up(tastes=0)
    ratings = np.where(about.genres[rows.films, 0], 5, 2).astype(np.float32)  # films 0, 18 and 36 are the best
    training &= (rows.users > 0) & ~np.isin(rows.films, [36, 37])
    asked = protocol.Rows(np.array([0, 0, 0, 5, 5]), np.array([3, 36, 37, 36, 37]), np.full(5, 10**9))
    predicted = predictions(runner, rows, ratings, training, about, asked=asked, epochs=20)
    assert np.isfinite(predicted).all()
    assert predicted.min() >= 1
    assert predicted.max() <= 5
    assert predicted[1] > predicted[2] + 0.05
    assert predicted[3] > predicted[4] + 0.05


def small(tmp_path):
    """Ratings, and what is made up to be known about them."""
    random = np.random.default_rng(0)
    rows = [f"{user},{item},{random.integers(1, 6)}" for user in range(20) for item in range(15)]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,rating", *rows]))
    data = load_ratings(tmp_path / "ratings.csv")
    parts = {"train": data.train_rows, "valid": data.valid_rows}
    known = {
        f"{part}_{name}": column[chosen]
        for part, chosen in parts.items()
        for name, column in (("users", data.ratings.user), ("films", data.ratings.item), ("seconds", np.arange(300)))
    }
    return data, known | made_about(random, 20, 15)._asdict()


def test_a_runner_never_sees_the_ratings_that_it_predicts(tmp_path):
    data, known = small(tmp_path)
    shuffled = replace(data.valid, ratings=data.valid.ratings[torch.randperm(len(data.valid))])
    assert not torch.equal(shuffled.ratings, data.valid.ratings)
    found = []
    for number, valid in enumerate((data.valid, shuffled)):
        path = tmp_path / str(number) / "ratings.npz"
        path.parent.mkdir()
        export(replace(data, valid=valid), path)
        export_everything(known, path)
        process = Runner(OURS, sys.executable, path, threads=1)
        (point,) = process.fit(seed=1, epochs=3)
        process.stop()
        found.append((np.load(process.predictions), point.rmse))
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1] != found[1][1]


def test_what_is_known_goes_with_the_triples_to_runners_that_ask_for_it(tmp_path):
    data, known = small(tmp_path)
    peers = [replace(OURS, seeds=1, epochs=(2,)), replace(COMPARISONS["one"].peers[0], seeds=1, epochs=(2,))]
    found = command.measure(
        peers, lambda _: data, tmp_path / "out.json", "", splits="everything", known=lambda _: known
    )
    assert [(peer.failure, len(peer.rows)) for peer in found.peers] == [(None, 1)] * 2
    assert [row.points[-1].epochs for peer in found.peers for row in peer.rows] == [2, 2]


def test_movielens_knows_the_second_of_each_rating_and_its_users_and_films():
    comparison = COMPARISONS["everything"]
    data = comparison.split(0)
    assert data is comparison.split(4)
    assert np.array_equal(data.valid_rows, COMPARISONS["fifths"].split(0).valid_rows)
    known = everything_known(data)
    first = [int(known[f"valid_{name}"][0]) for name in ("users", "films", "seconds")]
    assert first == [195, 241, 881250949]  # user 196, film 242: the first line of u.data
    assert [len(known[f"{part}_seconds"]) for part in ("train", "valid")] == [80_000, 20_000]
    about = {name: known[name][0] for name in ("ages", "sexes", "occupations", "zips", "years")}
    assert about == {"ages": 24, "sexes": "M", "occupations": "technician", "zips": "85711", "years": 1995}
    assert np.flatnonzero(known["genres"][0]).tolist() == [2, 3, 4]  # Toy Story: animation, children's, comedy
    assert np.flatnonzero(known["years"] == 0).tolist() == [266, 1411]
    assert (len(known["ages"]), known["genres"].shape) == (943, (1682, 18))


class Block(NamedTuple):
    ids: Any
    table: Any


def test_myfm_gets_the_same_in_blocks_of_users_and_films(monkeypatch):
    monkeypatch.syspath_prepend(str(RUNNERS))
    monkeypatch.setitem(
        sys.modules, "myfm", SimpleNamespace(RelationBlock=Block, MyFMRegressor=None, MyFMOrderedProbit=None)
    )
    from bench.peers.runners import myfm_everything

    day = myfm_everything.DAY
    about = made_about(np.random.default_rng(0), 3, 2)._replace(
        ages=np.array([20, 24, 25]), sexes=np.array(["F", "M", "F"]), occupations=np.array(["a"] * 3),
        zips=np.array(["94043", "90210", "T8H1N"]), years=np.array([1994, 0]),
        genres=np.arange(18) < np.array([[2], [0]]),
    )  # fmt: skip
    rows = protocol.Rows(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1, day, day + 5]))
    everything = protocol.Everything(rows, np.array([1, 3, 5], np.float32), about)
    (days, blocks), _, groups, known_days, tables = myfm_everything.prepare(everything, {})
    assert days.toarray().tolist() == [[1, 0], [0, 1], [0, 1]]
    assert [one.ids.tolist() for one in blocks] == [[0, 0, 1], [0, 1, 1]]
    root = pytest.approx(0.5**0.5)
    users, films = (one.table.toarray().tolist() for one in blocks)
    assert users == [  # ids, films, ages, sexes, the occupation, zip codes
        [1, 0, root, root, 1, 0, 1, 0, 1, 1, 0],
        [0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 1, 0, 1],
    ]
    assert films == [  # ids, users, genres, years
        [1, 0, 1, 0, 0, root, root, *[0] * 16, 0, 1],
        [0, 1, root, root, 0, *[0] * 18, 1, 0],
    ]
    assert groups == [2, 2, 2, 2, 2, 1, 2, 2, 3, 18, 2]
    asked = protocol.Rows(np.array([2]), np.array([0]), np.array([9 * day]))
    assert myfm_everything.features(asked, known_days, tables)[0].toarray().tolist() == [[0, 0]]
