"""Each benchmark's accuracy check accepts its baseline and refuses what only looks right."""

from __future__ import annotations

import pytest
import torch

from bench import test_adam, test_dot_bias, test_dot_bias_loss, test_lookup, test_optimizers, training
from bench.eager import ITEMS, USERS, WIDTH
from bench.harness import DEVICE, InaccurateError, check_accuracy


def wrong(results, slip, which):
    """The results of an implementation with a slip in one of them; None is no slip."""
    results = [result.detach().clone() for result in results]
    slipped = results[which]
    largest = slipped.abs().argmax()
    if slip == "zeros":
        slipped.zero_()
    elif slip == "half precision":
        slipped.copy_(slipped.half())
    elif slip == "one element off by a thousandth":
        slipped.view(-1)[largest] *= 1.001
    elif slip == "one element not a number":
        slipped.view(-1)[largest] = torch.nan
    return results


SLIPS = ["zeros", "half precision", "one element off by a thousandth", "one element not a number"]


def lookup_checks(slip=None, which=0):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, (64,), generator=generator)
    weight = torch.randn(10, 5, generator=generator).requires_grad_()
    upstream = torch.randn(64, 5, generator=generator)
    results = test_lookup.lookup_call("one_hot_matmul", ids, weight, upstream)()
    return test_lookup.accuracy(wrong(results, slip, which), ids, weight, upstream)


def dot_bias_checks(slip=None, which=0, sigma=0.3):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(rows, (64,), generator=generator) for rows in (USERS, ITEMS)]
    shapes = [(USERS, WIDTH), (ITEMS, WIDTH), (USERS,), (ITEMS,)]
    tables = [sigma * torch.randn(*shape, generator=generator) for shape in shapes]
    upstream = torch.randn(64, generator=generator)
    learning = [table.clone().requires_grad_() for table in tables]
    results = test_dot_bias.dot_bias_call("eager", ids, learning, upstream)()
    return test_dot_bias.accuracy(wrong(results, slip, which), ids, tables, upstream)


def dot_bias_loss_checks(slip=None, which=0):
    ids, ratings, tables = test_dot_bias_loss.problem(64)
    learning = [table.clone().requires_grad_() for table in tables]
    results = test_dot_bias_loss.loss_call("eager", ids, ratings, learning)()
    return test_dot_bias_loss.accuracy(wrong(results, slip, which), ids, ratings, tables)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the results stand on the CPU")
@pytest.mark.parametrize("checks", [lookup_checks, dot_bias_checks, dot_bias_loss_checks])
def test_a_correct_result_passes_with_room(checks):
    check_accuracy(checks())


@pytest.mark.skipif(DEVICE.type != "cpu", reason="the results stand on the CPU")
@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize(
    ("checks", "which"),
    [(lookup_checks, n) for n in range(2)]
    + [(c, n) for c in (dot_bias_checks, dot_bias_loss_checks) for n in range(5)],
)
def test_a_wrong_result_among_right_ones_is_refused(checks, which, slip):
    with pytest.raises(InaccurateError):
        check_accuracy(checks(slip, which))


def test_scores_without_the_dot_product_are_refused_at_the_lessons_initialization():
    # With σ = .01 every dot product is tiny, and sigmoid(0) nearly right.
    checks = dot_bias_checks(sigma=0.01)
    scores = checks["scores"]
    with pytest.raises(InaccurateError):
        check_accuracy({"scores": scores._replace(actual=torch.full_like(scores.actual, 2.75))})


def small_states():
    generator = torch.Generator().manual_seed(0)
    states = []
    for shape in [(9, 4), (7, 4), (9,), (7,)]:
        param, grad, mean, square = (0.1 * torch.randn(4, *shape, generator=generator)).unbind()
        states.append([param, grad, mean, square.square()])
    return states


@pytest.mark.parametrize("implementation", [*test_adam.TORCH, "reference"])
def test_a_correct_step_passes(implementation):
    states = small_states()
    check_accuracy(test_adam.accuracy(test_adam.one_step(implementation, states), states))


def test_a_step_that_does_nothing_is_refused():
    states = small_states()
    with pytest.raises(InaccurateError):
        check_accuracy(test_adam.accuracy(states, states))


@pytest.mark.parametrize(("name", "value"), [("STEP", 11), ("WD", 0.0), ("LR", 5.001e-3)])
def test_a_step_with_another_constant_is_refused(monkeypatch, name, value):
    states = small_states()
    with monkeypatch.context() as patch:
        patch.setattr(test_adam, name, value)
        stepped = test_adam.one_step("torch loop", states)
    with pytest.raises(InaccurateError):
        check_accuracy(test_adam.accuracy(stepped, states))


@pytest.mark.parametrize("op", test_optimizers.OPTIMIZERS)
def test_the_lessons_optimizers_are_torchs(op):
    case = next(case for case in test_optimizers.cases("smoke") if (case.op, case.implementation) == (op, "lesson"))
    generator = torch.Generator().manual_seed(0)
    tables, grads = ([0.1 * torch.randn(30, 4, generator=generator) for _ in range(4)] for _ in range(2))
    check_accuracy(test_optimizers.accuracy(case, tables, grads))


def test_an_optimizer_that_forgets_its_state_is_refused(monkeypatch):
    case = next(
        case for case in test_optimizers.cases("smoke") if (case.op, case.implementation) == ("momentum", "lesson")
    )
    tables, grads = ([torch.full((3, 4), 0.1) for _ in range(4)] for _ in range(2))
    forgetful = lambda params, lr, momentum: test_optimizers.optimizers.SGD(params, lr)  # noqa: E731
    torchs, settings, _, lesson_settings = test_optimizers.OPTIMIZERS["momentum"]
    monkeypatch.setitem(test_optimizers.OPTIMIZERS, "momentum", (torchs, settings, forgetful, lesson_settings))
    with pytest.raises(InaccurateError):
        check_accuracy(test_optimizers.accuracy(case, tables, grads))


def step_of(op, implementation):
    """A case of the optimizers' benchmark."""
    return next(c for c in test_optimizers.cases("default") if (c.op, c.implementation) == (op, implementation))


def test_eight_bits_that_lose_a_tenth_of_the_way_are_refused(monkeypatch):
    """Averages of eight significant bits pass; those of an optimizer without them do not."""
    tables, grads = test_optimizers.drawn_tables()
    case = step_of("AdamW", "bitsandbytes 8-bit")
    monkeypatch.setattr(test_optimizers, "eight_bit", lambda op, params, lr: RoundedAdamW(params, lr, weight_decay=0.1))
    check_accuracy(test_optimizers.accuracy(case, tables, grads))
    monkeypatch.setattr(test_optimizers, "eight_bit", lambda op, params, lr: torch.optim.SGD(params, lr))
    with pytest.raises(InaccurateError):
        check_accuracy(test_optimizers.accuracy(case, tables, grads))


class RoundedAdamW(test_optimizers.optimizers.Optimizer):
    """The lesson's AdamW, with its averages rounded to bfloat16 after each step."""

    def __init__(self, params, lr, weight_decay):
        settings = {"betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": weight_decay}
        super().__init__(params, test_optimizers.optimizers.ADAMW_STEPS, lr, **settings)

    def step(self, closure=None):
        super().step(closure)
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].bfloat16().float()


@pytest.mark.slow
@pytest.mark.parametrize("op", test_optimizers.BEST_LR)
def test_a_step_is_judged_at_the_optimizers_best_rate(op):
    """Neither three times the rate nor a third of it reaches a lower loss."""
    best = test_optimizers.BEST_LR[op]
    losses = {lr: test_optimizers.trained(op, "torch loop", lr)[1] for lr in (best / 3, best, best * 3)}
    assert min(losses, key=losses.get) == best


def test_state_counts_every_tensor_that_an_optimizer_keeps():
    """Adam's two averages, and torch's step in four bytes; plain SGD keeps nothing."""
    weight = torch.nn.Parameter(torch.zeros(30, 4))
    weight.grad = torch.ones_like(weight)
    sizes = []
    for kind in (torch.optim.SGD, torch.optim.Adam):
        optimizer = kind([weight])
        optimizer.step()
        sizes.append(test_optimizers.state_bytes(optimizer))
    assert sizes == [0, 2 * 4 * 30 * 4 + 4]


# In the hundredth step folding begins: 200 steps see it.
@pytest.mark.parametrize(
    "implementation",
    [
        pytest.param(name, marks=pytest.mark.slow if any(way in name for way in ("hugectr", "caffe2", "skip")) else ())
        for name in training.MODES
    ],
)
def test_a_native_epoch_is_as_near_the_float64_trajectory_as_eager(implementation):
    check_accuracy(training.accuracy(implementation, 16, training.drawn_ratings(3200)))


@pytest.mark.slow
def test_an_approximation_of_adam_is_refused_where_dense_adam_is_promised(monkeypatch):
    monkeypatch.setitem(training.MODES, "native", "caffe2")
    with pytest.raises(InaccurateError):
        check_accuracy(training.accuracy("native", 64, training.drawn_ratings(640)))


@pytest.mark.parametrize("slip", [{"beta2": 0.999}, {"wd": 0.0}, {"eps": 1e-3}])
def test_an_epoch_with_another_constant_is_refused(monkeypatch, slip):
    right = training.fused_trainer
    monkeypatch.setattr(training, "fused_trainer", lambda *args, **kwargs: right(*args, **(kwargs | slip)))
    with pytest.raises(InaccurateError):
        check_accuracy(training.accuracy("native", 64, training.drawn_ratings(640)))
