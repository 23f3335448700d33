"""Averaged trainings: what each is, what their mean predicts, and what cannot be averaged."""

from __future__ import annotations

import doctest
import time

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, DivergenceError, Ensemble, Learner, collab_learner, ensemble, load_ratings
from lesson.data import split


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A few hundred ratings, split."""
    draw = torch.Generator().manual_seed(0)
    pairs = torch.randint(20, (400, 2), generator=draw).unique(dim=0).tolist()
    path = tmp_path_factory.mktemp("ratings") / "ratings.csv"
    path.write_text("\n".join(["user,item,rating", *(f"{u},{i},{(u * i) % 5 + 1}" for u, i in pairs)]))
    return load_ratings(path)


def team(data, n=3):
    return Ensemble([collab_learner(data, 4, data.y_range, 0.1, seed=seed, quiet=True) for seed in range(n)])


def test_each_learner_is_trained_as_it_is_alone_and_the_threads_are_as_before(small):
    before = torch.get_num_threads()
    together = team(small)
    together.fit_one_cycle(2, 1e-2)
    assert torch.get_num_threads() == before
    for seed, learn in enumerate(together.learners):
        alone = collab_learner(small, 4, small.y_range, 0.1, seed=seed, quiet=True)
        alone.fit_one_cycle(2, 1e-2)
        assert torch.equal(alone.model.u_weight.weight, learn.model.u_weight.weight)


def test_it_predicts_the_mean_and_validates_it(small):
    together = team(small)
    together.fit(1, 1e-2)
    predicted, targets = together.get_preds()
    each = torch.stack([learn.get_preds()[0] for learn in together.learners])
    torch.testing.assert_close(predicted, each.mean(0))
    assert together.validate() == pytest.approx((each.mean(0) - targets).square().mean().item())
    user, item = small.users.ids[0], small.items.ids[0]
    alone = [learn.predict(user, item) for learn in together.learners]
    assert together.predict(user, item) == pytest.approx(sum(alone) / 3)
    assert together.predict(user=user, item=item) == together.predict(user, item)
    assert together.predict([user, user], [item, item]).tolist() == pytest.approx([sum(alone) / 3] * 2)


def test_an_error_of_one_is_the_errors_and_the_threads_are_as_before(small):
    before = torch.get_num_threads()
    with pytest.raises(DataError):
        team(small).fit(0, 1e-2)
    with pytest.raises(DivergenceError):
        team(small).fit(3, 1e30)
    assert torch.get_num_threads() == before


MANY = 10_000  # epochs, which would take long


def test_where_one_diverges_the_others_stop_and_a_note_says_which(small):
    together = team(small)
    torch.nn.init.constant_(together.learners[0].model.u_weight.weight, torch.nan)
    with pytest.raises(DivergenceError) as caught:
        together.fit(MANY, 1e-3)
    assert caught.value.__notes__ == ["in learner 0 of the ensemble"]
    assert max(len(learn.history) for learn in together.learners) < MANY


def test_an_interrupt_stops_all_after_their_epoch_and_keeps_what_they_have(small, monkeypatch):
    together, before = team(small), torch.get_num_threads()

    def interrupted(*_, **__):
        while not together.learners[0].history:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(ensemble, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        together.fit_one_cycle(MANY, 1e-3)
    assert 0 < len(together.learners[0].history) < MANY
    assert torch.get_num_threads() == before


def test_learners_that_share_a_layer_are_refused():
    rows = TensorDataset(torch.rand(8, 3), torch.arange(8) % 2)
    body = nn.Linear(3, 4)
    models = [nn.Sequential(body, nn.Linear(4, 2)) for _ in range(2)]
    with pytest.raises(DataError, match="two have the same model or layer"):
        Ensemble([Learner(DataBunch(rows, rows), model, cross_entropy, quiet=True) for model in models])


def test_learners_of_other_rows_or_none_are_refused(small):
    others = [collab_learner(split(small.ratings, seed=seed), 4, small.y_range, quiet=True) for seed in (1, 2)]
    with pytest.raises(DataError, match="validate on different rows"):
        Ensemble(others)
    with pytest.raises(DataError, match="two have the same model"):
        Ensemble(others[:1] * 2)
    with pytest.raises(DataError, match="at least one"):
        Ensemble([])
    with pytest.raises(DataError, match="at least one"):
        Ensemble([None])


def test_the_same_ratings_validate_whatever_training_has_seen(small):
    valid, others = small.valid_rows, small.train_rows[small.train.users != 1]
    part = split(small.ratings.take(np.concatenate([valid, others])), valid_rows=range(len(valid)))
    assert not torch.equal(part.valid.users, small.valid.users)  # these count the users of training
    assert Ensemble([collab_learner(data, 4, small.y_range, quiet=True) for data in (small, part)]).validate() > 0


def test_other_ids_in_the_same_rows_are_other_ratings(small, tmp_path):
    path = tmp_path / "r.csv"
    table = pd.DataFrame({"user": small.ratings.user, "item": small.ratings.item, "rating": small.ratings.rating})
    table.assign(item=table["item"] + 100).to_csv(path, index=False)
    renamed = load_ratings(path)
    assert torch.equal(renamed.valid.items, small.valid.items)
    with pytest.raises(DataError, match="validate on different rows"):
        Ensemble([collab_learner(data, 4, small.y_range, quiet=True) for data in (small, renamed)])


def test_its_example_runs():
    assert doctest.testmod(ensemble).failed == 0


def test_labels_have_no_mean():
    learners = [Learner(DataBunch(rows, rows), nn.Linear(1, 2), cross_entropy) for rows in [two_rows()] * 2]
    with pytest.raises(DataError, match="Learner is no CollabLearner"):
        Ensemble(learners).predict("a", 1)


def two_rows():
    return TensorDataset(torch.ones(2, 1), torch.tensor([0, 1]))
