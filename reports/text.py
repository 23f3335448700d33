"""Text from outside, cleaned: it must not reverse a page, break a chart's XML, or control a terminal."""

from __future__ import annotations

import re

# Control characters except tabs and line ends; Unicode's direction marks, embeddings, overrides and isolates;
# surrogates (from file names that are not UTF-8); and characters that XML forbids.
UNSHOWN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def shown(text: str) -> str:
    """`text` with a � for each invisible or control character."""
    return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """`text` as `shown`, on one line."""
    return re.sub(r"\s*[\r\n\t\v\f\x85\u2028\u2029]\s*", " ", shown(text))
