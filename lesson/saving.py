"""Saves a model's state as a safetensors file, and loads it, or weights that others trained.

Nothing in a file is executed, and a file that does not fit changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from lesson.checks import DataError, printable, shown
from lesson.data.table import as_path, reason


def save(model: nn.Module, path: str | Path, identity: Mapping[str, str]) -> None:
    """Write the state and the identity of a model; the whole file or nothing.

    Args:
        model: the model.
        path: the file.
        identity: texts by name, which `load` compares.

    Raises:
        DataError: the folder does not exist or cannot be written to, or the path is a folder; or the model holds
            numbers that are not finite, so that the file could not be loaded.
    """
    with aside(path) as unfinished:
        state: dict[str, Tensor] = {}
        stored: set[int] = set()
        for name, table in model.state_dict().items():
            state[name] = table.detach().cpu().contiguous()
            memory = state[name].untyped_storage().data_ptr()
            if memory in stored:  # tied weights: safetensors wants memory of their own
                state[name] = state[name].clone()
            stored.add(memory)
            _check_finite(f"{printable(as_path(path))}: not saved", name, table)
        try:
            safetensors.torch.save_file(state, unfinished, metadata=dict(identity))
        except (OSError, safetensors.SafetensorError) as error:
            raise DataError(f"{printable(as_path(path))}: cannot be written ({reason(error)})") from error


def write_parquet(table: pyarrow.Table, path: str | Path, about: Mapping[str, Any]) -> None:
    """Write a table with a description of its data; the whole file or nothing.

    Raises:
        DataError: the file cannot be written.
    """
    with aside(path) as unfinished:
        try:
            pyarrow.parquet.write_table(table.replace_schema_metadata({"dotbias": json.dumps(about)}), unfinished)
        except OSError as error:
            raise DataError(f"{printable(path)}: cannot be written ({error.strerror or error})") from error


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
        # Only the start of the name, which may be as long as names may be.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
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
        if name == "split" and name not in saved:
            continue  # earlier versions did not write it
        if saved.get(name) != own:
            theirs = saved.get(name, "nothing")
            raise DataError(
                f"{shown_path}: saved with other {name} ({theirs:.60}; this learner has {own:.60}); "
                "make the learner from the same data, split and arguments"
            )
    _check_fits(shown_path, model.state_dict(), state)
    model.load_state_dict(state)


def load_weights(model: nn.Module, path: str | Path, sha256: str | None = None) -> None:
    """Load weights that others trained: a safetensors file, or a state dict that `torch.save` wrote.

    Args:
        model: has the file's names, shapes and dtypes. A file may lack `num_batches_tracked`, as those of torch before
            0.4.1 do; then the model's stay.
        path: the file.
        sha256: the digest that the file must have, 64 hexadecimal digits; None takes any file.

    Raises:
        DataError: the file does not exist, has another digest, or does not fit; the model stays as it is.

    >>> layer, other = nn.Linear(3, 2), nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save(layer.state_dict(), f"{folder}/weights.pth")
    ...     load_weights(other, f"{folder}/weights.pth")
    >>> torch.equal(other.weight, layer.weight)
    True
    """
    shown_path = printable(as_path(path))
    state = read_weights(path, sha256)
    tables = model.state_dict()
    own = {name: table for name, table in tables.items() if name.endswith("num_batches_tracked")}
    state = own | state
    _check_fits(shown_path, tables, state)
    model.load_state_dict(state)


def read_weights(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file of weights, by name: a safetensors file, or a state dict that `torch.save` wrote.

    Args:
        path: the file.
        sha256: the digest that the file must have, 64 hexadecimal digits; None takes any file.

    Raises:
        DataError: the file does not exist, has another digest, or holds something else.
    """
    shown_path = printable(as_path(path))
    try:
        raw = as_path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{shown_path}: cannot be read ({reason(error)})") from error
    if sha256 is not None:
        if not isinstance(sha256, str) or not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise DataError(f"sha256={shown(sha256)}: 64 hexadecimal digits are needed")
        if (found := hashlib.sha256(raw).hexdigest()) != sha256.lower():
            raise DataError(f"{shown_path}: another file, or a damaged one; its sha256 is {found}, not {sha256}")
    return _state(raw, shown_path)


def _state(raw: bytes, shown_path: str) -> dict[str, Tensor]:
    """The tensors of a file of weights, by name."""
    try:
        if raw[8:9] == b"{":  # safetensors begin with the length of a JSON object, then the object
            state = safetensors.torch.load(raw)
        else:
            state = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's reader raise almost anything
        raise DataError(
            f"{shown_path}: neither safetensors nor a state dict of tensors, or damaged ({type(error).__name__}); "
            "of a whole model that torch.save wrote, save the state_dict()"
        ) from error
    if not isinstance(state, Mapping):
        raise DataError(f"{shown_path}: holds {type(state).__name__} instead of tensors by name (a state dict)")
    for name, table in state.items():
        if not isinstance(name, str):
            what = "no name"
        elif not isinstance(table, Tensor):
            what = f"a {type(table).__name__}"
        elif table.layout is not torch.strided or table.is_meta:
            what = f"{table.layout} on {table.device}"
        else:
            continue
        raise DataError(f"{shown_path}: {shown(name)} is {what}; a state dict has dense tensors by name")
    return dict(state)


def _check_fits(shown_path: str, tables: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Check that a file's state has the names, shapes and dtypes of a model's tables, and finite numbers.

    Raises:
        DataError: it has not.
    """
    for name in sorted(tables.keys() | state.keys()):
        if name not in tables or name not in state:
            raise DataError(
                f"{shown_path}: {printable(name)} is {'missing' if name in tables else 'not a table of this model'}"
            )
        for what in ("shape", "dtype"):
            saved_as, needed = (getattr(table[name], what) for table in (state, tables))
            if saved_as != needed:
                raise DataError(f"{shown_path}: {name} has {what} {_plain(saved_as)}, not {_plain(needed)}")
        _check_finite(shown_path, name, state[name])


def _check_finite(shown_path: str, name: str, table: Tensor) -> None:
    if not (table.float() if table.element_size() == 1 else table).isfinite().all():  # torch tests no float8
        raise DataError(f"{shown_path}: {name} holds numbers that are not finite")


def _plain(value: Any) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
