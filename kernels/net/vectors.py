"""Sums of scaled rows, in vector registers: what all products of a net are made of.

Numba's loops over rows of unknown width would load and store the sum for each term: four times the work.
"""

# mypy: disallow-incomplete-defs=False

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..native import compiled

LANES = 16  # numbers of a vector; rows are read and written in whole vectors
SUMS = 8  # vectors under way: fewer would wait for each other's additions
FAST = ("reassoc", "contract", "nsz")


def _adder(vectors: int) -> Any:
    """The code that sums `vectors` vectors of scaled rows, for `sum_rows`."""

    @intrinsic
    def add(_context, number, out, first, rows, stride, places, scales, n):  # noqa: ARG001 - Numba reads the names
        def generate(context, builder, signature, arguments):
            element, word = context.get_data_type(signature.args[0]), cgutils.intp_t
            vector, size = ir.VectorType(element, LANES), context.get_abi_sizeof(element)
            out, first, rows, stride, places, scales, n = arguments[1:]
            zero, nothing = ir.Constant(vector, None), ir.Constant(vector, ir.Undefined)
            lanes = ir.Constant(ir.VectorType(cgutils.int32_t, LANES), [0] * LANES)
            groups = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(SUMS // vectors)]

            def pointer(address, kind, place):
                moved = builder.add(address, builder.mul(place, word(context.get_abi_sizeof(kind))))
                return builder.inttoptr(moved, kind.as_pointer())

            def add_row(j, group):
                place = builder.load(pointer(places, cgutils.int32_t, j))
                row = builder.add(rows, builder.mul(builder.sext(place, word), stride))
                scale = builder.insert_element(nothing, builder.load(pointer(scales, element, j)), cgutils.int32_t(0))
                scale = builder.shuffle_vector(scale, nothing, lanes)
                for k, total in enumerate(group):
                    part = builder.load(pointer(row, vector, word(k)), align=size)
                    product = builder.fmul(scale, part, flags=FAST)
                    builder.store(builder.fadd(builder.load(total), product, flags=FAST), total)

            for g, group in enumerate(groups):
                for k, total in enumerate(group):
                    builder.store(builder.load(pointer(first, vector, word(k)), align=size) if g == 0 else zero, total)
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
                builder.store(total, pointer(out, vector, word(k)), align=size)
            return context.get_dummy_value()

        return types.none(number, *[types.intp] * 7), generate

    return add


_add_four, _add_two, _add_one = map(_adder, (4, 2, 1))


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


@compiled
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
            _add_four(number, out, first, rows, stride, places, scales, n)
            done = 4 * vector
        elif left >= 2:
            _add_two(number, out, first, rows, stride, places, scales, n)
            done = 2 * vector
        else:
            _add_one(number, out, first, rows, stride, places, scales, n)
            done = vector
        out, first, rows = out + done, first + done, rows + done
