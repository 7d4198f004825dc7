"""Calls of the operators that leave out their kernel for autograd where no derivative is needed: it is in
Python (see gradients), and takes longer than the rest of a small call."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

# Of one device: excluding it excludes autograd on all.
_AUTOGRAD = torch._C.DispatchKey.AutogradCPU
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_set_excluded = torch._C._dispatch_tls_set_dispatch_key_excluded


def call(operator: torch._ops.OpOverload, *args: Any) -> Any:
    """The operator's result, with a gradient where one is needed. torch.compile gets to see the plain
    call."""
    if (
        torch.compiler.is_compiling()
        or _is_excluded(_AUTOGRAD)
        or torch._C._are_functorch_transforms_active()
        # A tensor does not say whether it has a tangent.
        or forward_ad._current_level >= 0
        or (torch.is_grad_enabled() and torch._C._any_requires_grad(*args))
    ):
        return operator(*args)
    # As below: one more call of a function would be felt.
    _set_excluded(_AUTOGRAD, True)
    try:
        return operator(*args)
    finally:
        _set_excluded(_AUTOGRAD, False)


def call_without_gradient(operator: torch._ops.OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The same for a caller who knows that no gradient is needed."""
    if torch.compiler.is_compiling() or _is_excluded(_AUTOGRAD):
        return operator(*args, **kwargs)
    # What torch._C._AutoDispatchBelowAutograd does, in less time.
    _set_excluded(_AUTOGRAD, True)
    try:
        return operator(*args, **kwargs)
    finally:
        _set_excluded(_AUTOGRAD, False)
