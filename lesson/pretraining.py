"""A pretrained ResNet-34: on ImageNet, downloaded, or where there is no network on MNIST's digits 0 to 4, here.

`NewTask` puts such a net, or one from a file of weights, beside images of classes that it does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import safetensors
import torch
from filelock import FileLock
from torch import Tensor, hub
from torch.nn.functional import cross_entropy

from lesson import checks, saving
from lesson.checks import DataError, printable, shown
from lesson.data import ImageBunch, Images, load_digits, load_images, load_uci_digits
from lesson.data.origin import Origin, with_options
from lesson.data.table import as_path, reason
from lesson.learner import Learner, stream
from lesson.metrics import accuracy
from lesson.models import ResNet
from lesson.optimizers import FUSED
from lesson.saving import load_weights, read_weights

CLASSES = 5  # the digits 0 to 4
THREADS = 1  # more would round sums in another order, and give other weights
SIZE, PRETRAINED_SIZE = 32, 224  # pixels: of the digits here, and of the images in ImageNet's trainings
# ResNet34_Weights.IMAGENET1K_V1 of torchvision; the digits in the name begin the file's SHA-256.
IMAGENET = "https://download.pytorch.org/models/resnet34-b627a593.pth"


class Recipe(NamedTuple):
    """How the net is trained: one-cycle AdamW with the learner's weight decay.

    Attributes:
        layers: the blocks in each stage of the ResNet; those of ResNet-34.
        rows: digits, at most; four fifths of them train.
        size: pixels of their sides.
        epochs: how often to go through them.
        bs: rows per batch.
        lr: the highest rate.
        seed: of the digits drawn, the split, the initialization and the order.
    """

    layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    rows: int = 2000
    size: int = SIZE
    epochs: int = 2
    bs: int = 32
    lr: float = 3e-3
    seed: int = 0


RECIPE = Recipe()


def old_digits(recipe: Recipe = RECIPE) -> ImageBunch:
    """The task that the net is trained for: MNIST's digits 0 to 4, split.

    >>> data = old_digits()
    >>> len(data.train), len(data.valid), data.c
    (1600, 400, 5)
    """
    digits = load_digits()
    few = (digits.y < CLASSES).nonzero().flatten()
    few = few[torch.randperm(len(few), generator=stream(recipe.seed, "order"))][: recipe.rows]
    return Images.from_digits(replace(digits, x=digits.x[few], y=digits.y[few]), recipe.size).split(recipe.seed)


def pretrained_on_digits(folder: str | Path | None = None, recipe: Recipe = RECIPE, quiet: bool = False) -> Path:
    """A file of ResNet-34's weights after a training on MNIST's digits 0 to 4: two minutes on one core, once.

    `create_cnn(data, partial(resnet34, 5), pretrained=…)` takes it. Of several processes that want it at once, one
    trains, and the others wait. A damaged file is named and made again.

    Args:
        folder: where the file is, or will be: 85 MB. Its name has the digest of the data and the recipe. None: the
            user's cache.
        recipe: how the net is trained.
        quiet: print nothing.

    Raises:
        DataError: the digits are missing, or the folder cannot be written to.
        DivergenceError: the loss is not finite.
    """
    folder = _cache() if folder is None else as_path(folder)
    digest = hashlib.sha256(repr((load_digits().checksum, recipe)).encode()).hexdigest()
    path = folder / f"resnet-digits-{digest[:16]}.safetensors"
    if _whole(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(path.with_suffix(".lock")).acquire()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise DataError(f"{printable(folder)}: cannot be written to ({reason(error)})") from error
    with held:
        if _whole(path):  # another process has made it
            return path
        if not quiet:
            made = "is damaged, and made again" if path.exists() else "is made, once"
            print(f"{printable(path)} {made}: a net learns MNIST's digits 0 to 4, two minutes on one core", flush=True)
        net = _train(recipe, quiet)
        saving.save(net, path, {"sha256": _digest(net.state_dict())})
    return path


def pretrained_on_imagenet(folder: str | Path | None = None, quiet: bool = False) -> Path:
    """The file of weights that torchvision and fastai use for ResNet-34, downloaded once: 83 MB.

    `create_cnn(data, pretrained=…)` takes it. A file whose checksum differs is downloaded again.

    Args:
        folder: where the file is, or will be. None: torch's cache, where torchvision and fastai keep it, too.
        quiet: print nothing.

    Raises:
        DataError: there is no network, the file there is another one, or the folder cannot be written to.

    >>> learn = create_cnn(data, pretrained=pretrained_on_imagenet())  # doctest: +SKIP
    """
    folder = Path(hub.get_dir(), "checkpoints") if folder is None else as_path(folder)
    path = folder / IMAGENET.rsplit("/", 1)[1]
    checksum = path.stem.rsplit("-", 1)[1]
    try:
        if path.is_file():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest().startswith(checksum):
                    return path
        folder.mkdir(parents=True, exist_ok=True)
        if not quiet:
            print(f"{printable(path)} is downloaded, once: 83 MB", flush=True)
        hub.download_url_to_file(IMAGENET, str(path), checksum, progress=not quiet)
    except RuntimeError:
        problem = "the file there is another one: its SHA-256 differs"
    except (OSError, ValueError, HTTPException) as error:  # ValueError: a zero byte in the name
        problem = reason(error) or type(error).__name__
    else:
        return path
    raise DataError(
        f"{IMAGENET}: cannot be downloaded into {printable(folder)} ({problem}); try again, or name a file of weights"
    )


def _cache() -> Path:
    import pooch  # takes a quarter of a second, only needed here

    return Path(pooch.os_cache("dotbias"))


def _train(recipe: Recipe, quiet: bool) -> ResNet:
    data = old_digits(recipe)
    with torch.random.fork_rng(devices=[]), _threads(THREADS):
        torch.default_generator.manual_seed(stream(recipe.seed, "initialization").initial_seed())
        net = ResNet(recipe.layers, CLASSES)
        learn = Learner(
            data, net, cross_entropy, opt_func=FUSED, metrics=[accuracy], bs=recipe.bs, seed=recipe.seed, quiet=quiet
        )
        learn.fit_one_cycle(recipe.epochs, recipe.lr)
    return net


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _whole(path: Path) -> bool:
    """Whether there is a file, as it was written."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            saved = (file.metadata() or {}).get("sha256")
            return saved == _digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (OSError, ValueError, safetensors.SafetensorError):
        return False


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, table in sorted(state.items()):
        digest.update(f"{name} {table.dtype} {list(table.shape)}".encode())
        digest.update(table.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class NewTask:
    """Images, and a net that was trained for something else.

    Attributes:
        images: of the new classes.
        weights: a file of ResNet-34's weights; None takes a net trained on MNIST's digits 0 to 4.
        sha256: the digest that the file must have.
        recipe: how that net is trained.
        folder: where its file is kept; None is the user's cache.
    """

    images: Images
    weights: Path | None = None
    sha256: str | None = None
    recipe: Recipe = RECIPE
    folder: Path | None = None

    @cached_property
    def origin(self) -> Origin:
        """The images' origin; the checksum also covers the weights, or how they are made."""
        origin = self.images.origin
        net = {"recipe": repr(self.recipe)} if self.weights is None else {"weights": _digest(self.state)}
        return replace(origin, checksum=with_options(origin.checksum, net))

    def learnable(self, seeds: int) -> list[str]:
        """Notes before the first run. The pretrained net is made here, if it is not there yet.

        Raises:
            DataError: all images are of one class, or the weights cannot be had.
        """
        if self.weights is None:
            pretrained_on_digits(self.folder, self.recipe)
        own = self.weights is None and self.images.citation is None
        advice = (
            "The net was pretrained on digits; --weights imagenet downloads torchvision's weights, and --weights FILE "
            "reads your own."
        )
        return [*self.images.learnable(seeds), *([advice] if own else [])]

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The pretrained net's weights by name; to be read, not changed.

        Raises:
            DataError: they cannot be had.
        """
        if self.weights is None:
            return read_weights(pretrained_on_digits(self.folder, self.recipe, quiet=True))
        last = read_weights(self.weights, self.sha256).get("fc.weight")
        with torch.random.fork_rng(devices=[]):  # what a run draws does not depend on whether this is its first use
            net = ResNet(self.recipe.layers, 1000 if last is None else len(last))
        load_weights(net, self.weights)
        return net.state_dict()

    @cached_property
    def old(self) -> ImageBunch | None:
        """The digits that the net was trained for; None if its weights are from a file."""
        return old_digits(self.recipe) if self.weights is None else None

    def net(self) -> ResNet:
        """A net of the same shape, drawn from torch's generator."""
        return ResNet(self.recipe.layers, len(self.state["fc.weight"]))


def load_new_digits() -> NewTask:
    """UCI's digits 5 to 9 at 32 pixels, for a net that knows MNIST's 0 to 4 (claim 12).

    The classes are new, and so are the hands and the scanner: MNIST's own 5 to 9 would share them with the first task.

    >>> load_new_digits().images
    <UCI digits 5 to 9: 896 images, 5 classes>
    """
    digits = load_uci_digits()
    new = digits.y >= CLASSES
    x, y, names = digits.x[new].view(-1, 8, 8), digits.y[new] - CLASSES, [str(digit) for digit in range(CLASSES, 10)]
    images = Images.from_arrays(x, y, SIZE, names, f"{digits.name} 5 to 9")
    return NewTask(replace(images, terms=digits.terms, citation=digits.citation))


def open_images(
    path: str | Path, size: str | int | None = None, weights: str | Path | None = None, sha256: str | None = None
) -> NewTask:
    """A folder of images, as `load_images` reads it, for a net from a file or one trained on digits.

    Args:
        path: the folder.
        size: pixels of their sides; None is 32 for the net trained on digits, 224 for others.
        weights: a file of ResNet-34's weights, as `lesson.saving.load_weights` reads it; "imagenet" downloads
            torchvision's.
        sha256: the digest that the file must have.

    Raises:
        DataError: the folder or the file cannot be used, or the weights cannot be downloaded.
    """
    if sha256 is not None and weights is None:
        raise DataError(f"sha256={shown(sha256)}: of no file; name the file of weights, too")
    if isinstance(size, str):
        try:
            size = int(size)
        except ValueError:
            raise DataError(f"size={shown(size)}: a whole number of pixels is needed") from None
    if size is None:
        size = SIZE if weights is None else PRETRAINED_SIZE
    images = load_images(path, checks.whole("size", size, least=1))
    if weights == "imagenet":
        weights = pretrained_on_imagenet()
    task = NewTask(images, None if weights is None else as_path(weights), sha256)
    if weights is not None:
        task.state  # noqa: B018 - a file that does not fit is an error here
    return task
