"""Where the Triton kernels' tests run, and changes to Triton's interpreter without which they would prove little."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton", reason="Triton is available on Linux")

import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from kernels.backends import triton_interpreted

if not triton_interpreted() and not torch.cuda.is_available():
    pytest.skip("compiled kernels need a GPU, and this machine has none", allow_module_level=True)

DEVICE = "cpu" if triton_interpreted() else "cuda"
MARKS = [pytest.mark.gpu] if DEVICE == "cuda" else []  # of every module whose tests run on DEVICE


@pytest.fixture(autouse=True)
def uninitialized_memory_is_nan() -> Iterator[None]:
    """Fill empty tensors with NaN, so that an element that a kernel forgets to write is never right by chance."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def stores_in_bf16_round_to_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round as every target does; Triton's interpreter cuts the low bits off instead."""
    cast = InterpreterBuilder.cast_impl

    def rounding_cast(self: InterpreterBuilder, source: TensorHandle, to: tl.dtype) -> TensorHandle:
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            rounded = torch.from_numpy(source.data).to(torch.bfloat16)
            return TensorHandle(rounded.view(torch.uint16).numpy(), to.scalar)
        return cast(self, source, to)

    # Narrowing uses this name, which is bound to cast_impl when the class is created.
    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", rounding_cast)
