"""Machine instructions that Numba does not offer: prefetching, atomic loads and stores, a clock, flushing denormals."""

# mypy: disallow-incomplete-defs=False

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .native import inlined

LINE = 64  # bytes of a cache line

X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
ARM = platform.machine().lower() in ("aarch64", "arm64")
# Bits of the floating-point control register: with them set, denormal operands and results count as zero.
FLUSH = 0x8040 if X86 else 1 << 24


def _pointer(builder, address):
    return builder.inttoptr(address, cgutils.int32_t.as_pointer())


@intrinsic
def fetch(_context, array, row, size):  # noqa: ARG001 - Numba reads the names
    """Start to load the first `size` bytes of array[row] into the caches. The array must be contiguous."""

    def generate(context, builder, signature, arguments):
        pointer, word, address = cgutils.voidptr_t, cgutils.int32_t, cgutils.intp_t
        function = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], function)
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        stride = builder.extract_value(view.strides, 0)
        at = builder.add(builder.ptrtoint(view.data, address), builder.mul(arguments[1], stride))
        with cgutils.for_range_slice(builder, address(0), arguments[2], address(LINE)) as (line, _):
            # The three numbers mean: for reading, keep in every cache, data rather than instructions.
            builder.call(prefetch, [builder.inttoptr(builder.add(at, line), pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp), generate


@intrinsic
def load(_context, address):  # noqa: ARG001
    """Read the int32 at an address. Whatever its writer wrote before it is then visible to this thread."""

    def generate(_context, builder, _signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 4)

    return types.int32(types.intp), generate


@intrinsic
def store(_context, address, value):  # noqa: ARG001
    """Write an int32 to an address. A thread that loads it also sees what this thread wrote before."""

    def generate(context, builder, _signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", 4)
        return context.get_dummy_value()

    return types.none(types.intp, types.int32), generate


@intrinsic
def replace(_context, address, old, new):  # noqa: ARG001
    """Write `new` to an address if it holds `old`; returns whether it did."""

    def generate(_context, builder, _signature, arguments):
        address, old, new = arguments
        return builder.extract_value(builder.cmpxchg(_pointer(builder, address), old, new, "acq_rel", "acquire"), 1)

    return types.boolean(types.intp, types.int32, types.int32), generate


@intrinsic
def increment(_context, address):  # noqa: ARG001
    """Add 1 to the int32 at an address; returns the old number.

    Whatever the threads that incremented it before had written is then visible to this thread.
    """

    def generate(_context, builder, _signature, arguments):
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), cgutils.int32_t(1), "acq_rel")

    return types.int32(types.intp), generate


@intrinsic
def ticks(_context):
    """The time of a fast clock. Its unit depends on the processor, so only ratios of differences mean anything."""

    def generate(_context, builder, _signature, _arguments):
        function = ir.FunctionType(ir.IntType(64), [])
        if ARM:  # LLVM's own instruction reads a register that programs may not read
            return builder.call(ir.InlineAsm(function, "mrs $0, cntvct_el0", "=r", side_effect=True), [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", [], function), [])

    return types.int64(), generate


@intrinsic
def _control(_context):
    """This thread's floating-point control register."""

    def generate(_context, builder, _signature, _arguments):
        if X86:
            function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
            place = cgutils.alloca_once(builder, cgutils.int32_t)
            read = builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", [], function)
            builder.call(read, [builder.bitcast(place, cgutils.voidptr_t)])
            return builder.zext(builder.load(place), cgutils.intp_t)
        if ARM:
            function = ir.FunctionType(ir.IntType(64), [])
            return builder.call(builder.module.declare_intrinsic("llvm.aarch64.get.fpcr", [], function), [])
        return cgutils.intp_t(0)

    return types.intp(), generate


@intrinsic
def _set_control(_context, value):  # noqa: ARG001
    def generate(context, builder, _signature, arguments):
        if X86:
            function = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
            place = cgutils.alloca_once_value(builder, builder.trunc(arguments[0], cgutils.int32_t))
            write = builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", [], function)
            builder.call(write, [builder.bitcast(place, cgutils.voidptr_t)])
        elif ARM:
            function = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
            builder.call(builder.module.declare_intrinsic("llvm.aarch64.set.fpcr", [], function), [arguments[0]])
        return context.get_dummy_value()

    return types.none(types.intp), generate


@inlined
def flush_denormals() -> int:
    """Make denormal numbers count as zero in this thread: running means fade to them, and they are far slower.

    Returns the earlier setting, for `restore`.
    """
    before = _control()
    _set_control(before | FLUSH)
    return before


@inlined
def restore(before: Any) -> None:
    """Undo `flush_denormals`, which returned `before`."""
    _set_control(before)
