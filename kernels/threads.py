"""Runs compiled loops in several threads: those of torch's OpenMP.

After each operation, torch's threads spin on the processors for milliseconds. Threads of any other kind would have to
wait for a processor; torch's own start at once. If torch comes without GNU OpenMP or a compatible library, as on macOS
and Windows, loops run in one thread.
"""

# mypy: disallow-incomplete-defs=False

from __future__ import annotations

import os
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .native import compiled, inlined

SHARE = 1 << 22  # the fewest bytes of a table per thread: below, another thread costs more than it saves
PROCESS = os.getpid()
OPENMP = all(map(llvmlite.binding.address_of_symbol, ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")))

if OPENMP:
    _number = types.ExternalFunction("omp_get_thread_num", types.intc())
    _threads = types.ExternalFunction("omp_get_num_threads", types.intc())
else:
    _number = numba.njit(lambda: 0)
    _threads = numba.njit(lambda: 1)


def threads() -> int:
    """How many threads loops may use: torch's number (`torch.set_num_threads`), or 1 without OpenMP."""
    # A process that is forked after this import has none of its parent's threads.
    return torch.get_num_threads() if OPENMP and os.getpid() == PROCESS else 1


def shares(table: np.ndarray) -> int:
    """How many threads a loop over a table's rows uses."""
    return max(1, min(threads(), table.nbytes // SHARE))


@intrinsic
def _call_in_threads(typing, n, address, arguments):  # noqa: ARG001 - Numba reads the names
    signature = types.none(*arguments)

    def generate(context, builder, _signature, values):
        # GNU OpenMP calls a function with one argument, an address. Here it is that of a struct with the address of the
        # compiled function, the tuple of its arguments, and whether a call has failed.
        pointer, word, number = cgutils.voidptr_t, cgutils.intp_t, cgutils.int32_t
        place = cgutils.alloca_once(builder, ir.LiteralStructType([word, values[2].type, number]))
        builder.store(values[1], cgutils.gep_inbounds(builder, place, 0, 0))
        builder.store(values[2], cgutils.gep_inbounds(builder, place, 0, 1))
        failed = cgutils.gep_inbounds(builder, place, 0, 2)
        builder.store(number(0), failed)

        kind = ir.FunctionType(ir.VoidType(), [pointer])
        function = ir.Function(builder.module, kind, builder.module.get_unique_name("in_threads"))
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block())
        there = inner.bitcast(function.args[0], place.type)
        packed = inner.load(cgutils.gep_inbounds(inner, there, 0, 1))
        unpacked = cgutils.unpack_tuple(inner, packed, len(arguments))
        body = context.call_conv.get_function_type(types.none, signature.args).as_pointer()
        body = inner.inttoptr(inner.load(cgutils.gep_inbounds(inner, there, 0, 0)), body)
        status, _ = context.call_conv.call_function(inner, body, types.none, signature.args, unpacked)
        with inner.if_then(status.is_error, likely=False):
            inner.store(number(1), cgutils.gep_inbounds(inner, there, 0, 2))
        inner.ret_void()

        kind = ir.FunctionType(ir.VoidType(), [kind.as_pointer(), pointer, number, number])
        parallel = cgutils.get_or_insert_function(builder.module, kind, "GOMP_parallel")
        threads = builder.trunc(values[0], number)
        builder.call(parallel, [function, builder.bitcast(place, pointer), threads, number(0)])
        with builder.if_then(builder.icmp_unsigned("!=", builder.load(failed), number(0)), likely=False):
            context.call_conv.return_user_exc(builder, MemoryError, ("no memory for the work of a thread",))
        return context.get_dummy_value()

    return types.none(types.intp, types.intp, arguments), generate


@compiled
def _in_threads(n: int, address: int, arguments: Any) -> None:
    _call_in_threads(n, address, arguments)


def in_threads(n: int, body: Any, *arguments: Any) -> None:
    """Call the compiled function body(*arguments), which returns nothing, in up to n threads: see `team`.

    The function is called by its address. If it were linked into the caller, it would be compiled a second time.

    Raises:
        MemoryError: the function raised it in a thread. It may raise nothing else.
    """
    if n == 1 or not OPENMP:
        body(*arguments)
        return
    kinds = tuple(map(numba.typeof, arguments))
    body.compile(kinds)  # does nothing if it is compiled
    code = body.overloads[kinds]
    _in_threads(n, code.library.get_pointer_to_function(code.fndesc.llvm_func_name), arguments)


@inlined
def team() -> tuple[int, int]:
    """The number of this thread among those that `in_threads` started, and how many there are."""
    return _number(), _threads()
