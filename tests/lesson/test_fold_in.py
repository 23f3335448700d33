"""A user whom training never saw: the objective, the error beside a retraining, recommendations."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import least_squares

from lesson import DataError, UnknownIdsWarning, collab_learner, load_ratings
from lesson.data import open_movielens, split
from lesson.fold_in import prior

MINE = {"Star Wars (1977)": 5, "Striptease (1996)": 1, 1: 2.5, "483": 4}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two users, three items: fewer users than factors, so their covariance has no inverse; no sigmoid."""
    path = tmp_path_factory.mktemp("few") / "r.csv"
    path.write_text("user,item,rating\na,x,1\na,y,5\na,z,2\nb,x,4\nb,y,2\nb,z,3\n")
    learn = collab_learner(load_ratings(path, valid_rows=[5]), n_factors=4, wd=0.01, quiet=True)
    learn.fit(40, 0.05)
    return learn


def parts_of_the_objective(learn, ratings):
    """The numbers whose squares the docstring's objective adds up, in float64 by hand: of a user's factors and bias."""
    model = learn.model
    mean, root, error = prior(model, learn.data)
    rows = learn.data.items.rows(list(ratings))
    stars = np.array(list(ratings.values()), float)
    weight, bias = (t.detach().double().numpy()[rows] for t in (model.i_weight.weight, model.i_bias.weight[:, 0]))

    def parts(user):
        score = weight @ user[:-1] + user[-1] + bias
        if model.y_range is not None:
            low, high = model.y_range
            score = low + (high - low) / (1 + np.exp(-score))
        return np.append(stars - score, error * np.linalg.pinv(root) @ (user - mean))

    return parts, mean, root


def test_the_prior_is_the_trainings_users_and_error(learned):
    mean, root, error = prior(learned.model, learned.data)
    users = torch.cat([learned.model.u_weight.weight, learned.model.u_bias.weight], 1)[1:].detach().double().numpy()
    np.testing.assert_allclose(mean, users.mean(0), atol=1e-12)
    np.testing.assert_allclose(root @ root.T, np.cov(users.T, ddof=0), atol=1e-12)
    train = learned.data.train
    errors = learned.model(train.users, train.items).detach() - train.ratings
    assert error == pytest.approx(errors.square().mean().sqrt().item(), rel=0.1)


def test_a_folded_user_minimizes_the_objective(learned):
    parts, mean, _ = parts_of_the_objective(learned, MINE)
    me = learned.fold_in(MINE)
    found = least_squares(parts, mean, xtol=1e-10)
    np.testing.assert_allclose(np.append(me.weight, me.bias), found.x, atol=1e-4)


def test_without_a_sigmoid_it_is_a_ridge_regression(few):
    ratings = {"x": 1, "z": 3}
    parts, mean, root = parts_of_the_objective(few, ratings)
    me = few.fold_in(ratings)
    found = least_squares(lambda q: parts(mean + root @ q), np.zeros(5), method="lm", xtol=1e-12)
    np.testing.assert_allclose(np.append(me.weight, me.bias), mean + root @ found.x, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0])
def test_the_minimum_is_found_from_any_tables(learned, scale):
    """Tables of zeros, tiny ones, and scores far out on the sigmoid's flat ends."""
    learn = collab_learner(learned.data, n_factors=5, y_range=(0, 5.5), quiet=True)
    with torch.no_grad():
        for layer in learn.model.layers():
            layer.weight.normal_(generator=torch.Generator().manual_seed(0)).mul_(scale)
    me = learn.fold_in(MINE)
    parts, mean, root = parts_of_the_objective(learn, MINE)

    def value(user):
        return (parts(user) ** 2).sum()

    user = np.append(me.weight, me.bias)
    assert np.isfinite(user).all()
    assert value(user) <= value(mean) + 1e-9
    g = np.random.default_rng(0)
    assert all(value(user) <= value(user + root @ g.normal(size=6) * 1e-2) + 1e-6 for _ in range(50))


def test_new_users_are_predicted_as_well_as_by_a_retraining():
    """40 users of MovieLens, trained without them and with 80 % of their ratings: RMSE on the rest."""
    ratings, g = open_movielens(), np.random.default_rng(0)
    held, given = [], []
    for user in g.choice(len(ratings.user_ids), 40, replace=False):
        rows = g.permutation(np.flatnonzero(ratings.user == user))
        held.append(rows[: len(rows) // 5])
        given.append(rows[len(rows) // 5 :])
    held_rows = np.concatenate(held)
    learners = []
    for valid in (held_rows, np.concatenate([held_rows, *given])):
        learn = collab_learner(split(ratings, valid_rows=valid), 40, (0, 5.5), 0.1, quiet=True)
        learn.fit_one_cycle(5, 5e-3)
        learners.append(learn)
    retrained, learn = learners
    items, stars = ratings.item_ids[ratings.item], ratings.rating
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownIdsWarning)  # films that these users alone have rated
        again = retrained.predict(ratings.user_ids[ratings.user[held_rows]], items[held_rows]).numpy()
        folded = np.concatenate(
            [
                learn.predict(
                    learn.fold_in(dict(zip(items[rows].tolist(), stars[rows].tolist(), strict=True))), items[out]
                )
                for rows, out in zip(given, held, strict=True)
            ]
        )
        nobody = learn.predict(["nobody"] * len(items[held_rows]), items[held_rows]).numpy()
    rmse = [np.sqrt(((stars[held_rows] - out) ** 2).mean()) for out in (folded, again, nobody)]
    # The difference from a retraining has a deviation of .008 over seeds with 20 users; the items' biases alone
    # are worse by .1.
    assert rmse[0] < rmse[1] + 0.03
    assert rmse[0] < rmse[2] - 0.04


def test_ratings_in_another_unit_give_the_same_user(tmp_path):
    path, found = tmp_path / "r.csv", []
    for scale in (1, 1e-4):
        path.write_text("user,item,rating\n" + "".join(f"{k % 7},{k % 5},{(1 + k % 4) * scale:g}\n" for k in range(35)))
        learn = collab_learner(load_ratings(path), n_factors=2, y_range=(0, 5 * scale), quiet=True)
        me = learn.fold_in({0: 4 * scale, 1: scale, 2: 4 * scale})
        found.append([*me.weight.tolist(), me.bias])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_folded_user_is_recommended_what_is_unrated_and_predicted_best(learned):
    me = learned.fold_in(MINE)
    best = learned.recommend(me, 20)
    rated = {50, 1, 483, learned.data.items.key(learned.data.items.row("Striptease (1996)"))}
    assert not rated & set(best["item"])
    assert best["prediction"].is_monotonic_decreasing
    assert torch.equal(learned.predict(me, best["item"]), torch.tensor(best["prediction"]))
    assert learned.predict(me, 50) == learned.explain(me, 50).loc["prediction", "rating"]
    everything = learned.recommend(me, 10_000, exclude_seen=False)
    assert len(everything) == len(learned.data.items.ids)
    assert rated <= set(everything["item"])
    assert learned.predict(me, "Star Wars (1977)") > learned.predict(me, "Striptease (1996)") + 1


def test_what_a_known_user_has_rated_is_recommended_only_on_request(learned):
    seen = set(
        learned.data.items.ids[learned.data.train.items[learned.data.train.users == learned.data.users.row(196)] - 1]
    )
    with_seen, without = (learned.recommend(196, 10_000, exclude_seen=seen_too) for seen_too in (False, True))
    assert len(with_seen) - len(without) == len(seen)
    assert with_seen[~with_seen["item"].isin(seen)]["item"].tolist() == without["item"].tolist()


def test_nobody_gets_the_films_of_the_highest_biases(learned):
    best = learned.recommend(n=30)
    biases = learned.bias(learned.data.items.ids)
    by_bias = learned.data.items.ids[torch.sort(biases, descending=True, stable=True).indices[:30]]
    assert best["item"].tolist() == by_bias.tolist()
    assert learned.recommend(None, 30).equals(best)


def test_a_user_with_the_ratings_of_a_known_one_comes_close_to_it(learned):
    train, user = learned.data.train, learned.data.users.row(405)
    own = train.users == user
    keys = [learned.data.items.key(row) for row in train.items[own].tolist()]
    me = learned.fold_in(dict(zip(keys, train.ratings[own].tolist(), strict=True)))
    known = learned.predict([405] * len(keys), keys)
    assert (learned.predict(me, keys) - known).square().mean().sqrt() < 0.25


def test_a_series_is_as_good_as_a_dictionary(learned):
    one, other = learned.fold_in(pd.Series({50: 5.0, 1: 2.0})), learned.fold_in({50: 5, 1: 2})
    assert torch.equal(one.weight, other.weight)
    assert one.weight.dtype == torch.float32
    assert repr(one).startswith("<a user with 2 ratings, folded in: bias")


def test_the_lowest_and_the_highest_rating_are_ratings_though_float32_rounds_them(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\na,x,-9.95\na,y,20.1\na,z,2\nb,x,4\nb,y,2\nb,z,3\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn = collab_learner(load_ratings(path, valid_rows=[5]), n_factors=2, y_range=(-9.95, 20.1), quiet=True)
    assert len(learn.fold_in({"x": -9.95, "y": 20.1}).seen) == 2
    for star in (-9.951, 20.101, 1e300, 10**400):
        with pytest.raises(DataError, match=r"a number from -9\.95 to 20\.1 is needed"):
            learn.fold_in({"x": star})


def test_items_that_training_never_saw_are_named_and_left_out(learned):
    with pytest.warns(UnknownIdsWarning, match="item 'nothing'") as told:
        me = learned.fold_in({"nothing": 5, 50: 5, 1: 2})
    assert told[0].filename == __file__
    assert torch.equal(me.weight, learned.fold_in({50: 5, 1: 2}).weight)


@pytest.mark.filterwarnings("ignore::lesson.UnknownIdsWarning")
@pytest.mark.parametrize(
    ("ratings", "says"),
    [
        ({}, "none is of an item that training has seen"),
        ({"nothing": 5}, "none is of an item that training has seen"),
        ({50: 9}, "9 for 50; a number from 1 to 5"),
        ({50: float("nan")}, "nan for 50"),
        ({50: None}, "None for 50"),
        ({50: "5"}, "'5' for 50"),
        ({50: True}, "True for 50"),
        ({None: 5}, "None is not an id"),
        ({50: 5, "Star Wars (1977)": 4}, "item 50 is rated twice"),
        (pd.Series([5, 4], index=[50, 50]), "item 50 is rated twice"),
        ([5, 4], "a dictionary is needed"),
        ([(50, 5)], "a dictionary is needed"),
        (None, "a dictionary is needed"),
        (pd.DataFrame({50: [5]}), "a dictionary is needed"),
        (torch.tensor([5.0]), "a dictionary is needed"),
    ],
)
def test_what_is_no_rating_is_refused_in_one_line(learned, ratings, says):
    with pytest.raises(DataError) as error:
        learned.fold_in(ratings)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("same_data", [False, True])
def test_a_user_folded_into_another_learner_is_refused(learned, few, same_data):
    other = collab_learner(learned.data, 40, seed=1, quiet=True) if same_data else few
    me = other.fold_in({50: 4}) if same_data else other.fold_in({"x": 1})
    for ask in (learned.recommend, lambda user: learned.predict(user, 50), lambda user: learned.explain(user, 50)):
        with pytest.raises(DataError, match="folded into another learner"):
            ask(me)


def test_folding_in_leaves_the_model_and_other_dtypes_as_they_are(few):
    learn = collab_learner(few.data, n_factors=4, y_range=(0, 6), backend="reference", quiet=True)
    learn.model.double()
    before = [table.clone() for table in learn.model.tables()]
    me = learn.fold_in({"x": 1, "y": 5})
    assert all(torch.equal(one, other) for one, other in zip(before, learn.model.tables(), strict=True))
    assert me.weight.dtype == torch.float64
    assert learn.recommend(me)["item"].tolist() == ["z"]
