"""Which implementation runs an op: the device decides, unless you name one.

| backend     | runs                                        | for                               |
| ----------- | ------------------------------------------- | --------------------------------- |
| `reference` | everywhere, any floating dtype              | the definition                    |
| `native`    | CPU tensors, float32 and float64 (Numba)    | training on a CPU                 |
| `triton`    | CUDA and ROCm tensors; CPU in the interpreter | training on a GPU               |
"""

from __future__ import annotations

import importlib.util
import os
from typing import Literal, get_args

import torch

Backend = Literal["reference", "native", "triton"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


class BackendError(RuntimeError):
    """The backend cannot run here, or cannot run on these tensors."""


def triton_interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors (`TRITON_INTERPRET=1`)."""
    # Triton's own words for yes: importing it to ask would take long.
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def why_not(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> str | None:
    """Why `backend` cannot run on tensors of this device and dtype; None if it can.

    >>> why_not("native", "cpu", torch.bfloat16)
    'it computes in float32 and float64, not in torch.bfloat16'
    """
    kind = torch.device(device).type
    if backend == "reference":
        return None
    if backend == "native":
        if kind != "cpu":
            return f"it runs on CPU tensors, not on {kind}"
        if dtype not in (torch.float32, torch.float64):
            return f"it computes in float32 and float64, not in {dtype}"
        return None
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed (it is available on Linux)"
        if kind == "cpu" and not triton_interpreted():
            return "the tensors are on the CPU; set TRITON_INTERPRET=1 to run Triton's interpreter there"
        if kind not in ("cpu", "cuda"):
            return f"it runs on CUDA and ROCm tensors, not on {kind}"
        return None
    return f"there is no such backend; there are {', '.join(BACKENDS)}"


def available(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> list[Backend]:
    """The backends that can run on tensors of this device and dtype.

    >>> "reference" in available("cpu", torch.float16), "native" in available("cpu", torch.float16)
    (True, False)
    """
    return [backend for backend in BACKENDS if why_not(backend, device, dtype) is None]


def choose(backend: str | None, device: torch.device, dtype: torch.dtype) -> Backend:
    """The named backend, or by default `triton` on a GPU, `native` on a CPU, else `reference`.

    Raises:
        BackendError: the named backend cannot run on tensors of this device and dtype.
    """
    if backend is None:
        preferred: tuple[Backend, ...] = ("native",) if device.type == "cpu" else ("triton",)
        return next((name for name in preferred if why_not(name, device, dtype) is None), "reference")
    reason = why_not(backend, device, dtype)
    if reason is not None:
        raise BackendError(f"{backend=}: {reason}")
    return backend  # type: ignore[return-value]
