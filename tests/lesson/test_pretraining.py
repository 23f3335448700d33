"""A ResNet trained on digits, once for each recipe, and images of classes that it does not know."""

import hashlib
import multiprocessing
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lesson import DataError, Images, create_cnn, load_digits, pretraining
from lesson.learner import Learner
from lesson.metrics import accuracy
from lesson.models import ResNet
from lesson.optimizers import FUSED
from lesson.pretraining import (
    CLASSES,
    NewTask,
    Recipe,
    load_new_digits,
    open_images,
    pretrained_on_digits,
    pretrained_on_imagenet,
)
from lesson.saving import read_weights, save
from lesson.vision import precompute

FEW = Recipe(layers=(1, 1, 1, 1), rows=20, epochs=1, bs=8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "new"
    pretrained_on_digits(folder, FEW, quiet=True)
    return folder


@pytest.fixture
def trainings(monkeypatch):
    """How often a net has been trained; trainings change nothing, to save time."""
    done = []
    monkeypatch.setattr(Learner, "fit_one_cycle", lambda self, *how: done.append(how))
    return done


def images(classes=3, n=6):
    digits = load_digits()
    return Images.from_arrays(digits.x[:n].view(-1, 28, 28), torch.arange(n) % classes, size=32)


def test_it_is_trained_once_for_each_recipe(cache, trainings, capsys):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    path = pretrained_on_digits(cache, FEW)
    assert (trainings, capsys.readouterr().out) == ([], "")
    other = pretrained_on_digits(cache, FEW._replace(lr=1e-4))
    assert (other != path, len(trainings)) == (True, 1)
    assert capsys.readouterr().out.count("\n") == 1
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_create_cnn_takes_its_file(cache):
    path = pretrained_on_digits(cache, FEW)
    data = images().split(valid_pct=0.5)
    learn = create_cnn(data, partial(ResNet, FEW.layers, CLASSES), pretrained=path, quiet=True)
    saved = read_weights(path)
    assert torch.equal(learn.model[0][0].weight, saved["conv1.weight"])
    assert saved["bn1.num_batches_tracked"] == 2  # 16 rows in batches of 8


def test_the_digits_it_learns_are_0_to_4():
    data = pretraining.old_digits(Recipe(rows=200))
    assert (len(data.train), len(data.valid), data.c) == (160, 40, CLASSES)
    assert data.train[:4][0].shape == (4, 3, 32, 32)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flipped(path):
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)


def _emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _flipped, _emptied])
def test_a_damaged_file_is_named_and_made_again(damage, tmp_path, trainings, capsys):
    path = pretrained_on_digits(tmp_path, FEW, quiet=True)
    before = path.read_bytes()
    damage(path)
    assert pretrained_on_digits(tmp_path, FEW) == path
    said = capsys.readouterr().out
    assert f"{path} is damaged, and made again" in said
    assert said.count("\n") == 1
    assert len(trainings) == 2
    assert path.read_bytes() == before


def test_a_training_that_fails_leaves_no_file_and_holds_up_no_other(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "fit_one_cycle", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrained_on_digits(tmp_path, FEW, quiet=True)
        assert not list(tmp_path.glob("*.safetensors"))
        patched.setattr(Learner, "fit_one_cycle", lambda *_: None)
        assert pretrained_on_digits(tmp_path, FEW, quiet=True).exists()


def _make(folder, started, trained):
    Learner.fit_one_cycle = lambda *_: trained.release()
    started.wait()
    read_weights(pretrained_on_digits(folder, FEW, quiet=True))


def test_of_two_processes_one_trains_and_both_have_the_file(tmp_path):
    fork = multiprocessing.get_context("fork")  # no seconds for importing torch
    started, trained = fork.Barrier(2), fork.Semaphore(0)
    both = [fork.Process(target=_make, args=(tmp_path, started, trained)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert [trained.acquire(block=False) for _ in range(2)] == [True, False]
    assert [path.suffix for path in tmp_path.iterdir() if not path.name.startswith(".")].count(".safetensors") == 1


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be written to") as error:
        pretrained_on_digits(tmp_path / "file", FEW)
    assert "\n" not in str(error.value)


def test_the_new_digits_are_those_it_does_not_know():
    task = load_new_digits()
    assert task.images.classes == ("5", "6", "7", "8", "9")
    assert task.images.y.bincount().tolist() == [182, 181, 179, 174, 180]
    assert task.origin.size == {"images": 896, "classes": 5}


def test_a_task_is_another_one_with_another_net(cache, tmp_path):
    pictures = images()
    task = NewTask(pictures, recipe=FEW, folder=cache)
    assert task.origin.checksum != NewTask(pictures, recipe=FEW._replace(epochs=2), folder=cache).origin.checksum
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        save(ResNet(FEW.layers, 7), file, {})
    first, other = (NewTask(pictures, file, recipe=FEW) for file in files)
    assert len({task.origin.checksum, first.origin.checksum, other.origin.checksum}) == 3
    assert first.net().fc.out_features == 7
    assert task.net().fc.out_features == CLASSES
    assert task.learnable(1) == [
        "The net was pretrained on digits; --weights imagenet downloads torchvision's weights, and --weights FILE "
        "reads your own."
    ]
    assert first.learnable(1) == []


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "big"}, "size='big': a whole number of pixels is needed"),
        ({"size": "0"}, "size=0: a whole number of at least 1 is needed"),
        ({"sha256": "0" * 64}, "of no file; name the file of weights, too"),
        ({"weights": "none.pth"}, "none.pth: cannot be read"),
    ],
)
def test_options_of_ones_own_images_that_cannot_be_are_one_line(folder, options, message):
    with pytest.raises(DataError, match=message) as error:
        open_images(folder, **options)
    assert "\n" not in str(error.value)


def test_a_file_of_weights_that_does_not_fit_is_refused_when_images_are_opened(folder):
    torch.save({"fc.weight": torch.zeros(3, 512)}, folder / "some.pth")
    with pytest.raises(DataError, match="is missing"):
        open_images(folder, weights=folder / "some.pth", size=32)
    with pytest.raises(DataError, match=r"some\.pth: another file, or a damaged one"):
        open_images(folder, weights=folder / "some.pth", sha256="0" * 64)


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """A file that is offered for download; its name ends as its SHA-256 begins."""
    state = ResNet(FEW.layers, 7).state_dict()
    torch.save(state, tmp_path / "made.pth")
    checksum = hashlib.sha256((tmp_path / "made.pth").read_bytes()).hexdigest()
    path = (tmp_path / "made.pth").rename(tmp_path / f"resnet-{checksum[:8]}.pth")
    monkeypatch.setattr(pretraining, "IMAGENET", path.as_uri())
    monkeypatch.setattr(pretraining.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return path


def test_weights_of_imagenet_are_downloaded_once(offered, tmp_path, capsys):
    whole = offered.read_bytes()
    path = pretrained_on_imagenet(tmp_path / "here")
    assert path == tmp_path / "here" / offered.name
    assert "is downloaded, once" in capsys.readouterr().out
    offered.unlink()
    assert pretrained_on_imagenet(tmp_path / "here") == path
    path.write_bytes(whole[:-1])  # damaged: it is downloaded again
    offered.write_bytes(whole)
    assert pretrained_on_imagenet(tmp_path / "here", quiet=True).read_bytes() == whole
    assert capsys.readouterr().out == ""
    assert [file.name for file in (tmp_path / "here").iterdir()] == [offered.name]


def test_weights_imagenet_are_those_of_torchs_cache(offered, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "NewTask", partial(NewTask, recipe=FEW))
    task = open_images(folder, size=32, weights="imagenet")
    assert task.weights == tmp_path / "cache" / "checkpoints" / offered.name
    assert task.net().fc.out_features == 7


@pytest.mark.parametrize("cause", ["another", "none", "folder", "zero"])
def test_weights_that_cannot_be_downloaded_are_one_line_and_leave_no_file(offered, tmp_path, cause):
    here = tmp_path / "here"
    if cause == "another":
        offered.write_bytes(b"something else")
    if cause == "none":
        offered.unlink()
    if cause == "folder":
        here.write_text("")
    if cause == "zero":
        here = f"{here}\0"
    with pytest.raises(DataError, match=r"cannot be downloaded into .*; try again, or name a file of weights") as error:
        pretrained_on_imagenet(here)
    assert "\n" not in str(error.value)
    assert ("SHA-256 differs" in str(error.value)) == (cause == "another")
    assert cause in ("folder", "zero") or not list((tmp_path / "here").iterdir())


def shapes(folder):
    """60 images of three shapes in sizes, places and colours of their own: gray, RGBA, turned by EXIF; one broken."""
    rng = np.random.default_rng(0)
    for kind in ("disc", "ring", "stripes"):
        (folder / kind).mkdir()
        for k in range(20):
            mode = ("L", "RGBA", "RGB")[k % 3]
            image = Image.new("RGB", (48, 40), tuple(rng.integers(0, 60, 3).tolist()))
            pen, ink = ImageDraw.Draw(image), tuple(rng.integers(150, 256, 3).tolist())
            x, y, r = rng.integers(22, 27), rng.integers(18, 23), rng.integers(12, 16)
            if kind == "stripes":
                for left in range(int(x - r), int(x + r), 8):
                    pen.rectangle((left, y - r, left + 3, y + r), fill=ink)
            else:
                pen.ellipse(
                    (x - r, y - r, x + r, y + r), **({"fill": ink} if kind == "disc" else {"outline": ink, "width": 3})
                )
            exif = Image.Exif()
            exif[0x0112] = 3 if k % 4 == 0 else 1  # upside down
            image.convert(mode).save(folder / kind / f"{k}.png", exif=exif)
    broken = BytesIO()
    Image.new("RGB", (48, 40)).save(broken, "PNG")
    (folder / "ring" / "19.png").write_bytes(broken.getvalue()[:60])


@pytest.mark.slow  # it pretrains ResNet-34, two minutes, if this was never done here
def test_a_users_shapes_are_told_apart_and_the_broken_image_is_named(tmp_path):
    shapes(tmp_path)
    with pytest.raises(DataError, match=r"ring/19\.png: a broken image"):
        open_images(tmp_path)
    (tmp_path / "ring" / "19.png").unlink()
    task = open_images(tmp_path)
    data = task.images.split(seed=0, valid_pct=0.4, bs=12)
    arch = partial(ResNet, task.recipe.layers, CLASSES)
    path = pretrained_on_digits()
    learn = create_cnn(data, arch, cut=6, pretrained=path, opt_func=FUSED, metrics=[accuracy], quiet=True)
    head = precompute(learn)
    head.fit_one_cycle(30, 1e-2)
    assert head.history[-1].metrics["accuracy"] >= 0.9
