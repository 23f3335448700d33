"""Text from outside beside our own: it must not turn a page round, break a chart's XML, or steer a terminal."""

from __future__ import annotations

import re

# Control characters but for tabs and ends of lines; Unicode's marks, embeddings, overrides and isolates of direction;
# halves of characters, as names of files have them that are not UTF-8; and what XML allows nowhere.
UNSHOWN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def shown(text: str) -> str:
    """`text` with a � for each character that would act instead of being seen."""
    return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """`text` as `shown`, on one line."""
    return re.sub(r"\s*[\r\n\t\v\f\x85\u2028\u2029]\s*", " ", shown(text))
