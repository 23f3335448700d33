"""Images from folders, arrays and digits."""

import shutil
import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import TensorDataset

from lesson import DataBunch, DataError, Images, load_digits, load_images, load_uci_digits
from lesson.data import ImageBunch, ImageRows

mpl.use("Agg")
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def draw(path, mode="RGB", size=(12, 8), color=RED, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path, **how)
    return path


@pytest.fixture
def divided(tmp_path):
    for part, n in (("train", 3), ("valid", 1)):
        for k in range(n):
            draw(tmp_path / part / "dog" / f"{k}.png", color=RED)
            draw(tmp_path / part / "cat" / f"{k}.png", color=GREEN)
    return tmp_path


def test_a_folder_that_is_divided_stays_so_whatever_the_seed(divided):
    images = load_images(divided, size=16)
    assert (images.classes, images.origin.size) == (("cat", "dog"), {"images": 8, "classes": 2})
    assert not images.origin.resplits
    for seed in (0, 1):
        data = images.split(seed)
        assert (len(data.train), len(data.valid), data.c, data.image) == (6, 2, 2, (16, 16))
        assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.valid.y.tolist() == [0, 1]
        assert data.train.x[0, :, 0, 0].tolist() == list(GREEN)
        assert data.valid.x[1, :, 5, 5].tolist() == list(RED)


def test_a_folder_in_one_part_is_split_by_seed(divided):
    images = load_images(divided / "train", size=8)
    assert images.origin.resplits
    data, same, other = (images.split(seed, valid_pct=0.5) for seed in (0, 0, 3))
    assert (len(data.train), len(data.valid)) == (3, 3)
    assert torch.equal(data.valid.y, same.valid.y)
    assert not torch.equal(data.valid.y, other.valid.y)
    assert images.split(bs=2).bs == 2


def test_the_checksum_is_of_what_a_run_depends_on(divided):
    first = load_images(divided, size=8).checksum
    assert load_images(divided, size=8).checksum == first
    shutil.copytree(divided, divided / "copy" / "elsewhere")
    assert load_images(divided / "copy" / "elsewhere", size=8).checksum == first
    assert load_images(divided, size=9).checksum != first
    (divided / "train" / "dog").rename(divided / "train" / "eel")
    (divided / "valid" / "dog").rename(divided / "valid" / "eel")
    assert load_images(divided, size=8).checksum != first


def test_the_shorter_side_is_scaled_and_the_middle_of_the_longer_kept(tmp_path):
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, :40], pixels[:, 40:80], pixels[:, 80:] = RED, GREEN, BLUE
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "wide.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "a" / "tall.png")
    x = load_images(tmp_path, size=10).x
    assert x.shape == (2, 3, 10, 10)
    for image in x:
        assert (image[:, 1:-1, 1:-1] == torch.tensor(GREEN)[:, None, None]).all()


def test_images_are_turned_as_their_exif_data_say(tmp_path):
    top = Image.new("RGB", (16, 16), BLUE)
    top.paste(RED, (0, 0, 16, 8))
    (tmp_path / "a").mkdir()
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        undone = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(turn, 1)
        reverse = Image.Exif()
        reverse[0x0112] = undone
        stored = top.copy()
        stored.info["exif"] = reverse.tobytes()
        ImageOps.exif_transpose(stored).save(tmp_path / "a" / f"{turn}.png", exif=exif)
    for image in load_images(tmp_path, size=16).x:
        assert image[0, :8].min() == 255
        assert image[2, 8:].min() == 255
        assert image[0, 8:].max() == 0


@pytest.mark.parametrize(
    ("mode", "suffix", "wanted"),
    [
        ("RGB", "png", RED),
        ("RGBA", "png", RED),
        ("P", "gif", RED),
        ("P", "png", RED),
        ("CMYK", "tif", RED),
        ("L", "png", (76, 76, 76)),  # .299 of 255
        ("LA", "png", (76, 76, 76)),
        ("1", "bmp", None),
        ("L", "jpg", (76, 76, 76)),
        ("RGBA", "webp", None),
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode, suffix, wanted):
    draw(tmp_path / "a" / f"0.{suffix}", mode)
    x = load_images(tmp_path, size=8).x
    assert (x.dtype, x.shape) == (torch.uint8, (1, 3, 8, 8))
    if wanted:
        assert x[0, :, 3, 3].tolist() == list(wanted)


@pytest.mark.filterwarnings("error")
def test_alpha_is_dropped_and_what_is_transparent_keeps_its_color(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGBA", (8, 8), (10, 200, 30, 0)).save(tmp_path / "a" / "0.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.save(tmp_path / "a" / "1.png", transparency=bytes([128, 0]))
    for image in load_images(tmp_path, size=8).x:
        assert image[:, 0, 0].tolist() == [10, 200, 30]


def test_grey_of_16_bits_keeps_its_shades(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((8, 8), 0x8034, np.uint16)).save(tmp_path / "a" / "0.png")
    Image.fromarray(np.full((8, 8), 0x8034, np.uint16)).save(tmp_path / "a" / "1.tif")
    pixels = np.full((8, 8), 0x8034, ">u2").tobytes()
    (tmp_path / "a" / "2.pgm").write_bytes(b"P5 8 8 65535\n" + pixels)
    assert load_images(tmp_path, size=8).x.unique().tolist() == [0x80]


def broken(path, complaint, size=8):
    with pytest.raises(DataError, match=complaint) as error:
        load_images(path, size)
    assert "\n" not in str(error.value)


def test_broken_images_are_named(divided):
    whole = draw(divided / "train" / "cat" / "7.jpg", size=(64, 64)).read_bytes()
    for name, content in (("7.jpg", whole[: len(whole) // 2]), ("8.txt", b"notes"), ("9.png", b"")):
        (divided / "train" / "cat" / name).write_bytes(content)
    broken(divided, r"train/cat/7.jpg: a broken image, or none \(.*[Tt]runcated.*\); so are 2 more")
    (divided / "train" / "cat" / "7.jpg").unlink()
    broken(divided, r"8.txt: a broken image, or none \(none of BMP, .*WEBP\); so are 1 more")


def test_pixels_of_32_bits_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "a" / "0.tif")
    broken(tmp_path, "0.tif.*its pixels have 32 bits")


def test_no_image_starts_another_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *how: started.append(how))
    draw(tmp_path / "a" / "0.eps")
    broken(tmp_path, "0.eps: a broken image, or none")
    assert not started


def test_a_bomb_is_named(tmp_path, monkeypatch):
    draw(tmp_path / "a" / "0.png", size=(100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    broken(tmp_path, "0.png.*decompression bomb")


def test_hidden_files_and_other_folders_beside_train_and_valid_are_not_read(divided):
    (divided / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    (divided / "train" / ".cache").mkdir()
    (divided / "test").mkdir()
    (divided / "labels.csv").write_text("a,b\n")
    assert len(load_images(divided, size=8)) == 8


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda folder: (folder / "train" / "cat" / "inner").mkdir(), "inner: a folder inside the folder of a class"),
        (lambda folder: (folder / "train" / "eel").mkdir(), "eel: no image there"),
        (lambda folder: draw(folder / "train" / "0.JPG"), "0.JPG: an image outside the folders of classes"),
        (lambda folder: draw(folder / "valid" / "eel" / "0.png"), "valid/eel: training has no images of this class"),
        (lambda folder: shutil.rmtree(folder / "valid"), "train/cat: a folder inside the folder of a class"),
        (lambda folder: [shutil.rmtree(folder / "valid" / name) for name in ("cat", "dog")], "valid: no folders of im"),
        (shutil.rmtree, "cannot be read"),
    ],
)
def test_a_folder_of_another_form_is_one_line(divided, change, complaint):
    change(divided)
    broken(divided, complaint)


@pytest.mark.parametrize("path", ["none", "a\0b", 3])
def test_a_path_without_a_folder_is_one_line(path):
    broken(path, "cannot be read|pass the path")


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", None])
def test_a_size_that_cannot_be_is_one_line(divided, size):
    broken(divided, "size=", size)


def test_rows_are_normalized_by_imagenets_statistics():
    x = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    rows = ImageRows(x, torch.arange(5))
    pixels, y = rows[torch.tensor([4, 0])]
    red = (x[4, 0].double() / 255 - 0.485) / 0.229
    blue = (x[0, 2].double() / 255 - 0.406) / 0.225
    torch.testing.assert_close(pixels[0, 0].double(), red, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pixels[1, 2].double(), blue, rtol=1e-5, atol=1e-6)
    assert (y.tolist(), len(rows)) == ([4, 0], 5)


def test_a_loader_and_a_tensor_of_rows_give_the_same(divided):
    data = load_images(divided, size=8).split(bs=4)
    x, y = next(iter(data.valid_dl))
    assert (x.shape, data.inputs) == ((2, 3, 8, 8), 192)
    assert torch.equal(x, data.valid[torch.arange(2)][0])
    assert y.tolist() == [0, 1]


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_arrays_of_any_channels_become_rgb(channels):
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(3, 6, 5) if channels is None else (3, 6, 5, channels), dtype=np.uint8)
    images = Images.from_arrays(x, np.array([0, 2, 0]))
    wanted = np.broadcast_to(x.reshape(3, 6, 5, -1)[..., :3], (3, 6, 5, 3))
    np.testing.assert_array_equal(images.x.movedim(1, -1).numpy(), wanted)
    assert (images.classes, images.y.tolist()) == (("0", "1", "2"), [0, 2, 0])
    again = Images.from_arrays(torch.from_numpy(x) / 255, [0, 2, 0])
    assert torch.equal(again.x, images.x)
    assert again.checksum == images.checksum
    assert Images.from_arrays(x, [0, 2, 0], size=7).x.shape == (3, 3, 7, 7)


@pytest.mark.parametrize(
    ("x", "y", "how", "complaint"),
    [
        (np.zeros((2, 784), np.uint8), [0, 1], {}, r"x of shape \[2, 784\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), [0, 1], {}, r"x of shape \[2, 3, 8, 8\]"),
        (np.zeros((0, 8, 8), np.uint8), [], {}, r"x of shape \[0, 8, 8, 1\]"),
        (np.full((2, 8, 8), 1.5), [0, 1], {}, "x: float64 from 1.5 to 1.5; uint8 or floats from 0 to 1"),
        (np.full((2, 8, 8), np.nan), [0, 1], {}, "x: float64 from nan"),
        (np.zeros((2, 8, 8), int), [0, 1], {}, "x: int64 from 0 to 0"),
        ([[1], [1, 2]], [0, 1], {}, "x=.*not an array"),
        (torch.zeros(2, 8, 8, requires_grad=True), [0, 1], {}, "x=.*not an array"),
        (np.zeros((2, 8, 8), np.uint8), [0], {}, "2 images need as many whole numbers from 0"),
        (np.zeros((2, 8, 8), np.uint8), [0.0, 1.0], {}, "2 images need as many whole numbers from 0"),
        (np.zeros((2, 8, 8), np.uint8), [0, -1], {}, "2 images need as many whole numbers from 0"),
        (np.zeros((2, 8, 8), np.uint8), [0, 2], {"classes": ["a", "b"]}, "y needs 3 different names or more"),
        (np.zeros((2, 8, 8), np.uint8), [0, 1], {"classes": ["a", "a"]}, "y needs 2 different names or more"),
        (np.zeros((2, 8, 8), np.uint8), [0, 1], {"classes": "ab"}, "classes='ab'"),
        (np.zeros((2, 8, 8), np.uint8), [0, 1], {"size": 0}, "size=0"),
    ],
)
def test_arrays_that_cannot_be_are_one_line(x, y, how, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        Images.from_arrays(x, y, **how)
    assert "\n" not in str(error.value)


def test_digits_become_images_of_the_size_asked_for():
    digits = load_uci_digits()
    images = Images.from_digits(digits, size=8)
    assert (images.name, images.key, images.citation) == (digits.name, "uci-digits", digits.citation)
    assert images.classes == tuple("0123456789")
    assert torch.equal(images.y, digits.y)
    for channel in images.x.unbind(1):
        torch.testing.assert_close(channel.flatten(1) / 255, digits.x, rtol=0, atol=0.51 / 255)
    mnist = Images.from_digits(load_digits())
    assert mnist.x.shape == (5000, 3, 32, 32)
    assert mnist.split(seed=3).valid.y.tolist() == load_digits().split(seed=3).valid[:][1].tolist()


def test_one_class_is_nothing_to_learn():
    assert Images.from_arrays(np.zeros((2, 8, 8), np.uint8), [0, 1]).learnable(10) == []
    with pytest.raises(DataError, match="nothing to learn"):
        Images.from_arrays(np.zeros((2, 8, 8), np.uint8), [1, 1]).learnable(10)


def test_a_batch_is_drawn_in_color_with_the_names_of_its_classes(tmp_path):
    import matplotlib.pyplot as plt

    for name, color in (("$\\frac$", RED), ("dog", BLUE)):
        for k in range(2):
            draw(tmp_path / name / f"{k}.png", color=color)
    data = load_images(tmp_path, size=8).split(valid_pct=0.5)
    with warnings.catch_warnings(action="error"):
        grid = data.show_batch(2)
        results = data.show_results(torch.arange(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        grid[0, 0].figure.savefig(tmp_path / "grid.png")
    for axes, y in zip(grid.flat, data.train.y, strict=False):
        assert axes.get_title() == data.classes[y]
        np.testing.assert_allclose(axes.images[0].get_array()[0, 0], [RED, BLUE][y] / np.float64(255), atol=1e-6)
    for axes, y in zip(results.flat, data.valid.y, strict=False):
        assert axes.get_title() == ("dog" if y else "$\\frac$, not dog")
    plt.close("all")


def test_results_of_a_model_with_one_output_for_classes_are_refused():
    data = DataBunch(*[TensorDataset(torch.rand(4, 3), torch.arange(4) % 2)] * 2)
    for out in (torch.zeros(4, 1), torch.zeros(4)):
        with pytest.raises(DataError, match="one for each class is needed"):
            data.show_results(torch.arange(4), out)


def test_classes_without_names_are_numbers():
    rows = ImageRows(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 2, 1, 0]))
    assert ImageBunch.create(rows, rows).c == 3


def test_what_is_no_digits_is_one_line():
    with pytest.raises(DataError, match="digits=5: pass digits"):
        Images.from_digits(5)
