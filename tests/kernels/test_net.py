"""Nets in native code, by themselves; tests/lesson/test_nets.py compares them with the learner's loop."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, mse_loss

import kernels.net
from kernels.net import Layer, NetTrainer, drawn, listed, native
from kernels.net.vectors import LANES, add_to_rows, padded, sum_rows
from kernels.steps import constants, stacked

RATE = 0.1


def steps(n, lr=RATE):
    return stacked(constants("sgd", lr=lr), n)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20 * LANES), st.integers(0, 19), st.sampled_from([np.float32, np.float64]), st.integers(0, 99))
def test_rows_are_summed_and_added_to(width, n, dtype, seed):
    rng, wide = np.random.default_rng(seed), padded(width)
    rows, first = rng.standard_normal((7, wide)).astype(dtype), rng.standard_normal(wide).astype(dtype)
    places, scales = rng.integers(0, 7, n).astype(np.int32), rng.standard_normal(n).astype(dtype)
    out = np.zeros(wide + LANES, dtype)
    sum_rows(dtype(0), out.itemsize, *(a.ctypes.data for a in (out, first, rows)), wide, places.ctypes.data,
             scales.ctypes.data, n)  # fmt: skip
    terms = np.vstack([first, scales[:, None].astype(np.float64) * rows[places]])
    bound = 2 * (n + 1) * np.finfo(dtype).eps * np.abs(terms).sum(0)
    assert (np.abs(out[:wide] - terms.sum(0)) <= bound).all()
    assert not out[wide:].any()

    added = rows.copy()
    add_to_rows(dtype(0), out.itemsize, *(a.ctypes.data for a in (first, added)), wide, places.ctypes.data,
                scales.ctypes.data, n)  # fmt: skip
    expected, magnitude = rows.astype(np.float64), np.abs(rows)
    np.add.at(expected, places, scales[:, None] * first.astype(np.float64))
    np.add.at(magnitude, places, np.abs(scales[:, None] * first))
    assert (np.abs(added - expected) <= 2 * (n + 1) * np.finfo(dtype).eps * magnitude).all()


def problem(filled=1.0, rows=50, n_in=9, n_out=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, n_in, dtype=dtype, generator=generator) * (
        torch.rand(rows, n_in, generator=generator) < filled
    )
    weight = torch.randn(n_out, n_in, dtype=dtype, generator=generator)
    return x, torch.randint(n_out, (rows,), generator=generator), weight, torch.zeros(n_out, dtype=dtype)


def trained(x, y, weight, bias, order, batch_size=16, **how):
    params = weight.clone(), bias.clone()
    trainer = NetTrainer([Layer("linear", len(bias), params)], x.shape[1], listed(x, y), batch_size=batch_size,
                         optimizer="sgd")  # fmt: skip
    return trainer.epoch(order, [steps(-(-len(order) // batch_size))] * 2, **how), *params


@pytest.mark.parametrize("filled", [0.0, 0.2, 1.0])
def test_a_row_may_come_several_times(filled):
    x, y, weight, bias = problem(filled)
    fullest = int((x != 0).sum(1).argmax())
    order = torch.tensor([fullest] * 20 + [3, 3])
    losses, *params = trained(x, y, weight, bias, order)
    expected = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    for loss, rows in zip(losses, order.split(16), strict=True):
        wanted = cross_entropy(torch.nn.functional.linear(x[rows], *expected), y[rows])
        torch.testing.assert_close(loss, wanted.detach())
        grads = torch.autograd.grad(wanted, expected)
        with torch.no_grad():
            for param, grad in zip(expected, grads, strict=True):
                param -= RATE * grad
    for param, wanted in zip(params, expected, strict=True):
        torch.testing.assert_close(param, wanted.detach(), rtol=1e-12, atol=1e-14)


def test_inputs_that_are_mostly_zero_are_listed_and_others_are_not():
    x, y, *_ = problem(0.3)
    sparse, dense = listed(x, y), listed(x + 1, y)
    assert len(sparse.dense) == 0
    assert len(dense.starts) == 0
    row = slice(*sparse.starts[[4, 5]])
    assert sparse.places[row].tolist() == x[4].nonzero()[:, 0].tolist()
    assert sparse.values[row].tolist() == x[4][x[4] != 0].tolist()


def test_minus_zero_is_zero_and_nan_is_not():
    x = torch.tensor([[0.0, -0.0, torch.nan, 0.0, 1e-45]])
    assert listed(x, torch.zeros(1, 1)).places[:2].tolist() == [2, 4]


def test_the_same_inputs_give_the_same_bits():
    for filled in (0.2, 1.0):
        first, second = (trained(*problem(filled, dtype=torch.float32), torch.arange(50)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_wide_dense_layer_is_summed_in_blocks():
    x, y, weight, bias = problem(n_in=200)
    losses, *_ = trained(x, y, weight, bias, torch.arange(50), batch_size=50)
    torch.testing.assert_close(losses[0], cross_entropy(x @ weight.T, y))


def test_the_mean_squared_error_is_over_rows_and_outputs():
    x, _, weight, bias = problem()
    y = torch.randn(50, 4, dtype=torch.float64)
    losses, *_ = trained(x, y, weight, bias, torch.arange(50), batch_size=50)
    torch.testing.assert_close(losses[0], mse_loss(x @ weight.T, y))


@pytest.mark.parametrize("kind", ["relu", "tanh", "sigmoid", "gelu", "norm", "dropout"])
def test_a_number_that_is_none_shows_in_the_loss_of_its_batch(kind):
    x, y, weight, bias = problem()
    x[3, 2] = torch.nan
    norm = (torch.ones(4).double(), torch.zeros(4).double()) if kind == "norm" else ()
    layers = [Layer("linear", 4, (weight, bias)), Layer(kind, 4, norm, tuple(map(torch.clone, norm)), (0.1, 0.1))]
    trainer = NetTrainer(layers, 9, listed(x, y), batch_size=10, optimizer="sgd")
    draws = [np.full(drawn(4, 20, 10), -1, np.int16)] if kind == "dropout" else []  # below the least: all is dropped
    losses = trainer.epoch(torch.arange(20).flip(0), [steps(2)] * (2 + len(norm)), draws=draws)
    assert losses.isnan().tolist() == [False, True]


@pytest.mark.parametrize(("rows", "batch_size"), [(11, 10), (3, 1)])
def test_a_norm_of_one_row_is_refused_unless_it_is_fixed(rows, batch_size):
    x, y, weight, bias = problem()
    norm = torch.nn.BatchNorm1d(4).double()
    params, running = (norm.weight, norm.bias), (norm.running_mean, norm.running_var)
    layers = [Layer("linear", 4, (weight, bias)), Layer("norm", 4, params, running, (norm.eps, norm.momentum))]
    trainer = NetTrainer(layers, 9, listed(x, y), batch_size=batch_size, optimizer="sgd")
    each = [steps(-(-rows // batch_size))] * 4
    with pytest.raises(ValueError, match="leave one row, which has no variance"):
        trainer.epoch(torch.arange(rows), each)
    trainer.epoch(torch.arange(rows), each, fixed=[1])
    assert norm.running_var.tolist() == [1.0] * 4


def test_slopes_pass_a_norm_that_is_fixed():
    x, y, *_ = problem()
    norm = torch.nn.BatchNorm1d(4).double().eval()
    norm.running_mean.copy_(torch.arange(4))
    linear = torch.nn.Linear(9, 4).double()
    ours = [linear.weight.detach().clone(), linear.bias.detach().clone()]
    loss = cross_entropy(norm(linear(x)), y)
    loss.backward()
    layers = [
        Layer("linear", 4, tuple(ours)),
        Layer("norm", 4, (norm.weight, norm.bias), (norm.running_mean, norm.running_var), (norm.eps, norm.momentum)),
    ]
    before = norm.running_mean.clone()
    trainer = NetTrainer(layers, 9, listed(x, y), batch_size=50, optimizer="sgd")
    losses = trainer.epoch(torch.arange(50), [steps(1), steps(1), None, None], fixed=[1])
    torch.testing.assert_close(losses[0], loss.detach())
    for param, theirs in zip(ours, linear.parameters(), strict=True):
        torch.testing.assert_close(param, theirs.detach() - RATE * theirs.grad, rtol=1e-12, atol=1e-14)
    assert torch.equal(norm.running_mean, before)


def test_the_state_is_what_the_next_step_takes():
    x, y, *params = problem()
    trainer = NetTrainer([Layer("linear", 4, tuple(params))], 9, listed(x, y), batch_size=50, optimizer="momentum")
    of_each = [stacked(constants("momentum", lr=RATE, beta1=0.5), 1)] * 2
    for _ in range(2):
        before = [param.clone() for param in params]
        trainer.epoch(torch.arange(50), of_each)
        for (mean, _), param, old in zip(trainer.state, params, before, strict=True):
            torch.testing.assert_close(old - param, RATE * mean)
            mean.fill_(7.0)
    (mean, square), _ = trainer.state
    assert mean.shape == square.shape == (4, 9)
    before = params[0].clone()
    trainer.epoch(torch.arange(50), of_each)
    grads = (mean - 0.5 * 7.0).mean(0)
    torch.testing.assert_close(grads, torch.zeros_like(grads))  # cross-entropy's add up to none over the classes
    torch.testing.assert_close(before - params[0], RATE * mean)


def test_nets_of_any_shape_are_compiled_once_for_each_dtype():
    for dtype, filled, n_in in ((torch.float64, 1.0, 9), (torch.float64, 0.1, 40), (torch.float32, 0.1, 9)):
        trained(*problem(filled, n_in=n_in, dtype=dtype), torch.arange(50)[::2])
    assert len(native.epoch.signatures) == 2


def test_large_scores_do_not_overflow():
    x, y, weight, bias = problem()
    losses, *_ = trained(x, y, 1e3 * weight, bias, torch.arange(50), batch_size=50)
    torch.testing.assert_close(losses[0], cross_entropy(x @ (1e3 * weight).T, y))


@pytest.mark.parametrize(
    ("order", "how", "complaint"),
    [
        ([50], {}, "order goes from 50 to 50, the rows from 0 to 49"),
        ([-1], {}, "order goes from -1"),
        ([], {}, "0 rows and 2 parameters"),
        ([1], {"draws": [np.zeros(4, np.int16)]}, "draws"),
    ],
)
def test_an_epoch_that_does_not_fit_is_refused(order, how, complaint):
    with pytest.raises((ValueError, IndexError), match=complaint):
        trained(*problem(), torch.tensor(order, dtype=torch.int64), **how)


@pytest.mark.parametrize(
    ("y", "complaint"),
    [
        (torch.full((50,), 4), "classes go from 4 to 4, the scores to 3"),
        (torch.full((50,), -1), "classes go from -1"),
        (torch.zeros(50, 3).double(), "targets have 3 columns, the scores 4"),
        (torch.zeros(50, 4), r"not \[50, 9\] torch.float64 and \[50, 4\] torch.float32"),
        (torch.zeros(49).long(), r"and \[49\] torch.int64"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y, complaint):
    x, _, weight, bias = problem()
    with pytest.raises(ValueError, match=complaint):
        trained(x, y, weight, bias, torch.arange(50))


def test_too_few_steps_or_draws_are_refused():
    x, y, weight, bias = problem()
    layers = [Layer("dropout", 9), Layer("linear", 4, (weight, bias))]
    trainer = NetTrainer(layers, 9, listed(x, y), batch_size=16, optimizer="sgd")
    draws = np.zeros(drawn(9, 50, 16), np.int16)
    with pytest.raises(ValueError, match=r"float64\[4, 9\] is needed"):
        trainer.epoch(torch.arange(50), [steps(3), None], draws=[draws])
    with pytest.raises(ValueError, match=r"n of \[452\]"):
        trainer.epoch(torch.arange(50), [steps(4), None], draws=[draws[:-4]])
    with pytest.raises(ValueError, match="at least one each"):
        trainer.epoch(torch.arange(50), [None, None], draws=[draws])
    assert len(trainer.epoch(torch.arange(50), [steps(4), None], draws=[draws])) == 4


def test_the_example():
    assert doctest.testmod(kernels.net).failed == 0
