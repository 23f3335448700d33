"""`python -m bench.rivals`: what a step of a large embedding table costs, and how far it is from dense AdamW.

A training step (forward, backward, step) reads a batch of 1,024 ids of Zipf popularity. Rate and β1 follow one-cycle.
"time" is over nn.Embedding with torch's fused AdamW, timed in turns. "distance" is ‖w − w*‖ / ‖w* − w₀‖ over the whole
table after the schedule: w as trained in float32, w* by torch's dense AdamW in float64, w₀ before training; without
decay and with it. An optimizer that skips the rows that a batch does not read computes something else, so its distance
is no error of its code. The GS-Scale-like steps are written here in plain torch from that system's rules, and have no
time. bitsandbytes' 8-bit AdamW needs `tox run -e rivals`. Takes ten minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from bench.detection import Rounds
from bench.eager import WIDTH, popular
from bench.harness import PROFILES, Ratio, median_ratio, time_pairs
from kernels import DeferredAdamW, DeferredEmbedding
from lesson.schedules import one_cycle

BATCH, STEPS = 1024, 500
LR, WD, BETA2, EPS = 5e-3, 0.1, 0.99, 1e-5  # the lesson's
LONGEST = 15  # missed steps, after which GS-Scale takes one for the row
DENSE = "torch fused"


class Training(NamedTuple):
    """The table's weights as they should be read, its training step, and what the optimizer keeps between steps."""

    weight: Callable[[], Tensor]
    step: Callable[[], object]
    state: Callable[[], list[Tensor]]


class GsScale:
    """Adam for the rows of a batch, which first take the steps they missed, at the current rate and β1.

    Without decay. A row that has missed LONGEST steps takes them even if no batch reads it. eps is added to the root as
    it is now, not as it shrinks.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.mean, self.square = weight, torch.zeros_like(weight), torch.zeros_like(weight)
        self.last = torch.zeros(len(weight), dtype=torch.long)
        self.t = 0

    def catch_up(self, rows: Tensor, lr: float, beta1: float) -> None:
        """Let `rows` take what they missed up to the last step."""
        missed = (self.t - self.last[rows]).double()[:, None]
        first, moved = self.last[rows].double()[:, None], torch.zeros(len(rows), 1, dtype=torch.float64)
        for j in range(1, int(missed.max().item() if len(rows) else 0) + 1):
            taken = beta1**j / (1 - beta1 ** (first + j)) / (BETA2**j / (1 - BETA2 ** (first + j))).sqrt()
            moved += torch.where(j <= missed, taken, 0.0)
        root = self.square[rows].sqrt() + EPS
        self.weight[rows] -= (lr * moved).to(root.dtype) * self.mean[rows] / root
        self.mean[rows] *= (beta1**missed).to(root.dtype)
        self.square[rows] *= (BETA2**missed).to(root.dtype)
        self.last[rows] = self.t

    def step(self, rows: Tensor, grad: Tensor, lr: float, beta1: float) -> None:
        """A step for `rows` with their summed gradients, after `catch_up` of them."""
        self.t += 1
        self.mean[rows] = beta1 * self.mean[rows] + (1 - beta1) * grad
        self.square[rows] = BETA2 * self.square[rows] + (1 - BETA2) * grad**2
        root = (self.square[rows] / (1 - BETA2**self.t)).sqrt() + EPS
        self.weight[rows] -= lr / (1 - beta1**self.t) * self.mean[rows] / root
        self.last[rows] = self.t
        self.catch_up(torch.nonzero(self.t - self.last >= LONGEST)[:, 0], lr, beta1)


def training(name: str, rows: int, wd: float, dtype: torch.dtype = torch.float32) -> Training:
    """A fresh table with that optimizer; the ids, targets and schedule are the same for all."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.1 * torch.randn(rows, WIDTH, generator=generator)).to(dtype)
    query = torch.randn(WIDTH, generator=generator).to(dtype)
    ids = torch.randperm(rows, generator=generator)[popular(rows, BATCH * STEPS, generator)].split(BATCH)
    targets = torch.randn(STEPS, BATCH, generator=generator).to(dtype)
    plan = one_cycle(STEPS, LR)
    assert plan.momentum is not None
    batches = cycle(zip(ids, targets, plan.lr.tolist(), plan.momentum.tolist(), strict=True))
    if name == "GS-Scale-like":
        return _gs_scale(weight, query, batches)
    deferred, sparse = name.startswith("deferred"), name == "torch SparseAdam"
    kind = DeferredEmbedding if deferred else nn.Embedding
    embedding = kind.from_pretrained(weight, freeze=False, **({"sparse": True} if sparse else {}))
    optimizer = _optimizer(name, embedding, wd)
    take = torch.compile(optimizer.step) if name == "torch compiled" else optimizer.step

    def step() -> None:
        read, y, lr, beta1 = next(batches)
        (group,) = optimizer.param_groups
        if isinstance(group["lr"], Tensor):  # compiled code would be compiled again for each new number
            group["lr"].fill_(lr)
            group["betas"][0].fill_(beta1)
        else:
            group.update(lr=lr, betas=(beta1, BETA2))
        loss = mse_loss(embedding(read) @ query, y)
        optimizer.zero_grad()
        loss.backward()
        take()

    def state() -> list[Tensor]:
        return [kept for kept in optimizer.state[embedding.weight].values() if isinstance(kept, Tensor)]

    return Training(lambda: embedding.weight.detach().double(), step, state)


def _optimizer(name: str, embedding: nn.Embedding, wd: float) -> torch.optim.Optimizer:
    how = {"lr": LR, "betas": (0.95, BETA2), "eps": EPS}
    if name.startswith("deferred"):
        return DeferredAdamW(embedding.parameters(), **how, weight_decay=wd, mode=name.split()[1])
    if name == "torch SparseAdam":
        return torch.optim.SparseAdam(embedding.parameters(), **how)
    if name == "bitsandbytes 8-bit":
        import bitsandbytes  # only in an environment of its own

        return bitsandbytes.optim.AdamW8bit(embedding.parameters(), **how, weight_decay=wd)
    if name == "torch compiled":
        torch.compiler.reset()
        how |= {"lr": torch.tensor(LR), "betas": (torch.tensor(0.95), torch.tensor(BETA2))}
        return torch.optim.AdamW(embedding.parameters(), **how, weight_decay=wd, capturable=True)
    return torch.optim.AdamW(embedding.parameters(), **how, weight_decay=wd, fused=True)


def _gs_scale(weight: Tensor, query: Tensor, batches: Iterator[tuple[Tensor, Tensor, float, float]]) -> Training:
    table = GsScale(weight.clone())
    setting = {"lr": LR, "beta1": 0.95}

    def step() -> None:
        ids, y, lr, beta1 = next(batches)
        setting.update(lr=lr, beta1=beta1)
        rows, places = ids.unique(return_inverse=True)
        table.catch_up(rows, lr, beta1)
        read = table.weight[rows].requires_grad_()
        mse_loss(read[places] @ query, y).backward()
        assert read.grad is not None
        table.step(rows, read.grad, lr, beta1)

    def read_all() -> Tensor:
        table.catch_up(torch.arange(len(weight)), **setting)
        return table.weight.double()

    return Training(read_all, step, lambda: [table.mean, table.square, table.last])


def names() -> list[str]:
    """What can be measured here."""
    found = [DENSE, "torch compiled", "torch SparseAdam", "GS-Scale-like", "deferred folded", "deferred replay"]
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return found
    return [*found[:3], "bitsandbytes 8-bit", *found[3:]]


def trained(name: str, rows: int, wd: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The table after the schedule."""
    run = training(name, rows, wd, dtype)
    for _ in range(STEPS):
        run.step()
    return run.weight()


def distances(rows: int, wd: float) -> dict[str, float]:
    """Each one's distance to float64 dense AdamW."""
    exact = trained(DENSE, rows, wd, torch.float64)
    start = training(DENSE, rows, wd).weight()
    return {name: float((trained(name, rows, wd) - exact).norm() / (exact - start).norm()) for name in names()}


def timed(name: str, rows: int, profile: str) -> tuple[Ratio, int]:
    """The time of a step over torch's, and the bytes that the optimizer keeps for each row."""
    ours, dense = training(name, rows, WD), training(DENSE, rows, WD)
    for _ in range(STEPS // 4):  # past the first steps, in which missed ones are replayed
        ours.step()
    dense.step()
    kept = sum(part.nbytes for part in ours.state())
    seconds = time_pairs(Rounds(), ours.step, dense.step, PROFILES[profile], time.perf_counter)
    return median_ratio(*seconds), round(kept / rows)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=165_000, help="of the table (default: 165,000)")
    parser.add_argument("--bench-profile", choices=list(PROFILES), default="default")
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error(f"--rows {options.rows}: at least 1 is needed")
    torch.set_num_threads(1)
    far = {}
    for wd in (0.0, WD):
        print(f"distances, weight decay {wd:g}", file=sys.stderr, flush=True)
        far[wd] = distances(options.rows, wd)
    head = f"{'':<20} {'time':>6}  {'95 %':>16}  {'distance':>9}  {f'decay {WD:g}':>9}  {'bytes a row':>11}"
    print(f"{head}   {options.rows:,} rows of {WIDTH}, {STEPS} steps, torch {torch.__version__}")
    for name in names():
        ratio, kept = timed(name, options.rows, options.bench_profile) if name != "GS-Scale-like" else (None, None)
        between = f"[{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else ""
        took = f"{ratio.ratio:.3f}" if ratio else "–"
        bytes_ = f"{kept:,}" if kept is not None else "–"
        print(
            f"{name:<20} {took:>6}  {between:>16}  {far[0.0][name]:>9.2g}  {far[WD][name]:>9.2g}  {bytes_:>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()
