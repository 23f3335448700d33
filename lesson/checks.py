"""Checks of arguments: a wrong one raises an error at once, in one line that says what is needed."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS = (int, float, np.integer, np.floating)


class DataError(ValueError):
    """Input cannot be used: the message says what, where (file, line, column), and what to do."""


def shown(value: Any) -> str:
    """A value for an error message: its repr on one short line, with NumPy numbers as Python's."""
    text = " ".join(repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def printable(text: str | Path) -> str:
    r"""Text or a path on one line, with \n and bytes that are not UTF-8 as escapes."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in str(text))


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a name, which Python stores as a surrogate
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def whole(name: str, value: Any, least: int = 0, most: int = 2**63 - 1) -> int:
    """A whole number from `least` to `most`; 40.0 counts as one.

    Raises:
        DataError: it is not.
    """
    fits = isinstance(value, NUMBERS) and not isinstance(value, bool) and least <= value <= most
    if not fits or value != int(value):
        raise DataError(f"{name}={shown(value)}: a whole number of at least {least} is needed")
    return int(value)


def seed(value: Any) -> int:
    """A seed for torch's generator, from 0 to 2³² − 1: it ignores the higher bits, so two seeds would be the same.

    Raises:
        DataError: it is not.
    """
    if whole("seed", value) >= 1 << 32:
        raise DataError(f"seed={shown(value)}: a whole number below 2**32 is needed")
    return int(value)


def number(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> float:
    """A finite number in the given range.

    Raises:
        DataError: it is not.
    """
    fits = isinstance(value, NUMBERS) and not isinstance(value, bool)
    if not (fits and abs(value) <= sys.float_info.max and least <= value and above < value < below):
        limits = [
            *([f"of at least {least:g}"] if least > -math.inf else []),
            *([f"above {above:g}"] if above > -math.inf else []),
            *([f"below {below:g}"] if below < math.inf else []),
        ]
        raise DataError(f"{name}={shown(value)}: a finite number {' and '.join(limits)}".rstrip() + " is needed")
    return float(value)


def single(name: str, value: Any) -> float:
    """A number that float32 can hold.

    Raises:
        DataError: it is not.
    """
    limit = float(np.finfo(np.float32).max)
    return number(name, value, least=-limit, below=limit)


def finite(name: str, *tensors: Tensor) -> None:
    """Check that a model's tables or predictions, for the method of this name, are finite.

    Raises:
        DataError: they are not.
    """
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise DataError(f"{name}: the model holds numbers that are not finite; train it again with a smaller rate")


def covers(low: float, high: float, *numbers: Any) -> bool:
    """Whether numbers lie in a range, when both are as float32 holds them.

    >>> covers(-9.95, 9.9, np.float32(-9.95), 9.9)  # the first is below -9.95
    True
    """
    limit = float(np.finfo(np.float32).max)
    return all(abs(x) <= limit and np.float32(low) <= np.float32(x) <= np.float32(high) for x in numbers)


def text(name: str, value: Any) -> str | None:
    """Text, or None.

    Raises:
        DataError: it is neither.
    """
    if value is not None and not isinstance(value, str):
        raise DataError(f"{name}={shown(value)}: text is needed")
    return value


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """Two of something.

    Raises:
        DataError: it is not a list or tuple of two.
    """
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str) or len(value) != 2:
        raise DataError(f"{name}={shown(value)}: two numbers are needed")
    return value[0], value[1]


def score_range(name: str, value: Any) -> tuple[float, float]:
    """The range of a sigmoid: two numbers that float32 can hold, the smaller one first.

    Raises:
        DataError: it is not.
    """
    low, high = (single(name, end) for end in pair(name, value))
    if low >= high:
        raise DataError(f"{name}={shown(value)}: two numbers are needed, the smaller one first")
    return low, high


def below_one(name: str, value: Any) -> float:
    """The share that a moving mean keeps at each step: at least 0, and below 1.

    Raises:
        DataError: it is not.
    """
    return number(name, value, least=0, below=1)
