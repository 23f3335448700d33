"""The limits of `--bench-fail`: a run whose rows break one fails, as people's CI needs it."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

# What a limit may be about. A ratio breaks it only if its whole interval does: noise alone fails no run.
MEASURES = ("ratio", "seconds", "host_s", "memory_bytes", "state_bytes", "train_loss", "floor_fraction")
NUMBER = r"\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?"


class Limit(NamedTuple):
    """A row breaks it if its `measure` is above (">") or below ("<") the value.

    >>> Limit.of("ratio>1.05")
    Limit(measure='ratio', sign='>', value=1.05)
    """

    measure: str
    sign: str
    value: float

    @classmethod
    def of(cls, text: str) -> Limit:
        """Read `MEASURE>NUMBER` or `MEASURE<NUMBER`.

        Raises:
            ValueError: it is neither, or the measure is unknown.
        """
        found = re.fullmatch(rf"\s*(\w+)\s*([<>])\s*({NUMBER})\s*", text)
        if found is None or found[1] not in MEASURES or not math.isfinite(float(found[3])):
            raise ValueError(f"{text!r}: write it as ratio>1.05, with one of {', '.join(MEASURES)}, and < or >")
        return cls(found[1], found[2], float(found[3]))

    def broken_by(self, row: dict[str, Any]) -> bool:
        """Whether a row breaks it; a row without this measure does not."""
        info = row["extra_info"] | {"seconds": row["seconds"]}
        nearest = {"ratio>": "ratio_low", "ratio<": "ratio_high"}.get(self.measure + self.sign, self.measure)
        value = info.get(nearest)
        if value is None:
            return False
        return bool(value > self.value if self.sign == ">" else value < self.value)

    def __str__(self) -> str:
        return f"{self.measure}{self.sign}{self.value:g}"
