"""Triton kernels run in Triton's interpreter here: on CPU tensors, without a GPU."""

import os

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Choose the interpreter before any test imports Triton."""
    # Triton reads this when it is imported, once a process: interpreted and compiled kernels cannot share one.
    # On a GPU, TRITON_INTERPRET=0 in the environment tests the compiled kernels instead. Benchmarks, which a run from
    # the root collects beside the tests, time compiled kernels alone.
    if not config.getoption("benchmark_only"):
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same numbers in every run, also where a test does not care which."""
    torch.manual_seed(0)
