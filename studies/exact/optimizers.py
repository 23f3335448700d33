"""Momentum, RMSprop, Adam, the learner's optimizer, one-cycle: claims 66, 68 to 70, 72, 73, 75, 76; slips 11 to 14."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from kernels import adam_step_
from lesson import collab_learner, load_movielens, optimizers
from lesson.models import Mnist_Logistic
from lesson.optimizers import Optimizer
from lesson.schedules import one_cycle
from lesson.update import update_with
from studies.exact import Found, exact
from studies.exact._figures import close, listed

ADAMW = (
    "fastai 1.0.61, torch_core.py: AdamW = partial(optim.Adam, betas=(0.9, 0.99)); basic_train.py, Learner(opt_func)"
)
LR, BETA, BETA2, EPS = 0.01, 0.9, 0.99, 1e-8


def _gradients(steps: int = 30) -> Tensor:
    """float64[steps, 5]: the gradients that every optimizer here is given."""
    return torch.randn(steps, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _walk(make: Callable[..., torch.optim.Optimizer], **settings: object) -> Tensor:
    """float64[steps, 5]: where an optimizer of torch goes from zero with these gradients, step by step."""
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = make([w], **settings)
    path = []
    for w.grad in _gradients():
        optimizer.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def _average(values: Tensor, beta: float) -> Tensor:
    """float64[steps, 5]: the running averages S ← β·S + (1 − β)·value, from zero."""
    averages = [torch.zeros_like(values[0])]
    for value in values:
        averages.append(beta * averages[-1] + (1 - beta) * value)
    return torch.stack(averages[1:])


def _corrections(beta: float) -> Tensor:
    """float64[steps, 1]: 1 − βᵗ, what the average of t values weighs."""
    return 1 - beta ** torch.arange(1, len(_gradients()) + 1, dtype=torch.float64)[:, None]


@exact("68a")
def newer_gradients_weigh_exponentially_more() -> Found:
    """S = α·g + (1 − α)·S is a weighted sum: each gradient weighs 1/(1 − α) times as much as the one before it."""
    ages = torch.arange(29, -1, -1, dtype=torch.float64)
    weights = _average(torch.eye(30, dtype=torch.float64), BETA)[-1]  # what each of 30 gradients adds
    weighted = close(weights @ _gradients(), _average(_gradients(), BETA)[-1], "5 sums")
    agree = close(weights, (1 - BETA) * BETA**ages, "30 weights")
    text = f"the newest of 30 weighs {weights[-1]:.3g}, the oldest {weights[0]:.2g}; {agree.figure}"
    return Found(weighted.holds and agree.holds and bool((weights.diff() > 0).all()), text)


@exact("68b")
def the_average_is_right_once_divided_by_what_it_weighs() -> Found:
    """From zero, the average of a constant is too small, by 1 − βᵗ; divided by that, it is the constant."""
    averages = _average(torch.full((30, 5), 3.0, dtype=torch.float64), BETA)
    agree = close(averages / _corrections(BETA), torch.full_like(averages, 3.0), "corrected averages")
    return Found(agree.holds and bool(averages[0, 0] < 3), f"of 3, the first is {averages[0, 0]:.2g}; {agree.figure}")


@exact("69")
def the_averages_steps_are_pytorchs_at_a_smaller_rate() -> Found:
    """Steps by S = α·g + (1 − α)·S are those of torch.optim.SGD(momentum=1 − α) once its rate is multiplied by α."""
    by_average = -LR * _average(_gradients(), BETA).cumsum(0)
    by_torch = _walk(torch.optim.SGD, lr=LR * (1 - BETA), momentum=BETA)
    return close(by_average, by_torch, "30 steps of 5 weights")


@exact("slip 12")
def momentum_is_1_minus_alpha_and_pytorchs_rate_is_larger() -> Found:
    """`momentum=0.9` is α = 0.1 in A's formula, not 0.9 as B has it; at one rate PyTorch goes 1/(1 − 0.9) as far."""
    by_torch = _walk(torch.optim.SGD, lr=LR, momentum=BETA)
    tenth, nine_tenths = (by_torch / (-LR * _average(_gradients(), 1 - alpha).cumsum(0)) for alpha in (0.1, 0.9))
    spread = (nine_tenths.max() - nine_tenths.min()).item()
    same = torch.allclose(tenth, torch.full_like(tenth, 10.0), rtol=1e-9)
    return Found(
        same and spread > 1, f"α 0.1: PyTorch goes {tenth.mean():.4g} times as far, always; α 0.9: other steps"
    )


@exact("slip 13")
def rmsprop_as_written_has_no_rate() -> Found:
    """As A writes RMSprop, the rate cancels out: the steps are the same at any rate, and the first is 1/g."""
    slow, fast = (
        _walk(Optimizer, steps=optimizers.NOTED_RMSPROP_STEPS, lr=lr, betas=(0.0, 0.9)) for lr in (LR, 100 * LR)
    )
    agree = close(slow, fast, "30 steps of 5 weights at rates 0.01 and 1", tolerance=1e-11)
    first = close(slow[0], -1 / _gradients()[0], "5 first steps from −1/g")
    return Found(agree.holds and first.holds, f"{agree.figure}; {first.figure}")


@exact("70a", expected=False)
def rmsprop_as_written_is_rmsprop() -> Found:
    """0.9·old + lr·g², and g·lr divided by that, are the steps of torch.optim.RMSprop."""
    by_torch = _walk(torch.optim.RMSprop, lr=LR, alpha=0.9)
    as_written = _walk(Optimizer, steps=optimizers.NOTED_RMSPROP_STEPS, lr=LR, betas=(0.0, 0.9))
    return Found(
        torch.allclose(as_written, by_torch),
        f"first steps as written {listed(as_written[0].tolist())}; of RMSprop {listed(by_torch[0].tolist())}",
    )


@exact("70b")
def with_1_minus_beta_the_root_and_eps_it_is_rmsprop() -> Found:
    """With 1 − 0.9 instead of the rate, divided by the root plus eps, the steps are those of torch.optim.RMSprop."""
    gradients = _gradients()
    steps = LR * gradients / (_average(gradients**2, 0.9).sqrt() + EPS)
    return close(-steps.cumsum(0), _walk(torch.optim.RMSprop, lr=LR, alpha=0.9), "30 steps of 5 weights")


def _adam(beta1: float) -> Tensor:
    """float64[30, 5]: momentum's average over the root of RMSprop's, both corrected for their start at zero."""
    momentum = _average(_gradients(), beta1) / _corrections(beta1)
    roots = (_average(_gradients() ** 2, BETA2) / _corrections(BETA2)).sqrt()
    return -(LR * momentum / (roots + EPS)).cumsum(0)


@exact("73a")
def adam_is_momentum_and_rmsprop_at_once() -> Found:
    """Adam's steps are momentum's average over RMSprop's root, both corrected; with β1 = 0 they are RMSprop's alone."""
    both, alone = (
        close(_adam(beta1), _walk(torch.optim.Adam, lr=LR, betas=(beta1, BETA2), eps=EPS), "150 steps")
        for beta1 in (BETA, 0.0)
    )
    return Found(both.holds and alone.holds, f"β1 0.9: {both.figure}; β1 0: {alone.figure}")


@exact("73b")
def our_fused_adam_takes_torch_s_steps() -> Found:
    """The suite's Adam steps, plain and fused, match torch.optim.AdamW, including decay."""
    by_torch = _walk(torch.optim.AdamW, lr=LR, betas=(BETA, BETA2), eps=EPS, weight_decay=0.1)
    plain, fused = (close(_own_adam(backend), by_torch, "30 steps of 5 weights") for backend in ("reference", "native"))
    return Found(plain.holds and fused.holds, f"plain, {plain.figure}; fused, {fused.figure}")


def _own_adam(backend: str) -> Tensor:
    w, mean, square = torch.zeros(3, 5, dtype=torch.float64)
    path = []
    for step, g in enumerate(_gradients(), start=1):
        adam_step_(
            w, g, mean, square, lr=LR, beta1=BETA, beta2=BETA2, eps=EPS, weight_decay=0.1, step=step, backend=backend
        )
        path.append(w.clone())
    return torch.stack(path)


@exact("73c", expected=False)
def adam_as_written_is_adam() -> Found:
    """As A writes it, momentum·lr/√RMSprop with no correction for the start at zero, the steps are Adam's."""
    as_written = _walk(Optimizer, steps=optimizers.NOTED_ADAM_STEPS, lr=LR, betas=(BETA, 0.9))
    by_torch = _walk(torch.optim.Adam, lr=LR, betas=(BETA, 0.9), eps=EPS)
    far = (as_written[-1].norm() / by_torch[-1].norm()).item()
    return Found(torch.allclose(as_written, by_torch), f"30 steps as written go {far:.3g} times as far as Adam's")


@exact("slip 14")
def adam_as_written_steps_by_the_root_of_the_rate() -> Found:
    """As A writes Adam, on its average of slip 13, a rate 100 times smaller makes steps 10 times smaller."""
    slow, fast = (
        _walk(Optimizer, steps=optimizers.NOTED_ADAM_STEPS, lr=lr, betas=(BETA, 0.9)) for lr in (LR / 100, LR)
    )
    agree = close(10 * slow, fast, "30 steps of 5 weights, times 10")
    by_torch = [_walk(torch.optim.Adam, lr=lr, betas=(BETA, 0.9), eps=EPS) for lr in (LR / 100, LR)]
    torchs = close(100 * by_torch[0], by_torch[1], "torch's, times 100")
    return Found(agree.holds and torchs.holds, f"{agree.figure}; {torchs.figure}")


@exact("slip 11")
def adam_made_in_update_forgets_its_averages() -> Found:
    """Adam made anew in each update() always steps by lr·g/(|g| + eps), as at the first step; made once it does not."""
    lost, kept = (_updates(anew) for anew in (True, False))
    return Found(lost.holds and not kept.holds, f"made anew, {lost.figure}; made once, {kept.figure}")


def _updates(anew: bool) -> Found:
    """Whether 10 updates of the digits' model with Adam take the steps lr·g/(|g| + eps)."""
    model, x, y = Mnist_Logistic().double(), torch.rand(64, 784, dtype=torch.float64), torch.randint(10, (64,))
    weight, opt = model.lin.weight, torch.optim.Adam(model.parameters(), LR)
    steps, wanted = [], []
    for _ in range(10):
        before = weight.detach().clone()
        (g,) = torch.autograd.grad(cross_entropy(model(x), y), weight)
        update_with(torch.optim.Adam(model.parameters(), LR) if anew else opt, model, x, y)
        steps.append(weight.detach() - before)
        wanted.append(-LR * g / (g.abs() + EPS))
    return close(torch.stack(steps), torch.stack(wanted), "78,400 steps", tolerance=1e-9)


@exact("66a")
def adam_made_anew_for_each_batch_is_sign_descent() -> Found:
    """Adam re-created for each step moves by lr against the gradient's sign, whatever the gradient's size."""
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    for w.grad in _gradients():
        torch.optim.Adam([w], lr=LR).step()
    signs = -LR * _gradients().sign().sum(0)
    return close(w.detach(), signs, "5 weights after 30 steps", tolerance=1e-6)


def _steps(*gradients: float) -> list[float]:
    """The mean step of RMSprop over 30 steps, for parameters with one gradient each, always the same."""
    w = torch.zeros(len(gradients), dtype=torch.float64)
    w.grad = torch.tensor(gradients, dtype=torch.float64)
    optimizer = torch.optim.RMSprop([w], lr=LR, alpha=0.9)
    for _ in range(30):
        optimizer.step()
    return (-w / 30).tolist()


@exact("72a", expected=False)
def the_smaller_the_gradients_the_bigger_the_steps() -> Found:
    """The smaller a parameter's gradients always are, the bigger are its steps under RMSprop."""
    small, large = _steps(1e-3, 1.0)
    return Found(small > 1.001 * large, f"gradients of .001 step {small:.4f}, gradients of 1 step {large:.4f}")


@exact("72b")
def the_smaller_the_gradients_the_bigger_the_steps_for_their_size() -> Found:
    """The smaller a parameter's gradients always are, the bigger are its steps relative to the gradient."""
    small, large = _steps(1e-3, 1.0)
    ratio = (small / 1e-3) / (large / 1.0)
    return Found(ratio > 900, f"gradients of .001 step {ratio:.4g} times as far for their size as gradients of 1")


@exact("75", by_construction=True, source=ADAMW)
def the_learner_uses_adam_unless_told_otherwise() -> Found:
    """A learner built without naming an optimizer takes the steps of torch.optim.AdamW (β1 0.9, β2 0.99)."""
    data = load_movielens(valid_rows=range(64, 100_000))  # 64 training rows: a single batch
    learn = collab_learner(data, n_factors=4, wd=0.01, backend="reference", quiet=True)
    twin = copy.deepcopy(learn.model)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.01)
    for _ in range(3):  # the first step alone is the same for all betas
        optimizer.zero_grad()
        mse_loss(twin(data.train.users, data.train.items), data.train.ratings).backward()
        optimizer.step()
    learn.fit(3, 0.1)
    moved = [torch.cat([table.detach().ravel() for table in model.parameters()]) for model in (learn.model, twin)]
    return close(moved[0], moved[1], f"{len(moved[0])} parameters after three steps at rate 0.1", tolerance=1e-4)


def _schedules() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Rate and momentum of 1000 steps of one-cycle, float64[1000] each: the lesson's, and torch's as a witness."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=1000)
    theirs = []
    for _ in range(1000):
        theirs.append([optimizer.param_groups[0][name] for name in ("lr", "momentum")])
        optimizer.step()
        scheduler.step()
    return [("the lesson's", *one_cycle(1000, 5e-3)), ("torch's", *np.transpose(theirs))]


def _turns(values: np.ndarray) -> tuple[int, str]:
    """The step at which a schedule turns, and which way it goes, all the way: "up, down", "down, up" or ""."""
    turn = int(np.abs(values - values[0]).argmax())
    ways = [np.unique(np.sign(np.diff(part))).tolist() for part in (values[: turn + 1], values[turn:])]
    return turn, {"[[1.0], [-1.0]]": "up, down", "[[-1.0], [1.0]]": "down, up"}.get(str(ways), "")


def _ends_and_turn(name: str, values: np.ndarray) -> str:
    turn, _ = _turns(values)
    return f"{name} {values[0]:.2g} → {values[turn]:.2g} at step {turn} → {values[-1]:.2g}"


@exact("76a")
def the_rate_of_one_cycle_goes_low_high_low() -> Found:
    """The rate of one-cycle starts low, rises to its maximum, and falls to less than it started with."""
    rates = {name: lr for name, lr, _ in _schedules()}
    shaped = [_turns(lr)[1] == "up, down" and bool(lr[-1] < lr[0] < lr.max() == 5e-3) for lr in rates.values()]
    return Found(all(shaped), "; ".join(_ends_and_turn(name, lr) for name, lr in rates.items()))


@exact("76b")
def the_momentum_of_one_cycle_mirrors_the_rate() -> Found:
    """Momentum starts high, falls while the rate rises, and rises while it falls; both turn at one step."""
    schedules = _schedules()
    turns = [(_turns(lr)[0], "down, up") == _turns(momentum) for _, lr, momentum in schedules]
    text = "; ".join(_ends_and_turn(name, momentum) for name, _, momentum in schedules)
    return Found(all(turns), text)
