import importlib
import pickle
import pkgutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import kernels
from kernels.native import _CacheFile, compiled, inlined, rounded, rounded_inlined
from kernels.trainer.meeting import meet


@rounded
def sum_and_back(x, a):
    return (x + a) - a


@compiled
def called_by_fast_code(x, a):
    return sum_and_back(x, a)


@rounded_inlined
def inlined_sum_and_back(x, a):
    return (x + a) - a


@rounded
def inlined_in_rounded_code(x, a):
    return inlined_sum_and_back(x, a)


@inlined
def fast_sum_and_back(x, a):
    return (x + a) - a


@compiled
def fast_code(x, a):
    return fast_sum_and_back(x, a)


@pytest.mark.parametrize("code", [called_by_fast_code, inlined_in_rounded_code])
def test_rounded_code_is_rounded_as_written_whichever_caller_is_first(code):
    assert code(np.float32(1e-9), np.float32(1)) == 0


def test_fast_code_may_be_reordered():
    assert fast_code(np.float32(1e-9), np.float32(1)) == np.float32(1e-9)


GONE = b"cno_such_module\nGone\n."  # a pickle of a class that an earlier version had


KEY = ("float64", "a processor", "a function's code")  # as Numba's: signature, processor, function


@pytest.mark.parametrize("content", [GONE, b"", b"\x80", pickle.dumps(42)])
def test_a_cache_that_cannot_be_read_counts_as_absent(content: bytes, tmp_path: Path):
    file = _CacheFile(str(tmp_path), "double", "of these sources")
    file.save(KEY, 42)
    assert file.load(KEY) == 42
    (damaged,) = tmp_path.iterdir()
    damaged.write_bytes(content)
    assert file.load(KEY) is None
    file.save(KEY, 43)
    assert file.load(KEY) == 43


def test_code_of_other_sources_or_of_another_function_is_not_loaded_and_is_replaced(tmp_path: Path):
    file, changed = (_CacheFile(str(tmp_path), "double", sources) for sources in ("these", "those"))
    file.save(KEY, 42)
    assert changed.load(KEY) is None
    assert file.load((*KEY[:2], "changed")) is None
    changed.save(KEY, 43)
    assert changed.load(KEY) == 43
    assert file.load(KEY) is None
    assert len(list(tmp_path.iterdir())) == 1


def test_those_who_compile_at_the_same_moment_lose_nothing_and_load_nobody_elses_code(tmp_path: Path):
    keys = [(f"signature {number}", "a processor", "code") for number in range(200)]
    together = threading.Barrier(8)

    def save(first: int) -> None:
        file = _CacheFile(str(tmp_path), "double", "of these sources")
        together.wait()
        for key in keys[first::8]:
            file.save(key, key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(8)))
    read = _CacheFile(str(tmp_path), "double", "of these sources")
    assert [read.load(key) for key in keys] == keys


def test_the_compiled_loops_use_this_cache():
    assert type(fast_code._cache._cache_file) is _CacheFile


def dispatchers() -> dict[str, Dispatcher]:
    """Every compiled function of the package."""
    modules = [importlib.import_module(found.name) for found in pkgutil.walk_packages(kernels.__path__, "kernels.")]
    return {f"{m.__name__}.{name}": f for m in modules for name, f in vars(m).items() if isinstance(f, Dispatcher)}


def called(function: Dispatcher) -> list[Dispatcher]:
    """The compiled functions that a compiled function names."""
    names = function.py_func.__code__.co_names
    found = [function.py_func.__globals__.get(name) for name in names]
    return [one for one in found if isinstance(one, Dispatcher)]


def test_compiled_code_calls_only_what_is_copied_into_it():
    # Otherwise the process that compiles both rounds differently from all later ones; see `kernels.native`.
    found = dispatchers()
    assert len(found) > 50
    names = {id(function): name for name, function in found.items()}
    apart = {
        f"{caller} calls {names.get(id(callee), callee)}"
        for caller, function in found.items()
        for callee in called(function)
        if callee is not meet  # it waits, and rounds nothing
        and callee.targetoptions.get("inline") != "always"
        and not callee.targetoptions.get("forceinline")
    }
    assert apart == set()
