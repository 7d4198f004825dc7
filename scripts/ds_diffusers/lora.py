"""Linear layers with LoRA adapters of PEFT, by the weight that they amount to.

    x Wᵀ + s (x Aᵀ) Bᵀ = x (W + s B A)ᵀ

(Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, 2021). An adapter called as a module costs two
products and two passes over the activations for each layer; in the weight it is one product. The weight is
rounded as where PEFT merges an adapter, made anew at each call, and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .hooks import has_hooks_or_own_forward, hook_obstacle

_PEFT_MODULE = "peft.tuners.lora.layer"


class Adapter(NamedTuple):
    """What LoRA adds to the weight [N, K] of a linear layer: scaling · up · down."""

    down: Tensor  # A, [rank, K]
    up: Tensor  # B, [N, rank]
    scaling: float | Tensor


# Of the weights that have some, by the names of block_forward's arguments.
Adapters = dict[str, list[Adapter]]


def is_lora_linear(module: nn.Module | None) -> bool:
    """Whether it is what PEFT puts in the place of a linear layer, its base layer."""
    kind = type(module)
    return kind.__name__ == "Linear" and kind.__module__ == _PEFT_MODULE


def lora_obstacle(path: str, module: nn.Module) -> str | None:
    """Why calling one of PEFT's layers does not amount to calling its base layer with another weight."""
    if not _has_forward_of_peft(type(module)):
        return f"{path} is of a class whose forward was replaced"
    reason = hook_obstacle(path, module)
    if module.disable_adapters and module.merged:
        # Its next call takes the adapters out of the base layer's weight.
        reason = reason or f"{path} has merged adapters that are disabled"
    for name in [] if module.disable_adapters else _active_adapters(module):
        reason = reason or _adapter_obstacle(path, module, name)
    return reason


def adapters_of(module: nn.Module) -> list[Adapter]:
    """Those that act when one of PEFT's layers without obstacle is called."""
    if module.disable_adapters:
        return []
    return [
        Adapter(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
        for name in _active_adapters(module)
    ]


def quick_adapters(module: nn.Module) -> list[Adapter] | None:
    """As adapters_of, for the plainest of PEFT's layers; None: ask lora_obstacle."""
    own = module.__dict__
    parts, names = own["_modules"], own["_active_adapter"]
    if not _has_forward_of_peft(type(module)) or own["_disable_adapters"] or has_hooks_or_own_forward(module):
        return None
    if own["merged_adapters"]:
        return []
    found = []
    downs, ups, dropouts = (parts[part].__dict__["_modules"] for part in ("lora_A", "lora_B", "lora_dropout"))
    for name in [names] if isinstance(names, str) else names:
        if name in downs:
            layers = downs[name], ups[name]
            if own["lora_variant"] or own["use_dora"].get(name) or type(dropouts[name]) is not nn.Identity:
                return None
            if not all(map(_is_plain_product, layers)):
                return None
            down, up = (layer.__dict__["_parameters"]["weight"] for layer in layers)
            found.append(Adapter(down, up, own["scaling"][name]))
    return found


def adapted_tensors(
    tensors: Mapping[str, Tensor], adapters: Mapping[str, Sequence[Adapter]], groups: Sequence[Sequence[str]]
) -> dict[str, Tensor]:
    """`tensors` with new weights in the place of those that have adapters, by the same names.

    `groups`: names of weights that the operator multiplies with in one product where they lie one behind the
    other. The new ones do, as long as they are as wide.
    """
    found = dict(tensors)
    joined = set()
    for group in groups:
        given = [name for name in group if name in tensors]
        if any(name in adapters for name in given):
            width = tensors[given[-1]].shape[1]
            names = [name for name in given if tensors[name].shape[1] == width]
            joined.update(names)
            found.update(zip(names, _joined([tensors[name] for name in names]), strict=True))
    for name, of_weight in adapters.items():
        for adapter in of_weight:
            found[name] = _add(found[name], adapter, in_place=name in joined)
            joined.add(name)
    return found


def _joined(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copies of the weights, one behind the other in memory."""
    return torch.split_with_sizes(torch.cat(weights), [weight.shape[0] for weight in weights])


def _add(weight: Tensor, adapter: Adapter, in_place: bool) -> Tensor:
    down, up, scaling = adapter
    if isinstance(scaling, Tensor):  # where adapters are to be replaced below torch.compile
        up, scaling = up * scaling, 1.0
    if down.dtype == up.dtype == weight.dtype:
        return torch.addmm(weight, up, down, alpha=scaling, out=weight if in_place else None)
    total = torch.add(weight, up @ down, alpha=scaling)
    return weight.copy_(total) if in_place else total.to(weight.dtype)


def _active_adapters(module: nn.Module) -> list[str]:
    return [] if module.merged else [name for name in module.active_adapters if name in module.lora_A]


def _has_forward_of_peft(kind: type) -> bool:
    # torch.compile in PyTorch 2.10 compares no __qualname__.
    return kind.forward.__module__ == _PEFT_MODULE and kind.forward.__name__ == "forward"


def _is_plain_product(layer: nn.Module) -> bool:
    is_product = type(layer) is nn.Linear and layer.__dict__["_parameters"]["bias"] is None
    return is_product and not has_hooks_or_own_forward(layer)


def _adapter_obstacle(path: str, module: nn.Module, name: str) -> str | None:
    if name in getattr(module, "lora_variant", ()) or getattr(module, "use_dora", {}).get(name):
        return f"{path}: the adapter {name} is a variant of LoRA"
    dropout = module.lora_dropout[name]
    if type(dropout) is not nn.Identity and (
        type(dropout) is not nn.Dropout or (dropout.training and dropout.p > 0)
    ):
        return f"{path}: the adapter {name} has a dropout that acts"
    for part in ("lora_A", "lora_B"):
        layer = module._modules[part]._modules.get(name)
        if type(layer) is not nn.Linear or layer.bias is not None:
            return f"{path}: {part} of the adapter {name} is not a linear layer without bias"
        reason = hook_obstacle(f"{path}.{part}.{name}", layer)
        if reason is not None:
            return reason
    return None
