"""The Triton kernels against float64: in the interpreter, or on a GPU with -m gpu."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime import interpreter

from kernels.adam import triton_kernels as adam
from kernels.dot_bias import reference
from kernels.dot_bias import triton_kernels as dot_bias
from kernels.optimizers import triton_kernels as optimizers
from tests.kernels.grids import one_in
from tests.kernels.tolerance import assert_within_rounding
from tests.kernels.triton_device import DEVICE, MARKS, stores_in_bf16_round_to_nearest, uninitialized_memory_is_nan  # noqa: F401

pytestmark = MARKS

STEPS = dot_bias.STEPS
SIZES = [(1, 33), (7, 1), (37, 65), (40, 65), (50, 17), (64, 33)]  # factors, ratings
RANGES = [None, (0.0, 5.5)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


class Batch(NamedTuple):
    users: Tensor
    items: Tensor
    user_weight: Tensor
    item_weight: Tensor
    user_bias: Tensor
    item_bias: Tensor

    def on_device(self) -> list[Tensor]:
        return [tensor.to(DEVICE) for tensor in self]

    def in_double(self) -> Batch:
        return Batch(self.users, self.items, *(table.double() for table in self[2:]))

    def magnitudes(self) -> Batch:
        return Batch(self.users, self.items, *(table.double().abs() for table in self[2:]))


def ratings(
    k: int, batch: int, n_users: int = 20, sigma: float = 1.0, dtype: torch.dtype = torch.float32
) -> tuple[Batch, Tensor]:
    """A batch and a gradient for its scores. Items outnumber users, so that some rows stay untouched."""
    draw = torch.Generator().manual_seed(k * 1000 + batch)
    n_items = 2 * batch + 3

    def normal(*shape: int) -> Tensor:
        return (sigma * torch.randn(*shape, generator=draw, dtype=torch.float64)).to(dtype)

    users = torch.randint(n_users, (batch,), generator=draw)
    items = torch.randint(n_items, (batch,), generator=draw)
    tables = normal(n_users, k), normal(n_items, k), normal(n_users), normal(n_items)
    return Batch(users, items, *tables), normal(batch)


def assert_scores(out: Tensor, data: Batch, y_range: reference.YRange) -> None:
    k = data.user_weight.shape[1]
    magnitude = reference.forward(*data.magnitudes(), None)
    if y_range is not None:  # the sigmoid's slope is what it passes on of the error below it
        low, high = y_range
        sigmoid = reference.forward(*data.in_double(), (0.0, 1.0))
        magnitude = (high - low) * (sigmoid * (1 - sigmoid) * magnitude + sigmoid) + abs(low)
    assert_within_rounding(out, reference.forward(*data.in_double(), y_range), k + 4, magnitude)


def errors(rating: Tensor, data: Batch, y_range: reference.YRange) -> tuple[Tensor, Tensor]:
    """Scores minus ratings in float64, and the sum of the absolute terms of each."""
    # An error is a difference: it rounds as the score and the rating do. The sigmoid multiplies the score's rounding by
    # its slope, which is below ¼ and changes by less than itself.
    dot = reference.forward(*data.magnitudes(), None)
    spread = dot if y_range is None else (y_range[1] - y_range[0]) * (dot + 1)
    return reference.forward(*data.in_double(), y_range) - rating.double(), spread + rating.double().abs()


def assert_loss(mean: Tensor, rating: Tensor, data: Batch, y_range: reference.YRange) -> None:
    error, spread = errors(rating, data, y_range)
    terms = data.user_weight.shape[1] + 8 + len(rating)
    assert mean.dtype == reference.arithmetic(data.user_weight.dtype)
    assert_within_rounding(mean, error.square().mean(), terms, 2 * (error.abs() * spread + error**2).mean())


def assert_loss_gradients(
    gradients: tuple[Tensor, ...], rating: Tensor, data: Batch, y_range: reference.YRange
) -> None:
    error, spread = errors(rating, data, y_range)
    slope = torch.full_like(error, 2 / len(error))
    if y_range is not None:
        x = reference.forward(*data.in_double(), None)
        slope *= (y_range[1] - y_range[0]) * x.sigmoid() * (-x).sigmoid()
    weighed = slope * (spread + error.abs() * (reference.forward(*data.magnitudes(), None) + 1))
    bounds = reference.backward(weighed, *data.magnitudes(), None)
    expected = reference.backward(error * slope, *data.in_double(), None)
    names = ("d_user_weight", "d_item_weight", "d_user_bias", "d_item_bias")
    for name, out, ref, bound, rows in zip(names, gradients, expected, bounds, data[:2] * 2, strict=True):
        terms = torch.bincount(rows, minlength=len(ref)).double() + data.user_weight.shape[1] + 8
        assert out.dtype == reference.arithmetic(data.user_weight.dtype), name
        assert_within_rounding(out, ref, terms[:, None] if ref.ndim == 2 else terms, bound)


def assert_gradients(gradients: tuple[Tensor, ...], grad: Tensor, data: Batch, y_range: reference.YRange) -> None:
    magnitudes, double, grad = data.magnitudes(), data.in_double(), grad.double()
    weighed = grad.abs()
    if y_range is not None:
        score = reference.forward(*double, None)
        # σ(x)·σ(−x): the reference's σ·(1 − σ) cancels where the sigmoid saturates, in float64 too.
        slope = (y_range[1] - y_range[0]) * score.sigmoid() * (-score).sigmoid()
        score_error = 4 + (data.user_weight.shape[1] + 2) * reference.forward(*magnitudes, None)
        grad, weighed = grad * slope, weighed * slope * (1 + score_error)
    bounds = reference.backward(weighed, *magnitudes, None)
    expected = reference.backward(grad, *double, None)
    names = ("d_user_weight", "d_item_weight", "d_user_bias", "d_item_bias")
    for name, out, ref, bound, rows in zip(names, gradients, expected, bounds, data[:2] * 2, strict=True):
        terms = torch.bincount(rows, minlength=len(ref)).double() + 1
        assert out.dtype == data.user_weight.dtype, name
        assert_within_rounding(out, ref, terms[:, None] if ref.ndim == 2 else terms, bound)


@pytest.mark.parametrize("y_range", RANGES)
@pytest.mark.parametrize("size", SIZES)
def test_scores_are_within_rounding_of_float64(size: tuple[int, int], y_range: reference.YRange) -> None:
    data, _ = ratings(*size)
    assert_scores(dot_bias.forward(*data.on_device(), y_range), data, y_range)


@pytest.mark.parametrize(
    ("size", "y_range", "dtype"),
    one_in(5, [(7, 1), (37, 65), (40, 33)], RANGES, DTYPES),
)
def test_the_loss_alone_is_within_rounding_of_float64(
    size: tuple[int, int], y_range: reference.YRange, dtype: torch.dtype
) -> None:
    data, rating = ratings(*size, dtype=dtype)
    users, items, *tables = data.on_device()
    assert_loss(dot_bias.loss(users, items, rating.to(DEVICE), *tables, y_range), rating, data, y_range)


@pytest.mark.parametrize(
    ("case", "deterministic"),
    one_in(
        3,
        [  # factors, ratings, users, dtype, y_range
            *((37, 65, 20, dtype, (0.5, 5.5)) for dtype in DTYPES),
            (37, 65, 20, torch.float32, None),
            (37, 65, 20, torch.float64, None),
            (7, 1, 20, torch.float32, (0.5, 5.5)),
            (40, 65, 3, torch.float32, (0.5, 5.5)),
            (40, 65, 3, torch.bfloat16, None),
            (1, 40, 1, torch.float32, (0.5, 5.5)),
            (1000, 40, 3, torch.float32, (0.5, 5.5)),
            (1000, 40, 3, torch.float16, None),
        ],
        [True, False],
    ),
)
def test_the_loss_with_its_gradients_is_within_rounding_of_float64(
    case: tuple[int, int, int, torch.dtype, reference.YRange], deterministic: bool
) -> None:
    k, batch, n_users, dtype, y_range = case
    data, rating = ratings(k, batch, n_users, dtype=dtype)
    users, items, *tables = data.on_device()
    mean, *gradients = dot_bias.loss_and_gradients(
        users, items, rating.to(DEVICE), *tables, y_range, deterministic=deterministic
    )
    assert_loss(mean, rating, data, y_range)
    assert_loss_gradients(tuple(gradients), rating, data, y_range)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_loss_of_an_empty_batch_is_nan_as_torchs_and_its_gradients_are_zero(deterministic: bool) -> None:
    data, rating = ratings(4, 0)
    users, items, *tables = data.on_device()
    assert dot_bias.loss(users, items, rating.to(DEVICE), *tables, None).isnan()
    mean, *gradients = dot_bias.loss_and_gradients(
        users, items, rating.to(DEVICE), *tables, None, deterministic=deterministic
    )
    assert mean.isnan()
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, -0.3])
def test_gradients_are_scaled_in_place(factor: float, dtype: torch.dtype) -> None:
    tables = [table.to(DEVICE, dtype) for table in ratings(37, 40, n_users=70)[0][2:]]  # 2,590 and 3,071 weights
    by = torch.tensor(factor, dtype=dtype, device=DEVICE)
    expected = [table * by for table in tables]
    dot_bias.scale_(tables, by)
    assert all(torch.equal(*pair) for pair in zip(tables, expected, strict=True))


@pytest.mark.parametrize(("size", "y_range", "deterministic"), one_in(5, SIZES, RANGES, [True, False]))
def test_gradients_are_within_rounding_of_float64(
    size: tuple[int, int], y_range: reference.YRange, deterministic: bool
) -> None:
    data, grad = ratings(*size)
    gradients = dot_bias.backward(grad.to(DEVICE), *data.on_device(), y_range, deterministic)
    assert_gradients(gradients, grad, data, y_range)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_storage_in_other_dtypes_is_rounded_once(dtype: torch.dtype) -> None:
    data, grad = ratings(40, 33, n_users=2, dtype=dtype)
    assert_scores(dot_bias.forward(*data.on_device(), (0.0, 5.5)), data, (0.0, 5.5))
    for deterministic in (True, False):
        gradients = dot_bias.backward(grad.to(DEVICE), *data.on_device(), (0.0, 5.5), deterministic)
        assert_gradients(gradients, grad, data, (0.0, 5.5))


def test_sorted_sums_have_the_same_bits_at_every_call() -> None:
    data, grad = ratings(7, 70, n_users=2)
    users, items, *tables = data.on_device()
    for call in (
        partial(dot_bias.backward, grad.to(DEVICE), users, items, *tables, (0.0, 5.5)),
        partial(dot_bias.loss_and_gradients, users, items, grad.to(DEVICE), *tables, (0.0, 5.5)),
    ):
        assert all(torch.equal(*pair) for pair in zip(call(), call(), strict=True))


def test_gradients_of_a_batch_that_is_all_one_user_add_up_across_many_walkers() -> None:
    data, grad = ratings(5, 70 * STEPS + 3, n_users=1)  # more walkers than _join takes at once
    users, items, *tables = data.on_device()
    assert_gradients(dot_bias.backward(grad.to(DEVICE), users, items, *tables, None), grad, data, None)
    mean, *gradients = dot_bias.loss_and_gradients(users, items, grad.to(DEVICE), *tables, (0.0, 5.5))
    assert_loss(mean, grad, data, (0.0, 5.5))
    assert_loss_gradients(tuple(gradients), grad, data, (0.0, 5.5))


lengths = st.lists(st.sampled_from([1, 2, STEPS - 1, STEPS, STEPS + 1, 3 * STEPS]), min_size=1, max_size=8)


@settings(max_examples=5, deadline=None)
@given(users=lengths, items=lengths, seed=st.integers(0, 99))
def test_every_rating_counts_once_however_segments_fall(users: list[int], items: list[int], seed: int) -> None:
    # Small integers add up exactly in float32, in any order.
    draw = torch.Generator().manual_seed(seed)
    batch = min(sum(users), sum(items))
    ids = [
        torch.arange(len(n)).repeat_interleave(torch.tensor(n))[:batch][torch.randperm(batch, generator=draw)]
        for n in (users, items)
    ]
    shapes = (len(users), 3), (len(items), 3), (len(users),), (len(items),)
    data = Batch(*ids, *(torch.randint(-3, 4, shape, generator=draw).float() for shape in shapes))
    grad = torch.randint(-3, 4, (batch,), generator=draw).float()
    expected = reference.backward(grad, *data, None)
    for out, ref in zip(dot_bias.backward(grad.to(DEVICE), *data.on_device(), None), expected, strict=True):
        torch.testing.assert_close(out.cpu(), ref, rtol=0, atol=0)
    # So do the loss's parts, halves or quarters or … of integers, where the batch is a power of two.
    batch = 1 << (batch.bit_length() - 1)
    data, rating = Batch(*(tensor[:batch] for tensor in data[:2]), *data[2:]), grad[:batch]
    expected = reference.loss_and_gradients(*data[:2], rating, *data[2:], None)
    of_batch, tables = data.on_device()[:2], data.on_device()[2:]
    for out, ref in zip(
        dot_bias.loss_and_gradients(*of_batch, rating.to(DEVICE), *tables, None), expected, strict=True
    ):
        torch.testing.assert_close(out.cpu(), ref, rtol=0, atol=0)


def test_an_expanded_gradient_and_transposed_tables_are_read_correctly() -> None:
    data, _ = ratings(8, 5)
    grad = torch.ones(1).expand(5)  # what sum() passes back
    users, items, user_weight, *rest = data.on_device()
    transposed = user_weight.t().contiguous().t()
    assert_scores(dot_bias.forward(users, items, transposed, *rest, None), data, None)
    gradients = dot_bias.backward(grad.to(DEVICE), users, items, transposed, *rest, None)
    assert all(gradient.is_contiguous() for gradient in gradients)
    assert_gradients(gradients, grad, data, None)
    _, *gradients = dot_bias.loss_and_gradients(users, items, grad.to(DEVICE), transposed, *rest, None)
    assert all(gradient.is_contiguous() for gradient in gradients)
    assert_loss_gradients(tuple(gradients), grad, data, None)


def test_an_empty_batch_has_no_scores_and_zero_gradients() -> None:
    data, grad = ratings(4, 0)
    assert dot_bias.forward(*data.on_device(), None).shape == (0,)
    assert not any(gradient.any() for gradient in dot_bias.backward(grad.to(DEVICE), *data.on_device(), (0.0, 5.5)))


@pytest.mark.skipif(DEVICE == "cuda", reason="a failed assertion on a GPU ends its context, and all later tests")
@pytest.mark.parametrize(("which", "name"), [(0, "users"), (1, "items")])
@pytest.mark.parametrize("wrong", [-1, "rows"])
def test_in_debug_mode_an_id_outside_its_table_fails_on_the_device(
    which: int, name: str, wrong: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TRITON_DEBUG=1 sets this where kernels are compiled.
    options = replace(interpreter.interpreter_builder.options, debug=True)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
    data, rating = ratings(5, 9)
    tensors = data.on_device()
    dot_bias.forward(*tensors, None)
    tensors[which][3] = len(tensors[which + 2]) if wrong == "rows" else wrong
    users, items, *tables = tensors
    for call in (
        partial(dot_bias.forward, *tensors, None),
        partial(dot_bias.loss, users, items, rating.to(DEVICE), *tables, None),
        partial(dot_bias.loss_and_gradients, users, items, rating.to(DEVICE), *tables, None),
        partial(dot_bias.loss_and_gradients, users, items, rating.to(DEVICE), *tables, None, deterministic=False),
    ):
        with pytest.raises(Exception, match=f"{name} holds an id outside its table"):
            call()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # 1 / (1 + inf) is the 0 that is wanted
def test_extreme_scores_saturate_at_the_ends_of_y_range() -> None:
    data, grad = ratings(4, 9, sigma=60.0)
    out = dot_bias.forward(*data.on_device(), (0.0, 5.5)).cpu()
    assert out.isfinite().all()
    assert out.min() < 1e-3
    assert out.max() > 5.499
    gradients = dot_bias.backward(grad.to(DEVICE), *data.on_device(), (0.0, 5.5))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_kernel_that_returns_zeros_fails_at_the_lessons_initialization() -> None:
    data, grad = ratings(40, 33, sigma=0.01)  # every dot product is below .003
    assert_scores(dot_bias.forward(*data.on_device(), None), data, None)
    with pytest.raises(AssertionError, match="worst at"):
        assert_scores(torch.zeros(33), data, None)
    zeros = tuple(torch.zeros_like(table) for table in data[2:])
    with pytest.raises(AssertionError, match="worst at"):
        assert_gradients(zeros, grad, data, None)


def test_a_loss_or_a_gradient_of_it_that_is_zero_fails_at_the_lessons_initialization() -> None:
    data, _ = ratings(40, 33, sigma=0.01)
    users, items, *tables = data.on_device()
    rating = reference.forward(*data, None) + 1e-4  # a nearly perfect fit
    mean, *gradients = dot_bias.loss_and_gradients(users, items, rating.to(DEVICE), *tables, None)
    assert_loss(mean, rating, data, None)
    assert_loss_gradients(tuple(gradients), rating, data, None)
    with pytest.raises(AssertionError, match="worst at"):
        assert_loss(torch.zeros(()), rating, data, None)
    for which in range(4):
        wrong = [torch.zeros_like(out) if n == which else out for n, out in enumerate(gradients)]
        with pytest.raises(AssertionError, match="worst at"):
            assert_loss_gradients(tuple(wrong), rating, data, None)


def test_the_failure_names_the_worst_element() -> None:
    ref = torch.ones(3, 4, dtype=torch.float64)
    out = ref.float()
    out[1, 2], out[0, 1] = 3.0, 2.0
    with pytest.raises(AssertionError, match=r"2 of 12 .* worst at \(1, 2\): 3\.0, expected 1\.0"):
        assert_within_rounding(out, ref, 1, ref)
    out[2, 3] = torch.nan
    with pytest.raises(AssertionError, match=r"worst at \(2, 3\): nan"):
        assert_within_rounding(out, ref, 1, ref)


# Adam


class Step(NamedTuple):
    """A step's hyperparameters; lr and beta1 move as under one-cycle."""

    lr: float
    beta1: float
    beta2: float = 0.99
    eps: float = 1e-5


SCHEDULE = [Step(1e-3, 0.95), Step(4e-3, 0.9), Step(1e-2, 0.85), Step(5e-3, 0.88), Step(1e-5, 0.95)]


def torch_adam(
    param: Tensor, grads: list[Tensor], weight_decay: float, decoupled: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """param, exp_avg and exp_avg_sq after torch's own float64 steps, and Σ|update| with |gradient| for gradient."""
    param = param.double().clone().requires_grad_()
    optimizer = (torch.optim.AdamW if decoupled else torch.optim.Adam)([param], weight_decay=weight_decay)
    moved, mean = torch.zeros_like(param), torch.zeros_like(param)
    for t, (step, grad) in enumerate(zip(SCHEDULE, grads, strict=False), 1):
        optimizer.param_groups[0].update(lr=step.lr, betas=(step.beta1, step.beta2), eps=step.eps)
        param.grad = grad.double()
        mean = step.beta1 * mean + (1 - step.beta1) * (grad.double().abs() + weight_decay * param.detach().abs())
        optimizer.step()
        root = (optimizer.state[param]["exp_avg_sq"] / (1 - step.beta2**t)).sqrt()
        moved = moved + step.lr / (1 - step.beta1**t) * mean / (root + step.eps)
    state = optimizer.state[param]
    return param.detach(), state["exp_avg"], state["exp_avg_sq"], moved.detach()


def triton_adam(
    param: Tensor, grads: list[Tensor], weight_decay: float, decoupled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    param = param.clone().to(DEVICE)
    state = torch.float64 if param.dtype == torch.float64 else torch.float32
    exp_avg, exp_avg_sq = torch.zeros_like(param, dtype=state), torch.zeros_like(param, dtype=state)
    for t, (step, grad) in enumerate(zip(SCHEDULE, grads, strict=False), 1):
        adam.step_(
            param, grad.to(DEVICE), exp_avg, exp_avg_sq,
            **step._asdict(), weight_decay=weight_decay, step=t, decoupled=decoupled,
        )  # fmt: skip
    return param, exp_avg, exp_avg_sq


def assert_adam(out: tuple[Tensor, ...], param: Tensor, grads: list[Tensor], **options: float | bool) -> None:
    ref_param, ref_avg, ref_avg_sq, moved = torch_adam(param, grads, **options)
    gradients = torch.stack([grad.double().abs() for grad in grads]).sum(0) + param.double().abs()
    operations = 10 * len(grads)  # ten roundings a step lie between a gradient and its parameter
    assert_within_rounding(out[1], ref_avg, operations, gradients)
    assert_within_rounding(out[2], ref_avg_sq, operations, ref_avg_sq)
    assert_within_rounding(out[0], ref_param, operations, param.double().abs() + moved)


def weights_and_gradients(shape: tuple[int, ...], steps: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    draw = torch.Generator().manual_seed(7)
    param, *grads = torch.randn(steps + 1, *shape, generator=draw, dtype=torch.float64).to(dtype)
    return 0.01 * param, grads


@pytest.mark.parametrize(
    ("shape", "dtype", "decoupled", "weight_decay"),
    one_in(5, [(1,), (37, 37), (2, optimizers.BLOCK)], [torch.float32, torch.float64], [True, False], [0.0, 0.1]),
)
def test_adam_follows_torchs_float64_steps_while_rate_and_beta_change(
    shape: tuple[int, ...], dtype: torch.dtype, decoupled: bool, weight_decay: float
) -> None:
    param, grads = weights_and_gradients(shape, len(SCHEDULE), dtype)
    options = {"weight_decay": weight_decay, "decoupled": decoupled}
    assert_adam(triton_adam(param, grads, **options), param, grads, **options)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_rounded_once_a_step_beside_float32_state(
    dtype: torch.dtype, decoupled: bool
) -> None:
    param, grads = weights_and_gradients((300,), 1, dtype)
    options = {"weight_decay": 0.1, "decoupled": decoupled}
    out = triton_adam(param, grads, **options)
    assert [tensor.dtype for tensor in out] == [dtype, torch.float32, torch.float32]
    assert_adam(out, param, grads, **options)


def test_weights_without_a_gradient_continue_to_move() -> None:
    param, (grad, *_) = weights_and_gradients((50,), 1, torch.float32)
    grads = [grad, *(torch.zeros(50) for _ in SCHEDULE[1:])]
    out = triton_adam(param, grads, weight_decay=0.1, decoupled=True)
    assert_adam(out, param, grads, weight_decay=0.1, decoupled=True)


def test_adam_reads_a_transposed_gradient_correctly() -> None:
    param, (grad, *_) = weights_and_gradients((5, 3), 1, torch.float32)
    options = {"weight_decay": 0.0, "decoupled": True}
    transposed = triton_adam(param, [grad.t().contiguous().t()], **options)
    for out, ref in zip(transposed, triton_adam(param, [grad], **options), strict=True):
        assert torch.equal(out, ref)


def test_an_adam_that_does_not_move_fails() -> None:
    param, grads = weights_and_gradients((50,), 1, torch.float32)
    _, exp_avg, exp_avg_sq = triton_adam(param, grads, weight_decay=0.1, decoupled=True)
    with pytest.raises(AssertionError, match="worst at"):
        assert_adam((param, exp_avg, exp_avg_sq), param, grads, weight_decay=0.1, decoupled=True)
