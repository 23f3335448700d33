"""Downloads with a checksum: all of MNIST."""

from __future__ import annotations

import logging
from pathlib import Path

from lesson.checks import DataError, printable
from lesson.data.digits import Digits, load_digits

# Mirrors by PyTorch and TensorFlow of the files that were at yann.lecun.com.
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
MNIST_FILES = {  # sha256
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}


def fetch_mnist(folder: str | Path) -> Digits:
    """All 70,000 digits of MNIST, downloaded into a folder; files that are there and whole are not downloaded again.

    Args:
        folder: where the four IDX files go; 12 MB.

    Raises:
        DataError: no mirror can be reached, a file is not the one expected, or the folder cannot be written to.
    """
    import pooch  # takes a quarter of a second, only needed here

    pooch.get_logger().setLevel(logging.WARNING)
    for name, checksum in MNIST_FILES.items():
        for mirror in MIRRORS:
            try:
                pooch.retrieve(mirror + name, f"sha256:{checksum}", fname=name, path=folder)
                break
            except ValueError:
                problem = "the file there is another one: its SHA-256 differs"
            except OSError as error:  # requests' errors too, whose texts are long
                problem = error.strerror or type(error).__name__
        else:
            raise DataError(
                f"{mirror}{name}: cannot be downloaded into {printable(folder)} ({problem}); try again, or put MNIST's "
                "IDX files there yourself"
            )
    return load_digits(folder)
