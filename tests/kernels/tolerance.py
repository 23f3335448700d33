"""The accuracy that every implementation must have: within the rounding of the sums it computes."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_within_rounding(out: Tensor, ref: Tensor, terms: int | Tensor, magnitude: Tensor) -> None:
    """Fail unless |out − ref| ≤ 2·K·u·Σ|aᵢbᵢ| plus one rounding of the output, element by element.

    u is the unit roundoff of the arithmetic: float64's for float64 outputs, else float32's, also where bf16
    or fp16 are stored. There is no absolute tolerance: outputs may all be tiny, and zeros must not pass.

    Args:
        out: the result to judge, any float dtype.
        ref: float64, of out's shape, computed from the inputs as they are stored.
        terms: K, the number of terms summed in each element (broadcasts to out).
        magnitude: Σ|aᵢbᵢ|, the sum of the terms' absolute values in each element, float64.
    """
    assert ref.dtype == torch.float64, f"the reference must be float64, not {ref.dtype}"
    assert out.shape == ref.shape, f"shape {tuple(out.shape)}, expected {tuple(ref.shape)}"
    if out.numel() == 0:
        return
    arithmetic = torch.finfo(torch.float64 if out.dtype == torch.float64 else torch.float32)
    storage = torch.finfo(out.dtype)
    terms = torch.as_tensor(terms, dtype=torch.float64)
    # eps is the gap above 1, twice the unit roundoff. Below the normal numbers the gap is constant.
    bound = terms * arithmetic.eps * magnitude + storage.eps / 2 * ref.abs()
    bound = bound.expand_as(ref) + arithmetic.tiny + storage.smallest_normal * storage.eps
    excess = (out.detach().to("cpu", torch.float64) - ref).abs() - bound
    excess = torch.where(excess.isnan(), torch.inf, excess)
    worst = int(excess.argmax())
    if excess.flatten()[worst] > 0:
        where = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), ref.shape))
        raise AssertionError(
            f"{int((excess > 0).sum())} of {ref.numel()} elements are outside rounding; worst at {where}: "
            f"{out[where].item()!r}, expected {ref[where].item()!r} ± {bound[where].item():.3g}"
        )
