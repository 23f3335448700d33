"""Deferred tables in two processes (gloo), compared with a dense nn.Embedding and torch's AdamW in one."""

import contextlib
import re
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from kernels import DeferredAdamW, DeferredEmbedding, DeferredEmbeddingBag

resource = pytest.importorskip("resource", reason="needs Unix")
pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "deferred.md"
PROCESSES, ROWS, STEPS, NORM = 2, 21, 90, 0.05
SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-5, "weight_decay": 0.1}


class Net(nn.Module):
    """A table with padding, bags of another, and a dense layer."""

    def __init__(self, deferred):
        super().__init__()
        embedding, bag = (DeferredEmbedding, DeferredEmbeddingBag) if deferred else (nn.Embedding, nn.EmbeddingBag)
        self.ids = embedding.from_pretrained(start(3), freeze=False, padding_idx=0)
        self.bags = bag.from_pretrained(start(2), freeze=False, mode="sum")
        self.top = nn.Linear(5, 1, dtype=torch.float64)
        for param in self.top.parameters():
            nn.init.constant_(param, 0.3)

    def forward(self, ids):
        return self.top(torch.cat([self.ids(ids[:, 0]), self.bags(ids[:, 1:])], 1)).squeeze(1)


def start(width):
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(width), dtype=torch.float64)


def batches():
    """Ids and targets of eight examples, four for each process. Half of the rows are read in the first steps only."""
    g = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        ids = torch.randint(ROWS if step < 10 else ROWS // 2, (8, 3), generator=g)
        yield ids, torch.randn(8, generator=g, dtype=torch.float64)


def change(optimizer, step):
    """Let the settings jump in mid-training."""
    if step == 50:
        optimizer.param_groups[0].update(lr=3e-2, betas=(0.8, 0.99))
    if step == 70:
        optimizer.param_groups[0].update(eps=1e-3, weight_decay=0.3)


def clip(params):
    """Clip to a norm that nearly every step exceeds, and return how often it did."""
    return float(nn.utils.clip_grad_norm_(params, NORM)) > NORM


def flat(module):
    return torch.cat([value.flatten() for value in module.state_dict().values()])


def dense_net():
    model = Net(False)
    optimizer = torch.optim.AdamW(model.parameters(), **SETTINGS)
    clipped = 0
    for step, (ids, y) in enumerate(batches()):
        change(optimizer, step)
        optimizer.zero_grad()
        (model(ids) - y).square().mean().backward()
        clipped += clip(model.parameters())
        optimizer.step()
    assert clipped > STEPS / 2
    return flat(model)


def data_parallel(rank, mode):
    model = Net(True)
    ddp = DistributedDataParallel(model)
    optimizer = DeferredAdamW(ddp.parameters(), **SETTINGS, mode=mode)
    for step, (ids, y) in enumerate(batches()):
        change(optimizer, step)
        optimizer.zero_grad()
        mine = slice(4 * rank, 4 * rank + 4)
        halves = [(ids[mine], y[mine])]
        if step % 5 == 4:  # the gradients of a step come from two backward passes, and only the last one averages
            halves = [(ids[mine][part], y[mine][part]) for part in (slice(2), slice(2, 4))]
        for number, (some, targets) in enumerate(halves, 1):
            with contextlib.nullcontext() if number == len(halves) else ddp.no_sync():
                ((ddp(some) - targets).square().mean() / len(halves)).backward()
        clip(ddp.parameters())
        optimizer.step()
        if step % 20 == 19 and rank == 0:
            optimizer.state_dict()  # one process saves
    assert model.ids.weight.table is not None
    return flat(model)


def row_shard(mesh, rows, width):
    """The guide's class."""
    (block,) = re.findall(r"^```python\n(from torch.distributed.tensor.*?)^```", GUIDE.read_text(), re.DOTALL | re.M)
    names = {"nn": nn, "torch": torch, "DeferredEmbedding": DeferredEmbedding}
    exec(compile(block, str(GUIDE), "exec"), names)
    return names["RowShard"](rows, width, mesh)


def dense_table():
    table = nn.Embedding.from_pretrained(start(3), freeze=False)
    optimizer = torch.optim.AdamW(table.parameters(), **SETTINGS)
    for step, (ids, y) in enumerate(batches()):
        change(optimizer, step)
        optimizer.zero_grad()
        (table(ids).sum((1, 2)) - y).square().mean().backward()
        clip(table.parameters())
        optimizer.step()
    return table.weight.detach()


def sharded(mesh, mode):
    table = row_shard(mesh, ROWS, 3).double()
    mine = slice(table.first, table.first + table.rows.num_embeddings)
    table.rows.weight.data.copy_(start(3)[mine])
    optimizer = DeferredAdamW(table.parameters(), **SETTINGS, mode=mode)
    for step, (ids, y) in enumerate(batches()):
        change(optimizer, step)
        optimizer.zero_grad()
        (table(ids).sum((1, 2)) - y).square().mean().backward()
        square = nn.utils.get_total_norm([table.rows.weight.grad]).square()
        dist.all_reduce(square)
        nn.utils.clip_grads_with_norm_(table.parameters(), NORM, square.sqrt())
        optimizer.step()
    return table.rows.weight.detach().clone()


def too_large_for_one(mesh):
    """How far a table trains whose weights and averages exceed what this process may still allocate."""
    rows, width = 400_000, 64
    size = 4 * rows * width  # 102 MB, three times with the averages
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * size + size // 2, resource.RLIM_INFINITY))
    found = {}
    for name in ("whole", "sharded"):
        try:
            table = row_shard(mesh, rows, width) if name == "sharded" else DeferredEmbedding(rows, width)
            optimizer = DeferredAdamW(table.parameters(), lr=0.1)
            before = None
            for _ in range(2):
                optimizer.zero_grad()
                out = table(torch.tensor([0, rows - 1]))
                before = out.detach() if before is None else before
                out.sum().backward()
                optimizer.step()
            found[name] = (table(torch.tensor([0, rows - 1])) - before).detach()
        except RuntimeError as error:
            found[name] = str(error)
        table = optimizer = out = None
    return found


def process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    found = {
        (what.__name__, mode): what(at, mode)
        for mode in ("replay", "folded")
        for what, at in ((data_parallel, rank), (sharded, mesh))
    }
    torch.save(found, f"{folder}/{rank}.pt")
    torch.save(too_large_for_one(mesh), f"{folder}/{rank}-large.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(process, (str(folder),), nprocs=PROCESSES)
    return [
        torch.load(folder / f"{rank}.pt") | {"large": torch.load(folder / f"{rank}-large.pt")}
        for rank in range(PROCESSES)
    ]


@pytest.mark.parametrize(("mode", "atol"), [("replay", 1e-10), ("folded", 2e-6)])
def test_data_parallel_training_equals_dense_training_in_one_process(trained, mode, atol):
    for found in trained:
        torch.testing.assert_close(found["data_parallel", mode], dense_net(), rtol=0, atol=atol)


def test_replayed_copies_have_the_same_bits_in_every_process(trained):
    first, second = (found["data_parallel", "replay"] for found in trained)
    assert torch.equal(first, second)


@pytest.mark.parametrize(("mode", "atol"), [("replay", 1e-10), ("folded", 2e-6)])
def test_a_table_divided_by_rows_equals_a_dense_one(trained, mode, atol):
    whole = torch.cat([found["sharded", mode] for found in trained])
    torch.testing.assert_close(whole, dense_table(), rtol=0, atol=atol)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_divided_by_rows_a_table_may_exceed_the_memory_of_a_process(trained):
    for found in trained:
        assert "allocate" in found["large"]["whole"]
        torch.testing.assert_close(found["large"]["sharded"], torch.full((2, 64), -0.2), rtol=0.1, atol=0)
