"""Compares tensors for the checks, and words the result."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from studies.exact import Found


def close(a: Tensor, b: Tensor, what: str, tolerance: float = 1e-12) -> Found:
    """Whether two tensors of one shape agree; the figure is the largest difference of their entries.

    Args:
        a: any shape.
        b: the same shape.
        what: names the entries: "12 weights after 100 steps".
        tolerance: the largest difference allowed for rounding.
    """
    assert a.shape == b.shape, f"{tuple(a.shape)} beside {tuple(b.shape)}"
    apart = (a - b).abs().max().item()
    return Found(apart <= tolerance, f"largest difference of {what}: {apart:.0e}" if apart else f"{what}: equal bits")


def listed(values: Iterable[float], digits: int = 3) -> str:
    """Numbers in a row, such as "0.301 · 0.00877 · 1"."""
    return " · ".join(f"{value:.{digits}g}" for value in values)
