"""Nets: the model, and the learner that trains them in native code as the learner's loop does."""

import copy
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, DivergenceError, Net, losses, net_learner
from lesson.models import Dropout, Linear, Mnist_Logistic, Mnist_NN
from lesson.optimizers import (
    SGD,
    Adam,
    AdamW,
    Momentum,
    Optimizer,
    RMSprop,
    adam_step,
    average_grad,
    average_sqr_grad,
    l2_reg,
    sgd_step,
    sign_step,
    weight_decay,
)
from lesson.schedules import Schedule, constant, one_cycle

OPTIMIZERS = {
    "SGD": SGD,
    "Momentum": partial(Momentum, momentum=0.8),
    "RMSprop": partial(RMSprop, eps=1e-3),
    "Adam": partial(Adam, eps=1e-3),  # eps at the size of the gradients: rounding stays rounding
    "AdamW": partial(AdamW, eps=1e-3),
    "AdamW of other betas": partial(AdamW, betas=(0.5, 0.9), eps=1e-3),
    "no decay": lambda groups: Optimizer(
        groups, [average_grad, average_sqr_grad, adam_step], betas=(0.9, 0.99), eps=1e-3
    ),
    "SGD with L2": lambda groups: Optimizer(groups, [l2_reg, sgd_step]),
}
SIGN = lambda groups: Optimizer(groups, [weight_decay, sign_step])  # noqa: E731


def jumps(steps, lr):
    """A schedule whose rate and momentum jump at every step."""
    draws = np.random.default_rng(steps).random((2, steps))
    return Schedule(lr * draws[0] ** 2, 0.5 + 0.49 * draws[1])


def rows(n, n_in, n_out, loss, filled=1.0, dtype=torch.float64, seed=0):
    """Rows of which a share `filled` of the inputs is not zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_in, dtype=dtype, generator=generator)
    x *= torch.rand(n, n_in, generator=generator) < filled
    if loss is cross_entropy:
        return TensorDataset(x, torch.randint(n_out, (n,), generator=generator))
    return TensorDataset(x, torch.randn(n, n_out, dtype=dtype, generator=generator))


def bunch(n=70, n_in=6, n_out=3, loss=cross_entropy, bs=16, **how):
    train = rows(n, n_in, n_out, loss, **how)
    return DataBunch.create(train, rows(9, n_in, n_out, loss, **how | {"seed": 1}), bs)


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def both(data, model, loss=cross_entropy, groups=None, **how):
    """The native learner and the plain one, of equal models."""
    learners = []
    for backend in ("native", "reference"):
        own = copy.deepcopy(model)
        parts = None if groups is None else groups(own)
        learners.append(net_learner(data, own, loss, backend=backend, layer_groups=parts, **{"quiet": True} | how))
    return learners


def native(learn, lr=0.1):
    """Whether native code would train."""
    optimizer = learn.opt_func(learn._param_groups([lr] * len(learn.layer_groups)))
    return learn.backend == "native" and learn._native(optimizer) is not None


def distance(ours, theirs):
    """The largest difference of two learners' states and losses, over the largest number of each."""
    pairs = [*zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True)]
    pairs.append((torch.tensor(ours.recorder.losses), torch.tensor(theirs.recorder.losses)))
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) for a, b in pairs)


def assert_same_training(learners, bound=1e-9, epochs=7, lr=0.02, policy=constant):
    ours, theirs = learners
    assert native(ours)
    assert not native(theirs)
    trained = []
    for learn in learners:
        try:
            trained.append(len(list(learn.epochs(epochs, lr, policy))))
        except DivergenceError:
            trained.append(len(learn.history))
    assert trained[0] == trained[1]
    if trained[1] == epochs:
        assert distance(ours, theirs) < bound


# The model


def test_a_net_is_its_layers_in_order():
    net = Net([6, 5, 4, 3], "tanh", bn=True, dropout=0.5)
    hidden = [Linear, nn.BatchNorm1d, nn.Tanh, Dropout]
    assert [type(layer) for layer in net] == [*hidden, *hidden, Linear]
    assert [type(layer) for layer in Net([6, 5, 3], "none")] == [Linear, Linear]
    assert net(torch.zeros(7, 6)).shape == (7, 3)
    assert Net([1, 1])(torch.zeros(7, 1)).shape == (7, 1)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu", "none"])
def test_weights_keep_the_size_of_what_passes(activation):
    """Their deviation is gain/√n_in, and biases are zero."""
    net = Net([400, 300, 200], activation, generator=seeded())
    gain = {"relu": 2**0.5, "gelu": 2**0.5, "tanh": 5 / 3}.get(activation, 1.0)
    for layer, expected in ((net[0], gain / 400**0.5), (net[-1], 1 / 300**0.5)):
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.02)
        assert not layer.bias.any()


def test_a_generator_decides_weights_and_dropout():
    x = torch.ones(20, 4)
    ours, same, others = (Net([4, 9, 2], dropout=0.5, generator=seeded(seed))(x) for seed in (1, 1, 2))
    assert torch.equal(ours, same)
    assert not torch.equal(ours, others)


def test_a_net_has_the_same_weights_with_and_without_dropout():
    without, with_it = (Net([4, 9, 7, 2], dropout=p, generator=seeded()) for p in (0.0, 0.5))
    for one, other in zip(without.parameters(), with_it.parameters(), strict=True):
        assert torch.equal(one, other)
    first, second = (layer for layer in with_it if isinstance(layer, Dropout))
    assert not torch.equal(first.draw([40]), second.draw([40]))


def test_dropout_keeps_its_share_and_the_mean():
    drop, x = Dropout(0.3, seeded()), torch.ones(1000, 101, dtype=torch.float64)
    out = drop(x)
    assert (out == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)  # 7 deviations
    assert out.max().item() == pytest.approx(1 / 0.7, rel=1e-4)
    assert not torch.equal(out, drop(x))
    assert drop.eval()(x) is x


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"widths": [5]}, r"widths=\[5\]: a list of at least two"),
        ({"widths": 5}, "widths=5: a list"),
        ({"widths": [5, 0, 2]}, "widths=0: a whole number of at least 1"),
        ({"activation": "swish"}, "activation='swish': there are relu, tanh, sigmoid, gelu, and none"),
        ({"dropout": 1.0}, "dropout=1.0: a finite number"),
    ],
)
def test_a_net_that_cannot_be_is_refused(how, complaint):
    with pytest.raises(DataError, match=complaint):
        Net(**({"widths": [4, 3, 2]} | how))


# Native code against the learner's loop, in float64


@settings(max_examples=20, deadline=None)
@given(
    hidden=st.lists(st.sampled_from([1, 3, 16, 17, 50, 65, 120]), max_size=3),
    activation=st.sampled_from(["relu", "tanh", "sigmoid", "gelu", "none"]),
    bn=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    ends=st.sampled_from([(1, 1), (7, 2), (130, 10), (20, 17)]),
    loss=st.sampled_from([cross_entropy, mse_loss]),
    filled=st.sampled_from([1.0, 0.2]),
    bs=st.sampled_from([6, 16, 1000]),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    policy=st.sampled_from([constant, one_cycle, jumps]),
    bn_wd=st.booleans(),
)
def test_native_code_trains_as_the_loop_does(
    hidden, activation, bn, dropout, ends, loss, filled, bs, optimizer, policy, bn_wd
):
    net = Net([ends[0], *hidden, ends[1]], activation, bn, dropout, seeded()).double()
    for layer in net:
        if isinstance(layer, nn.BatchNorm1d):
            layer.eps = 0.1  # or rows that are all the same would be rounding, magnified
    data = bunch(70, *ends, loss, bs, filled=filled)
    learners = both(data, net, loss, opt_func=OPTIMIZERS[optimizer], wd=0.1, bn_wd=bn_wd)
    assert_same_training(learners, bound=1e-6, epochs=7 if bs < 1000 else 35, policy=policy)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_steps_as_the_loop_does(optimizer):
    net = Net([6, 9, 3], "tanh", bn=True, generator=seeded()).double()
    assert_same_training(both(bunch(), net, opt_func=OPTIMIZERS[optimizer], wd=0.3), policy=jumps)


def test_a_momentum_that_is_zero_at_times_is_the_loops():
    def vanishing(steps, lr):
        return Schedule(np.full(steps, lr), np.where(np.arange(steps) % 7 == 3, 0.0, 0.9))

    net = Net([6, 9, 3], "tanh", generator=seeded()).double()
    assert_same_training(both(bunch(), net, opt_func=OPTIMIZERS["Momentum"]), policy=vanishing)


def test_steps_by_the_sign_are_the_loops():  # without BatchNorm: before it a bias has the sign of a rounding
    net = Net([6, 9, 3], "tanh", generator=seeded()).double()
    assert_same_training(both(bunch(), net, opt_func=SIGN, wd=0.3), policy=jumps)


def test_the_smallest_slope_has_a_sign():
    """At a loss of 0 slopes are below the least normal number."""
    data, net = bunch(dtype=torch.float32), Net([6, 3], generator=seeded())
    data.train.tensors[1].zero_()
    with torch.no_grad():
        net[0].bias[0] = 95
    assert_same_training(both(data, net, opt_func=SIGN, wd=0.0))


def test_dropout_zeroes_the_same_in_batches_of_any_size():
    net = Net([6, 9, 7, 3], dropout=0.4, generator=seeded()).double()
    assert_same_training(both(bunch(bs=5), net, opt_func=SGD))


@pytest.mark.parametrize("optimizer", ["SGD", "Momentum", "RMSprop", "AdamW"])
def test_in_float32_both_are_as_near(optimizer):
    net = Net([130, 50, 10], bn=True, dropout=0.2, generator=seeded())
    data = bunch(70, 130, 10, filled=0.2, dtype=torch.float32)
    assert_same_training(both(data, net, opt_func=OPTIMIZERS[optimizer]), bound=1e-2)


@pytest.mark.parametrize(
    "make",
    [
        Mnist_Logistic,
        *(partial(Mnist_NN, act) for act in (torch.relu, torch.tanh, torch.sigmoid, nn.functional.gelu)),
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(784, 5), nn.ReLU(inplace=True)), nn.BatchNorm1d(5), Linear(5, 10)
        ),
        lambda: nn.Sequential(nn.BatchNorm1d(784, eps=0.1, momentum=0.5), Dropout(0.5, seeded()), nn.Linear(784, 10)),
        lambda: nn.Sequential(nn.Linear(784, 10), nn.Sigmoid()),
    ],
)
def test_other_models_of_known_layers_are_trained_in_native_code(make):
    data = bunch(40, 784, 10, filled=0.2)
    assert_same_training(both(data, make().double(), opt_func=OPTIMIZERS["AdamW"]))


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_groups_have_their_own_rates_and_can_be_frozen(frozen, train_bn):
    net = Net([6, 9, 8, 3], bn=True, generator=seeded()).double()
    learners = both(
        bunch(), net, groups=lambda net: [net[:3], net[3:6], net[6:]], train_bn=train_bn, bn_wd=False, wd=0.5,
        opt_func=OPTIMIZERS["AdamW"],
    )  # fmt: skip
    for learn in learners:
        learn.freeze_to(frozen)
    assert_same_training(learners, lr=slice(1e-3, 0.05), policy=one_cycle)


def test_what_happens_between_epochs_counts():
    """The caller halves weights and a running mean, freezes, and unfreezes; then trains again."""
    net = Net([6, 9, 3], bn=True, generator=seeded()).double()
    learners = both(bunch(), net, groups=lambda net: [net[:3], net[3:]], opt_func=OPTIMIZERS["AdamW"])
    for learn in learners:
        for epoch in learn.epochs(4, 0.05):
            with torch.no_grad():
                learn.model[0].weight *= 0.5
                learn.model[1].running_mean += epoch.epoch
            learn.freeze() if epoch.epoch == 1 else learn.unfreeze()
        learn.unfreeze()
        learn.fit(2, 0.02)
    assert native(learners[0])
    assert learners[1].model[0].weight.is_contiguous()
    assert distance(*learners) < 1e-9


def hook(learn):
    learn.model[0].register_forward_hook(lambda layer, inputs, out: 2 * out)


def other_loss(learn):
    learn.loss_func = lambda scores, y: 3 * cross_entropy(scores, y)


def other_data(learn):
    learn.data = bunch(filled=0.2, seed=3)


def other_part(learn):
    learn.model[2] = nn.ReLU()


def other_norm(learn):
    learn.model[1].eps, learn.model[1].momentum = 0.5, 0.9


def other_dropout(learn):
    learn.model[3].p = 0.8


def another_dropout(learn):
    learn.model[3] = Dropout(0.3, seeded(1))


def other_weight(learn):
    learn.model[-1].weight.data = torch.full((3, 9), 0.1).double()


def other_frozen_weight(learn):
    learn.model[0].weight = nn.Parameter(torch.full((9, 6), 0.1).double(), requires_grad=False)


def other_means(learn):
    learn.model[1].running_mean = torch.full((9,), 0.1).double()


def other_rows(learn):
    learn.data.train.tensors[0].mul_(0.5)
    learn.data.train.tensors[1].fill_(1)


def other_numbers(learn):
    learn.data.train.tensors[0].data = learn.data.train.tensors[0] * 0.5


CHANGES = [
    hook, other_loss, other_data, other_part, other_norm, other_dropout, another_dropout, other_weight,
    other_frozen_weight, other_means, other_rows, other_numbers,
]  # fmt: skip


@pytest.mark.parametrize("filled", [0.2, 1.0])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_epochs_counts(change, filled):
    states = []
    for backend in ("native", "reference"):  # each with data of its own
        net = Net([6, 9, 3], "tanh", bn=True, dropout=0.3, generator=seeded()).double()
        net[0].weight.requires_grad_(False)
        learn = net_learner(bunch(filled=filled), net, opt_func=OPTIMIZERS["AdamW"], backend=backend, quiet=True)
        for epoch in learn.epochs(3, 0.02, jumps):
            if epoch.epoch == 1:
                change(learn)
        states.append(learn)
    assert distance(*states) < 1e-9


def loaded(optimizer, earlier):
    optimizer.load_state_dict(earlier)


def assigned(optimizer, _earlier):
    for state in optimizer.state.values():
        state["exp_avg"] = torch.full_like(state["exp_avg"], 0.1)


def emptied(optimizer, _earlier):
    optimizer.state.clear()


@pytest.mark.parametrize("change", [loaded, assigned, emptied])
def test_a_state_of_the_optimizer_that_is_changed_between_epochs_counts(change):
    learners, made = both(bunch(), Net([6, 9, 3], generator=seeded()).double()), []
    for learn in learners:
        learn.opt_func = lambda groups: made.append(OPTIMIZERS["AdamW"](groups)) or made[-1]
        for epoch in learn.epochs(4, 0.05):
            if epoch.epoch == 1:
                earlier = copy.deepcopy(made[-1].state_dict())
            if epoch.epoch == 3:
                change(made[-1], earlier)
    assert native(learners[0])
    assert distance(*learners) < 1e-9


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_gradients_that_the_caller_left_are_no_part_of_a_training_and_go(backend):
    learn = net_learner(bunch(), Net([6, 9, 3], generator=seeded()).double(), backend=backend, quiet=True)
    sum(param.sum() for param in learn.model.parameters()).backward()
    learn.fit(1)
    assert all(param.grad is None for param in learn.model.parameters())


@pytest.mark.parametrize("filled", [0.2, 1.0])
def test_a_class_with_an_infinite_bias_is_left_out_as_by_the_loop(filled):
    net = Net([6, 9, 3], generator=seeded()).double()
    net[-1].bias.data[2] = -torch.inf
    rows = bunch(filled=filled)
    rows.train.tensors[1].clamp_(max=1)
    rows.valid.tensors[1].clamp_(max=1)
    for optimizer in (OPTIMIZERS["AdamW"], OPTIMIZERS["SGD"]):
        learners = both(rows, net, opt_func=optimizer, wd=0.1)
        for learn in learners:
            learn.fit(2, 0.05)
            assert learn.model[-1].bias[2] == -torch.inf
            learn.model[-1].bias.data[2] = 0.0
        assert native(learners[0])
        assert distance(*learners) < 1e-9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loop_takes_over_in_the_middle_of_a_training_and_gives_back(optimizer):
    net = Net([6, 9, 3], "tanh", dropout=0.3, generator=seeded()).double()
    learners = both(
        bunch(), net, opt_func=OPTIMIZERS[optimizer], wd=0.1, groups=lambda net: [net[:1], net[1:]]
    )  # fmt: skip
    for learn in learners:
        for epoch in learn.epochs(6, 0.02, jumps):
            if epoch.epoch == 2:
                hooked = learn.model[0].register_forward_hook(lambda *_: None)
                learn.freeze()
            if epoch.epoch == 4:
                hooked.remove()
                learn.unfreeze()
    assert distance(*learners) < 1e-9


def test_a_class_that_is_out_of_range_between_epochs_is_an_error():
    """And not a write outside the scores."""
    learn = net_learner(bunch(), Net([6, 3]).double(), quiet=True)
    epochs = learn.epochs(2)
    next(epochs)
    learn.data.train.tensors[1][5] = 10**6
    with pytest.raises(IndexError, match="Target 1000000 is out of bounds"):
        next(epochs)


def by_torch(rows):
    rows.mul_(0.5)


def by_numpy(rows):
    rows.numpy()[:] *= 0.5


@pytest.mark.parametrize("filled", [0.2, 1.0])
@pytest.mark.parametrize("change", [by_torch, by_numpy])
def test_rows_changed_between_trainings_count(change, filled):
    ours, theirs = (both(bunch(filled=filled), Net([6, 3], generator=seeded()).double())[place] for place in (0, 1))
    for learn in (ours, theirs):  # each with data of its own
        learn.fit(1)
        change(learn.data.train.tensors[0])
        learn.fit(1)
    assert native(ours)
    assert distance(ours, theirs) < 1e-9


# What native code leaves to the loop


def wrapped(*layers):
    return nn.Sequential(nn.Linear(6, 4), *layers, nn.Linear(4, 3)).double()


def hooked():
    model = wrapped(nn.ReLU())
    model[1].register_forward_hook(lambda *_: None)
    return model


def tied():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)).double()
    model[1].weight = model[0].weight
    return model


def one_dropout_twice():
    drop = Dropout(0.5, seeded())
    return wrapped(drop, nn.ReLU(), drop)


def replaced():
    model = wrapped(nn.ReLU())
    model[1].forward = torch.tanh
    return model


class Own(Net):
    pass


@pytest.mark.parametrize(
    "model",
    [
        wrapped(nn.Dropout(0.0)), wrapped(nn.Hardtanh()), wrapped(nn.GELU("tanh")), wrapped(nn.LayerNorm(4)),
        wrapped(nn.BatchNorm1d(4, affine=False)), wrapped(nn.BatchNorm1d(4, track_running_stats=False)),
        wrapped(nn.BatchNorm1d(4, momentum=None)), wrapped(nn.Linear(4, 4, bias=False)), hooked(), tied(),
        one_dropout_twice(), replaced(), Own([6, 4, 3]).double(),
    ],
    ids=lambda model: str(type(model).__name__),
)  # fmt: skip
def test_a_model_with_an_unknown_part_takes_the_loop(model):
    ours, theirs = both(bunch(), model)
    assert not native(ours)
    for learn in (ours, theirs):
        learn.fit(2)
    assert distance(ours, theirs) == 0


def test_weights_that_share_memory_take_the_loop():
    ours, theirs = both(bunch(), nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)).double())
    for learn in (ours, theirs):
        learn.model[1].weight.data = learn.model[0].weight.data
        learn.fit(2)
    assert not native(ours)
    assert distance(ours, theirs) == 0


def halved_slopes(learn):
    learn.model[0].weight.register_hook(lambda slopes: slopes / 2)


def halved_grads(learn):
    def halve(param):
        param.grad /= 2

    learn.model[0].weight.register_post_accumulate_grad_hook(halve)


@pytest.mark.parametrize("watch", [halved_slopes, halved_grads])
def test_hooks_on_parameters_are_called(watch):
    ours, theirs = both(bunch(), Net([6, 9, 3], generator=seeded()).double(), opt_func=SGD)
    for learn in (ours, theirs):
        watch(learn)
        learn.fit(2)
    assert not native(ours)
    assert distance(ours, theirs) == 0


def hooked_steps(groups):
    optimizer = AdamW(groups)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def replaced_steps(groups):
    optimizer = AdamW(groups)
    optimizer.step = lambda: None
    return optimizer


@pytest.mark.parametrize("opt_func", [hooked_steps, replaced_steps])
def test_hooks_on_steps_are_called(opt_func):
    assert not native(net_learner(bunch(), Net([6, 3]).double(), opt_func=opt_func))


@contextmanager
def registered(register):
    handle = register(lambda *_: None)
    yield
    handle.remove()


@pytest.mark.parametrize(
    "mode",
    [
        partial(torch.autocast, "cpu", torch.bfloat16),
        torch.no_grad,
        partial(registered, nn.modules.module.register_module_forward_hook),
        partial(registered, register_optimizer_step_pre_hook),
    ],
)
def test_what_torch_does_everywhere_is_left_to_the_loop(mode):
    learn = net_learner(bunch(), Net([6, 3]).double())
    with mode():
        assert not native(learn)
    assert native(learn)


@torch.inference_mode()
def made_without_autograd():
    return bunch().train


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("rows", "n_in"),
    [
        (made_without_autograd(), 6),
        (TensorDataset(torch.zeros(20, 0).double(), torch.zeros(20).long()), 0),
    ],
)
def test_rows_that_native_code_cannot_read_take_the_loop(rows, n_in):
    net = nn.Sequential(nn.Linear(n_in, 3)).double()
    ours, theirs = both(DataBunch(rows, rows), net)
    for learn in (ours, theirs):
        learn.fit(1)
    assert not native(ours)
    assert torch.equal(ours.model[0].bias, theirs.model[0].bias)


@pytest.mark.parametrize(
    ("loss", "by_torch"),
    [(losses.cross_entropy, cross_entropy), (nn.CrossEntropyLoss(), cross_entropy), (nn.MSELoss(), mse_loss)],
)
def test_equal_losses_take_native_code_too(loss, by_torch):
    learners = both(bunch(loss=by_torch), Net([6, 3]).double(), loss)
    assert native(learners[0])
    assert_same_training(learners)


def hooked(module):
    module.register_forward_hook(lambda layer, inputs, out: 2 * out)
    return module


@pytest.mark.parametrize(
    "how",
    [
        {"opt_func": torch.optim.AdamW},
        {"opt_func": lambda groups: Optimizer(groups, [sgd_step, weight_decay])},
        {"loss": lambda scores, y: cross_entropy(scores, y)},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": nn.CrossEntropyLoss(weight=torch.ones(3).double())},
        {"loss": nn.CrossEntropyLoss(ignore_index=2)},
        {"loss": hooked(nn.CrossEntropyLoss())},
        {"backend": "reference"},
    ],
)
def test_an_unknown_optimizer_or_loss_takes_the_loop(how):
    learn = net_learner(bunch(), Net([6, 3]).double(), how.pop("loss", cross_entropy), quiet=True, **how)
    assert not native(learn)


def test_a_wide_net_takes_the_loop_unless_its_inputs_are_mostly_zero():
    def wide(bs, n_out, **how):
        return net_learner(bunch(4000, 1000, n_out, bs=bs, **how), Net([1000, n_out]).double())

    assert native(wide(64, 500))
    assert not native(wide(64, 600))
    assert not native(wide(4000, 10))
    assert native(wide(4000, 10, filled=0.2))


class Doubled(TensorDataset):
    def __getitem__(self, rows):
        x, y = super().__getitem__(rows)
        return 2 * x, y


def test_a_data_set_of_its_own_kind_takes_the_loop():
    data = bunch()
    assert not native(net_learner(DataBunch(Doubled(*data.train.tensors), data.valid), Net([6, 3]).double()))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(20, 5).double(), torch.zeros(20).long()),
        (torch.zeros(20, 6), torch.zeros(20).long()),
        (torch.zeros(20, 2, 6).double(), torch.zeros(20).long()),
        (torch.zeros(20, 6).double(), torch.full((20,), 3)),
        (torch.zeros(20, 6).double(), torch.full((20,), -1)),
        (torch.zeros(20, 6).double(), torch.zeros(20).int()),
    ],
)
def test_rows_that_do_not_fit_raise_the_loops_error(x, y):
    errors = []
    for learn in both(DataBunch(TensorDataset(x, y), bunch().valid), Net([6, 3]).double()):
        with pytest.raises((RuntimeError, IndexError, ValueError)) as error:
            learn.fit(1)
        errors.append(str(error.value))
    assert errors[0] == errors[1]


# Errors


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("filled", [0.2, 1.0])
def test_divergence_shows(backend, filled):
    learn = net_learner(
        bunch(loss=mse_loss, filled=filled),
        Net([6, 9, 3]).double(),
        mse_loss,
        opt_func=SGD,
        backend=backend,
        quiet=True,
    )
    with pytest.raises(DivergenceError, match="in epoch"):
        learn.fit(20, 1e3)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("loss", [cross_entropy, mse_loss])
@pytest.mark.parametrize("filled", [0.2, 1.0])
def test_an_input_that_is_no_number_shows(activation, loss, filled):
    data = bunch(loss=loss, filled=filled)
    data.train.tensors[0][3, 2] = torch.nan
    learn = net_learner(data, Net([6, 9, 3], activation, dropout=0.9).double(), loss, quiet=True)
    assert native(learn)
    with pytest.raises(DivergenceError, match="in epoch 1"):
        learn.fit(1)


def test_batchnorm_of_a_single_row_is_an_error():
    for rows, bs in ((33, 16), (8, 1)):
        for learn in both(bunch(rows, bs=bs), Net([6, 9, 3], bn=True).double()):
            before = copy.deepcopy(learn.model.state_dict())
            with pytest.raises(
                DataError, match=f"bs={bs}: BatchNorm needs two rows or more, but the last of {rows} is"
            ):
                learn.fit(1)
            assert all(map(torch.equal, before.values(), learn.model.state_dict().values()))
    assert_same_training(both(bunch(33), Net([6, 9, 3], generator=seeded()).double()))


def test_targets_of_another_shape_than_the_scores_are_refused():
    data = bunch(n_out=1, loss=mse_loss)
    flat = DataBunch(*(TensorDataset(part.tensors[0], part.tensors[1][:, 0]) for part in (data.train, data.valid)))
    with pytest.raises(DataError, match=r"targets of shape \[70\]: the scores have shape \[70, 1\]"):
        net_learner(flat, Net([6, 4, 1]).double(), mse_loss)


def test_an_unknown_backend_is_refused():
    with pytest.raises(DataError, match="backend='triton': nets have native and reference"):
        net_learner(bunch(), Net([6, 3]), backend="triton")
