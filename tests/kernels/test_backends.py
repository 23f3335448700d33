import pytest
import torch

from kernels import backends


def test_a_cpu_trains_natively_and_a_gpu_by_triton():
    assert backends.choose(None, torch.device("cpu"), torch.float32) == "native"
    assert backends.choose(None, torch.device("cuda"), torch.float32) == "triton"


def test_what_native_has_no_dtype_for_falls_to_the_reference():
    assert backends.choose(None, torch.device("cpu"), torch.bfloat16) == "reference"


def test_an_override_that_cannot_run_fails_loudly(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(backends.BackendError, match="TRITON_INTERPRET=1"):
        backends.choose("triton", torch.device("cpu"), torch.float32)
    with pytest.raises(backends.BackendError, match="runs on CPU tensors, not on cuda"):
        backends.choose("native", torch.device("cuda"), torch.float32)


def test_without_triton_a_gpu_gets_the_reference(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert backends.available("cuda") == ["reference"]
    assert backends.choose(None, torch.device("cuda"), torch.float32) == "reference"
    with pytest.raises(backends.BackendError, match="not installed"):
        backends.choose("triton", torch.device("cuda"), torch.float32)
