"""Where a result comes from: the commit, the machine, the versions, the command."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from studies.evidence.outside import is_control, storage_name, without_password

PACKAGES = ("torch", "triton", "numba", "numpy", "scipy", "pandas", "optuna", "statsmodels")
CHECKOUT = Path(__file__).parent.parent.parent


def digest(value: Any, length: int = 16) -> str:
    """A short sha256 of plain data; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def commit() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether its code is another: tracked files that differ, or new Python files.

    (None, None) outside version control. Other new files, such as data, change nothing.
    """
    command = ["git", "-C", str(CHECKOUT), "status", "--porcelain=v2", "-z", "--branch", "--untracked-files=all"]
    try:
        told = os.fsdecode(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None, None
    about = [line.split(" ", 2)[1:] for line in told.split("\0") if line.startswith("# ")]
    head = dict(about).get("branch.oid", "(initial)")
    others = [line for line in told.split("\0") if line and not line.startswith("# ")]
    changed = any(not line.startswith("? ") or line.endswith(".py") for line in others)
    return (None, None) if head == "(initial)" else (head[:12], changed)


@cache
def source_of(function: Callable[..., Any]) -> str:
    """A digest of the file that defines a function, as it was when it was first asked for."""
    return hashlib.sha256(Path(inspect.getfile(function)).read_bytes()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the installed packages that a result depends on."""
    return dict(_versions())


@cache
def _versions() -> Mapping[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """The fields of `schema.Provenance` about the machine."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu(),
        "cores": cores(),
        "versions": versions(),
    }


def command(module: str, arguments: Sequence[str]) -> str:
    """The command that was run, ready to paste, without passwords."""
    words = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, is_set, value = word.partition("=")
        if before == "--storage":
            words.append(storage_name(word))
        elif option == "--storage":
            words.append(option + is_set + storage_name(value))
        else:
            words.append(without_password(word))
    return " ".join(["python -m", module, *map(_quoted, words)])


def _quoted(word: str) -> str:
    if not any(map(is_control, word)):
        return shlex.quote(word)
    escaped = word.replace("\\", r"\\").replace("'", r"\'")
    # As bytes, like a shell: a file's name need not be UTF-8.
    return "$'" + "".join(_bytes(char) if is_control(char) else char for char in escaped) + "'"


def _bytes(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(char))
