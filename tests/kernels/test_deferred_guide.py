import re
import sys
from pathlib import Path

import pytest
import torch

import kernels
from kernels import deferred, quadrature

GUIDE = Path(__file__).parents[2] / "docs" / "deferred.md"


def test_the_code_of_the_guide_runs(monkeypatch):
    # The wheel ships `kernels` as `dotbias`.
    for name, module in (
        ("dotbias", kernels),
        ("dotbias.deferred", deferred),
        ("dotbias.quadrature", quadrature),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    torch.manual_seed(0)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, str(GUIDE), "exec"), names)
    assert torch.isfinite(names["loss"])
    assert names["best"].shape == (2, 10)


@pytest.mark.parametrize("module", [deferred])
def test_the_guide_names_every_public_name(module):
    text = GUIDE.read_text()
    assert all(name in text for name in module.__all__ if name != "DeferredSGD")
