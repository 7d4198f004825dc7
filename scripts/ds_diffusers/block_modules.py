"""The modules of a BasicTransformerBlock, and whether block_forward computes what they would.

The fused call uses the modules' parameters but does not call the modules, so anything that changes what
calling one of them does is an obstacle: another class (another quantisation), a hook (offloading, casting),
another attention processor. A layer with LoRA adapters is a linear layer with another weight. Each function
returns None where all is well, else the obstacle in a few words. Nothing is remembered between calls, as all
this changes at any time; every check is a cheap look at a type or an attribute, which torch.compile can trace
and guard.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU, SwiGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from .class_names import class_name
from .hooks import has_hooks_or_own_forward, hook_obstacle
from .lora import Adapters, adapters_of, is_lora_linear, lora_obstacle
from .ops import ActivationFuncType
from .quantization import Int8Linear

Modules = dict[str, nn.Module]

ACTIVATION_TYPES = {GEGLU: int(ActivationFuncType.GATED_GELU), SwiGLU: int(ActivationFuncType.GATED_SILU)}


def _attention_classes(name: str) -> list[tuple[str, tuple[type, ...]]]:
    return [
        (name, (Attention,)),
        (f"{name}.to_q", (nn.Linear,)),
        (f"{name}.to_k", (nn.Linear,)),
        (f"{name}.to_v", (nn.Linear,)),
        (f"{name}.to_out", (nn.ModuleList,)),
        (f"{name}.to_out.0", (nn.Linear,)),
        (f"{name}.to_out.1", (nn.Dropout,)),
    ]


# The exact classes that a block's modules must have, parents first.
_FIRST = [("norm1", (nn.LayerNorm,)), *_attention_classes("attn1")]
_SECOND = [("norm2", (nn.LayerNorm,)), *_attention_classes("attn2")]
_LAST = [
    ("norm3", (nn.LayerNorm,)),
    ("ff", (FeedForward,)),
    ("ff.net", (nn.ModuleList,)),
    ("ff.net.0", tuple(ACTIVATION_TYPES)),
    ("ff.net.0.proj", (nn.Linear, Int8Linear)),
    ("ff.net.0.activation", (nn.SiLU, type(None))),
    ("ff.net.1", (nn.Dropout,)),
    ("ff.net.2", (nn.Linear, Int8Linear)),
    ("ff.net.3", (nn.Dropout, type(None))),
]


def _with_parents(classes: list[tuple[str, tuple[type, ...]]]) -> tuple[tuple[str, str, str, tuple], ...]:
    """(path, path of the parent, name in the parent, classes)"""
    return tuple((path, *path.rpartition(".")[::2], expected) for path, expected in classes)


ONE_ATTENTION = _with_parents(_FIRST + _LAST)
_PARTS_OF_ATTENTION = {name: _with_parents(_attention_classes(name)[1:]) for name in ("attn1", "attn2")}
TWO_ATTENTIONS = _with_parents(_FIRST + _SECOND + _LAST)

# (argument of block_forward without "_weight" or "_bias", path of the module that owns the tensor)
_PARAMETERS = (
    ("norm1", "norm1"),
    ("attn1_q", "attn1.to_q"),
    ("attn1_k", "attn1.to_k"),
    ("attn1_v", "attn1.to_v"),
    ("attn1_out", "attn1.to_out.0"),
    ("norm2", "norm2"),
    ("attn2_q", "attn2.to_q"),
    ("attn2_k", "attn2.to_k"),
    ("attn2_v", "attn2.to_v"),
    ("attn2_out", "attn2.to_out.0"),
    ("norm3", "norm3"),
    ("ff_in", "ff.net.0.proj"),
    ("ff_out", "ff.net.2"),
)
PARAMETER_ARGUMENTS = tuple((path, f"{name}_weight", f"{name}_bias") for name, path in _PARAMETERS)
WEIGHT_ARGUMENTS = {path: argument for path, argument, _ in PARAMETER_ARGUMENTS}
# (path of a module that may be an Int8Linear, arguments for its weight and its scale)
QUANTIZED_ARGUMENTS = (
    ("ff.net.0.proj", "ff_in_weight", "ff_in_scale"),
    ("ff.net.2", "ff_out_weight", "ff_out_scale"),
)


def own_function(owner: Any, name: str) -> Any:
    """The function as PyTorch or diffusers wrote it, None where it had been replaced before this import."""
    function = getattr(owner, name)
    if owner is F:
        return function if function is getattr(torch._C._nn, name) else None
    is_own = function.__module__ == owner.__module__ and function.__qualname__ == f"{owner.__name__}.{name}"
    return function if is_own and not hasattr(function, "__wrapped__") else None


# What the block's own forward is made of. A library that replaces one of these means it to be called.
REPLACEABLE_FUNCTIONS = tuple(
    (owner, name, own_function(owner, name))
    for owner, name in (
        (BasicTransformerBlock, "forward"),
        (Attention, "forward"),
        (AttnProcessor2_0, "__call__"),
        (FeedForward, "forward"),
        (GEGLU, "forward"),
        (SwiGLU, "forward"),
        (nn.LayerNorm, "forward"),
        (nn.Linear, "forward"),
        (Int8Linear, "forward"),
        (nn.Dropout, "forward"),
        (F, "scaled_dot_product_attention"),
    )
)

_FORWARDS = {owner: function for owner, name, function in REPLACEABLE_FUNCTIONS if name == "forward"}
_FORWARDS[nn.SiLU] = own_function(nn.SiLU, "forward")


def block_modules(block: nn.Module) -> tuple[str | None, Modules]:
    """The obstacle in the block's modules and settings, and the modules by their path, complete without
    one. Of a linear layer with LoRA adapters it is the base layer: see block_adapters."""
    modules: Modules = {"": block}
    table = ONE_ATTENTION if block._modules.get("attn2") is None else TWO_ATTENTIONS
    reason = _own_obstacle(block) or _replaced_function() or _collect(modules, table)
    return reason or _settings_obstacle(modules) or _ownership_obstacle(modules), modules


def is_plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether calling `module` does what `kind`, one of the classes above with a forward, does as PyTorch or
    diffusers wrote it, and nothing else."""
    return type(module) is kind and kind.forward is _FORWARDS[kind] and not has_hooks_or_own_forward(module)


def forward_obstacle() -> str | None:
    """The obstacle to any other way than diffusers' own through a block."""
    if BasicTransformerBlock.forward is not _FORWARDS[BasicTransformerBlock]:
        return "BasicTransformerBlock.forward was replaced"
    return _global_hook()


def attention_parameters(name: str, attention: nn.Module) -> tuple[str | None, dict[str, Tensor]]:
    """The obstacle in a single attention module to being a part of block_forward, and its tensors by the
    names of block_forward's arguments, complete without one. `name`: "attn1" or "attn2"."""
    modules: Modules = {}
    reason = (
        _replaced_function()
        or _add(modules, name, attention, (Attention,))
        or _collect(modules, _PARTS_OF_ATTENTION[name])
        or _adapters_obstacle(modules, _PARTS_OF_ATTENTION[name])
        or _attention_obstacle(name, attention)
        or _ownership_obstacle(modules)
        or _dropout_obstacle(modules)
    )
    return reason, _own_parameters(modules) if reason is None else {}


def block_parameters(modules: Modules) -> dict[str, Tensor]:
    """The tensors of a block without obstacle by the names of block_forward's arguments; absent ones left
    out."""
    tensors = _own_parameters(modules)
    for path, _, scale_argument in QUANTIZED_ARGUMENTS:
        if type(modules[path]) is Int8Linear:
            tensors[scale_argument] = modules[path]._parameters["scale"]
    return tensors


def block_adapters(modules: Modules) -> Adapters:
    """LoRA adapters that act on the weights of a block without obstacle, by the names of block_forward's
    arguments; other weights left out."""
    table = TWO_ATTENTIONS if "attn2" in modules else ONE_ATTENTION
    found = {}
    for path, layer in _lora_layers(modules, table):
        adapters = adapters_of(layer)
        if adapters:
            found[WEIGHT_ARGUMENTS[path]] = adapters
    return found


def _lora_layers(
    modules: Modules, table: tuple[tuple[str, str, str, tuple], ...]
) -> Iterator[tuple[str, nn.Module]]:
    """PEFT's layers around those modules of the table, collected before, that are base layers."""
    for path, parent, name, classes in table:
        if nn.Linear in classes:
            module = modules[parent]._modules[name]
            if module is not modules[path]:
                yield path, module


def _adapters_obstacle(modules: Modules, table: tuple[tuple[str, str, str, tuple], ...]) -> str | None:
    for path, layer in _lora_layers(modules, table):
        if adapters_of(layer):
            return f"{path} has LoRA adapters"
    return None


def _own_parameters(modules: Modules) -> dict[str, Tensor]:
    tensors = {}
    for path, weight_argument, bias_argument in PARAMETER_ARGUMENTS:
        if path in modules:
            parameters = modules[path]._parameters
            if parameters["weight"] is not None:
                tensors[weight_argument] = parameters["weight"]
            if parameters["bias"] is not None:
                tensors[bias_argument] = parameters["bias"]
    return tensors


def parameter_path(argument: str) -> str:
    """The parameter's name in the block's state_dict: "attn1.to_q.weight" for "attn1_q_weight"."""
    name, _, kind = argument.rpartition("_")
    return f"{dict(_PARAMETERS)[name]}.{kind}"


def _names(classes: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in classes if kind is not type(None))


def _own_obstacle(block: nn.Module) -> str | None:
    if block.norm_type != "layer_norm":
        return f"norm_type is {block.norm_type}, not layer_norm"
    if block.pos_embed is not None:
        return "the block has positional embeddings"
    if block._chunk_size is not None:
        return "the feed-forward is chunked"
    # Looked at before everything else: the most frequent obstacle, and the cheapest to find.
    for name in ("attn1", "attn2"):
        attention = block._modules.get(name)
        if type(attention) is Attention and type(attention.processor) is not AttnProcessor2_0:
            return _processor_obstacle(name, attention)
    return None


def _processor_obstacle(path: str, attention: Attention) -> str:
    return f"{path} has processor {type(attention.processor).__name__}"


def _replaced_function() -> str | None:
    for owner, name, function in REPLACEABLE_FUNCTIONS:
        if getattr(owner, name) is not function:
            return f"{owner.__name__}.{name} was replaced"
    return _global_hook()


def _global_hook() -> str | None:
    if _has_any_global_hook():
        return "there is a hook on all modules (torch.nn.modules.module.register_module_*_hook)"
    return None


def _collect(modules: Modules, table: tuple[tuple[str, str, str, tuple], ...]) -> str | None:
    """Adds the modules of the table by their path; stops at one that isn't exactly what it should be."""
    for path, parent, name, classes in table:
        reason = _add(modules, path, modules[parent]._modules.get(name), classes)
        if reason is not None:
            return reason
    return None


def _add(modules: Modules, path: str, module: nn.Module | None, classes: tuple) -> str | None:
    if nn.Linear in classes and is_lora_linear(module):
        reason = lora_obstacle(path, module)
        if reason is not None:
            return reason
        module = module.base_layer
    if type(module) not in classes:
        return f"{path} is {class_name(module)}, not {_names(classes)}"
    if module is None:
        return None
    modules[path] = module
    return hook_obstacle(path, module)


def _settings_obstacle(modules: Modules) -> str | None:
    attn1, attn2 = modules["attn1"], modules.get("attn2")
    reason = _attention_obstacle("attn1", attn1)
    if reason is None and attn2 is not None:
        reason = _attention_obstacle("attn2", attn2)
        if reason is None and attn1.heads != attn2.heads:
            reason = f"attn1 has {attn1.heads} heads, attn2 {attn2.heads}"
    if reason is None and len(modules["ff.net"]._modules) > 4:
        reason = f"ff.net has {len(modules['ff.net']._modules)} modules, not 3 or 4"
    return reason or _norms_obstacle(modules) or _dropout_obstacle(modules)


def _attention_obstacle(path: str, attention: nn.Module) -> str | None:
    if type(attention.processor) is not AttnProcessor2_0:
        return _processor_obstacle(path, attention)
    if (
        attention.spatial_norm is not None
        or attention.group_norm is not None
        or attention.norm_cross is not None
        or attention.norm_q is not None
        or attention.norm_k is not None
    ):
        return f"{path} has a norm of its own"
    if attention.residual_connection or attention.rescale_output_factor != 1:
        return f"{path} has residual_connection or rescale_output_factor"
    return None


def _norms_obstacle(modules: Modules) -> str | None:
    epsilon = modules["norm1"].eps
    for path in ("norm1", "norm2", "norm3"):
        if path in modules:
            norm = modules[path]
            if len(norm.normalized_shape) != 1:
                return f"{path} normalises {len(norm.normalized_shape)} dimensions, not 1"
            if norm.eps != epsilon:
                return f"{path} has eps {norm.eps}, norm1 {epsilon}"
    return None


def _ownership_obstacle(modules: Modules) -> str | None:
    # Replicas of torch.nn.DataParallel and flattened parameters of FSDP are plain attributes.
    for path, _, _ in PARAMETER_ARGUMENTS:
        if path in modules:
            parameters = modules[path]._parameters
            if "weight" not in parameters or "bias" not in parameters:
                return f"{path} does not own its weight or bias"
            if parameters["weight"] is None and type(modules[path]) is not nn.LayerNorm:
                return f"{path} has no weight"
            if type(modules[path]) is Int8Linear and parameters.get("scale") is None:
                return f"{path} has no scale"
    return None


def _dropout_obstacle(modules: Modules) -> str | None:
    for path in ("attn1.to_out.1", "attn2.to_out.1", "ff.net.1", "ff.net.3"):
        if path in modules and modules[path].training and modules[path].p > 0:
            return f"{path} drops out in training mode"
    return None
