"""What Python has no word for: a cache line fetched ahead of its use, and two threads that wait for each other.

Numba compiles these to single instructions of LLVM: prefetch, atomic load and store.
"""

# mypy: disallow-incomplete-defs=False

from __future__ import annotations

import os
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes of a cache line
SPINS = 1_000  # looks at the other thread, some microseconds, before the processor is offered to others
CAN_MEET = os.name == "posix"  # elsewhere nothing offers the processor to others


@intrinsic
def _prefetch(_context, address):
    def generate(_context, builder, _signature, arguments):
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        word = cgutils.int32_t
        function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, word, word, word])
        # To be written, worth keeping in every cache, data rather than instructions.
        how = [word(1), word(3), word(1)]
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], function), [pointer, *how])
        return _context.get_dummy_value()

    return types.none(types.intp), generate


@intrinsic
def _publish(_context, array, index, value):
    def generate(context, builder, signature, arguments):
        pointer = _element(context, builder, signature, arguments)
        builder.store_atomic(arguments[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.int64), generate


@intrinsic
def _observe(_context, array, index):
    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_element(context, builder, signature, arguments), "acquire", 8)

    return types.int64(array, types.intp), generate


def _element(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array_type = signature.args[0]
    array = context.make_array(array_type)(context, builder, arguments[0])
    return cgutils.get_item_pointer(context, builder, array_type, array, [arguments[1]])


@intrinsic
def _offer_processor(_context):
    def generate(context, builder, _signature, _arguments):
        function = ir.FunctionType(cgutils.int32_t, [])
        builder.call(cgutils.get_or_insert_function(builder.module, function, "sched_yield"), [])
        return context.get_dummy_value()

    return types.none(), generate


@numba.njit(nogil=True, cache=True, inline="always")
def fetch(array: Any, row: Any) -> None:
    """Begin to bring array[row] into the caches; the array is contiguous."""
    at = array.ctypes.data + row * array.strides[0]
    for line in range(0, array.strides[0], LINE):
        _prefetch(at + line)


@numba.njit(nogil=True, cache=True)
def meet(flags: Any, part: int, parts: int, count: int) -> None:
    """Wait until the other of two threads has come to its meeting number `count` as well.

    What either wrote before, the other sees after. flags: int64[2, 8], zeros at first, a cache line a thread.
    """
    if parts == 1:
        return
    _publish(flags[part], 0, count)
    looks = 0
    while _observe(flags[1 - part], 0) < count:
        looks += 1
        if looks > SPINS:
            _offer_processor()
