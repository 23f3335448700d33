"""Images from folders, arrays or digits: read once, all of one size, as RGB."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from lesson import checks
from lesson.checks import DataError, printable, shown
from lesson.data.bunch import DataBunch, split_rows
from lesson.data.digits import Digits
from lesson.data.origin import Origin
from lesson.data.table import as_path, data_name, reason

# ImageNet's mean and deviation of red, green and blue, which weights trained on it expect (fastai's imagenet_stats).
MEAN, STD = (torch.tensor(of).view(3, 1, 1) for of in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
# No others, because for some, such as EPS, Pillow starts another program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


class ImageRows(Dataset[Any]):
    """Images and their classes, indexed by row numbers; kept as bytes, normalized by ImageNet's mean and deviation.

    Args:
        x: uint8[n, 3, height, width].
        y: int64[n].

    >>> rows = ImageRows(torch.zeros(5, 3, 32, 32, dtype=torch.uint8), torch.arange(5))
    >>> x, y = rows[torch.tensor([3, 1])]
    >>> x.dtype, x.shape, y
    (torch.float32, torch.Size([2, 3, 32, 32]), tensor([3, 1]))
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor]:
        """The images float32[…, 3, height, width] of these rows, and their classes int64[…]."""
        return (self.x[rows].float() / 255 - MEAN) / STD, self.y[rows]


@dataclass(frozen=True)
class ImageBunch(DataBunch):
    """Training and validation images.

    Attributes:
        classes: the names of the classes 0, 1, …; empty if they have none.
    """

    classes: tuple[str, ...] = ()

    @property
    def c(self) -> int:
        """The number of classes, by fastai's name."""
        return len(self.classes) or super().c

    def _pictures(self, x: Tensor) -> Tensor:
        return (x * STD + MEAN).clamp(0, 1).movedim(1, -1)

    def _name(self, y: Any) -> str:
        return self.classes[y] if self.classes else str(y)


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Images of one size with their classes, not yet split.

    Attributes:
        name: the data set's name in reports.
        x: uint8[n, 3, height, width].
        y: int64[n], from 0 to the number of classes − 1.
        classes: the names of the classes.
        valid: bool[n], the validation rows, if the data come divided; None if they do not.
        terms: of use.
        citation: what to cite when publishing with them.
        key: their name in claims, if they are a known data set.
    """

    name: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    valid: Tensor | None = None
    terms: str | None = None
    citation: str | None = None
    key: str | None = None

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        return f"<{self.name}: {self.origin.counted()}>"

    @cached_property
    def checksum(self) -> str:
        """Sha256 of pixels and classes, after the cut to one size."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), self.classes)).encode("utf-8", "surrogatepass"))
        for column in (self.x, self.y) if self.valid is None else (self.x, self.y, self.valid):
            digest.update(column.contiguous().numpy().data)
        return digest.hexdigest()

    @property
    def origin(self) -> Origin:
        """Their origin."""
        size = {"images": len(self), "classes": len(self.classes)}
        return Origin(self.name, self.checksum, size, self.terms, self.citation, self.key, resplits=self.valid is None)

    def learnable(self, seeds: int) -> list[str]:  # noqa: ARG002 - as other data have it
        """Notes before the first run: none.

        Raises:
            DataError: there is one class, so there is nothing to learn.
        """
        if len(self.y.unique()) < 2:
            raise DataError(f"{self.name}: all images are of one class, so there is nothing to learn")
        return []

    def split(self, seed: int = 42, valid_pct: float = 0.2, bs: int = 64) -> ImageBunch:
        """Split into training and validation rows: as the data come divided, or else as `Digits.split` does.

        Args:
            seed: the split's seed, if the data come in one part.
            valid_pct: the share of validation rows, likewise.
            bs: rows per batch.

        Raises:
            DataError: an argument is wrong, or a part would be empty.

        >>> from lesson.data import load_digits
        >>> data = Images.from_digits(load_digits(), size=32).split(seed=0)
        >>> len(data.train), len(data.valid), data.c
        (4000, 1000, 10)
        """
        if self.valid is None:
            train, valid = split_rows(len(self), seed, valid_pct, f"{self.name}: {len(self)} images")
        else:
            train, valid = (rows.nonzero().flatten() for rows in (~self.valid, self.valid))
        bs = checks.whole("bs", bs, least=1)
        height, width = self.x.shape[2:]
        known, new = (ImageRows(self.x[rows], self.y[rows]) for rows in (train, valid))
        return ImageBunch(known, new, bs, (height, width), self.classes)

    @classmethod
    def from_arrays(
        cls, x: Any, y: Any, size: int | None = None, classes: Sequence[str] | None = None, name: str = "arrays"
    ) -> Images:
        """Images from arrays or tensors.

        Args:
            x: uint8, or floats from 0 to 1: [n, height, width], or [n, height, width, 1, 3 or 4 channels]; the fourth
                is dropped.
            y: whole numbers [n] from 0.
            size: of the sides, in pixels, after the cut described in `load_images`; None keeps them as they are.
            classes: the names of the classes; None takes the numbers.
            name: the data set's name in reports.

        Raises:
            DataError: an argument is wrong.

        >>> images = Images.from_arrays(np.zeros((4, 28, 28), np.uint8), [0, 1, 1, 0], size=32, classes=["cat", "dog"])
        >>> images, images.x.shape
        (<arrays: 4 images, 2 classes>, torch.Size([4, 3, 32, 32]))
        """
        pixels, numbers = _bytes(x), _array("y", y)
        if numbers.dtype.kind not in "iu" or numbers.shape != (len(pixels),) or not len(numbers) or numbers.min() < 0:
            raise DataError(
                f"y={shown(y)}: {len(pixels)} images need as many whole numbers from 0, the classes, and at least one"
            )
        named = tuple(map(str, range(int(numbers.max()) + 1) if classes is None else classes))
        if isinstance(classes, str) or len(set(named)) < len(named) or numbers.max() >= len(named):
            raise DataError(f"classes={shown(classes)}: y needs {int(numbers.max()) + 1} different names or more")
        if size is not None:
            size = checks.whole("size", size, least=1)
            pixels = np.stack([_cut(Image.fromarray(one), size) for one in pixels])
        columns = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        return cls(name, columns, torch.from_numpy(numbers.astype(np.int64)), named)

    @classmethod
    def from_digits(cls, digits: Digits, size: int = 32) -> Images:
        """Digits as images, such as `load_digits()`.

        Args:
            digits: gray, square.
            size: of the sides, in pixels.

        Raises:
            DataError: an argument is wrong.
        """
        if not isinstance(digits, Digits):
            raise DataError(f"digits={shown(digits)}: pass digits, such as load_digits()")
        side = round(digits.x.shape[1] ** 0.5)
        images = cls.from_arrays(digits.x.view(-1, side, side), digits.y, size, name=digits.name)
        return replace(images, terms=digits.terms, citation=digits.citation, key=digits.key)


def load_images(path: str | Path, size: int = 224) -> Images:
    """A folder of images, with a folder for each class: `train/cat/…` and `valid/cat/…`, or `cat/…` to be split.

    Each image is turned as its EXIF data say, loses its alpha channel, becomes RGB, and is cut: the shorter side is
    scaled to `size` pixels, and of the longer one the middle is kept. Of several frames the first is read. Files and
    folders whose name begins with a dot are not read; nor are, beside `train` and `valid`, other folders.

    Args:
        path: the folder.
        size: of the sides, in pixels.

    Raises:
        DataError: the folder has another form, or images cannot be read; the message has the first of them.
    """
    size, folder = checks.whole("size", size, least=1), as_path(path)
    divided = [folder / part for part in ("train", "valid")]
    if not all(part.is_dir() for part in divided):
        divided = [folder]
    found = [_classes(part) for part in divided]
    classes = tuple(found[0])
    for part, theirs in zip(divided, found, strict=True):
        if new := [name for name in theirs if name not in classes]:
            raise DataError(f"{printable(part / new[0])}: training has no images of this class")
    files = [(file, classes.index(name)) for theirs in found for name, files in theirs.items() for file in files]
    x, broken = np.empty((len(files), 3, size, size), np.uint8), []
    for row, (file, _) in enumerate(files):
        try:
            x[row] = _read(file, size).transpose(2, 0, 1)
        except Exception as error:  # damaged bytes make Pillow's decoders raise almost anything
            broken.append(
                f"{printable(file)}: a broken image, or none ({printable(reason(error) or type(error).__name__)})"
            )
    if broken:
        raise DataError(broken[0] + (f"; so are {len(broken) - 1} more" if len(broken) > 1 else ""))
    valid = None
    if len(found) == 2:
        valid = torch.arange(len(files)) >= sum(map(len, found[0].values()))
    y = torch.tensor([number for _, number in files])
    return Images(data_name(folder.resolve()), torch.from_numpy(x), y, tuple(map(printable, classes)), valid)


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The files of each class, by the name of its folder, sorted."""
    found = {}
    for inner in _listed(folder):
        if inner.is_dir():
            files = list(_listed(inner))
            if deeper := [file for file in files if file.is_dir()]:
                raise DataError(
                    f"{printable(deeper[0])}: a folder inside the folder of a class; there should be train/CLASS and "
                    "valid/CLASS, or CLASS alone, with images in each"
                )
            if not files:
                raise DataError(f"{printable(inner)}: no image there; fill it or remove it")
            found[inner.name] = files
        elif Image.registered_extensions().get(inner.suffix.lower()) in FORMATS:
            raise DataError(f"{printable(inner)}: an image outside the folders of classes; move it into one")
    if not found:
        raise DataError(f"{printable(folder)}: no folders of images there, one for each class")
    return found


def _listed(folder: Path) -> Iterator[Path]:
    try:
        return iter(sorted(inner for inner in folder.iterdir() if not inner.name.startswith(".")))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{printable(folder)}: cannot be read ({reason(error)})") from error


def _read(file: Path, size: int) -> np.ndarray:
    raw = io.BytesIO(file.read_bytes())
    try:
        image = Image.open(raw, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"none of {', '.join(FORMATS)}") from None  # Pillow's text has an address in memory
    with image:
        return _cut(image, size)


def _cut(image: Image.Image, size: int) -> np.ndarray:
    """An image as uint8[size, size, 3]."""
    portable = image.mode == "I" and image.format == "PPM"  # Pillow's mode for a PGM file of 16 bits
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or portable:  # Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits; 8 or 16 are needed")
    if image.mode == "P":
        image = image.convert("RGBA")  # Pillow warns if it drops a palette's transparency at once
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))


def _bytes(x: Any) -> np.ndarray:
    """Arrays of images as uint8[n, height, width, 3]."""
    pixels = _array("x", x)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or not all(pixels.shape):
        raise DataError(
            f"x of shape {list(pixels.shape)}: [n, height, width] or [n, height, width, channels] is needed, with 1, 3 "
            "or 4 channels"
        )
    if pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1:
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise DataError(f"x: {pixels.dtype} from {pixels.min()} to {pixels.max()}; uint8 or floats from 0 to 1 needed")
    return np.broadcast_to(pixels[..., :3], (*pixels.shape[:3], 3))


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; another device; a gradient
        raise DataError(f"{name}={shown(value)}: not an array ({reason(error)})") from error
