"""Deferred steps: replayed rows have the dense kernel's bits, folded ones the float64 step loop's values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels.optimizers import triton_deferred as deferred
from kernels.optimizers import triton_kernels as dense
from kernels.steps import constants as step_constants
from tests.kernels.grids import one_in
from tests.kernels.triton_device import DEVICE, MARKS, stores_in_bf16_round_to_nearest, uninitialized_memory_is_nan  # noqa: F401

pytestmark = MARKS

NAMES = ["sgd", "momentum", "rmsprop", "adam"]
AVERAGES, SQUARES = ("momentum", "adam"), ("rmsprop", "adam")
ROWS, K = 11, 5


def schedule(t: int, steps: int, **changes: float) -> dict[str, float]:
    """Step t's settings: rate and β1 move as under one-cycle."""
    up = math.sin(math.pi * t / (steps + 1))
    return {"lr": 1e-4 + 9e-3 * up, "beta1": 0.95 - 0.1 * up, "beta2": 0.99, "eps": 1e-5, "weight_decay": 0.1} | changes


def table(optimizer: str, dtype: torch.dtype, planes: bool = False) -> dict[str, Tensor | None]:
    """Weights and the optimizer's state, as planes of one array with rows of 8 numbers."""
    draw = torch.Generator().manual_seed(1)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    width = 8 if planes else K
    weight, exp_avg, exp_avg_sq = (
        torch.zeros(ROWS, width, dtype=kind, device=DEVICE)[:, :K] for kind in (dtype, state, state)
    )
    weight.copy_(0.01 * torch.randn(ROWS, K, generator=draw, dtype=torch.float64))
    return {
        "weight": weight,
        "exp_avg": exp_avg if optimizer in AVERAGES else None,
        "exp_avg_sq": exp_avg_sq if optimizer in SQUARES else None,
    }


def batches(steps: int) -> list[Tensor]:
    """The rows that each step reads: row 0 at every step, row 1 only at the first, the last row never."""
    draw = torch.Generator().manual_seed(2)
    return [
        torch.tensor(
            [0, *([1] if t == 1 else []), *(r for r in range(2, ROWS - 1) if torch.rand(1, generator=draw) < 0.2)]
        )
        for t in range(1, steps + 1)
    ]


def gradients(rows: Tensor, t: int, dtype: torch.dtype) -> Tensor:
    draw = torch.Generator().manual_seed(100 + t)
    return torch.randn(len(rows), K, generator=draw, dtype=torch.float64).to(DEVICE, dtype)


KINDS = [  # optimizer, dtype, planes
    *((name, torch.float32, False) for name in NAMES),
    *(("adam", torch.float32, True), ("adam", torch.bfloat16, False), ("momentum", torch.float16, False)),
    ("adam", torch.float64, False),
]


@pytest.mark.parametrize(("kind", "decoupled"), one_in(3, KINDS, [True, False]))
def test_replayed_rows_have_the_same_bits_as_dense_steps(kind: tuple[str, torch.dtype, bool], decoupled: bool) -> None:
    optimizer, dtype, planes = kind
    steps = 9
    settings = [schedule(t, steps) for t in range(1, steps + 1)]
    every, lazy = table(optimizer, dtype), table(optimizer, dtype, planes)
    constants = [
        step_constants(optimizer, **s, step=t, decay="decoupled" if decoupled else "l2")
        for t, s in enumerate(settings, 1)
    ]
    record = torch.zeros_like(deferred.step_table(constants, lazy["weight"]))  # each step's launch writes its row
    last = torch.zeros(ROWS, dtype=torch.int32, device=DEVICE)
    state = {f"{name}s": [tensor] for name, tensor in every.items() if tensor is not None}
    for t, (rows, setting) in enumerate(zip(batches(steps), settings, strict=True), 1):
        grads = gradients(rows, t, dtype)
        full = torch.zeros_like(every["weight"]).index_copy_(0, rows.to(DEVICE), grads)
        dense.step_(optimizer, grads=[full], **state, **setting, step=t, decoupled=decoupled)
        deferred.step_rows_(
            optimizer, rows.to(DEVICE), last, **lazy, steps=record, t=t, step=constants[t - 1], grads=grads
        )
        assert torch.equal(lazy["weight"][rows], every["weight"][rows])
    deferred.step_rows_(optimizer, torch.arange(ROWS, device=DEVICE), last, **lazy, steps=record, t=steps)
    assert torch.equal(record, deferred.step_table(constants, lazy["weight"]))
    assert last.tolist() == [steps] * ROWS
    for name, tensor in every.items():
        assert tensor is None or torch.equal(lazy[name], tensor), name


def test_rows_caught_up_before_they_are_read_and_stepped_after_have_the_same_bits() -> None:
    steps = 6
    constants = [step_constants("adam", **schedule(t, steps), step=t, decay="decoupled") for t in range(1, steps + 1)]
    rows = torch.tensor([3, 1], device=DEVICE)
    results = []
    for read_first in (True, False):
        tables, last = table("adam", torch.float32), torch.zeros(ROWS, dtype=torch.int64, device=DEVICE)
        arguments = {"steps": deferred.step_table(constants, tables["weight"]), **tables}
        for t in (1, steps):
            if read_first:
                deferred.step_rows_("adam", rows, last, t=t - 1, **arguments)
            grads = gradients(rows, t, torch.float32)
            deferred.step_rows_("adam", rows, last, t=t, step=constants[t - 1], grads=grads, **arguments)
        results.append(tables["weight"])
    assert torch.equal(*results)


@pytest.mark.parametrize("fold", [True, False])
def test_rows_that_are_named_many_times_are_caught_up_once(fold: bool) -> None:
    steps = 6
    constants = [step_constants("adam", **schedule(t, steps), step=t, decay="decoupled") for t in range(1, steps + 1)]
    often = torch.randint(ROWS, (3000,), generator=torch.Generator().manual_seed(1))
    results = []
    for rows in (often.unique(), often):
        tables, last = table("adam", torch.float32), torch.zeros(ROWS, dtype=torch.int32, device=DEVICE)
        tables["exp_avg"].fill_(0.1)
        moments = deferred.new_moments(steps, 0.99, DEVICE) if fold else None
        for t, c in enumerate(constants, 1):
            if moments is not None:
                deferred.add_step_(moments, c, t, 0)
        deferred.step_rows_(
            "adam", rows.to(DEVICE), last, **tables, t=steps, moments=moments, eps=1e-5,
            steps=deferred.step_table(constants, tables["weight"]),
        )  # fmt: skip
        results.append([*tables.values(), last])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_a_step_without_rows_is_on_record_and_a_step_needs_its_constants() -> None:
    tables, last = table("adam", torch.float32), torch.zeros(ROWS, dtype=torch.int32, device=DEVICE)
    before = tables["weight"].clone()
    step = step_constants("adam", **schedule(1, 2), step=1, decay="decoupled")
    record, stamp = deferred.step_table([], before).new_zeros(2, 9), torch.zeros((), dtype=torch.int64, device=DEVICE)
    nothing = {"rows": last[:0], "last": last, "steps": record, "t": 1, "grads": before[:0], "stamp": stamp, **tables}
    with pytest.raises(ValueError, match="constants"):
        deferred.step_rows_("adam", **nothing)
    deferred.step_rows_("adam", step=step, **nothing)
    assert torch.equal(record, deferred.step_table([step], before))
    assert stamp.item() == 1
    assert torch.equal(tables["weight"], before)
    assert not last.any()


@pytest.mark.parametrize("k", [1, 37, 300, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_any_width_have_the_bits_of_dense_steps(k: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(k)
    grad = torch.randn(3, k, generator=draw, dtype=torch.float64).to(DEVICE, dtype)
    every, lazy = ({n: torch.zeros_like(grad) for n in ("weight", "exp_avg", "exp_avg_sq")} for _ in range(2))
    last = torch.zeros(3, dtype=torch.int32, device=DEVICE)
    constants = [step_constants("adam", **schedule(t, 4), step=t, decay="decoupled") for t in range(1, 5)]
    record = deferred.step_table(constants, grad)
    for t, c in enumerate(constants, 1):
        now = grad if t == 1 else torch.zeros_like(grad)
        dense.step_("adam", grads=[now], **{f"{n}s": [x] for n, x in every.items()}, **schedule(t, 4), step=t)
        if t == 1:
            rows = torch.arange(3, device=DEVICE)
            deferred.step_rows_("adam", rows, last, **lazy, steps=record, t=t, step=c, grads=grad)
    deferred.step_rows_("adam", torch.tensor([2, 0, 1, 2], device=DEVICE), last, **lazy, steps=record, t=4)
    assert all(torch.equal(lazy[name], every[name]) for name in every)


def after_a_gap(
    optimizer: str, start: int, gap: int, dtype: torch.dtype, fold: bool, window: int | None = None, **changes: float
) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """A table `gap` steps after `start`, without gradient: from the kernel, and from a step loop in float64."""
    steps = start + gap
    constants = [
        step_constants(optimizer, **schedule(t, steps, **changes), step=t, decay="decoupled")
        for t in range(1, steps + 1)
    ]
    lazy = table(optimizer, dtype)
    draw = torch.Generator().manual_seed(4)
    if lazy["exp_avg"] is not None:
        lazy["exp_avg"].copy_(torch.randn(ROWS, K, generator=draw) * 0.1)
        lazy["exp_avg"][-1] = 0  # a row that no batch has touched
    if lazy["exp_avg_sq"] is not None:
        lazy["exp_avg_sq"].copy_(10 ** (-8 * torch.rand(ROWS, K, generator=draw)))
        lazy["exp_avg_sq"][-1] = 0
    w, m, v = (torch.zeros(1) if tensor is None else tensor.cpu().double().clone() for tensor in lazy.values())
    for c in constants[start:]:
        m = c.beta1 * m
        v = c.beta2 * v
        moved = c.rate * m if optimizer in AVERAGES else torch.zeros(1)
        w = w * c.keep - (moved / (v.sqrt() * c.scale + c.eps) if optimizer in SQUARES else moved)
    moments = None
    if fold:
        moments = deferred.new_moments(steps, 0.99, DEVICE)
        for t, c in enumerate(constants[start:], start + 1):
            first = t if window == 0 else max(start, 0 if window is None else t - window)
            deferred.add_step_(moments, c, t, first)
    last = torch.full((ROWS,), start, dtype=torch.int32, device=DEVICE)
    deferred.step_rows_(
        optimizer, torch.arange(ROWS, device=DEVICE), last, **lazy, t=steps, moments=moments, eps=1e-5,
        steps=deferred.step_table(constants, lazy["weight"]),
    )  # fmt: skip
    return lazy, {"weight": w, "exp_avg": m, "exp_avg_sq": v}


def assert_near(tables: dict[str, Tensor | None], exact: dict[str, Tensor], allowed: float) -> None:
    """Within `allowed` of the largest element of each table."""
    for name, tensor in tables.items():
        if tensor is not None:
            error = (tensor.cpu().double() - exact[name]).abs().max()
            assert error <= allowed * exact[name].abs().max(), name


# Of the largest weight; the two-point quadrature's own error is 3e-5 of the displacement at a gap of 100.
@pytest.mark.parametrize(("gap", "allowed"), [(1, 2e-7), (2, 2e-7), (3, 2e-7), (5, 2e-7), (20, 2e-7), (100, 5e-6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folded_rows_of_adam_equal_a_step_loop_in_float64(gap: int, allowed: float, dtype: torch.dtype) -> None:
    lazy, exact = after_a_gap("adam", 150, gap, dtype, fold=True)
    assert_near(lazy, exact, allowed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_folded_weights_in_half_precision_are_rounded_once(dtype: torch.dtype) -> None:
    lazy, exact = after_a_gap("adam", 150, 20, dtype, fold=True)
    error = (lazy["weight"].cpu().double() - exact["weight"]).abs()
    once = torch.finfo(dtype).eps / 2 * exact["weight"].abs()
    assert (error <= once + 2e-7 * exact["weight"].abs().max()).all()
    assert_near({name: lazy[name] for name in ("exp_avg", "exp_avg_sq")}, exact, 2e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_other_optimizers_fold_exactly(optimizer: str, dtype: torch.dtype) -> None:
    window = None if optimizer == "momentum" else 0
    lazy, exact = after_a_gap(optimizer, 3, 30, dtype, fold=True, window=window)
    assert_near(lazy, exact, 60 * torch.finfo(dtype).eps)


def test_old_rows_continue_to_shrink_after_their_moments_stop() -> None:
    lazy, exact = after_a_gap("adam", 100, 160, torch.float64, fold=True, window=100, beta1=0.8)
    assert_near({"weight": lazy["weight"]}, exact, 1e-4)  # the means have all but died away


def test_a_step_that_is_launched_twice_is_taken_and_put_on_record_once() -> None:
    steps, start = 12, 4
    constants = [step_constants("adam", **schedule(t, steps), step=t, decay="decoupled") for t in range(1, steps + 1)]
    results = []
    for times in (1, 2):
        tables, rows = table("adam", torch.float64), torch.tensor([3, 1], device=DEVICE)
        last = torch.full((ROWS,), start, dtype=torch.int32, device=DEVICE)
        stamp = torch.zeros((), dtype=torch.int64, device=DEVICE)
        moments = deferred.new_moments(steps, 0.99, DEVICE)
        arguments = {"steps": deferred.step_table(constants, tables["weight"]), "done": start, **tables}
        for t in range(1, steps + 1):
            grads = gradients(rows, t, torch.float64) if t % 4 == 1 else None
            for _ in range(times):
                if grads is not None:
                    deferred.step_rows_(
                        "adam", rows, last, t=t, step=constants[t - 1], grads=grads, moments=moments, eps=1e-5,
                        stamp=stamp, **arguments,
                    )  # fmt: skip
                    assert stamp.item() == start + t
                deferred.add_step_(moments, constants[t - 1], t, 0)
        deferred.step_rows_("adam", rows, last, t=steps, moments=moments, eps=1e-5, **arguments)
        assert last[rows].tolist() == [start + steps] * 2
        results.append(tables["weight"])
    assert torch.equal(*results)


def test_steps_of_rate_zero_fold_to_no_movement() -> None:
    lazy, exact = after_a_gap("adam", 20, 10, torch.float64, fold=True, lr=0.0)
    assert_near(lazy, exact, 1e-12)


def test_tables_of_other_strides_are_refused() -> None:
    weight = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="same strides"):
        deferred.step_rows_(
            "momentum", torch.arange(2), torch.zeros(4), weight, torch.zeros(3, 4).T, None, torch.zeros(2, 9), 1
        )


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("momentum", {"exp_avg": None}, "momentum needs exp_avg"),
        ("adam", {"exp_avg_sq": None}, "adam needs exp_avg_sq"),
        ("adam", {"grads": torch.zeros(1, 3)}, "2 rows of 3 numbers"),
        ("adam", {"grads": torch.zeros(2, 2)}, "2 rows of 3 numbers"),
    ],
)
def test_tensors_that_rows_cannot_take_are_refused(name: str, change: dict[str, object], complaint: str) -> None:
    given = {"weight": torch.zeros(4, 3), "exp_avg": torch.zeros(4, 3), "exp_avg_sq": torch.zeros(4, 3)}
    with pytest.raises(ValueError, match=complaint):
        deferred.step_rows_(
            name, torch.arange(2), torch.zeros(4), steps=torch.zeros(2, 9), t=1, step=deferred.NO_STEP,
            **(given | {"grads": torch.zeros(2, 3)} | change),
        )  # fmt: skip
