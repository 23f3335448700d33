"""Rankings: NDCG and coverage against their definitions, written out user by user."""

import math

import numpy as np
import pytest
import torch

from lesson import DataError, collab_learner, load_ratings
from lesson import metrics as lesson_metrics
from lesson.data import open_ratings, split
from lesson.metrics import accuracy, coverage, ndcg, rmse


def made_up(folder, seed, users=12, items=9, rows=70, repeats=True, levels=(1, 2, 3, 4, 5)):
    """Ratings with repeated pairs, users of few ratings, and ties among predictions."""
    g = np.random.default_rng(seed)
    path = folder / f"r{seed}.csv"
    pairs = {(g.integers(users), g.integers(items)) for _ in range(rows)}
    lines = [f"u{u:02},i{i},{g.choice(levels)}" for u, i in sorted(pairs)]
    lines += lines[:9] if repeats else []
    path.write_text("user,item,rating\n" + "\n".join(g.permutation(lines)) + "\n")
    learn = collab_learner(
        split(open_ratings(path), valid_pct=0.4, seed=seed), 3, (0, 6), backend="reference", quiet=True
    )
    with torch.no_grad():
        for layer in learn.model.layers():
            layer.weight.copy_(torch.from_numpy(g.normal(size=layer.weight.shape).round()))  # so that scores tie
    return learn


def lists(learn):
    """Each user's candidates, best first, ties by row: from single predictions."""
    data = learn.data
    for user in range(1, len(data.users)):
        rated = {i for u, i in zip(data.train.users.tolist(), data.train.items.tolist(), strict=True) if u == user}
        unrated = [item for item in range(1, len(data.items)) if item not in rated]
        scored = [(-learn.model(torch.tensor([user]), torch.tensor([item])).item(), item) for item in unrated]
        yield user, rated, [item for _, item in sorted(scored)]


def by_hand(learn, k):
    data, found, of_users = learn.data, set(), []
    lowest = data.ratings.rating.min()
    for user, rated, ranked in lists(learn):
        found |= set(ranked[:k])
        gains = {}
        for u, i, r in zip(
            data.valid.users.tolist(), data.valid.items.tolist(), data.valid.ratings.tolist(), strict=True
        ):
            if u == user and i > 0 and i not in rated:
                gains[i] = max(gains.get(i, 0), r - lowest)
        ideal = sum(g / math.log2(place + 1) for place, g in enumerate(sorted(gains.values())[::-1][:k], start=1))
        if ideal > 0:
            dcg = sum(gains.get(i, 0) / math.log2(place + 1) for place, i in enumerate(ranked[:k], start=1))
            of_users.append(dcg / ideal)
    return np.mean(of_users), len(found) / len(data.items.ids)


@pytest.mark.filterwarnings("ignore::lesson.RepeatedRatingsWarning")
@pytest.mark.parametrize("k", [1, 3, 10, 50])
@pytest.mark.parametrize("at_a_time", [1, 25, 1 << 22])
def test_they_are_what_their_definitions_say(tmp_path, monkeypatch, k, at_a_time):
    monkeypatch.setattr(lesson_metrics, "AT_A_TIME", at_a_time)
    for seed in range(4):
        learn = made_up(tmp_path, seed)
        expected = by_hand(learn, k)
        assert (ndcg(learn, k), coverage(learn, k)) == pytest.approx(expected, abs=1e-12)


def test_the_order_that_validation_has_gives_one_and_its_reverse_less(tmp_path):
    learn = made_up(tmp_path, 0, repeats=False)
    data = learn.data
    table = torch.zeros(len(data.users), len(data.items))
    table[data.valid.users, data.valid.items] = data.valid.ratings
    for sign, right in ((1, True), (-1, False)):
        learn.model.forward = lambda users, items, sign=sign: sign * table[users, items]
        assert (ndcg(learn) == pytest.approx(1)) is right


@pytest.mark.filterwarnings("ignore::lesson.RepeatedRatingsWarning")
def test_of_several_ratings_of_an_item_the_highest_counts(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\n1,3,1\n2,1,3\n2,2,3\n1,1,2\n1,1,1.5\n1,1,2\n1,2,3\n")
    learn = collab_learner(load_ratings(path, valid_rows=[3, 4, 5, 6]), 2, quiet=True)
    learn.model.forward = lambda users, items: -items.float()  # item 1 before item 2
    second = 1 / math.log2(3)
    assert ndcg(learn) == pytest.approx((1 + 2 * second) / (2 + second), abs=1e-12)


def test_everybody_gets_the_same_list_without_factors(tmp_path):
    learn = made_up(tmp_path, 1, rows=30, items=40, repeats=False)
    with torch.no_grad():
        learn.model.i_weight.weight.zero_()
    longest = torch.bincount(learn.data.train.users).max().item()
    assert coverage(learn, 3) <= (3 + longest) / len(learn.data.items.ids)
    assert coverage(learn, 1000) == 1


def test_where_nothing_can_be_found_it_is_said(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\n1,1,1\n1,2,2\n2,1,3\n2,2,1\n")
    learn = collab_learner(load_ratings(path, valid_rows=[3]), 2, quiet=True)
    path.write_text("user,item,rating\n" + "".join(f"{k % 15},{k % 4},{k % 3}\n" for k in range(60)))
    apart = collab_learner(load_ratings(path, split="user"), 2, quiet=True)  # no user of training validates
    for unjudged in (learn, apart):
        with pytest.raises(DataError, match="no user of the training has a validation rating above the lowest"):
            ndcg(unjudged)
    for k in (0, 1.5, None):
        for metric in (ndcg, coverage):
            with pytest.raises(DataError, match="k="):
                metric(learn, k)


def test_training_makes_lists_better_than_chance(learned):
    fresh = collab_learner(learned.data, 40, (0, 5.5), seed=1, quiet=True)
    assert ndcg(learned) > 3 * ndcg(fresh)
    assert 0.02 < coverage(learned) < 0.9


def test_a_target_of_another_shape_is_no_target():
    assert accuracy(torch.eye(3), torch.tensor([[0], [1], [1]])) == pytest.approx(2 / 3)
    for target in (torch.tensor([0]), torch.tensor([[0, 1, 2]])):
        with pytest.raises(DataError, match="one target a row"):
            accuracy(torch.eye(3), target)
    with pytest.raises(DataError, match="the same shape is needed"):
        rmse(torch.ones(2, 1), torch.ones(2))


@pytest.mark.parametrize(
    ("out", "target"), [(torch.zeros(3, 1), torch.zeros(3, 1).long()), (torch.zeros(3, 2), torch.zeros(3))]
)
def test_numbers_have_no_accuracy(out, target):
    with pytest.raises(DataError, match="of two classes or more"):
        accuracy(out, target)


def test_outputs_that_are_nan_are_wrong():
    out = torch.tensor([[math.nan, math.nan], [1.0, 0.0]])
    assert accuracy(out, torch.tensor([0, 0])) == 0.5
