"""Claim 26: is the lookup faster than the one-hot product that it replaces, and does it need less memory?

The fastest of each kind counts: one-hot vectors prebuilt, freshly built or sparse, against `F.embedding` and
`index_select`. The ratio is from the lookup's worst corner: small and large batches, forward and backward.
"""

from __future__ import annotations

from collections.abc import Mapping
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
# What each method gets instead of ids.
WAYS = {
    "embedding": None,
    "index_select": None,
    "one_hot_matmul": None,
    "prebuilt_one_hot_matmul": lookup.one_hot,
    "sparse_one_hot_matmul": lookup.sparse_one_hot,
}


def run(job: Run, _made: Made) -> Outcome:
    """Every corner for one number of classes; the methods take turns."""
    torch.manual_seed(job.draw)
    times, sizes = [], []
    for batch, learns in product(BATCHES, (False, True)):
        ids, weight = torch.randint(job["classes"], (batch,)), torch.randn(job["classes"], WIDTH, requires_grad=learns)
        given = {way: ids if build is None else build(ids, job["classes"]) for way, build in WAYS.items()}
        calls = {way: partial(once, way, given[way], weight) for way in WAYS}
        times.append(ratio(seconds_of(calls)))
        sizes.append(ratio({way: bytes_of(call) + stored(given[way]) for way, call in calls.items()}))
    return Outcome({"time": min(times), "memory": min(sizes)})


def once(way: str, batch: Tensor, weight: Tensor) -> Tensor:
    """The rows of a batch, or the gradient if the table is trained."""
    rows = getattr(lookup, way)(batch, weight)
    return torch.autograd.grad(rows.sum(), weight)[0] if weight.requires_grad else rows


def stored(batch: Tensor) -> int:
    """Bytes that exist before the call: ids, or one-hot vectors instead."""
    return stored(batch.indices()) + stored(batch.values()) if batch.is_sparse else batch.nbytes


def ratio(taken: Mapping[str, float]) -> float:
    """log10 of the best one-hot product over the best lookup."""
    return log10(min(taken[way] for way in WAYS if way not in LOOKUPS) / min(taken[way] for way in LOOKUPS))


STUDY = Study(
    name="lookup",
    title="One-hot product against lookup",
    question="Is the lookup faster than every product with one-hot vectors, even with few classes?",
    run=run,
    data=("made",),
    arms=sweep("classes", (2, 10, 100, 1_000, 10_000)),
    metrics={
        "time": Metric("log10 of one-hot over lookup, time", better="higher", smallest=log10(1.05), resplit=False),
        "memory": Metric("log10 of one-hot over lookup, bytes", better="higher", smallest=log10(1.05), resplit=False),
    },
    parts=(
        exceeds("26a", "classes=2", 0, says="the lookup is faster, even with two classes"),
        exceeds("26b", "classes=2", 0, "it needs less memory, even with two classes", metric="memory"),
        exceeds("", "classes=1000", 0, says="with a thousand classes it is faster"),
    ),
    profiles={
        "quick": Profile(seeds=10, trials=0, cost="two minutes"),
        "regular": Profile(seeds=20, trials=0, cost="four minutes"),
        "full": Profile(seeds=40, trials=0, cost="eight minutes"),
    },
    resplits=False,
    alone=True,
    cpu_only=True,
    limits=(
        f"Batches of {BATCHES[0]} and {BATCHES[1]:,}, width {WIDTH}, one thread of this processor. The ratio is "
        "from the corner that is worst for the lookup.",
    ),
)

main = command(STUDY)

if __name__ == "__main__":
    main()
