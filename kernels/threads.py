"""Loops over a table's rows in as many threads as pay, where denormal numbers count as zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch

SHARE = 1 << 25  # bytes a thread must have before a second one pays: waking it costs caches as well as time


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers count as zero in this thread: running means that die away are far slower with them."""
    flushing = bool(np.finfo(np.float32).smallest_normal * np.float32(0.5) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushing)


def in_shares(table: np.ndarray, do: Callable[[int, int], object]) -> None:
    """Call do(first, end) for shares of the table's rows, each in a thread of its own."""
    threads = max(1, min(torch.get_num_threads(), table.nbytes // SHARE))
    cuts = [len(table) * share // threads for share in range(threads + 1)]

    def part(cut: tuple[int, int]) -> None:
        with flushed_denormals():
            do(*cut)

    if threads == 1:
        part((cuts[0], cuts[1]))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, pairwise(cuts)))
