import pytest
import torch

from kernels import backends


def test_the_default_is_native_on_a_cpu_and_triton_on_a_gpu():
    assert backends.choose(None, torch.device("cpu"), torch.float32) == "native"
    assert backends.choose(None, torch.device("cuda"), torch.float32) == "triton"


def test_the_default_for_a_dtype_that_native_lacks_is_the_reference():
    assert backends.choose(None, torch.device("cpu"), torch.bfloat16) == "reference"


def test_a_named_backend_that_cannot_run_raises_an_error(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(backends.BackendError, match="TRITON_INTERPRET=1"):
        backends.choose("triton", torch.device("cpu"), torch.float32)
    with pytest.raises(backends.BackendError, match="runs on CPU tensors, not on cuda"):
        backends.choose("native", torch.device("cuda"), torch.float32)


def test_without_triton_the_default_on_a_gpu_is_the_reference(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    assert backends.available("cuda") == ["reference"]
    assert backends.choose(None, torch.device("cuda"), torch.float32) == "reference"
    with pytest.raises(backends.BackendError, match="not installed"):
        backends.choose("triton", torch.device("cuda"), torch.float32)


@pytest.mark.parametrize("value", ["1", "true", "ON", "Yes", "y", "0", "2", "off", ""])
def test_the_interpreter_is_on_when_triton_takes_it_as_on(value, monkeypatch):
    libtriton = pytest.importorskip("triton._C.libtriton")
    monkeypatch.setenv("TRITON_INTERPRET", value)
    assert backends.triton_interpreted() == libtriton.getenv_bool("TRITON_INTERPRET", False)
