import math

import pytest
import torch
from scipy import integrate

from lesson import DataError
from lesson.data import Curves
from lesson.data.made import FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_has_mean_0_and_mean_square_1(name):
    def value(x):
        return FUNCTIONS[name](torch.tensor(x, dtype=torch.float64)).item()

    for power, wanted in ((1, 0), (2, 1)):
        mean = integrate.quad(lambda x: value(x) ** power / 2, -1, 1, points=[0])[0]  # noqa: B023
        assert mean == pytest.approx(wanted, abs=1e-9)


def steepest(name, width):
    """The largest slope over steps of this width."""
    x = torch.arange(-1, 1, width, dtype=torch.float64)
    return FUNCTIONS[name](x).diff().abs().max().item() / width


def test_one_is_smooth_one_has_a_kink_and_one_jumps():
    assert steepest("jump", 1e-5) == pytest.approx(2e5)  # as large as the step is small
    for name, slope in (("smooth", math.sqrt(2) * math.pi), ("kinked", math.sqrt(12))):
        assert steepest(name, 1e-5) == pytest.approx(slope, rel=1e-3)
    x = torch.arange(-1, 1, 1e-3, dtype=torch.float64)
    bends = {name: FUNCTIONS[name](x).diff().diff().abs().max().item() / 1e-3 for name in ("smooth", "kinked")}
    assert bends["kinked"] > 3  # the slope changes at one point
    assert bends["smooth"] < 0.02


def test_a_split_is_the_seeds_and_both_parts_lie_on_the_curve():
    data, again, other = (Curves().split(seed, "kinked", n=50) for seed in (0, 0, 1))
    for part in (data.train, data.valid):
        x, y = part[:]
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((50, 1), (50, 1), torch.float32, torch.float32)
        assert -1 <= x.min() < -0.8 < 0.8 < x.max() <= 1
        torch.testing.assert_close(y, math.sqrt(12) * (x.abs() - 0.5))
    assert torch.equal(data.train[:][0], again.train[:][0])
    assert not torch.equal(data.train[:][0], other.train[:][0])
    assert not torch.equal(data.train[:][0], data.valid[:][0])


@pytest.mark.parametrize(
    ("how", "said"), [({"n": 0}, "n=0"), ({"function": "cubic"}, "smooth, kinked, jump"), ({"seed": -1}, "seed=-1")]
)
def test_what_cannot_be_made_is_refused(how, said):
    with pytest.raises(DataError, match=said):
        Curves().split(**how)
