"""Sums of scaled rows, and scaled rows added to others, in vector registers: all products of a net consist of them.

Numba's own loops over rows of unknown width would load and store each vector for every term.
"""

# mypy: disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..native import llvm_inlined

LANES = 16  # numbers of a vector; rows are read and written in whole vectors
SUMS = 8  # sums computed at once: fewer would wait for the latency of additions
FAST = ("reassoc", "contract", "nsz")


class _Code:
    """Writes LLVM's instructions for vectors of a type of numbers."""

    def __init__(self, context: Any, builder: Any, number: Any) -> None:
        self.builder, self.element = builder, context.get_data_type(number)
        self.size, self.vector = context.get_abi_sizeof(self.element), ir.VectorType(self.element, LANES)

    def pointer(self, address, kind, size, place):
        """Where number `place` of an array of numbers of this kind and size is."""
        moved = self.builder.add(address, self.builder.mul(place, cgutils.intp_t(size)))
        return self.builder.inttoptr(moved, kind.as_pointer())

    def part(self, address, k):
        """Where vector k of a row is."""
        return self.pointer(address, self.vector, LANES * self.size, cgutils.intp_t(k))

    def load(self, pointer):
        return self.builder.load(pointer, align=self.size)

    def term(self, rows, stride, places, scales, j):
        """The row of term j, and its scale in every lane."""
        place = self.builder.load(self.pointer(places, cgutils.int32_t, 4, j))
        row = self.builder.add(rows, self.builder.mul(self.builder.sext(place, cgutils.intp_t), stride))
        nothing, lanes = ir.Constant(self.vector, ir.Undefined), ir.VectorType(cgutils.int32_t, LANES)
        scale = self.builder.load(self.pointer(scales, self.element, self.size, j))
        scale = self.builder.insert_element(nothing, scale, cgutils.int32_t(0))
        return row, self.builder.shuffle_vector(scale, nothing, ir.Constant(lanes, [0] * LANES))

    def plus(self, total, scale, part):
        return self.builder.fadd(total, self.builder.fmul(scale, part, flags=FAST), flags=FAST)


def _summing(vectors: int) -> Any:
    """The code of `sum_rows` for so many vectors of each row."""

    @intrinsic
    def add(_context, number, out, first, rows, stride, places, scales, n):  # noqa: ARG001 - Numba reads the names
        def generate(context, builder, signature, arguments):
            code, word = _Code(context, builder, signature.args[0]), cgutils.intp_t
            out, first, rows, stride, places, scales, n = arguments[1:]
            groups = [
                [cgutils.alloca_once(builder, code.vector) for _ in range(vectors)] for _ in range(SUMS // vectors)
            ]

            def add_row(j, group):
                row, scale = code.term(rows, stride, places, scales, j)
                for k, total in enumerate(group):
                    builder.store(code.plus(builder.load(total), scale, code.load(code.part(row, k))), total)

            for g, group in enumerate(groups):
                for k, total in enumerate(group):
                    start = code.load(code.part(first, k)) if g == 0 else ir.Constant(code.vector, None)
                    builder.store(start, total)
            several = word(len(groups))
            end = builder.mul(builder.udiv(n, several), several)
            with cgutils.for_range_slice(builder, word(0), end, several) as (j, _):
                for g, group in enumerate(groups):
                    add_row(builder.add(j, word(g)), group)
            with cgutils.for_range_slice(builder, end, n, word(1)) as (j, _):
                add_row(j, groups[0])
            for k in range(vectors):
                total = builder.load(groups[0][k])
                for group in groups[1:]:
                    total = builder.fadd(total, builder.load(group[k]), flags=FAST)
                builder.store(total, code.part(out, k), align=code.size)
            return context.get_dummy_value()

        return types.none(number, *[types.intp] * 7), generate

    return add


def _adding(vectors: int) -> Any:
    """The code of `add_to_rows` for so many vectors of each row."""

    @intrinsic
    def add(_context, number, row, rows, stride, places, scales, n):  # noqa: ARG001
        def generate(context, builder, signature, arguments):
            code, word = _Code(context, builder, signature.args[0]), cgutils.intp_t
            row, rows, stride, places, scales, n = arguments[1:]
            parts = [code.load(code.part(row, k)) for k in range(vectors)]
            with cgutils.for_range_slice(builder, word(0), n, word(1)) as (j, _):
                into, scale = code.term(rows, stride, places, scales, j)
                for k, part in enumerate(parts):
                    spot = code.part(into, k)
                    builder.store(code.plus(code.load(spot), scale, part), spot, align=code.size)
            return context.get_dummy_value()

        return types.none(number, *[types.intp] * 6), generate

    return add


_sum_four, _sum_two, _sum_one = map(_summing, (4, 2, 1))
_add_four, _add_one = map(_adding, (4, 1))


@intrinsic
def address(_context, array, place):  # noqa: ARG001
    """Where array[place] is, an intp; the array has one dimension and is contiguous."""

    def generate(context, builder, signature, arguments):
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(builder.gep(view.data, [arguments[1]]), cgutils.intp_t)

    return types.intp(array, types.intp), generate


def padded(width: int) -> int:
    """So many numbers that a row of `width` of them fills whole vectors."""
    return -(-width // LANES) * LANES


@llvm_inlined
def sum_rows(
    number: Any, size: int, out: int, first: int, rows: int, width: int, places: int, scales: int, n: int
) -> None:
    """Write out[:] = first[:] + Σ_j scales[j]·rows[places[j], :] over j < n. Arrays are given by their addresses.

    Args:
        number: any number of the arrays' type.
        size: its bytes.
        out: [width].
        first: [width].
        rows: […, width].
        width: of a row, as `padded` returns it.
        places: int32[n].
        scales: [n].
        n: how many rows are added.
    """
    stride, vector = width * size, LANES * size
    end = out + stride
    while out < end:
        left = (end - out) // vector
        if left >= 4:
            _sum_four(number, out, first, rows, stride, places, scales, n)
            done = 4 * vector
        elif left >= 2:
            _sum_two(number, out, first, rows, stride, places, scales, n)
            done = 2 * vector
        else:
            _sum_one(number, out, first, rows, stride, places, scales, n)
            done = vector
        out, first, rows = out + done, first + done, rows + done


@llvm_inlined
def add_to_rows(number: Any, size: int, row: int, rows: int, width: int, places: int, scales: int, n: int) -> None:
    """Do rows[places[j], :] += scales[j]·row[:] for j < n. Arguments are as for `sum_rows`."""
    stride, vector = width * size, LANES * size
    end = row + stride
    while row < end:
        if row + 4 * vector <= end:
            _add_four(number, row, rows, stride, places, scales, n)
            done = 4 * vector
        else:
            _add_one(number, row, rows, stride, places, scales, n)
            done = vector
        row, rows = row + done, rows + done
