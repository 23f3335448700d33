import copy
import io
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from kernels import FASTAI, TORCH
from lesson import DataError, optimizers
from lesson.optimizers import FUSED, MOMENTUM_STEPS, RMSPROP_STEPS, AdamW, Optimizer, l2_reg

START, *GRADIENTS = torch.randn(101, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def walk(make):
    """Where an optimizer goes with 100 gradients, float64[50]."""
    param = START.clone().requires_grad_()
    opt = make([param])
    for gradient in GRADIENTS:
        param.grad = gradient.clone()
        opt.step()
        opt.zero_grad()
    return param.detach()


def apart(some, others):
    """The largest relative difference."""
    return ((some - others).abs() / others.abs()).max()


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda p: optimizers.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
        # For plain SGD, L2 and decoupled decay are the same (claim 51).
        (lambda p: optimizers.SGD(p, 0.1, weight_decay=0.1), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1)),
        (lambda p: optimizers.Momentum(p, 0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8)),
        (
            lambda p: Optimizer(p, [l2_reg, *MOMENTUM_STEPS[1:]], 0.1, momentum=0.8, weight_decay=0.1),
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.1),
        ),
        (lambda p: optimizers.RMSprop(p, 0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
        (
            lambda p: Optimizer(p, [l2_reg, *RMSPROP_STEPS[1:]], 0.1, betas=(0, 0.9), eps=1e-8, weight_decay=0.1),
            lambda p: torch.optim.RMSprop(p, 0.1, alpha=0.9, weight_decay=0.1),
        ),
        (
            lambda p: optimizers.Adam(p, 0.01, TORCH[:2], TORCH.eps, 0.1),
            lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
        ),
        (
            lambda p: optimizers.AdamW(p, 0.01, TORCH[:2], TORCH.eps, 0.1),
            lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
        ),
    ],
)
def test_the_lists_of_steps_are_torchs_optimizers(ours, torchs):
    assert apart(walk(ours), walk(torchs)) < 1e-12


@pytest.mark.parametrize("momenta", [[0.9, 0.9, 0, 0.9], [0, 0.9, 0.9, 0.9], [0, 0, 0, 0]])
def test_a_velocity_waits_as_torchs_while_momentum_is_zero(momenta):
    found = []
    for make in (optimizers.Momentum, partial(torch.optim.SGD, momentum=0.9)):
        param = torch.nn.Parameter(START.clone())
        opt = make([param], 0.1)
        for momentum, gradient in zip(momenta, GRADIENTS, strict=False):
            opt.param_groups[0]["momentum"] = momentum
            param.grad = gradient.clone()
            opt.step()
        found.append(param.detach())
    assert apart(*found) < 1e-12


def written_out(kind, lr=0.01, beta=0.9):
    """Where the formulas of the notes and the sheet lead, in numbers alone."""
    w, m, v = START.numpy(), 0.0, 0.0
    for step, g in enumerate(torch.stack(GRADIENTS).numpy()):
        before = v if step else g**2
        m = (1 - beta) * g + beta * m
        v = beta * (before if kind == "sheet rmsprop" else v) + (lr if kind.startswith("noted") else 1 - beta) * g**2
        w = (
            w
            - lr
            * {
                "noted momentum": m,
                "noted rmsprop": g / v,
                "noted adam": m / v**0.5,
                "sheet rmsprop": g / before**0.5,
                "sheet adam": m / v**0.5,
            }[kind]
        )
    return torch.from_numpy(w)


@pytest.mark.parametrize("kind", ["noted momentum", "noted rmsprop", "noted adam", "sheet rmsprop", "sheet adam"])
def test_the_notes_and_the_sheets_lists_are_their_formulas(kind):
    steps = getattr(optimizers, f"{kind.replace(' ', '_').upper()}_STEPS")
    walked = walk(lambda p: Optimizer(p, steps, 0.01, betas=(0.9, 0.9)))
    assert apart(walked, written_out(kind)) < 1e-12


def test_the_sheets_rmsprop_divides_by_the_mean_of_the_row_before():
    """A gradient ten times larger than before steps ten times as far: its own square does not count yet."""
    param = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    opt = Optimizer([param], optimizers.SHEET_RMSPROP_STEPS, 0.1, betas=(0.0, 0.9))
    places = []
    for gradient in (2.0, 2.0, 20.0):
        param.grad = torch.tensor([gradient], dtype=torch.float64)
        opt.step()
        places.append(param.item())
    assert places == pytest.approx([-0.1, -0.2, -1.2])


def test_an_ablation_is_a_list_with_one_step_left_out():
    steps = [optimizers.average_grad, optimizers.average_sqr_grad, optimizers.adam_step]
    plain = walk(lambda p: Optimizer(p, steps, 0.01, betas=TORCH[:2], eps=TORCH.eps))
    torch.testing.assert_close(plain, walk(lambda p: torch.optim.Adam(p, 0.01)), rtol=1e-11, atol=1e-13)


def test_a_parameter_without_gradient_stays():
    param = torch.ones(3)
    optimizers.SGD([param], 0.1, weight_decay=0.1).step()
    assert torch.equal(param, torch.ones(3))


def small_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))


def take_steps(model, opt, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        opt.zero_grad()
        model(torch.randn(8, 3, generator=generator)).square().mean().backward()
        opt.step()


@pytest.mark.parametrize("make", [optimizers.SGD, optimizers.Momentum, optimizers.RMSprop, optimizers.Adam, AdamW])
@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "pickle"])
def test_a_stopped_training_continues_where_it_was(make, way):
    whole, model = small_net(), small_net()
    one, opt = make(whole.parameters(), 0.01), make(model.parameters(), 0.01)
    take_steps(whole, one, 3)
    take_steps(model, opt, 3)
    if way == "state_dict":
        saved = io.BytesIO()
        torch.save(opt.state_dict(), saved)
        saved.seek(0)
        opt = make(model.parameters(), 1.0)
        opt.load_state_dict(torch.load(saved, weights_only=True))
    elif way == "deepcopy":
        model, opt = copy.deepcopy((model, opt))
    else:
        model, opt = pickle.loads(pickle.dumps((model, opt)))
    take_steps(whole, one, 3, seed=1)
    take_steps(model, opt, 3, seed=1)
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_each_group_has_its_own_numbers():
    fast, slow = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    opt = optimizers.SGD([{"params": [fast], "lr": 0.5}, {"params": [slow], "weight_decay": 0.5}], lr=0.1)
    fast.grad, slow.grad = torch.ones(2), torch.ones(2)
    opt.step()
    torch.testing.assert_close(fast.data, torch.full((2,), 0.5))
    torch.testing.assert_close(slow.data, torch.full((2,), 1 - 0.1 * 0.5 - 0.1))
    with pytest.raises(DataError, match="lr=-1"):
        opt.add_param_group({"params": [torch.ones(1)], "lr": -1})


def test_torchs_schedulers_move_its_rate():
    opt = optimizers.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.5)
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] == 0.5


def test_the_mean_of_gradients_is_torchs_momentum_at_a_smaller_rate():
    """Claim 69: at lr in the one and lr·(1 − μ) in the other, the same steps."""
    mean = walk(lambda p: Optimizer(p, optimizers.NOTED_MOMENTUM_STEPS, 0.1, betas=(0.8, 0.0)))
    torchs = walk(lambda p: torch.optim.SGD(p, 0.1 * 0.2, momentum=0.8))
    assert apart(mean, torchs) < 1e-12


def test_sign_descent_takes_steps_of_one_size():
    param = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
    param.grad = torch.tensor([-1e-6, 0.0, 100.0])
    Optimizer([param], [optimizers.sign_step], lr=0.25).step()
    assert param.tolist() == [1.25, 1.0, 0.75]


def test_a_step_changes_no_gradient_and_keeps_none():
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    opt = optimizers.Adam([param], 0.1, weight_decay=0.5)
    opt.step()
    assert torch.equal(param.grad, torch.ones(3))
    assert opt.state[param].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_a_closure_is_called_with_gradients_on():
    param = torch.ones(1, requires_grad=True)

    def closure():
        loss = param.square().sum()
        loss.backward()
        return loss

    assert optimizers.SGD([param], 0.1).step(closure).item() == 1
    assert param.item() == pytest.approx(0.8)


def test_fused_is_torchs_fused_adamw_bit_for_bit():
    found = []
    for optimizer in (FUSED, partial(torch.optim.AdamW, betas=FASTAI[:2], eps=FASTAI.eps, fused=True)):
        torch.manual_seed(0)
        net = nn.Linear(3, 3)
        opt = optimizer([{"params": [net.weight]}, {"params": [net.bias], "weight_decay": 0.0}], lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=6)
        for _ in range(5):

            def closure(net=net, opt=opt):
                opt.zero_grad()
                loss = net(torch.ones(2, 3)).square().sum()
                loss.backward()
                return loss

            assert opt.step(closure).requires_grad
            scheduler.step()
        found.append((net.weight, net.bias, opt.state_dict()))
    (weight, bias, state), (torchs_weight, torchs_bias, torchs_state) = found
    assert torch.equal(weight, torchs_weight)
    assert torch.equal(bias, torchs_bias)
    assert state["param_groups"] == torchs_state["param_groups"]
    assert all(torch.equal(state["state"][0][name], value) for name, value in torchs_state["state"][0].items())


def test_a_group_that_is_refused_does_not_stay():
    first, second = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = AdamW([first])
    with pytest.raises(DataError):
        optimizer.add_param_group({"params": [second], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
