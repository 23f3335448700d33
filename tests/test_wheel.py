"""The wheel, as somebody gets it who installs it: the kernels alone, under the name `dotbias`."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TRAIN = """
import torch
import dotbias
from dotbias import DeferredAdamW, DeferredEmbedding

table = DeferredEmbedding.from_pretrained(torch.ones(100, 4), freeze=False)
before = table.weight.detach().clone()
optimizer = DeferredAdamW(table.parameters(), lr=0.1, weight_decay=0.5)
for step in range(3):
    optimizer.zero_grad()
    table(torch.tensor([step, 7])).square().sum().backward()
    optimizer.step()
moved = table.weight.detach() / before
torch.testing.assert_close(moved[50:], torch.full((50, 4), 0.95**3))
assert (table.weight.detach()[7].abs() < before[7].abs()).all()
print(dotbias.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77 or later")
    # A copy, so that building leaves nothing behind in the checkout.
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "kernels", source / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


def pip(*arguments):
    run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments])


def run(command, **how):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_wheel_has_every_package_of_the_kernels_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as files:
        shipped = {name for name in files.namelist() if ".dist-info/" not in name}
    sources = (path.relative_to(ROOT / "kernels") for path in (ROOT / "kernels").rglob("*.py"))
    assert shipped == {f"dotbias/{path.as_posix()}" for path in sources} | {"dotbias/py.typed"}


def test_the_description_is_that_of_the_package_and_not_of_the_checkout(wheel):
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = files.read(name).decode()
    assert (ROOT / "kernels" / "README.md").read_text() in metadata
    assert "tox run" not in metadata


@pytest.mark.slow
def test_installed_in_a_fresh_environment_it_trains(wheel, tmp_path):
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    site_packages = run([python, "-c", "import site; print(site.getsitepackages()[-1])"])
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}  # torch and Numba, from here
    Path(site_packages, "dependencies.pth").write_text("\n".join(dependencies))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    where = run([python, "-c", TRAIN], cwd=tmp_path, env=environment)
    assert Path(where).is_relative_to(home)
