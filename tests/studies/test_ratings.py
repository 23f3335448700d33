"""What the studies of ratings compute, against other ways to compute it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from lesson.data import DataBunch, PlantedRatings, Ratings, open_ratings, split
from studies import bias_decay, biases, embedding_sizes, giant_factors, new_users, planted_factors, pruning, top_films
from studies.lab.command import command
from studies.lab.source import outcome_of
from studies.lab.spec import Run


@pytest.fixture(scope="module")
def ratings(ratings_csv: Path) -> Ratings:
    return open_ratings(ratings_csv)


def job(seed: int = 3, **settings: Any) -> Run:
    return Run("any", 1, "small", "checksum", settings, seed)


class TestPlantedFactors:
    @pytest.fixture(autouse=True)
    def few(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"N_USERS": 40, "N_ITEMS": 30, "SHARE": 0.6}.items():
            monkeypatch.setattr(PlantedRatings, name, value)

    @pytest.mark.parametrize("signal", [0.0, 1.0, 2.0])
    def test_ratings_are_biases_and_the_planted_products(self, signal: float) -> None:
        data, users, items = PlantedRatings().draw(seed=1, rank=3, signal=signal, noise=0)
        of_user, of_item = data.users.ids[data.train.users - 1], data.items.ids[data.train.items - 1]
        left = data.train.ratings.numpy() - signal * (users[of_user] * items[of_item]).sum(1)
        marks = np.zeros((len(left), len(users) + len(items)))
        marks[np.arange(len(left)), of_user] = marks[np.arange(len(left)), len(users) + of_item] = 1
        fitted = marks @ np.linalg.lstsq(marks, left, rcond=None)[0]
        np.testing.assert_allclose(fitted, left, atol=1e-5)
        assert left.std() > 0.3

    def test_the_angle_is_that_of_the_spaces_whatever_their_basis_and_means(self) -> None:
        drawn = np.random.default_rng(0)
        planted, found = drawn.normal(size=(2, 50, 3))
        bases = [np.linalg.qr(columns - columns.mean(0))[0] for columns in (planted, found)]
        cosines = np.linalg.svd(bases[0].T @ bases[1])[1]
        assert planted_factors.angle(planted, found) == pytest.approx(np.degrees(np.arccos(cosines.min())))
        mixed = found @ drawn.normal(size=(3, 3)) + drawn.normal(size=3)
        assert planted_factors.angle(planted, mixed) == pytest.approx(planted_factors.angle(planted, found))
        assert planted_factors.angle(planted, planted * [1, 2, 3] + 4) == pytest.approx(0, abs=1e-5)

    def test_the_svd_is_that_of_what_users_and_items_means_leave(self) -> None:
        data, *_ = PlantedRatings().draw(seed=2, rank=planted_factors.RANK)
        users, items, stars = (column.numpy() for column in data.train[:])
        marks = np.zeros((len(stars), len(data.users) + len(data.items)))
        marks[np.arange(len(stars)), users] = marks[np.arange(len(stars)), len(data.users) + items] = 1
        table = np.zeros((len(data.users.ids), len(data.items.ids)))
        table[users - 1, items - 1] = stars - marks @ np.linalg.lstsq(marks, stars, rcond=None)[0]
        first, _, second = np.linalg.svd(table)
        for ours, theirs in zip(planted_factors.by_svd(data), (first, second.T), strict=True):
            assert planted_factors.angle(theirs[:, : planted_factors.RANK], ours) < 0.5

    def test_with_nothing_planted_training_finds_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        angles = {
            arm: planted_factors.run(job(**settings), PlantedRatings()).metrics["angle"]
            for arm, settings in planted_factors.STUDY.arms.items()
        }
        assert angles["trained"] < 20 < 70 < angles["nothing planted"]
        assert abs(angles["nothing planted"] - angles["untrained"]) < 15


class TestBiases:
    def test_the_lowest_and_the_highest_are_those_of_the_means_that_count(self, ratings: Ratings) -> None:
        data = split(ratings, seed=1)
        of = defaultdict(list)
        for user, stars in zip(data.train.users.tolist(), data.train.ratings.tolist(), strict=True):
            of[user].append(stars)
        means = {user: np.mean(stars) for user, stars in of.items() if len(stars) >= biases.ENOUGH}
        assert 0 < len(means) < len(of)
        ends = np.quantile(list(means.values()), [biases.SHARE, 1 - biases.SHARE])
        low, high = biases.ends(data.train.users, data.train.ratings, len(data.users))
        assert set(low.nonzero()[:, 0].tolist()) == {user for user, mean in means.items() if mean <= ends[0]}
        assert set(high.nonzero()[:, 0].tolist()) == {user for user, mean in means.items() if mean >= ends[1]}

    def test_data_without_such_films_or_users_have_nothing_to_measure(
        self, ratings: Ratings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(biases, "ENOUGH", 1_000)
        metrics = biases.run(job(**biases.STUDY.arms["both"]), ratings).metrics
        assert (metrics["bad_films"], metrics["harsh_users"]) == (None, None)
        assert metrics["rmse"] is not None

    @pytest.mark.parametrize(("arm", "user", "film"), [("films", 0, 1), ("users", 1, 0), ("none", 0, 0)])
    def test_a_bias_that_an_arm_lacks_stays_zero(
        self, ratings: Ratings, monkeypatch: pytest.MonkeyPatch, arm: str, user: bool, film: bool
    ) -> None:
        made = []
        make = biases.collab_learner
        monkeypatch.setattr(biases, "collab_learner", lambda *data, **how: made.append(make(*data, **how)) or made[-1])
        biases.run(job(**biases.STUDY.arms[arm]), ratings)
        model = made[0].model
        assert (bool(model.u_bias.weight.any()), bool(model.i_bias.weight.any())) == (user, film)
        assert model.u_weight.weight.all()


class TestTopFilms:
    def test_it_counts_the_listed_among_the_films_of_lowest_score(self) -> None:
        titles = [f"film {n}" for n in range(40)]
        listed = dict.fromkeys([f"film {n}" for n in (0, 1, 2, 38, 39)], 1.0)
        assert top_films.overlap(titles, np.arange(40.0), listed) == 3
        assert top_films.overlap(titles, -np.arange(40.0), listed) == 2
        assert top_films.overlap(titles[:39], np.arange(39.0), listed) is None  # a listed film is not in the data

    def test_harshness_is_of_the_training_raters_and_measured_on_validation_rows(self, ratings: Ratings) -> None:
        data = split(ratings, seed=2)
        mean = new_users.damped(data, 0)
        train, valid = ([column.tolist() for column in rows[:]] for rows in (data.train, data.valid))
        for film in range(1, len(data.items)):
            rated = [stars for item, stars in zip(train[1], train[2], strict=True) if item == film]
            assert mean[film] == pytest.approx(np.mean(rated))
        below = defaultdict(list)
        for user, film, stars in zip(*valid, strict=True):
            if user and film:
                below[user].append(mean[film] - stars)
        found = top_films.harshness_of_raters(data, mean)
        for film in range(len(data.items)):
            raters = [user for user, item in zip(train[0], train[1], strict=True) if item == film and user in below]
            expected = np.mean([np.mean(below[user]) for user in raters]) if raters else np.nan
            assert found[film] == pytest.approx(expected, nan_ok=True)

    def test_an_effect_that_adds_harshness_to_the_mean_goes_with_it_and_the_mean_itself_does_not(self) -> None:
        drawn = np.random.default_rng(0)
        mean, harshness = drawn.normal(size=(2, 300))
        harshness[:5] = np.nan
        corrected = mean + np.nan_to_num(harshness)
        differences = corrected.argsort().argsort() - mean.argsort().argsort()
        expected = spearmanr(differences[5:], harshness[5:]).statistic
        assert top_films.beyond_the_mean(corrected, mean, harshness) == pytest.approx(expected)
        assert expected > 0.8
        assert top_films.beyond_the_mean(mean - np.nan_to_num(harshness), mean, harshness) < -0.8
        assert top_films.beyond_the_mean(2 * mean + 1, mean, harshness) is None  # the same ranks: nothing beyond it

    def test_effects_of_the_additive_model_minimize_its_penalized_error(self, ratings: Ratings) -> None:
        data = split(ratings, seed=2)
        users, items, stars = (column.numpy() for column in data.train[:])
        marks = np.zeros((len(stars), len(data.users) + len(data.items)))
        marks[np.arange(len(stars)), users] = marks[np.arange(len(stars)), len(data.users) + items] = 1
        ridge = marks.T @ marks + top_films.DAMPING * np.eye(marks.shape[1])
        expected = np.linalg.solve(ridge, marks.T @ (stars - stars.mean(dtype=float)))[len(data.users) :]
        np.testing.assert_allclose(top_films.additive(data), expected, atol=1e-5)

    def test_the_most_rated_come_first_and_ties_by_id(self, ratings: Ratings) -> None:
        data = split(ratings, seed=2)
        counts = {film: int((ratings.item_ids[ratings.item] == film).sum()) for film in ratings.item_ids.tolist()}
        expected = sorted(counts, key=lambda film: (-counts[film], film))[:7]
        assert data.top_items(7) == expected

    def test_data_without_the_listed_films_have_no_overlap_to_measure(self, ratings: Ratings) -> None:
        metrics = top_films.run(job(), ratings).metrics
        assert (metrics["worst"], metrics["best"], metrics["worst_by_mean"]) == (None, None, None)


class TestNewUsers:
    def test_it_refuses_a_split_that_it_would_not_make(self, ratings_csv: Path) -> None:
        """Else its interval would be that of seeds that share their validation rows."""
        given = ["--ratings", str(ratings_csv), "--split", "user"]
        result = CliRunner().invoke(command(new_users.STUDY), given)
        assert result.exit_code == 2
        assert "--split user: new_users chooses its validation rows itself" in result.stderr

    def test_each_user_watches_the_highest_of_what_he_rated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(new_users, "TOP", 3)
        drawn = np.random.default_rng(0)
        users, scores, stars = drawn.integers(0, 9, 60), drawn.permutation(60) * 1.0, drawn.integers(1, 6, 60) * 1.0
        means = []
        for user in set(users.tolist()):
            own = sorted(zip(scores[users == user], stars[users == user], strict=True), reverse=True)
            if len(own) > 3:
                means.append(np.mean([star for _, star in own[:3]]))
        assert means
        assert new_users.first_watched(users, scores, stars) == pytest.approx(np.mean(means))
        assert new_users.first_watched(users[:3], scores[:3], stars[:3]) is None  # nobody rated enough

    def test_nothing_of_a_new_user_is_trained_on_and_all_rankings_have_the_same(
        self, ratings: Ratings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        watch = new_users.split
        monkeypatch.setattr(new_users, "split", lambda *rows, **how: seen.append(watch(*rows, **how)) or seen[-1])
        for arm in new_users.STUDY.arms.values():
            new_users.run(job(**arm), ratings)
        assert all((data.valid.users == 0).all() for data in seen)
        assert len({tuple(data.valid.ratings.tolist()) for data in seen}) == 1
        new_users.run(job(seed=4, **arm), ratings)
        assert seen[-1].users.ids.tolist() != seen[0].users.ids.tolist()

    def test_a_damped_mean_is_the_mean_of_more_ratings(self, ratings: Ratings) -> None:
        data = split(ratings, seed=2)
        overall = data.train.ratings.double().mean().item()
        found, plain = new_users.damped(data, 2), new_users.damped(data, 0)
        for film in range(1, len(data.items)):
            own = data.train.ratings[data.train.items == film].tolist()
            assert found[film] == pytest.approx(np.mean([*own, overall, overall]))
            assert plain[film] == pytest.approx(np.mean(own))
        assert new_users.last(found)[0] == -np.inf


class TestPruning:
    @pytest.fixture
    def data(self) -> DataBunch:
        """Two pixels that say the class, one that says nothing, and one that is dark in training."""
        y = torch.arange(40) % 2
        x = torch.stack([y * 1.0, 1.0 - y, torch.ones(40), torch.zeros(40)], 1)
        return DataBunch(TensorDataset(x, y), TensorDataset(x, y))

    def net(self, *weights: list[float]) -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 2, bias=False))
        model[0].weight.data = torch.tensor(weights)
        return model

    def test_it_removes_the_smallest_until_the_error_rises(self, data: DataBunch) -> None:
        model = self.net([-3.0, 3.0, 0.1, 0.01], [4.0, -2.0, 0.2, 0.01])  # the last column reads the dark pixel
        before = model[0].weight.clone()
        # Six weights count. Without .1, .2, −2, 3 and −3 the net still tells by 4 alone; without 4 it cannot.
        assert pruning.removable(model, data, None) == pytest.approx(0.91)
        assert torch.equal(model[0].weight, before)

    def test_in_random_order_a_large_weight_goes_early(self, data: DataBunch) -> None:
        model = self.net([0.0, 0.0, 0.0, 9.0], [4.0, 0.0, 0.0, 9.0])
        shares = [pruning.removable(model, data, torch.Generator().manual_seed(seed)) for seed in range(30)]
        assert min(shares) < 0.1
        assert np.mean(shares) == pytest.approx(0.5, abs=0.2)

    def test_a_net_that_knows_nothing_has_nothing_to_measure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = torch.Generator().manual_seed(0)
        rows = [
            TensorDataset(torch.rand(n, 9, generator=drawn), torch.randint(3, (n,), generator=drawn)) for n in (90, 60)
        ]

        class Noise:
            def split(self, seed: int) -> DataBunch:
                return DataBunch(*rows)

        monkeypatch.setattr(pruning, "STEPS", 400)
        metrics = outcome_of(pruning.run, job(wd=0.0, lr=0.05), Noise()).metrics
        counts = np.bincount(rows[0][:][1], minlength=3) / 90
        assert pruning.chance(DataBunch(*rows)) == pytest.approx(-np.log(counts)[rows[1][:][1]].mean())
        assert (metrics["share"], metrics["at_random"], metrics["more"]) == (None, None, None)


def test_the_rules_give_the_published_sizes_of_embeddings() -> None:
    half, later = embedding_sizes.RULES["half, at most 50"], embedding_sizes.RULES["1.6 · n^0.56"]
    assert [half(n) for n in (1, 7, 100, 944, 1654)] == [1, 3, 50, 50, 50]
    assert [later(n) for n in (7, 100, 944, 1654)] == [5, 21, 74, 102]


def test_without_their_decay_biases_take_the_same_steps_and_do_not_shrink(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = bias_decay.collab_learner
    monkeypatch.setattr(bias_decay, "collab_learner", lambda *data, **how: made.append(make(*data, **how)) or made[-1])
    monkeypatch.setattr(bias_decay, "BATCH", 64)

    def trained(wd: float) -> list[torch.Tensor]:
        monkeypatch.setattr(bias_decay, "WD", wd)
        for arm in bias_decay.STUDY.arms.values():
            bias_decay.run(job(**arm), ratings)
        return [torch.cat([table.weight.detach().flatten() for table in learn.model.layers()]) for learn in made[-2:]]

    torch.testing.assert_close(*trained(0.0), rtol=1e-3, atol=1e-5)  # the two codes agree
    trained(20.0)
    all_decay, factors_decay = (learn.model for learn in made[-2:])
    assert factors_decay.i_bias.weight.norm() > 1.1 * all_decay.i_bias.weight.norm()
    assert factors_decay.i_weight.weight.norm() < 1.1 * all_decay.i_weight.weight.norm()


def test_the_decay_of_which_biases_may_be_left_out_is_the_claims() -> None:
    assert bias_decay.WD == 0.1


def test_a_share_of_the_rows_keeps_the_tables(ratings: Ratings) -> None:
    whole = split(ratings, seed=0)
    part = giant_factors.reduced(whole, 0.1, draw=5)
    rows = {tuple(row) for row in torch.stack(whole.train[:], 1).tolist()}
    assert len(part.train) == 27
    assert {tuple(row) for row in torch.stack(part.train[:], 1).tolist()} <= rows
    assert (part.users, part.items, part.valid) == (whole.users, whole.items, whole.valid)
    assert giant_factors.reduced(whole, 0.1, draw=6).train[:][2].tolist() != part.train[:][2].tolist()
