import numpy as np
import pytest

from kernels.native import compiled, inlined, rounded, rounded_inlined


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
