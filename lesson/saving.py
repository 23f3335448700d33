"""Saves a model's state as a safetensors file: nothing is unpickled; a file that does not fit changes nothing."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from lesson.checks import DataError, printable
from lesson.data.table import as_path, reason


def save(model: nn.Module, path: str | Path, identity: Mapping[str, str]) -> None:
    """Write the state and the identity of a model; the whole file or nothing.

    Args:
        model: the model.
        path: the file.
        identity: texts by name, which `load` compares.

    Raises:
        DataError: the folder does not exist or cannot be written to, or the path is a folder.
    """
    with aside(path) as unfinished:
        state = {name: table.detach().cpu().contiguous() for name, table in model.state_dict().items()}
        safetensors.torch.save_file(state, unfinished, metadata=dict(identity))


@contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name at the end, or is removed after an error.

    Raises:
        DataError: the folder does not exist or cannot be written to, or the path is a folder.
    """
    path = as_path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{printable(path)}: cannot be written ({reason(error)})") from error
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o644)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def load(model: nn.Module, path: str | Path, identity: Mapping[str, str]) -> None:
    """Load a model's state from a file that was saved with this identity.

    Raises:
        DataError: the file does not exist or does not fit.
    """
    shown_path = printable(as_path(path))
    try:
        with safetensors.safe_open(as_path(path), framework="pt") as file:
            saved = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, safetensors.SafetensorError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{shown_path}: not a readable saved model ({reason(error)})") from error
    for name, own in identity.items():
        if saved.get(name) != own:
            theirs = saved.get(name, "nothing")
            raise DataError(
                f"{shown_path}: saved with other {name} ({theirs:.60}; this learner has {own:.60}); "
                "make the learner from the same data, split and arguments"
            )
    tables = model.state_dict()
    for name in sorted(tables.keys() | state.keys()):
        if name not in tables or name not in state:
            raise DataError(f"{shown_path}: {name} is {'missing' if name in tables else 'not a table of this model'}")
        for what in ("shape", "dtype"):
            saved_as, needed = (getattr(table[name], what) for table in (state, tables))
            if saved_as != needed:
                raise DataError(f"{shown_path}: {name} has {what} {_plain(saved_as)}, not {_plain(needed)}")
        if not state[name].isfinite().all():
            raise DataError(f"{shown_path}: {name} holds numbers that are not finite")
    model.load_state_dict(state)


def _plain(value: Any) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
