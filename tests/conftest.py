"""Triton kernels run in Triton's interpreter here: on CPU tensors, without a GPU."""

import os

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Choose the interpreter before any test imports Triton."""
    # Triton reads this once, at import: interpreted and compiled kernels cannot share a process.
    # On a GPU, TRITON_INTERPRET=0 in the environment tests the compiled kernels instead. Benchmarks, which a run from
    # the root collects too, time only compiled kernels.
    if not config.getoption("benchmark_only"):
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch, so that every run has the same numbers."""
    torch.manual_seed(0)
