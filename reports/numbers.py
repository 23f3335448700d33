"""Writes every number on the pages: − for minus, commas between thousands, only significant digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations

Interval = tuple[float | None, float | None]
Write = Callable[[float | None], str]

MISSING = "–"
MOST = 8  # decimals
LARGE = 1e7  # from here on three digits are enough
ROUNDED_UP = 0.9995  # of a unit: from here on three digits of the smaller one would be 1,000
LONG = 1e15  # from here on a float does not have every integer digit


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` decimals: 0.895, −0.033, 1.011; a dash for None; 2.00·10²⁰ if it is long."""
    if value is None or math.isnan(value):
        return MISSING
    if LONG <= abs(value) < math.inf:
        return figures(value)
    text = "∞" if math.isinf(value) else f"{abs(value):,.{digits}f}"
    return f"−{text}" if value < 0 and text.strip("0.") else text


def signed(value: float | None, digits: int = 3) -> str:
    """As `number`, with a plus sign if it is positive."""
    return plus(number(value, digits), value)


def interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """A signed interval: [−0.035, −0.031]."""
    return MISSING if bounds is None else f"[{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]"


def digits_for(bounds: tuple[float, float] | None, least: int = 3) -> int:
    """Decimals enough to see an interval: the last one is at most half its width."""
    width = 0.0 if bounds is None else bounds[1] - bounds[0]
    return max(least, min(MOST, math.ceil(-math.log10(width / 2)))) if 0 < width < math.inf else least


def writer(*values: float | None, bounds: Interval | None = None, least: int = 3, margin: float | None = None) -> Write:
    """How to write numbers side by side: with enough decimals to differ, and about three digits if tiny.

    Args:
        *values: the numbers.
        bounds: the interval of their difference: its ends differ too. A null end is infinite.
        least: decimals of numbers below 10; larger ones have fewer.
        margin: the interval's ends stand on the same side of it, and of its negative, as before they are rounded.

    Example:
        >>> write = writer(0.8204, 0.8201)
        >>> write(0.8204), write(0.8201)
        ('0.8204', '0.8201')
    """
    low, high = bounds or (None, None)
    known = [abs(v) for v in (*values, low, high) if v is not None and math.isfinite(v)]
    largest = max(known, default=0.0)
    # Rounding keeps the order, so an end that does not look like the margin is on the right side of it.
    margins = () if margin is None else (margin, -margin)
    apart = [(end, side) for end in (low, high) if end is not None for side in margins if not math.isclose(end, side)]
    styles: list[Write]
    if 0 < largest < 5e-4 or largest >= LARGE:
        apart += combinations({value for value in values if value is not None}, 2)
        styles = [partial(figures, digits=digits) for digits in range(3, MOST + 2)]
        return _telling(apart, styles)
    fewer = max(0, math.floor(math.log10(largest))) if largest else 0
    least = max(0, least - fewer)
    ends = (low, high) if low is not None and high is not None and high - low > 1e-9 * largest else None
    digits = max(digits_for(ends, least), digits_to_differ(values, least))
    if any(0 < abs(end) < 10**-digits / 2 for end in ends or ()):
        digits += 1  # an end near 0 should show its sign
    styles = [partial(number, digits=more) for more in range(digits, max(digits, MOST) + 1)]
    return _telling(apart, styles)


def _telling(apart: list[tuple[float, float]], styles: list[Write]) -> Write:
    """The first of `styles` that tells all pairs apart; the first of all if none does."""
    return next((write for write in styles if all(write(one) != write(other) for one, other in apart)), styles[0])


def plus(text: str, value: float | None) -> str:
    """`text`, which writes `value`, with a plus sign if it is positive: +0.043, but 0.000."""
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def interval_of(bounds: tuple[float, float] | None, write: Write) -> str:
    """An interval of differences, written by `write`, with signs: [−0.035, −0.031]."""
    return MISSING if bounds is None else f"[{', '.join(plus(write(end), end) for end in bounds)}]"


def range_of(low: float | None, high: float | None, write: Write) -> str:
    """An interval, written by `write`: [0.031, 0.034], with signs if it has both: [−0.002, +0.004].

    A null end is infinite: [0.031, ∞).
    """
    both = (low is None or low < 0) and (high is None or high > 0)
    ends = (plus(write(end), end) if both and end is not None else write(end) for end in (low, high))
    left, right = ends
    return f"{'(−∞' if low is None else f'[{left}'}, {'∞)' if high is None else f'{right}]'}"


def digits_to_differ(values: Iterable[float | None], least: int = 3, most: int = 8) -> int:
    """Decimals that make different values look different: 0.8201 and 0.8204, not 0.820 twice."""
    different = {value for value in values if value is not None and math.isfinite(value)}
    enough = (d for d in range(least, most) if len({number(value, d) for value in different}) == len(different))
    return next(enough, most)


def setting(value: object, figures: int = 4) -> str:
    """A setting as short as possible: 0.1, 0.004106, 1e-05, adamw."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, (int, float)):
        return str(value)
    text = f"{abs(value):,}" if isinstance(value, int) else f"{abs(value):.{figures}g}"
    return f"−{text}" if value < 0 else text


def settings(values: Iterable[object]) -> list[str]:
    """Settings as short as possible, but different ones look different: 0.00123456 and 0.00123457."""
    listed = list(values)
    for figures in range(4, 18):  # 17 digits distinguish any two floats
        texts = [setting(value, figures) for value in listed]
        if len(set(texts)) >= len(set(listed)):
            break
    return texts


def figures(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` digits at any size: 0.409, 0.0123, 3.34·10⁻⁶; a dash for None."""
    if value is None or math.isnan(value):
        return MISSING
    if value == 0 or math.isinf(value):
        return number(value, 0)
    if 1e-3 <= abs(value) < 1e4:
        return number(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))
    shown, power = f"{abs(value):.{digits - 1}e}".split("e")
    return f"{'−' if value < 0 else ''}{shown}·{power_of_ten(int(power))}"


def figures_interval(bounds: tuple[float, float] | None) -> str:
    """An interval to three figures: [0.161, 0.196]."""
    return MISSING if bounds is None else f"[{figures(bounds[0])}, {figures(bounds[1])}]"


def power_of_ten(power: int) -> str:
    """10⁻⁶, as text."""
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def p_value(p: float | None) -> str:
    """A p-value: 0.012, or < 0.001."""
    return "< 0.001" if p is not None and p < 0.0005 else number(p)


def percent(share: float | None) -> str:
    """A share in whole per cent, or to one digit below 1 %: 95 %, 0.4 %."""
    if share is None:
        return MISSING
    return f"{figures(100 * share, 1) if 0 < share < 0.0095 else f'{100 * share:.0f}'} %"


def times(ratio: float | None, *beside: float | None) -> str:
    """A ratio to two or three figures: 380×, 1.4×, 0.30×.

    It has more where 1.004 would be 1 or 0.0003 would be 0, or where ratios `beside` it would look the same.
    """
    if ratio is None or math.isnan(ratio):
        return MISSING
    together = [one for one in (ratio, *beside) if one is not None and math.isfinite(one)]
    enough = (more for more in range(MOST) if _tells(together, more))
    return f"{_times(ratio, next(enough, 0))}×"


def _times(ratio: float, more: int) -> str:
    if 0 < ratio < 0.0995:
        power = int(f"{ratio:.{1 + more}e}".split("e")[1])  # after rounding: 0.00999 is written as 0.010
        return number(ratio, 1 + more - power) if power >= -4 else figures(ratio, 2 + more)
    digits = 2 if ratio < 1.995 else 1 if ratio < 9.95 else 0
    return number(ratio, digits + more)


def _tells(ratios: list[float], more: int) -> bool:
    """Whether so many more digits tell different ratios apart, and from 1 and 0."""
    apart = sorted({*ratios, 0.0, 1.0})
    apart = [one for one, before in zip(apart, [-1.0, *apart], strict=False) if one - before > 1e-9 * one]
    return len({_times(one, more) for one in apart}) == len(apart)


def times_interval(low: float | None, high: float | None, *beside: float | None) -> str:
    """An interval of ratios: [0.28×, 0.33×], with digits that tell it from the ratios `beside`."""
    return MISSING if low is None or high is None else f"[{times(low, high, *beside)}, {times(high, low, *beside)}]"


def seconds(value: float | None) -> str:
    """A time in the unit that suits it: 4.2 µs, 3.1 ms, 23 s, 2 min 5 s, 1 h 3 min."""
    if value is None or math.isnan(value):
        return MISSING
    if value < 59.5:
        unit, scale = next(
            (u, s)
            for u, s in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
            if value >= ROUNDED_UP * s or u == "ns"
        )
        scaled = value / scale
        return f"{number(scaled, 1 if scaled < 9.95 else 0)} {unit}"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (0 if hours else rest, "s")]
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount)


def size(count: float | None) -> str:
    """Bytes in the unit that suits them: 640 B, 2.6 MB."""
    if count is None:
        return MISSING
    units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
    unit, scale = next((u, s) for u, s in units if count >= ROUNDED_UP * s or u == "B")
    scaled = count / scale
    return f"{number(scaled, 1 if scaled < 9.95 and unit != 'B' else 0)} {unit}"


def counted(n: int, noun: str) -> str:
    """1 seed, 10 seeds, 90,000 ratings."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
