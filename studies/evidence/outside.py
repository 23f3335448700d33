"""Strings from outside, as they may be shown: without passwords, and without characters that turn a line round."""

from __future__ import annotations

import logging
import re
import unicodedata

BIDI_CONTROLS = {"\u061c", *map(chr, (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control signs, bytes that are no UTF-8, separators of lines

# A password may hold any sign, so what follows one of these signs of a password is not shown to the end.
_AFTER_SCHEME = re.compile(r"(?<![\w+.-])((?!sqlite\b)[A-Za-z][\w+.-]*)://.*", re.DOTALL)
_USER_AND_PASSWORD = re.compile(r"[^\s/=]*:\S.*@.*", re.DOTALL)
_NAMED_PASSWORD = re.compile(r"((?:pass\w*|pwd|secret|token)[\"']?\s*[=:]).*", re.DOTALL | re.IGNORECASE)
_QUERY = re.compile(r"://.*[@?].*", re.DOTALL)


def is_control(char: str) -> bool:
    """Whether a sign moves, hides or breaks others in place of standing for itself, or is a byte that is no UTF-8."""
    return char in BIDI_CONTROLS or unicodedata.category(char) in CONTROL_CATEGORIES


def printable(text: str) -> str:
    r"""The text on one line, in the order in which it stands: control signs as their escapes, such as \n and \u202e."""
    return "".join(_escape(char) if is_control(char) else char for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file's name, as Python stands in for it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def without_password(text: str) -> str:
    """A word of a command, or a line, with what may be a password masked, also where it is no well-formed URL.

    Example:
        >>> without_password("postgresql://me:secret@host/db")
        'postgresql://***'
    """
    text = _AFTER_SCHEME.sub(r"\1://***", text)
    text = _QUERY.sub("://***", text)
    text = _USER_AND_PASSWORD.sub("***", text)
    return _NAMED_PASSWORD.sub(r"\1***", text)


def storage_name(url: str) -> str:
    """A storage's URL as it may be shown: SQLite's file, or the scheme alone; "***" for what is no URL."""
    if re.search(r"[:@=?&;%\s]", url) is None or re.fullmatch(r"sqlite(\+\w+)?:///?[^@=?&;%\s]*", url):
        return url
    scheme = re.match(r"[A-Za-z][\w+.-]*://", url)
    return f"{scheme[0]}***" if scheme else "***"


class Masked(logging.Formatter):
    """A log's lines, tracebacks and all, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return "\n".join(map(without_password, super().format(record).splitlines()))
