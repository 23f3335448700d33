"""Claim 26: is looking rows up faster than the one-hot product it stands for, and does it take less memory?

Of each kind the faster one counts: one-hot vectors built before, built anew or sparse, against `F.embedding` and
`index_select`. A ratio is that of the worst corner for the lookup: of small and large batches, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from math import log10

import torch
from torch import Tensor

from kernels import lookup
from lesson.data import Made
from studies.lab.command import command
from studies.lab.spec import Metric, Outcome, Profile, Run, Study, exceeds, sweep
from studies.lab.timing import bytes_of, seconds_of

BATCHES, WIDTH = (64, 4_096), 40
LOOKUPS = ("embedding", "index_select")
ONE_HOTS = {"one_hot_matmul": None, "prebuilt_one_hot_matmul": lookup.one_hot, "sparse_one_hot_matmul": lookup.sparse_one_hot}


def run(job: Run, made: Made) -> Outcome:
    """Every corner of one number of classes, the ways taking turns."""
    torch.manual_seed(job.draw)
    times, sizes = [], []
    for batch, learns in product(BATCHES, (False, True)):
        ways = calls(job["classes"], batch, learns)
        seconds = seconds_of(ways)
        taken = {name: bytes_of(call) for name, call in ways.items()}
        times.append(ratio(seconds))
        sizes.append(ratio(taken))
    return Outcome({"time": min(times), "memory": min(sizes)})


def calls(classes: int, batch: int, learns: bool) -> dict[str, Callable[[], object]]:
    """Every way to the rows of a batch, and to the table's gradient where it learns."""
    ids, weight = torch.randint(classes, (batch,)), torch.randn(classes, WIDTH, requires_grad=learns)
    made = {name: ids if build is None else build(ids, classes) for name, build in ONE_HOTS.items()}
    return {name: partial(once, getattr(lookup, name), made.get(name, ids), weight) for name in (*LOOKUPS, *ONE_HOTS)}


def once(way: Callable[[Tensor, Tensor], Tensor], batch: Tensor, weight: Tensor) -> Tensor:
    """One call, and its backward pass where the table learns."""
    rows = way(batch, weight)
    return torch.autograd.grad(rows.sum(), weight)[0] if weight.requires_grad else rows


def ratio(taken: dict[str, float] | dict[str, int]) -> float:
    """log10 of what the thriftiest one-hot product takes over the thriftiest lookup."""
    return log10(min(taken[name] for name in ONE_HOTS) / min(taken[name] for name in LOOKUPS))
