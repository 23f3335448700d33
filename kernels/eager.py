"""Keeps torch.compile out of functions, optimizers and ops without loading it, which takes seconds of a processor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache, wraps
from inspect import unwrap
from typing import Any

import torch
from torch.library import CustomOpDef

_disabled = cache(torch.compiler.disable)


def eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep torch.compile out of a function, as `torch.compiler.disable` does.

    `disable` itself imports the compiler. So it is called only when the compiler is loaded.
    """

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return _disabled(function)(*args, **kwargs)
        return function(*args, **kwargs)

    called._torchdynamo_disable = True  # type: ignore[attr-defined]
    return called


def custom_op(name: str, mutates_args: Iterable[str] = ()) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """As `torch.library.custom_op`, which loads the compiler when the op is called, to keep it out."""

    def register(function: Callable[..., Any]) -> CustomOpDef:
        op: CustomOpDef = torch.library.custom_op(name, mutates_args=mutates_args)(function)
        torch.library.impl(name, "cpu", function)  # comes before what `custom_op` registers for all devices
        return op

    return register


class EagerOptimizer(torch.optim.Optimizer):
    """torch's base of optimizers. torch's own loads the compiler when an optimizer is made, to keep it out."""

    add_param_group = eager(unwrap(torch.optim.Optimizer.add_param_group))
    zero_grad = eager(unwrap(torch.optim.Optimizer.zero_grad))
    state_dict = eager(unwrap(torch.optim.Optimizer.state_dict))
    load_state_dict = eager(unwrap(torch.optim.Optimizer.load_state_dict))


class AdamW(EagerOptimizer, torch.optim.AdamW):
    """torch.optim.AdamW without `differentiable`. Each step of torch's own would load the compiler, to keep it out."""

    step = eager(torch.no_grad()(unwrap(torch.optim.AdamW.step)))
