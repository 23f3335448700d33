import pytest
import torch

from lesson import DataError
from lesson.data import Curves
from lesson.data.made import FUNCTIONS

SEEDS = range(20)


def drawn(name, seed):
    return FUNCTIONS[name](torch.Generator().manual_seed(seed))


def steepest(name, seed, width):
    """The largest slope over steps of this width."""
    x = torch.arange(-1, 1, width, dtype=torch.float64)
    return drawn(name, seed)(x).diff().abs().max().item() / width


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_points_have_mean_0_and_mean_square_1(name, seed):
    _, y = Curves().split(seed, name, n=20_000).train[:]
    assert y.mean().item() == pytest.approx(0, abs=0.05)
    assert y.square().mean().item() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_is_smooth_one_has_kinks_and_one_jumps(seed):
    assert steepest("jump", seed, 1e-4) > 5 * steepest("jump", seed, 1e-3)  # as large as the step is small
    x = torch.arange(-1, 1, 1e-3, dtype=torch.float64)
    for name in ("smooth", "kinked"):
        assert steepest(name, seed, 1e-4) == pytest.approx(steepest(name, seed, 1e-3), rel=0.1)
    bends = {name: drawn(name, seed)(x).diff().diff().abs() / 1e-6 for name in ("smooth", "kinked")}
    assert (bends["kinked"] > 1e-3 * bends["kinked"].max()).sum() <= 8  # straight but for four places
    assert (bends["smooth"] > 1e-3 * bends["smooth"].max()).float().mean() > 0.9


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_split_is_the_seeds_and_both_parts_lie_on_one_curve(name):
    data, same, other = (Curves().split(seed, name, n=50) for seed in (0, 0, 1))
    for part in (data.train, data.valid):
        x, y = part[:]
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((50, 1), (50, 1), torch.float32, torch.float32)
        assert -1 <= x.min() < -0.8 < 0.8 < x.max() <= 1
    (x, y), (_, of_other) = data.train[:], other.train[:]
    line = torch.cat([drawn(name, 0)(x), torch.ones_like(x)], 1).double()  # the curve itself, shifted and scaled
    fitted = line @ torch.linalg.lstsq(line, y.double()).solution
    torch.testing.assert_close(fitted, y.double(), rtol=0, atol=1e-5)
    assert torch.equal(x, same.train[:][0])
    assert not torch.equal(x, other.train[:][0])
    assert not torch.equal(y, of_other)
    assert not torch.equal(x, data.valid[:][0])


@pytest.mark.parametrize(
    ("how", "said"), [({"n": 0}, "n=0"), ({"function": "cubic"}, "smooth, kinked, jump"), ({"seed": -1}, "seed=-1")]
)
def test_what_cannot_be_made_is_refused(how, said):
    with pytest.raises(DataError, match=said):
        Curves().split(**how)
