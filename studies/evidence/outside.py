"""Strings from outside made safe to show: no passwords, and no characters that reverse or hide text."""

from __future__ import annotations

import logging
import re
import unicodedata

BIDI_CONTROLS = {"\u061c", *map(chr, (*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are not UTF-8, line separators

# A password may hold any character, so everything after one of these patterns is masked.
_AFTER_SCHEME = re.compile(r"(?<![\w+.-])((?!sqlite\b)[A-Za-z][\w+.-]*)://.*", re.DOTALL)
_USER_AND_PASSWORD = re.compile(r"[^\s/=]*:\S.*@.*", re.DOTALL)
_NAMED_PASSWORD = re.compile(r"((?:pass\w*|pwd|secret|token)[\"']?\s*[=:]).*", re.DOTALL | re.IGNORECASE)
_QUERY = re.compile(r"://.*[@?].*", re.DOTALL)


def is_control(char: str) -> bool:
    """Whether a character moves, hides or breaks others instead of showing itself, or is a byte that is not UTF-8."""
    return char in BIDI_CONTROLS or unicodedata.category(char) in CONTROL_CATEGORIES


def printable(text: str) -> str:
    r"""The text on one line, in its stored order, with control characters as escapes such as \n and \u202e."""
    return "".join(_escape(char) if is_control(char) else char for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a file's name, which Python stores as a surrogate
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def without_password(text: str) -> str:
    """A word of a command, or a line, with possible passwords masked, even if it is not a well-formed URL.

    Example:
        >>> without_password("postgresql://me:secret@host/db")
        'postgresql://***'
    """
    text = _AFTER_SCHEME.sub(r"\1://***", text)
    text = _QUERY.sub("://***", text)
    text = _USER_AND_PASSWORD.sub("***", text)
    return _NAMED_PASSWORD.sub(r"\1***", text)


def holds_login(text: str) -> bool:
    """Whether a word of a command may hold the password of a database."""
    return any(pattern.search(text) for pattern in (_AFTER_SCHEME, _USER_AND_PASSWORD))


def storage_name(url: str) -> str:
    """A storage's URL made safe to show: SQLite's file, or only the scheme; "***" if it is not a URL."""
    if re.search(r"[:@=?&;%\s]", url) is None or re.fullmatch(r"sqlite(\+\w+)?:///?[^@=?&;%\s]*", url):
        return url
    scheme = re.match(r"[A-Za-z][\w+.-]*://", url)
    return f"{scheme[0]}***" if scheme else "***"


class Masked(logging.Formatter):
    """Formats log lines and tracebacks without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return "\n".join(map(without_password, super().format(record).splitlines()))
