"""Reads and changes of a deferred table at odd moments: in the middle of a step, through kept tensors, in a trace."""

import io

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import DeferredAdamW, DeferredEmbedding, DeferredSGD, attach

ROWS, STEPS = 12, 30
HOW = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.3}


def pair():
    """A table with a deferred AdamW, and the same with torch's."""
    start = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    deferred = DeferredEmbedding.from_pretrained(start, freeze=False)
    dense = nn.Embedding.from_pretrained(start.clone(), freeze=False)
    return (deferred, DeferredAdamW(deferred.parameters(), **HOW, mode="replay")), (
        dense,
        torch.optim.AdamW(dense.parameters(), **HOW),
    )


def train(embedding, optimizer, steps=STEPS, between=lambda step: None):
    for step in range(steps):
        between(step)
        optimizer.zero_grad()
        embedding(torch.tensor([step % 5, step % 3])).sin().sum().backward()
        optimizer.step()


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours.weight.detach().clone(), theirs.weight.detach(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("read", ["weight", "state"])
def test_a_signal_handler_that_reads_in_the_middle_of_a_step_gets_an_error(read, monkeypatch):
    (ours, optimizer), (theirs, other) = pair()
    train(ours, optimizer)
    rows = ours.weight.table.rows
    step, calls = rows.step, []

    def interrupted(*arguments):
        calls.append(1)
        with pytest.raises(RuntimeError, match="a signal handler reads a deferred table whose rows are being moved"):
            ours.weight.clone() if read == "weight" else optimizer.state_dict()
        step(*arguments)

    monkeypatch.setattr(rows, "step", interrupted)
    train(ours, optimizer)
    assert len(calls) == STEPS
    train(theirs, other)
    train(theirs, other)
    assert_equal(ours, theirs)


def test_a_state_that_is_read_just_before_a_step_gets_that_step(monkeypatch):
    (ours, optimizer), (theirs, other) = pair()
    rule = optimizer._rule

    def read_first(group, step):  # the constants are asked for between the choice of the table and its step
        if step > 1:
            optimizer.state_dict()
        return rule(group, step)

    monkeypatch.setattr(optimizer, "_rule", read_first)
    train(ours, optimizer)
    train(theirs, other)
    assert_equal(ours, theirs)
    assert optimizer.state[ours.weight]["step"] == STEPS


@pytest.mark.parametrize("name", ["weight", "exp_avg", "step"])
def test_numbers_that_move_to_shared_memory_are_found_again(name):
    (ours, optimizer), (theirs, other) = pair()
    train(ours, optimizer)
    kept = ours.state_dict()["weight"] if name == "weight" else optimizer.state[ours.weight][name]
    train(ours, optimizer, between=lambda step: kept.share_memory_() if step == 7 else None)
    kept.share_memory_()
    for _ in range(2):
        train(theirs, other)
    assert_equal(ours, theirs)
    assert torch.equal(kept, ours.weight.detach() if name == "weight" else optimizer.state[ours.weight][name])


def test_a_view_of_another_shape_at_the_same_address_is_stepped_as_what_it_is():
    results = []
    for embedding, optimizer in ((DeferredEmbedding, DeferredSGD), (nn.Embedding, torch.optim.SGD)):
        table = embedding.from_pretrained(torch.arange(16.0).view(8, 2), freeze=False)
        steps = optimizer(table.parameters(), lr=0.5)
        for shape in ((8, 2), (4, 4), (16, 1)):
            steps.zero_grad()
            table.weight.data = table.weight.data.view(shape)
            table(torch.tensor([1])).sum().backward()
            steps.step()
        results.append(table.weight.detach().clone())
    assert torch.equal(*results)


def test_a_saved_trace_has_every_row_up_to_date():
    (ours, optimizer), _ = pair()
    train(ours, optimizer)
    assert ours.weight.table.pending
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(ours, torch.tensor([0])), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(torch.arange(ROWS)), ours(torch.arange(ROWS)))


def test_a_state_kept_from_before_a_checkpoint_is_still_the_optimizers():
    (ours, optimizer), (theirs, other) = pair()
    for embedding, steps in ((ours, optimizer), (theirs, other)):
        train(embedding, steps)
        kept, _ = steps.state[embedding.weight], steps.state_dict()
        train(embedding, steps)
        kept["exp_avg"] = torch.ones(ROWS, 3, dtype=torch.float64)
        train(embedding, steps)
    assert_equal(ours, theirs)


def test_a_checkpoint_that_is_not_copied_goes_on_as_torchs():
    (ours, optimizer), (theirs, other) = pair()
    for embedding, steps in ((ours, optimizer), (theirs, other)):
        train(embedding, steps)
        checkpoint = steps.state_dict()
        train(embedding, steps)
        steps.load_state_dict(checkpoint)
        train(embedding, steps)
    assert_equal(ours, theirs)
    assert optimizer.state[ours.weight]["step"] == other.state[theirs.weight]["step"] == 3 * STEPS


def test_what_a_state_prints_is_up_to_date():
    (ours, optimizer), _ = pair()
    train(ours, optimizer)
    assert f"'step': tensor({STEPS}.)" in repr(optimizer.state[ours.weight])


def test_a_weight_with_hooks_is_not_attached_and_its_attributes_stay():
    for hook in ("register_hook", "register_post_accumulate_grad_hook"):
        table = nn.Embedding(3, 2)
        getattr(table.weight, hook)(lambda _: None)
        with pytest.raises(ValueError, match="its weight has hooks, which would be lost"):
            attach(table)
        assert type(table) is nn.Embedding
    table = nn.Embedding(3, 2)
    table.weight.own = "kept"
    attach(table)
    assert table.weight.own == "kept"


def test_an_error_of_one_table_leaves_the_others_unmoved():
    first, second = (DeferredEmbedding(4, 2) for _ in range(2))
    optimizer = DeferredAdamW([first.weight, second.weight])
    for table in (first, second):
        table(torch.tensor([1])).sum().backward()
    optimizer.state[second.weight]["exp_avg"] = torch.zeros(3, 2)
    before = first.weight.detach().clone()
    with pytest.raises(ValueError, match="build a new optimizer"):
        optimizer.step()
    assert torch.equal(first.weight.detach(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_steps_are_counted_whatever_the_default_dtype(dtype):
    table = DeferredEmbedding.from_pretrained(torch.ones(2, 1), freeze=False)
    optimizer = DeferredAdamW(table.parameters())
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        table(torch.tensor([0])).sum().backward()
        for _ in range(2100):
            optimizer.step()
        assert optimizer.state[table.weight]["step"] == 2100
    finally:
        torch.set_default_dtype(before)


def test_a_large_float32_gradient_is_squared_as_torch_does():
    found = []
    for embedding, optimizer in ((DeferredEmbedding, DeferredAdamW), (nn.Embedding, torch.optim.AdamW)):
        table = embedding.from_pretrained(torch.ones(1, 1), freeze=False)
        steps = optimizer(table.parameters(), lr=1e-2)
        for slope in (1e20, *[1.0] * 20):
            steps.zero_grad()
            (slope * table(torch.tensor([0])).sum()).backward()
            steps.step()
        found.append((table.weight.item(), steps.state[table.weight]["exp_avg_sq"].item()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_norms_of_gradients_that_name_a_row_twice_are_those_of_their_sums():
    table = DeferredEmbedding.from_pretrained(torch.ones(3, 1), freeze=False)
    table(torch.tensor([1])).sum().backward()
    kept = table.weight.grad
    table(torch.tensor([1, 2])).sum().backward()  # adds to the kept gradient, in place
    assert torch.linalg.vector_norm(kept).item() == pytest.approx(5**0.5)
    assert torch.equal((2 * kept).to_dense(), 2 * kept.to_dense())


def test_a_late_first_gradient_under_dampening_is_refused_as_by_torchs_fused_steps():
    for optimizer in (DeferredSGD, torch.optim.SGD):
        first, late = (nn.Parameter(torch.ones(1)) for _ in range(2))
        steps = optimizer([{"params": [first, late], "dampening": 0.5}], lr=0.1, momentum=0.9, fused=True)
        first.sum().backward()
        steps.step()
        late.sum().backward()
        with pytest.raises(TypeError):
            steps.step()


def test_a_count_of_steps_may_be_a_list_of_one_number():
    (ours, optimizer), (theirs, other) = pair()
    train(ours, optimizer)
    optimizer.state[ours.weight]["step"] = torch.full((1,), float(STEPS))
    train(ours, optimizer)
    for _ in range(2):
        train(theirs, other)
    assert_equal(ours, theirs)


class Seen(TorchDispatchMode):
    """A mode that keeps the names of operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class Wrapped(torch.Tensor):
    """Ids inside another subclass of Tensor, without memory of its own."""

    @staticmethod
    def __new__(cls, ids):
        return torch.Tensor._make_wrapper_subclass(cls, ids.shape, dtype=ids.dtype)

    def __init__(self, ids):
        self.ids = ids

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*[arg.ids if isinstance(arg, Wrapped) else arg for arg in args], **(kwargs or {}))


class Times(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, ids):
        return self.weight * ids.sum()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("how", ["nested", "wrapped", "mode", "traced", "traced product"])
def test_lookups_that_others_take_part_in_are_those_of_dense_steps(how):
    (ours, optimizer), (theirs, other) = pair()
    train(ours, optimizer)
    train(theirs, other)
    ids = torch.tensor([7, 1, 11])
    found = []
    for embedding in (ours, theirs):
        if how == "nested":
            nested = torch.nested.nested_tensor([ids[:2], ids[2:]], layout=torch.jagged)
            found.append(embedding(nested).values())
        elif how == "wrapped":
            found.append(embedding(Wrapped(ids)))
        elif how == "mode":
            with Seen() as seen:
                found.append(embedding(ids))
            assert seen.names == ["aten::embedding"]
        else:
            ask = embedding if how == "traced" else Times(embedding.weight)
            with torch.no_grad():
                found.append(make_fx(ask)(torch.tensor([0, 2, 2]))(ids))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)
