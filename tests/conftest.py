"""Triton kernels run in Triton's interpreter here, on CPU tensors, without a GPU; torch has one thread."""

import gc
import os

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """Choose the interpreter before any test imports Triton."""
    # Triton reads this once, at import: interpreted and compiled kernels cannot share a process.
    # With -m gpu the compiled kernels are tested instead. Benchmarks, which a run from the root collects too, time only
    # compiled kernels.
    if config.getoption("markexpr") == "gpu":
        os.environ.setdefault("TRITON_INTERPRET", "0")
    elif not config.getoption("benchmark_only"):
        os.environ.setdefault("TRITON_INTERPRET", "1")
        if config.getoption("markexpr") != "faults":
            os.fsync = lambda descriptor: None  # tests survive no power failure, and waited for the disk for long
        # Tests run in a process per core. Threads of torch that wait for each other would double the time.
        if "OMP_NUM_THREADS" not in os.environ:
            os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
            torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Take what collecting has made out of garbage collection: each later one would go through all of it."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch, so that every run has the same numbers."""
    torch.manual_seed(0)
