import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, Learner, collab_learner, load_ratings, optimizers
from lesson.lr_find import FoundRates, smoothed


def bowl(curvature, rows=64):
    """A learner whose loss is curvature/2 · (w − 3)², in float64, with all rows in a batch."""
    x = torch.linspace(-1, 1, rows, dtype=torch.float64)[:, None]
    x *= (curvature / 2 / x.square().mean()).sqrt()
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    data = DataBunch(TensorDataset(x, 3 * x), TensorDataset(x, 3 * x), bs=rows)
    return Learner(data, model, mse_loss, opt_func=optimizers.SGD, wd=0, quiet=True)


@pytest.mark.parametrize("curvature", [0.5, 10.0, 4000.0])
def test_on_a_quadratic_the_loss_turns_where_gradient_descent_stops_being_stable(curvature):
    """Gradient descent multiplies the distance by 1 − lr·curvature: it grows beyond 2 / curvature."""
    edge = 2 / curvature
    found = bowl(curvature).lr_find(start=edge / 1e3, end=edge * 1e3, steps=100)
    ratio = found.lrs[1] / found.lrs[0]
    turn = found.lrs[found.losses.argmin()]  # the first step with a rate beyond the edge starts from the least loss
    assert edge < turn < edge * ratio
    assert found.suggestion < edge
    assert edge < found.lrs[-1] < 1e3 * edge  # it ended early
    assert found.smooth_losses[-1] > 4 * found.smooth_losses.min() >= found.smooth_losses[-2]


def test_its_rates_grow_by_equal_ratios_and_its_losses_are_those_of_a_training_with_them():
    learn = bowl(2.0)
    weight = learn.model.weight.item()
    found = learn.lr_find(start=1e-4, end=1e-1, steps=4)
    np.testing.assert_allclose(found.lrs, [1e-4, 1e-3, 1e-2, 1e-1])
    distances = (weight - 3) * np.cumprod([1, *(1 - 2.0 * found.lrs[:-1])])
    np.testing.assert_allclose(found.losses, distances**2, rtol=1e-12)


def test_the_smooth_loss_is_fastais():
    losses = np.random.default_rng(0).normal(size=50)
    weights = 0.98 ** np.arange(50)[::-1]
    assert smoothed(losses)[-1] == pytest.approx(weights @ losses / weights.sum())


def test_it_suggests_the_steepest_rate_away_from_both_ends():
    lrs = np.geomspace(1e-6, 1, 100)
    losses = np.concatenate([[9, 1], np.linspace(8, 7, 48), np.linspace(6.5, 3, 45), [3, 30, 1, 9, 0]])
    found = FoundRates(lrs, losses, losses)
    assert found.suggestion in lrs[48:52]
    assert FoundRates(lrs[:16], losses[:16], losses[:16]).suggestion is None


class Net(nn.Module):
    """It has all that a training changes: dropout, running statistics, a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x):
        self.seen += len(x)
        return self.layers(x)


def drawn(make=lambda: Net(), **how):
    torch.manual_seed(0)
    x, y = torch.randn(100, 4), torch.randint(3, (100,))
    data = DataBunch(TensorDataset(x, y), TensorDataset(x, y), bs=16)
    return Learner(data, make(), cross_entropy, quiet=True, **how)


@pytest.fixture
def ratings(ratings_file):
    return load_ratings(ratings_file)


@pytest.fixture(scope="module")
def ratings_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "r.csv"
    rng = np.random.default_rng(0)
    rows = [f"{pair // 30},{pair % 30},{rng.integers(1, 6)}" for pair in rng.choice(600, 300, replace=False)]
    path.write_text("\n".join(["user,item,rating", *rows]))
    return path


def collab(ratings, **how):
    return collab_learner(ratings, 4, (0, 5.5), bs=16, quiet=True, **how)


LEARNERS = {
    "loop": lambda ratings: drawn(),
    "groups": lambda ratings: grouped(),
    "fused": collab,
    "reference": lambda ratings: collab(ratings, backend="reference"),
    "replay": lambda ratings: collab(ratings, mode="replay"),
}


def grouped():
    learn = drawn()
    learn = Learner(learn.data, learn.model, cross_entropy, layer_groups=list(learn.model.layers), quiet=True)
    learn.freeze_to(1)
    return learn


def state(learn):
    tensors = [*learn.model.parameters(), *learn.model.buffers()]
    modes = [module.training for module in learn.model.modules()]
    trains = [param.requires_grad for param in learn.model.parameters()]
    streams = [torch.random.get_rng_state(), learn._order.get_state()]
    return copy.deepcopy([*(tensor.detach() for tensor in tensors), *streams]), modes, trains, learn.recorder


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_the_learner_is_afterwards_what_it_was_to_the_bit(make, ratings):
    learn = make(ratings)
    learn.fit(1, 1e-3)
    before, tensors = state(learn), [*learn.model.parameters(), *learn.model.buffers()]
    assert len(learn.lr_find(steps=50).losses) > 20
    after = state(learn)
    assert all(map(torch.equal, before[0], after[0]))
    assert before[1:] == after[1:]
    assert [*map(id, learn.model.parameters()), *map(id, learn.model.buffers())] == list(map(id, tensors))


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_the_training_that_follows_has_the_same_bits_as_without_it(make, ratings):
    trained = []
    for finds in (True, False):
        learn = make(ratings)
        torch.manual_seed(1)
        if finds:
            learn.lr_find(steps=30)
        learn.fit(2, 1e-3)
        trained.append([*learn.model.parameters(), *learn.model.buffers()])
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)
def test_the_first_loss_is_that_of_the_trainings_first_batch(make, ratings):
    learn = make(ratings)
    torch.manual_seed(1)
    first = learn.lr_find(steps=2).losses[0]
    torch.manual_seed(1)
    learn.fit(1, 1e-9)
    assert first == pytest.approx(learn.recorder.losses[0], rel=1e-6)


@pytest.mark.parametrize(
    ("how", "said"), [({"start": 0}, "start=0"), ({"start": 1, "end": 1}, "end=1"), ({"steps": 1}, "steps=1")]
)
def test_a_range_that_is_none_is_refused(how, said):
    with pytest.raises(DataError, match=said):
        bowl(1.0).lr_find(**how)


def test_a_loss_that_is_no_number_from_the_start_is_one_line():
    learn = bowl(1.0)
    with torch.no_grad():
        learn.model.weight.fill_(torch.nan)
    with pytest.raises(DataError, match="the first loss is nan"):
        learn.lr_find()


def test_a_loss_below_zero_ends_the_search_where_the_same_loss_above_zero_does():
    above, below = bowl(1.0), bowl(1.0)
    below.loss_func = lambda out, y: mse_loss(out, y) - 1000
    found = [learn.lr_find(start=1e-3, end=1e3) for learn in (above, below)]
    assert len(found[1].lrs) > len(found[0].lrs) > 10


def test_a_loss_that_is_not_finite_is_left_out_of_later_means():
    found = smoothed(np.array([1.0, np.inf, np.nan, 1.0, 3.0]))
    np.testing.assert_allclose(found[[0, 3, 4]], smoothed(np.array([1.0, 1.0, 3.0])))
    assert np.isnan(found[1:3]).all()
