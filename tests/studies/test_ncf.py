"""The study of neural collaborative filtering, against other ways to compute what it computes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lesson.data import Ratings, open_ratings
from studies import ncf
from studies.lab.spec import Run


@pytest.fixture(scope="module")
def ratings(ratings_csv: Path) -> Ratings:
    return open_ratings(ratings_csv)


def held_out(ratings: Ratings, seed: int = 1) -> ncf.Implicit:
    return ncf.leave_one_out(ratings, torch.Generator().manual_seed(seed))


def test_each_user_with_two_films_or_more_has_one_held_out_and_the_others_in_training(ratings: Ratings) -> None:
    data = held_out(ratings)
    pairs = set(zip(ratings.user.tolist(), ratings.item.tolist(), strict=True))
    trained = list(zip(data.users.tolist(), data.items.tolist(), strict=True))
    out = {(user, film) for user, film in enumerate(data.held_out.tolist()) if film >= 0}
    assert len(trained) == len(set(trained))
    assert set(trained) | out == pairs
    assert not set(trained) & out
    counts = np.bincount([user for user, _ in pairs], minlength=len(ratings.user_ids))
    assert {user for user, _ in out} == set(np.flatnonzero(counts >= 2).tolist())
    assert {tuple(pair) for pair in torch.nonzero(data.rated).tolist()} == set(trained)
    assert held_out(ratings, 2).held_out.tolist() != data.held_out.tolist()


def test_drawn_films_are_all_those_that_the_user_has_not_rated(ratings: Ratings) -> None:
    data = held_out(ratings)
    users = torch.arange(len(data.rated)).repeat(400)
    films = ncf.drawn_films(data, users, torch.Generator().manual_seed(0))
    assert not data.rated[users, films].any()
    assert {tuple(pair) for pair in torch.stack([users, films], 1).tolist()} == {
        tuple(pair) for pair in torch.nonzero(~data.rated).tolist()
    }


class Scores(torch.nn.Module):
    """Fixed scores, many of them equal."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.table = torch.randint(4, shape, generator=torch.Generator().manual_seed(0)).double()

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.table[users, items]


def test_of_few_films_none_is_among_the_first_of_a_hundred(ratings: Ratings) -> None:
    data = held_out(ratings)
    some, every = ncf.places(Scores(data.rated.shape), data, torch.Generator())
    assert len(every) > 10
    assert ncf.hits(some) is None


def test_a_place_is_the_number_of_better_films_and_of_half_the_equal_ones(
    ratings: Ratings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ncf, "RIVALS", 5)
    data, expected = held_out(ratings), []
    model = Scores(data.rated.shape)
    for user, film in enumerate(data.held_out.tolist()):
        others = [other for other in range(data.rated.shape[1]) if other != film and not data.rated[user, other]]
        if film >= 0 and others:
            score, rivals = model.table[user, film], model.table[user, others]
            expected.append(float((rivals > score).sum() + 0.5 * (rivals == score).sum()))
    some, every = ncf.places(model, data, torch.Generator().manual_seed(0))
    assert every.tolist() == expected
    assert len(some) == len(every)
    assert bool((some <= every).all())
    assert ncf.hits(every) == pytest.approx(np.mean([place < 10 for place in expected]))
    assert ncf.gain(every) == pytest.approx(np.mean([1 / math.log2(p + 2) if p < 10 else 0 for p in expected]))


def test_deferred_steps_are_dense_ones_and_lazy_ones_leave_unread_rows_alone() -> None:
    found = {}
    for how in ("dense", "deferred", "lazy"):
        model = ncf.NeuMF(6, 7, torch.Generator().manual_seed(0)).double()
        steps = ncf.optimizers(model, how, 1e-2)
        batches = [[0, 1], [2, 3], [2, 4], [1, 2]]  # row 0 is read once, row 5 never
        for users in batches:
            model(torch.tensor(users), torch.tensor(users)).square().sum().backward()
            for optimizer in steps:
                optimizer.step()
                optimizer.zero_grad()
            if users == [0, 1]:
                early = model.users(torch.tensor([0])).detach().clone()
        found[how] = model.users(torch.arange(6)).detach()
        moved = not torch.equal(found[how][:1], early)
        assert moved == (how != "lazy")
    torch.testing.assert_close(found["deferred"], found["dense"], rtol=0, atol=1e-12)
    assert not torch.allclose(found["lazy"], found["dense"], rtol=0, atol=1e-6)


def test_users_without_a_second_film_give_nothing_to_measure(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,rating\n1,1,3\n2,2,4\n")
    run = Run("ncf", 1, "small", "checksum", {"optimizer": "dense", "lr": 1e-3}, 0)
    assert set(ncf.run(run, open_ratings(path)).metrics.values()) == {None}
