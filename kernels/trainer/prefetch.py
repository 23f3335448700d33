"""A row fetched ahead of its use, for which Numba has no word: LLVM's prefetch instruction."""

# mypy: disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line


@intrinsic
def _prefetch(_context, address):  # noqa: ARG001 - Numba reads the names
    def generate(context, builder, _signature, arguments):
        word = cgutils.int32_t
        function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], function)
        # For reading, worth keeping in every cache, data rather than instructions.
        builder.call(prefetch, [builder.inttoptr(arguments[0], cgutils.voidptr_t), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.none(types.intp), generate


@numba.njit(nogil=True, cache=True, inline="always")
def fetch(array: Any, row: Any) -> None:
    """Begin to bring array[row] into the caches; the array is contiguous."""
    at = array.ctypes.data + row * array.strides[0]
    for line in range(0, array.strides[0], LINE):
        _prefetch(at + line)
