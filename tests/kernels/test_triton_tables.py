"""The deferred optimizers in Triton: in its interpreter on CPU tensors, or on a GPU with -m gpu."""

import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR

from kernels import BackendError, DeferredAdam, DeferredAdamW, DeferredEmbedding, DeferredRMSprop, DeferredSGD
from kernels.deferred import native
from kernels.deferred import rows as rows_module
from kernels.deferred import table as table_module
from kernels.optimizers import triton_kernels as dense
from tests.kernels.grids import one_in
from tests.kernels.triton_device import DEVICE, MARKS

pytestmark = MARKS

RULES = {
    "adamw": (DeferredAdamW, torch.optim.AdamW, {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": 0.1}),
    "adam l2": (DeferredAdam, torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.1}),
    "sgd": (DeferredSGD, torch.optim.SGD, {"lr": 0.1}),
    "momentum": (DeferredSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "momentum l2": (DeferredSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop": (DeferredRMSprop, torch.optim.RMSprop, {"lr": 1e-2}),
}
# The interpreter runs each step that a row has missed slowly, so the time of a test grows with the square of its steps.
# Adam's missed steps are folded after 25 (with a beta1 of .9 after 40), so tests of folding need FOLDED steps.
ROWS, WIDTH, STEPS, FOLDED = 24, 3, 20, 60


def fresh(rule, mode=None, dtype=torch.float64, steps=STEPS, **change):
    """A table, its optimizer and one-cycle. Without a mode, they are torch's."""
    ours, torchs, settings = RULES[rule]
    weight = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(DEVICE, dtype)
    kind = DeferredEmbedding if mode else nn.Embedding
    table = kind.from_pretrained(weight.clone(), freeze=False)
    how = settings | change
    optimizer = (
        ours(table.parameters(), **how, mode=mode, backend="triton") if mode else torchs(table.parameters(), **how)
    )
    cycle = "betas" in optimizer.defaults or bool(how.get("momentum"))
    momentum = {"cycle_momentum": cycle, "base_momentum": 0.8, "max_momentum": 0.9}  # two points fold .9/.99
    return table, optimizer, OneCycleLR(optimizer, how["lr"], total_steps=steps + 1, **momentum)


def batches(steps=STEPS):
    """Ids that may repeat: some rows are read often, another one every 8 steps, some never."""
    g = torch.Generator().manual_seed(1)
    for step in range(steps):
        ids = torch.randint(ROWS // 3, (3,), generator=g)
        if step % 8 == 0:
            ids[0] = ROWS // 2 + step // 8
        yield ids.to(DEVICE), torch.randn(3, WIDTH, generator=g, dtype=torch.float64).to(DEVICE)


def train(table, optimizer, scheduler, data):
    for ids, y in data:
        optimizer.zero_grad()
        functional.mse_loss(table(ids), y.to(table.weight.dtype)).backward()
        optimizer.step()
        scheduler.step()
    return table


@pytest.mark.parametrize(("rule", "mode"), one_in(2, RULES, ["dense", "replay", "folded"]))
def test_under_one_cycle_the_results_equal_torchs_dense_optimizer(rule, mode):
    if mode == "dense" and rule != "adamw" and DEVICE == "cpu":
        pytest.skip("too slow in the interpreter")
    folded = mode == "folded" and rule == "adamw"
    steps = FOLDED if folded else STEPS
    tables = [train(*fresh(rule, how, steps=steps), batches(steps)).weight.detach() for how in (mode, None)]
    torch.testing.assert_close(*tables, rtol=0, atol=2e-6 if folded else 1e-10)


def test_a_table_without_columns_takes_steps():
    table = DeferredEmbedding(3, 0, device=DEVICE)
    optimizer = DeferredAdamW(table.parameters(), backend="triton")
    for _ in range(2):
        optimizer.zero_grad()
        table(torch.tensor([1], device=DEVICE)).sum().backward()
        optimizer.step()
    assert table.weight.table.steps == 2
    assert table.weight.shape == (3, 0)


def test_rmsprop_may_forget_its_mean_square_at_every_step():
    tables = [train(*fresh("rmsprop", how, alpha=0.0), batches(4)).weight.detach() for how in ("folded", None)]
    torch.testing.assert_close(*tables, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("betas", "mode"), [((0.9, 0.99), native.FOLD), ((0.95, 0.99), native.EARLY)])
def test_missed_steps_are_folded_where_two_points_are_enough_and_else_replayed(betas, mode):
    tables = []
    steps = FOLDED if mode == native.FOLD else STEPS
    for kind in ("folded", None):
        table, optimizer, _ = fresh("adamw", kind, steps=steps)
        optimizer.param_groups[0]["betas"] = betas
        for ids, y in batches(steps):
            optimizer.zero_grad()
            functional.mse_loss(table(ids), y).backward()
            optimizer.step()
        tables.append(table)
    assert tables[0].weight.table.method.mode == mode
    assert tables[0].weight.table.pending > 15
    error = (tables[0].weight - tables[1].weight).abs().max()
    assert error <= (1e-4 * 1e-2 if mode == native.FOLD else 1e-12)


def test_replay_gives_the_bits_of_the_dense_kernel_on_every_row():
    table, optimizer, scheduler = fresh("adamw", "replay", torch.float32, 30)
    weight = table.weight.detach().clone()
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, (ids, y) in enumerate(batches(30), 1):
        optimizer.zero_grad()
        functional.mse_loss(table(ids), y.float()).backward()
        (group,) = optimizer.param_groups
        (beta1, beta2), lr = group["betas"], group["lr"]
        dense.step_(
            "adam", [weight], [table.weight.grad.to_dense()], [mean], [square], lr=lr, beta1=beta1, beta2=beta2,
            eps=group["eps"], weight_decay=group["weight_decay"], step=step,
        )  # fmt: skip
        optimizer.step()
        scheduler.step()
    assert table.weight.table.pending == 30
    assert torch.equal(table.weight.detach(), weight)
    assert torch.equal(optimizer.state[table.weight]["exp_avg"], mean)
    assert torch.equal(optimizer.state[table.weight]["exp_avg_sq"], square)


@pytest.mark.parametrize(("rule", "mode"), one_in(3, ["adamw", "momentum"], ["replay", "folded"]))
def test_a_resumed_run_gives_the_same_bits_as_one_that_continued(rule, mode):
    steps = FOLDED if (rule, mode) == ("adamw", "folded") else STEPS
    data = list(batches(steps))
    first = fresh(rule, mode, torch.float32, steps)
    train(*first, data[: 3 * steps // 4])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first[::-1]], file)
    train(*first, data[3 * steps // 4 :])
    file.seek(0)
    second = fresh(rule, mode, torch.float32, steps)
    for part, state in zip(second[::-1], torch.load(file), strict=True):
        part.load_state_dict(state)
    train(*second, data[3 * steps // 4 :])
    assert torch.equal(first[0].weight.detach(), second[0].weight.detach())


def test_every_read_of_the_weights_gets_all_rows_up_to_date():
    truth = train(*fresh("adamw", "dense", torch.float32), batches()).weight.table.weight
    table = train(*fresh("adamw", "replay", torch.float32), batches())
    memory = table.weight.table.weight
    assert not torch.equal(memory, truth)
    with torch.no_grad():
        assert torch.equal(table(torch.tensor([ROWS - 1, 3], device=DEVICE)), truth[[ROWS - 1, 3]])
    assert table.weight.table.pending > 0
    assert torch.equal(table.state_dict()["weight"], truth)
    assert table.weight.table.pending == 0


def test_a_full_record_of_steps_is_flushed_and_a_new_one_begins(monkeypatch):
    monkeypatch.setattr(table_module, "CAPACITY", 12)
    for rule in ("adamw", "momentum"):
        tables = [train(*fresh(rule, how), batches()).weight.detach() for how in ("folded", None)]
        torch.testing.assert_close(*tables, rtol=0, atol=2e-6 if rule == "adamw" else 1e-10)


def test_a_large_table_is_flushed_in_several_launches(monkeypatch):
    monkeypatch.setattr(rows_module, "FLUSHED", 10)
    tables = [train(*fresh("adamw", how), batches()).weight.detach() for how in ("folded", None)]
    torch.testing.assert_close(*tables, rtol=0, atol=1e-10)


def test_any_gradient_may_be_dense_and_a_batch_may_be_empty():
    tables = []
    for mode in ("folded", None):
        table, optimizer, scheduler = fresh("adamw", mode, steps=30)
        for step, (ids, y) in enumerate(batches(30)):
            optimizer.zero_grad()
            rows = slice(0 if step % 7 == 5 else None)
            (table(ids[rows]) - y[rows]).square().sum().backward()
            if step == 20:
                table.weight.grad = torch.ones(ROWS, WIDTH, dtype=torch.float64, device=DEVICE)
            optimizer.step()
            scheduler.step()
        tables.append(table.weight.detach())
    torch.testing.assert_close(*tables, rtol=0, atol=1e-10)


@pytest.mark.skipif(DEVICE != "cpu", reason="on a GPU torch's own assertion ends the process")
def test_ids_outside_the_table_are_refused_and_nothing_moves():
    table = train(*fresh("adamw", "replay", torch.float32), batches())
    memory = table.weight.table.weight
    before = memory.clone()
    for bad in (-1, ROWS):
        with pytest.raises(IndexError):
            table(torch.tensor([bad]))
    assert torch.equal(memory, before)


class Stream:
    def __init__(self):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


def test_a_stream_waits_for_the_one_that_last_used_the_rows(monkeypatch):
    table = train(*fresh("adamw", "replay", torch.float32, 4), batches(4))
    rows, streams = table.weight.table.rows, [Stream(), Stream()]
    rows.stream = None
    for stream in (streams[0], streams[0], streams[1], streams[1], streams[0]):
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _, stream=stream: stream)
        rows._wait_for_last_stream()
    assert streams[1].waited == [streams[0]]
    assert streams[0].waited == [streams[1]]


@pytest.mark.skipif(DEVICE != "cpu", reason="a table on a CPU")
def test_an_error_names_a_backend_that_cannot_run():
    for backend, why in (("reference", "native"), ("cuda", "no such backend")):
        table = DeferredEmbedding(3, 2)
        optimizer = DeferredAdamW(table.parameters(), backend=backend)
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(BackendError, match=why):
            optimizer.step()


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: pytest tests -m gpu")
def test_on_a_gpu_triton_is_the_default_and_offsets_beyond_two_to_the_31_reach_the_right_row():
    rows, width = (1 << 19) + 2, 4096
    table = DeferredEmbedding(rows, width, device=DEVICE)
    optimizer = DeferredSGD(table.parameters(), lr=0.5)
    ids = torch.tensor([rows - 1], device=DEVICE)
    with torch.no_grad():
        before = table(ids).clone()
    for _ in range(2):
        optimizer.zero_grad()
        table(ids).sum().backward()
        optimizer.step()
    with torch.no_grad():
        assert math.isclose((before - table(ids)).mean().item(), 1.0, rel_tol=1e-5)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: pytest tests -m gpu")
@pytest.mark.parametrize("mode", ["replay", "folded"])
def test_steps_that_alternate_between_two_streams_are_in_order(mode):
    tables = []
    for streams in ([torch.cuda.Stream(), torch.cuda.Stream()], [torch.cuda.Stream()]):
        table, optimizer, _ = fresh("adamw", mode, torch.float32, FOLDED)
        torch.cuda.synchronize()
        for step, (ids, y) in enumerate(batches(FOLDED)):
            torch.cuda.synchronize()  # the batch is ready; the steps themselves are not waited for
            with torch.cuda.stream(streams[step % len(streams)]):
                optimizer.zero_grad()
                functional.mse_loss(table(ids), y.float()).backward()
                optimizer.step()
        torch.cuda.synchronize()
        tables.append(table.weight.detach())
    assert torch.equal(*tables)


@pytest.mark.skipif(DEVICE != "cuda" or torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_table_on_another_device_than_the_current_one_is_stepped_there():
    table = DeferredEmbedding(5, 3, device="cuda:1")
    optimizer = DeferredAdamW(table.parameters(), lr=0.1)
    before = table.weight.detach().clone()
    table(torch.tensor([2], device="cuda:1")).sum().backward()
    optimizer.step()
    moved = (table.weight.detach() != before).any(1)
    assert moved.tolist() == [True] * 5  # all rows decay


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU: pytest tests -m gpu")
def test_a_learner_on_a_gpu_trains_as_on_a_cpu(tmp_path):
    from lesson import collab_learner, load_ratings

    draw = torch.Generator().manual_seed(0)
    columns = torch.randint(40, (1500, 2), generator=draw)
    lines = [f"{u},{i},{(u + i) % 5 + 1}" for u, i in columns.unique(dim=0).tolist()]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item,rating", *lines]))
    data = load_ratings(tmp_path / "ratings.csv")
    tables = []
    for device, backend in (("cpu", "reference"), ("cuda", "reference"), ("cuda", "triton")):
        learn = collab_learner(data, 8, (0, 5.5), device=device, backend=backend, quiet=True)
        learn.fit_one_cycle(2, 5e-3)
        tables.append([table.cpu() for table in learn.model.state_dict().values()])
    for other in tables[1:]:
        torch.testing.assert_close(other, tables[0], rtol=0, atol=1e-5)
