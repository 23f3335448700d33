"""MNIST from scratch: the models, and the lesson's update()."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lesson import optimizers
from lesson.models import Linear, Mnist_Logistic, Mnist_NN
from lesson.update import update, update_with


@pytest.fixture
def batch():
    return torch.rand(64, 784), torch.randint(10, (64,))


def test_linear_computes_and_starts_as_torchs():
    """Claim 61."""
    torch.manual_seed(1)
    ours = Linear(784, 10)
    torch.manual_seed(1)
    torchs = nn.Linear(784, 10)
    torch.testing.assert_close(list(ours.parameters()), list(torchs.parameters()), rtol=1e-5, atol=1e-9)
    assert ours.weight.abs().max() <= 1 / math.sqrt(784)
    x = torch.randn(5, 784)
    torch.testing.assert_close(ours(x), torchs(x))
    for layer in (ours, torchs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, torchs.bias.grad)


def test_the_nets_have_the_lessons_shapes(batch):
    """Claims 60 and 65."""
    assert [tuple(p.shape) for p in Mnist_Logistic().parameters()] == [(10, 784), (10,)]
    assert [tuple(p.shape) for p in Mnist_NN().parameters()] == [(50, 784), (50,), (10, 50), (10,)]
    for model in (Mnist_Logistic(), Mnist_NN()):
        assert model(batch[0]).shape == (64, 10)


def test_the_activation_is_between_the_layers(batch):
    model = Mnist_NN(activation=torch.tanh)
    expected = model.lin2(torch.tanh(model.lin1(batch[0])))
    assert torch.equal(model(batch[0]), expected)


def test_update_is_gradient_descent_on_the_penalized_loss_which_it_returns(batch):
    """Claim 63: against the gradient by hand, 2·wd·w of the penalty, biases included."""
    model = Mnist_NN()
    plain = copy.deepcopy(model)
    loss = cross_entropy(plain(batch[0]), batch[1])
    loss.backward()
    penalty = 0.1 * sum(p.square().sum().item() for p in plain.parameters())
    assert update(model, *batch, lr=0.05, wd=0.1) == pytest.approx(loss.item() + penalty)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.data, theirs.data - 0.05 * (theirs.grad + 2 * 0.1 * theirs.data))
        assert not ours.grad.any()


def test_adam_made_anew_for_each_batch_is_sign_descent(batch):
    """Claim 66: its step is lr·g / (|g| + eps)."""
    model = Mnist_NN()
    signs = copy.deepcopy(model)
    descent = optimizers.Optimizer(signs.parameters(), [optimizers.sign_step], lr=1e-3)
    for _ in range(3):
        x, y = torch.rand(64, 784), torch.randint(10, (64,))
        update_with(torch.optim.Adam(model.parameters(), 1e-3, eps=1e-30), model, x, y)
        update_with(descent, signs, x, y)
    for ours, theirs in zip(model.parameters(), signs.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_adam_that_is_kept_is_another_optimizer(batch):
    model = Mnist_NN()
    kept, anew = copy.deepcopy(model), model
    opt = torch.optim.Adam(kept.parameters(), 1e-3)
    for _ in range(3):
        update_with(torch.optim.Adam(anew.parameters(), 1e-3), anew, *batch)
        update_with(opt, kept, *batch)
    assert (kept.lin2.weight - anew.lin2.weight).abs().max() > 1e-4


def test_update_with_has_no_penalty_unless_it_is_asked_for(batch):
    model = Mnist_Logistic()
    opt = torch.optim.SGD(model.parameters(), lr=0.0)
    plain, penalized = update_with(opt, model, *batch), update_with(opt, model, *batch, wd=1.0)
    assert plain == pytest.approx(cross_entropy(model(batch[0]), batch[1]).item())
    assert penalized == pytest.approx(plain + sum(p.square().sum().item() for p in model.parameters()))
