"""The learner of any model: rates, freezing, decay, epochs one by one."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, DivergenceError, Learner
from lesson.learner import group_rates, stream
from lesson.metrics import accuracy, rmse
from lesson.optimizers import SGD, AdamW, Momentum, RMSprop
from lesson.schedules import Schedule, constant, one_cycle


@pytest.fixture(scope="module")
def data():
    """96 rows of four numbers in two classes that a line parts, 32 of them for validation."""
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(1) > 0).long()
    return DataBunch.create(TensorDataset(x[:96], y[:96]), TensorDataset(x[96:], y[96:]), bs=16)


def net():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(body, nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 2)))


def learner(data, model=None, **how):
    model = model or net()
    return Learner(data, model, cross_entropy, **({"layer_groups": list(model), "wd": 0.0, "quiet": True} | how))


def noting(data, make, **how):
    """A learner, and the list of optimizers that it makes."""
    made = []

    def opt_func(groups):
        made.append(make(groups))
        return made[-1]

    return learner(data, opt_func=opt_func, **how), made


def state(learn):
    return {name: tensor.clone() for name, tensor in learn.model.state_dict().items()}


def moved(learn, epochs=1, **how):
    before = state(learn)
    learn.fit(epochs, **({"lr": 0.01} | how))
    return {name for name, tensor in state(learn).items() if not torch.equal(tensor, before[name])}


def test_any_model_learns(data):
    learn = learner(data, metrics=[accuracy])
    learn.fit_one_cycle(10, 0.05)
    assert learn.history[-1].metrics["accuracy"] > 0.85
    assert learn.validate() == learn.history[-1].valid_loss < learn.history[0].valid_loss


def test_its_steps_are_torchs(data):
    """Against the loop that everybody writes, in torch's own AdamW under torch's own schedule."""
    learn, plain = learner(data, wd=0.1, seed=3), net().train()
    optimizer = torch.optim.AdamW(plain.parameters(), betas=(0.9, 0.99), eps=1e-5, weight_decay=0.1)
    order, schedule = stream(3, "order"), one_cycle(12, 0.01)
    steps = zip(*(column.tolist() for column in schedule), strict=True)
    for _ in range(2):
        for rows in torch.randperm(96, generator=order).split(16):
            optimizer.param_groups[0]["lr"], beta1 = next(steps)
            optimizer.param_groups[0]["betas"] = beta1, 0.99
            optimizer.zero_grad()
            x, y = data.train[rows]
            cross_entropy(plain(x), y).backward()
            optimizer.step()
    learn.fit_one_cycle(2, 0.01)
    for ours, theirs in zip(learn.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# Rates: claims 18 to 20


def test_a_number_is_the_rate_of_all_groups():
    assert group_rates(1e-3, 3) == [1e-3] * 3


def test_a_slice_of_one_number_gives_the_last_group_that_and_all_others_a_third():
    assert group_rates(slice(3e-3), 3) == pytest.approx([1e-3, 1e-3, 3e-3])
    assert group_rates(slice(3e-3), 3, divisor=10) == pytest.approx([3e-4, 3e-4, 3e-3])


def test_a_slice_of_two_goes_from_the_first_group_to_the_last_in_equal_ratios():
    assert group_rates(slice(1e-5, 1e-3), 3) == pytest.approx([1e-5, 1e-4, 1e-3])
    assert group_rates(slice(1e-5, 1e-3), 2) == [1e-5, 1e-3]


@pytest.mark.parametrize("lr", [1e-3, slice(1e-3), slice(1e-5, 1e-3)])
def test_one_group_gets_the_last_rate(lr):
    assert group_rates(lr, 1) == [1e-3]


@pytest.mark.parametrize("lr", [0, None, "fast", slice(None), slice(1e-3, None), slice(0, 1e-3), slice(1e-5, 1e-3, 2)])
def test_an_invalid_rate_is_refused(lr):
    with pytest.raises(DataError, match="lr="):
        group_rates(lr, 3)


@pytest.mark.parametrize(
    ("lr", "shares"), [(0.1, (1, 1, 1)), (slice(0.1), (1 / 3, 1 / 3, 1)), (slice(0.001, 0.1), (0.01, 0.1, 1))]
)
def test_each_group_takes_its_steps_at_its_rate_all_along_the_schedule(data, lr, shares):
    taken = []

    class Noting(torch.optim.SGD):
        def step(self):
            taken.append([group["lr"] for group in self.param_groups])
            super().step()

    learn = learner(data, opt_func=lambda groups: Noting(groups))
    learn.fit_one_cycle(1, lr)
    np.testing.assert_allclose(taken, np.outer(one_cycle(6, 0.1).lr, shares), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "momentum"),
    [
        (Momentum, lambda group: group["momentum"]),
        (AdamW, lambda group: group["betas"][0]),
        (partial(torch.optim.SGD, momentum=0.9), lambda group: group["momentum"]),
    ],
)
def test_momentum_follows_the_schedule_or_stays_the_optimizers_own(data, make, momentum):
    learn, made = noting(data, make)
    for policy, last in ((constant, 0.9), (partial(constant, momentum=0.7), 0.7)):
        list(learn.epochs(1, 0.01, policy))
        assert momentum(made[-1].param_groups[0]) == last


@pytest.mark.parametrize("make", [Momentum, partial(torch.optim.SGD, momentum=0.9)])
def test_momentum_that_a_schedule_starts_at_zero_grows(data, make):
    learn, made = noting(data, make)
    learn.fit_one_cycle(1, 0.01, moms=(0.0, 0.9))
    assert made[0].param_groups[0]["momentum"] == learn.recorder.moms[-1] > 0


@pytest.mark.parametrize(
    "make", [torch.optim.SGD, partial(Momentum, momentum=0.0), RMSprop, partial(AdamW, betas=(0.0, 0.99))]
)
def test_a_momentum_of_zero_stays_zero(data, make):
    learn, made = noting(data, make)
    learn.fit_one_cycle(1, 0.01)
    group = made[0].param_groups[0]
    assert group.get("momentum", 0) == group.get("betas", (0,))[0] == 0
    assert learn.recorder.moms == [0] * 6


# Freezing: claims 14 and 16


def test_frozen_parameters_do_not_move_but_batch_norms_do(data):
    learn = learner(data, wd=0.1)
    learn.freeze()
    assert moved(learn) == {
        "2.0.weight", "2.0.bias",
        "0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked",
    }  # fmt: skip


def test_without_train_bn_nothing_of_a_frozen_group_moves(data):
    learn = learner(data, wd=0.1, train_bn=False)
    learn.freeze_to(1)
    assert moved(learn) == {"1.0.weight", "1.0.bias", "2.0.weight", "2.0.bias"}


@pytest.mark.parametrize("train_bn", [True, False])
def test_after_unfreeze_every_parameter_moves(data, train_bn):
    learn = learner(data, train_bn=train_bn)
    learn.freeze()
    learn.fit(1, 0.01)
    learn.unfreeze()
    # A bias in front of a BatchNorm has no gradient but rounding's.
    assert moved(learn) | {"0.0.bias"} == set(learn.model.state_dict())


def test_groups_are_counted_from_either_end(data):
    learn = learner(data, train_bn=False)
    for n, frozen in ((0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)):
        learn.freeze_to(n)
        trains = [all(p.requires_grad for p in group.parameters()) for group in learn.layer_groups]
        assert trains == [False] * frozen + [True] * (3 - frozen)
    for n in (3, -4, 0.5):
        with pytest.raises(DataError, match="n="):
            learn.freeze_to(n)


def test_where_nothing_trains_it_is_said(data):
    learn = learner(data)
    learn.model.requires_grad_(False)
    with pytest.raises(DataError, match=r"every parameter is frozen: call unfreeze\(\)"):
        learn.epochs(1, 0.01)


def test_every_parameter_belongs_to_one_group(data):
    model = net()
    for groups, times in ((list(model)[:2], 0), ([*model, model[2]], 2)):
        with pytest.raises(DataError, match=rf"2.0.weight is in {times} of them"):
            learner(data, model, layer_groups=groups)
    with pytest.raises(DataError, match="a list of modules"):
        learner(data, model, layer_groups=[list(model)])


# Decay: claim 55


@pytest.mark.parametrize("bn_wd", [True, False])
def test_biases_and_batch_norm_decay_or_not(data, bn_wd):
    learn, made = noting(data, SGD, wd=0.5, bn_wd=bn_wd)
    learn.epochs(1, 0.1)
    decay = {id(param): group["weight_decay"] for group in made[0].param_groups for param in group["params"]}
    for name, param in learn.model.named_parameters():
        plain = name in {"0.0.weight", "1.0.weight", "2.0.weight"}
        assert decay[id(param)] == (0.5 if plain or bn_wd else 0.0), name


# Epochs one by one


def test_epochs_are_trained_one_by_one_and_the_caller_may_stop(data):
    learn = learner(data)
    for epoch in learn.epochs(50, 0.01):
        if epoch.epoch == 3:
            break
    assert [epoch.epoch for epoch in learn.history] == [1, 2, 3]
    assert len(learn.recorder.losses) == 3 * 6
    assert learn.recorder.val_losses == [epoch.valid_loss for epoch in learn.history]
    assert learn.history[-1].train_loss == pytest.approx(np.mean(learn.recorder.losses[-6:]))


def test_two_trainings_in_turns_are_what_each_is_alone(data):
    alone, ours, other = learner(data), learner(data), learner(data, seed=1)
    alone.fit(3, 0.01)
    for _ in zip(ours.epochs(3, 0.01), other.epochs(3, 0.01), strict=True):
        pass
    assert ours.recorder.losses == alone.recorder.losses != other.recorder.losses


def test_gradients_from_before_do_not_count(data):
    clean, stale = learner(data), learner(data)
    for param in stale.model.parameters():
        param.grad = torch.ones_like(param)
    for learn in (clean, stale):
        learn.fit(1, 0.01)
    assert clean.recorder.losses == stale.recorder.losses


def test_divergence_carries_the_epochs_before_it_through_a_pipe_too(data):
    learn = learner(data, opt_func=SGD)
    learn.fit(2, 0.01)
    with torch.no_grad():
        learn.model[2][0].weight.fill_(torch.inf)
    with pytest.raises(DivergenceError, match="in epoch 3") as error:
        learn.fit(1, 0.01)
    assert error.value.history == learn.history
    assert len(learn.history) == 2
    assert pickle.loads(pickle.dumps(error.value)).history == learn.history


def test_a_policy_of_another_length_is_refused(data):
    with pytest.raises(DataError, match=r"rates of shape \[2\] for 6 steps"):
        learner(data).epochs(1, 0.01, lambda steps, lr: Schedule(np.full(2, lr), None))
    with pytest.raises(DataError, match=r"momenta of shape \[2\] for 6 steps"):
        learner(data).epochs(1, 0.01, lambda steps, lr: Schedule(np.full(steps, lr), np.full(2, 0.9)))


def test_the_number_of_batches_cannot_change_within_a_training(data):
    learn = learner(data)
    epochs = learn.epochs(2, 0.01)
    next(epochs)
    learn.bs = 7
    with pytest.raises(DataError, match="bs=7, 96 rows: the schedule is for 6 batches an epoch; after a change of bs"):
        next(epochs)
    learn.fit(1)
    assert len(learn.recorder.losses) == 6 + 14


def test_a_net_that_is_frozen_whole_within_a_training_is_refused(data):
    learn = learner(data)
    epochs = learn.epochs(2, 0.01)
    next(epochs)
    learn.model.requires_grad_(False)
    with pytest.raises(DataError, match="every parameter is frozen"):
        next(epochs)


def test_gradients_that_the_caller_left_are_no_part_of_a_step(data):
    twins = [learner(data), learner(data)]
    for learn in twins:
        for _ in learn.epochs(2, 0.01):
            if learn is twins[0]:
                for param in learn.model.parameters():
                    param.grad = torch.ones_like(param)
    assert all(torch.equal(one, other) for one, other in zip(*(state(learn).values() for learn in twins), strict=True))


# What the model says


def test_the_validation_set_is_taken_in_parts_and_gives_what_the_whole_gives(data, monkeypatch):
    learn = learner(data)
    out, target = learn.get_preds()
    monkeypatch.setattr(Learner, "valid_bs", 5)
    parts, targets = learn.get_preds()
    torch.testing.assert_close(parts, out)
    assert torch.equal(targets, target)
    assert not out.requires_grad


def test_metrics_are_functions_and_each_has_a_column(data, capsys):
    learn = learner(data, metrics=[accuracy, lambda out, target: 0.25], quiet=False)
    learn.fit(1, 0.01)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["epoch", "train_loss", "valid_loss", "accuracy", "<lambda>", "time"]
    assert row.split()[4] == "0.250000"
    assert rmse(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item() == pytest.approx(2**0.5)
    with pytest.raises(DataError, match="two have the same name"):
        learner(data, metrics=[accuracy, accuracy])


def test_the_batch_size_is_the_datas_own_unless_another_is_said(data):
    assert learner(data).bs == 16
    assert learner(data, bs=7).bs == 7

    class Bare:
        train, valid = data.train, data.valid

    assert learner(Bare()).bs == 64


def test_data_without_rows_are_refused(data):
    for bad in (None, [1, 2], DataBunch.create(data.train, TensorDataset(torch.empty(0, 4)))):
        with pytest.raises(DataError, match="data="):
            learner(bad)


def test_a_saved_model_is_loaded_by_a_learner_of_its_shapes(data, tmp_path):
    learn = learner(data)
    learn.fit(1, 0.01)
    learn.save(tmp_path / "m")
    assert learner(data, nn.Sequential(*net())).load(tmp_path / "m").validate() == learn.validate()
    with pytest.raises(DataError, match=r"0\.0\.bias is not a table of this model"):
        Learner(data, nn.Linear(4, 2), cross_entropy).load(tmp_path / "m")


def test_inputs_may_be_several():
    a, b = torch.randn(64, 1), torch.randn(64, 1)
    rows = TensorDataset(a, b, a * 2 - b)

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2))

        def forward(self, a, b):
            return a * self.w[0] + b * self.w[1]

    learn = Learner(DataBunch.create(rows, rows), Sum(), mse_loss, wd=0.0, bs=8, quiet=True)
    learn.fit_one_cycle(20, 0.1)
    torch.testing.assert_close(learn.model.w.detach(), torch.tensor([2.0, -1.0]), atol=0.05, rtol=0)


@pytest.mark.parametrize("how", ["unfrozen", "replaced", "added"])
@pytest.mark.parametrize("trained", [0, 1])
def test_what_the_optimizer_does_not_have_is_refused_between_epochs(data, how, trained):
    learn = learner(data)
    learn.model[0].requires_grad_(False)
    epochs = learn.epochs(3, 0.01)
    for _ in range(trained):
        next(epochs)
    if how == "unfrozen":
        learn.model[0].requires_grad_(True)
    elif how == "replaced":
        learn.model[-1] = copy.deepcopy(learn.model[-1])
    else:
        learn.model.append(nn.Linear(10, 10))
    with pytest.raises(DataError, match="unfrozen, added or replaced since this training began"):
        next(epochs)


def test_an_optimizer_may_leave_parameters_out(data):
    learn = learner(data, opt_func=lambda groups: SGD(groups[-1:], lr=0.1))
    learn.fit(2, 0.01)


@pytest.mark.parametrize(
    ("lr", "momentum", "complaint"),
    [(-0.01, 0.9, "-0.01 among the rates"), (0.01, 1.0, "1.0 among the momenta"), (np.nan, 0.9, "nan among the rates")],
)
def test_a_schedule_of_rates_and_momenta_that_cannot_be_is_refused(data, lr, momentum, complaint):
    def policy(steps, _):
        return Schedule(np.full(steps, lr), np.full(steps, momentum))

    with pytest.raises(DataError, match=complaint):
        learner(data).epochs(1, 0.01, policy)
