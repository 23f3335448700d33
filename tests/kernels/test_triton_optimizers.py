"""The dense steps over lists of tensors against torch's optimizers in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.optimizers import triton_kernels as optimizers
from tests.kernels.tolerance import assert_within_rounding
from tests.kernels.triton_device import DEVICE, MARKS, stores_in_bf16_round_to_nearest, uninitialized_memory_is_nan  # noqa: F401

pytestmark = MARKS

NAMES = ["sgd", "momentum", "rmsprop", "adam"]
AVERAGES, SQUARES = ("momentum", "adam"), ("rmsprop", "adam")
SCHEDULE = [(1e-3, 0.95), (4e-3, 0.9), (1e-2, 0.85)]  # lr and β1, as under one-cycle
BETA2, EPS = 0.99, 1e-5


def tensors(
    sizes: list[int], dtype: torch.dtype, steps: int = len(SCHEDULE)
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Weights, and a gradient for each at every step."""
    draw = torch.Generator().manual_seed(3)
    weights = [(0.01 * torch.randn(n, generator=draw, dtype=torch.float64)).to(dtype) for n in sizes]
    return weights, [
        [torch.randn(n, generator=draw, dtype=torch.float64).to(dtype) for n in sizes] for _ in range(steps)
    ]


def stepped(
    name: str, weights: list[Tensor], grads: list[list[Tensor]], weight_decay: float, decoupled: bool
) -> dict[str, list[Tensor]]:
    state = torch.float64 if weights[0].dtype == torch.float64 else torch.float32
    out = {"weights": [weight.to(DEVICE, copy=True) for weight in weights]}
    if name in AVERAGES:
        out["exp_avgs"] = [torch.zeros_like(weight, dtype=state) for weight in out["weights"]]
    if name in SQUARES:
        out["exp_avg_sqs"] = [torch.zeros_like(weight, dtype=state) for weight in out["weights"]]
    for step, ((lr, beta1), grad) in enumerate(zip(SCHEDULE, grads, strict=False), 1):
        optimizers.step_(
            name, grads=[g.to(DEVICE) for g in grad], **out, lr=lr, beta1=beta1, beta2=BETA2, eps=EPS,
            weight_decay=weight_decay, step=step, decoupled=decoupled,
        )  # fmt: skip
    return out


def expected(
    name: str, weight: Tensor, grads: list[Tensor], weight_decay: float, decoupled: bool
) -> tuple[Tensor, Tensor]:
    """The weight after torch's steps in float64, and the sum of the absolute values of its terms."""
    param = weight.double().clone().requires_grad_()
    l2 = 0.0 if decoupled else weight_decay
    optimizer = {
        "sgd": lambda: torch.optim.SGD([param], weight_decay=l2),
        "momentum": lambda: torch.optim.SGD([param], momentum=0.5, weight_decay=l2),
        "rmsprop": lambda: torch.optim.RMSprop([param], alpha=BETA2, eps=EPS, weight_decay=l2),
        "adam": lambda: (torch.optim.AdamW if decoupled else torch.optim.Adam)(
            [param], eps=EPS, weight_decay=weight_decay
        ),
    }[name]()
    mean, square, magnitude = torch.zeros_like(param), torch.zeros_like(param), param.detach().abs()
    for step, ((lr, beta1), grad) in enumerate(zip(SCHEDULE, grads, strict=False), 1):
        optimizer.param_groups[0].update(lr=lr, momentum=beta1 if name == "momentum" else 0.0, betas=(beta1, BETA2))
        param.grad = grad.double()
        size = param.grad.abs() + l2 * param.detach().abs()
        square = BETA2 * square + (1 - BETA2) * (param.grad + l2 * param.detach()) ** 2
        mean = beta1 * mean + (size if name == "momentum" else (1 - beta1) * size)
        if decoupled and name != "adam":  # only AdamW decays so by itself
            with torch.no_grad():
                param.mul_(1 - lr * weight_decay)
        optimizer.step()
        moved = mean / (1 - beta1**step) if name == "adam" else mean if name == "momentum" else size
        if name in SQUARES:
            moved = moved / ((square / (1 - BETA2**step if name == "adam" else 1)).sqrt() + EPS)
        magnitude = magnitude + lr * moved
    return param.detach(), magnitude.detach()


def assert_steps(
    out: list[Tensor], name: str, weights: list[Tensor], grads: list[list[Tensor]], **decay: object
) -> None:
    for n, (weight, mine) in enumerate(zip(weights, out, strict=True)):
        ref, magnitude = expected(name, weight, [grad[n] for grad in grads], **decay)
        # In each step, ten operations round between the gradient and the weight.
        assert_within_rounding(mine.cpu(), ref, 10 * len(grads), magnitude)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_steps_of_several_tensors_follow_torchs_in_float64(name: str, decoupled: bool, weight_decay: float) -> None:
    sizes = [1, 37, 2 * optimizers.BLOCK, optimizers.BLOCK + 1]
    weights, grads = tensors(sizes, torch.float32)
    decay = {"weight_decay": weight_decay, "decoupled": decoupled}
    assert_steps(stepped(name, weights, grads, **decay)["weights"], name, weights, grads, **decay)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_weights_in_other_dtypes_are_rounded_once_a_step(name: str, dtype: torch.dtype) -> None:
    weights, grads = tensors([40, 3], dtype, steps=1)
    decay = {"weight_decay": 0.1, "decoupled": True}
    assert_steps(stepped(name, weights, grads, **decay)["weights"], name, weights, grads, **decay)


def test_more_tensors_than_a_launch_takes_and_empty_ones_are_all_stepped() -> None:
    sizes = [5, 0, *range(1, optimizers.TENSORS + 3)]
    weights, grads = tensors(sizes, torch.float32)
    decay = {"weight_decay": 0.1, "decoupled": True}
    assert_steps(stepped("adam", weights, grads, **decay)["weights"], "adam", weights, grads, **decay)


def test_the_four_tables_of_a_model_take_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    launches = []
    monkeypatch.setattr(optimizers, "_launch", lambda *arguments: launches.append(arguments))
    weights, grads = tensors([944, 1683, 40, 40], torch.float32, steps=1)
    optimizers.step_("sgd", weights, grads[0], lr=0.1)
    assert len(launches) == 1


def test_tensors_of_two_dtypes_are_stepped_in_one_call() -> None:
    weights, grads = tensors([7, 9], torch.float32, steps=1)
    weights[1], grads[0][1] = weights[1].double(), grads[0][1].double()
    out = [weight.to(DEVICE, copy=True) for weight in weights]
    optimizers.step_("sgd", out, [g.to(DEVICE) for g in grads[0]], lr=SCHEDULE[0][0])
    assert_steps(out, "sgd", weights, grads, weight_decay=0.0, decoupled=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_that_does_not_move_fails(name: str) -> None:
    weights, grads = tensors([50], torch.float32)
    with pytest.raises(AssertionError, match="worst at"):
        assert_steps(weights, name, weights, grads, weight_decay=0.1, decoupled=True)


def test_a_list_that_is_too_short_is_refused() -> None:
    weights, grads = tensors([5, 5], torch.float32, steps=1)
    with pytest.raises(ValueError, match="shorter"):
        optimizers.step_("momentum", weights, grads[0], weights[:1], lr=0.1)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("momentum", {"exp_avgs": ()}, "momentum needs exp_avg"),
        ("rmsprop", {"exp_avg_sqs": ()}, "rmsprop needs exp_avg_sq"),
        ("adam", {"exp_avg_sqs": ()}, "adam needs exp_avg_sq"),
        ("sgd", {"grads": [torch.zeros(2)]}, "different shapes"),
        ("adam", {"exp_avgs": [torch.zeros(1, 4)]}, "different shapes"),
        ("sgd", {"weights": [torch.zeros(2, 4)[:, :2]], "grads": [torch.zeros(2, 2)]}, "not contiguous"),
    ],
)
def test_tensors_that_a_step_cannot_take_are_refused(name: str, change: dict[str, object], complaint: str) -> None:
    given = {"weights": [torch.zeros(4)], "grads": [torch.zeros(4)]}
    if name != "sgd":
        given |= {"exp_avgs": [torch.zeros(4)], "exp_avg_sqs": [torch.zeros(4)]}
    with pytest.raises(ValueError, match=complaint):
        optimizers.step_(name, **(given | change), lr=0.1)
