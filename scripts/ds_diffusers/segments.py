"""diffusers' BasicTransformerBlock as a sequence of called modules with fused segments between them.

The way of a block that cannot run as one operator: its attention modules are called, whatever they have
become (another processor, IP-Adapter, a variant of LoRA, quantised or offloaded layers), and so is every
other module that is not a plain one. The rest runs as operators: norms, with the residual sum before them
where one of the two follows the other; the gated feed-forward; its last bias with the residual sum. The
sequence is that of BasicTransformerBlock.forward in diffusers 0.35 to 0.42, which all have the same.

The bias of an attention's output stays in its linear layer, whose matrix product adds it at no cost.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward, _chunked_feed_forward
from torch import Tensor, nn

from .block_modules import ACTIVATION_TYPES, forward_obstacle, is_plain
from .conditions import PLAIN_TENSORS, tensors_fit
from .dispatch import call_without_gradient
from .library import load
from .ops import DTYPES, ActivationFuncType

load()

_layer_norm = torch.ops.ds_diffusers.layer_norm.default
_residual_layer_norm = torch.ops.ds_diffusers.layer_norm_residual_store_pre_ln_res.default
_gated_activation = torch.ops.ds_diffusers.gated_activation.default
_gated_linear = torch.ops.ds_diffusers.gated_linear.default
_bias_add = torch.ops.ds_diffusers.nhwc_bias_add.default

NORM_TYPES = ("layer_norm", "ada_norm", "ada_norm_zero", "ada_norm_single")

_GATES = {ActivationFuncType.GATED_GELU: F.gelu, ActivationFuncType.GATED_SILU: F.silu}


class Segments(NamedTuple):
    """Which parts of a block run fused; the other ones run as the modules they are made of."""

    norm1: bool = False
    norm2: bool = False
    norm3: bool = False
    gate: bool = False
    """The activation of a gated feed-forward."""
    gated_linear: bool = False
    """The linear layer before it as well."""
    last_linear: bool = False
    """The bias of the last linear layer and the residual sum."""


class Call(NamedTuple):
    """The arguments of BasicTransformerBlock.forward."""

    hidden_states: Tensor
    attention_mask: Tensor | None
    encoder_hidden_states: Any
    encoder_attention_mask: Tensor | None
    timestep: Tensor | None
    cross_attention_kwargs: dict[str, Any] | None
    class_labels: Tensor | None
    added_cond_kwargs: dict[str, Tensor] | None


def find_segments(
    block: nn.Module, dtype: torch.dtype, device: torch.device, autocast: bool
) -> tuple[str | None, Segments]:
    """The obstacle in the block's modules and settings to running it in segments, and the segments that can
    be fused for hidden states of this dtype on this device.

    `autocast`: whether it is on; it chooses the dtypes of layers, so that these must be called then.
    """
    obstacle = _own_obstacle(block)
    if obstacle is not None:
        return obstacle, Segments()
    norms = (block._modules.get(name) for name in ("norm1", "norm2", "norm3"))
    segments = Segments(
        *(_norm_fits(norm, dtype, device, autocast) for norm in norms),
        *_feed_forward_segments(block.ff, dtype, device, autocast),
    )
    if block._chunk_size is not None or block.norm_type in ("ada_norm_zero", "ada_norm_single"):
        # The chunks are joined, or their gate applied, before the residual sum.
        segments = segments._replace(last_linear=False)
    return (None if any(segments) else "no part of it is made of plain layers"), segments


def _own_obstacle(block: nn.Module) -> str | None:
    if block.norm_type not in NORM_TYPES:
        return f"norm_type is {block.norm_type}, which is left alone"
    return forward_obstacle()


def _norm_fits(norm: nn.Module | None, dtype: torch.dtype, device: torch.device, autocast: bool) -> bool:
    return (
        is_plain(norm, nn.LayerNorm)
        and len(norm.normalized_shape) == 1
        and tensors_fit(norm, dtype, device)
        # Autocast computes norms in float32, and leaves their results so.
        and not (autocast and dtype != torch.float32)
    )


def _feed_forward_segments(
    feed_forward: nn.Module, dtype: torch.dtype, device: torch.device, autocast: bool
) -> tuple[bool, bool, bool]:
    """Segments' gate, gated_linear, last_linear."""
    if not is_plain(feed_forward, FeedForward) or type(feed_forward.net) is not nn.ModuleList:
        return False, False, False
    layers = feed_forward.net._modules
    if len(layers) not in (3, 4) or "forward" in feed_forward.net.__dict__:
        return False, False, False
    gate = _is_plain_gate(layers["0"])
    return (
        gate,
        gate and not autocast and _is_plain_linear(layers["0"].proj, dtype, device),
        not autocast
        and _is_plain_linear(layers["2"], dtype, device)
        and layers["2"].bias is not None
        and all(_is_idle_dropout(layer) for name, layer in layers.items() if name == "3"),
    )


def _is_plain_gate(activation: nn.Module) -> bool:
    kind = type(activation)
    if kind not in ACTIVATION_TYPES or not is_plain(activation, kind):
        return False
    function = activation._modules.get("activation")
    return function is None or is_plain(function, nn.SiLU)


def _is_plain_linear(linear: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    return is_plain(linear, nn.Linear) and linear.weight is not None and tensors_fit(linear, dtype, device)


def _is_idle_dropout(layer: nn.Module) -> bool:
    return is_plain(layer, nn.Dropout) and not (layer.training and layer.p > 0)


def run_segments(block: nn.Module, segments: Segments, call: Call) -> Tensor:
    """What BasicTransformerBlock.forward of diffusers returns for this call."""
    kind = block.norm_type
    attention_kwargs = dict(call.cross_attention_kwargs or {})
    grounding = attention_kwargs.pop("gligen", None)
    hidden_states = call.hidden_states

    normed, modulation = _first_norm(block, segments, call)
    if block.pos_embed is not None:
        normed = block.pos_embed(normed)
    update = block.attn1(
        normed,
        encoder_hidden_states=call.encoder_hidden_states if block.only_cross_attention else None,
        attention_mask=call.attention_mask,
        **attention_kwargs,
    )
    gate = modulation.attention_gate if modulation is not None else None
    if grounding is not None:
        hidden_states = block.fuser(_sum(update, hidden_states, gate), grounding["objs"])
        update = gate = None

    if block.attn2 is not None:
        if kind == "ada_norm":
            hidden_states = _sum(update, hidden_states, gate)
            normed = block.norm2(hidden_states, call.timestep)
        elif kind == "ada_norm_single":
            normed = hidden_states = _sum(update, hidden_states, gate)
        else:
            normed, hidden_states = _norm_of_sum(update, hidden_states, gate, block.norm2, segments.norm2)
        if block.pos_embed is not None and kind != "ada_norm_single":
            normed = block.pos_embed(normed)
        update = block.attn2(
            normed,
            encoder_hidden_states=call.encoder_hidden_states,
            attention_mask=call.encoder_attention_mask,
            **attention_kwargs,
        )
        gate = None

    name = "norm2" if kind == "ada_norm_single" else "norm3"
    norm, fused = getattr(block, name), getattr(segments, name)
    normed, hidden_states = _norm_of_sum(update, hidden_states, gate, norm, fused)
    if modulation is not None:
        normed = _modulate(normed, modulation.scale, modulation.shift)
    return _feed_forward(block, segments, normed, hidden_states, modulation)


class _Modulation(NamedTuple):
    """What ada_norm_zero and ada_norm_single apply after the first attention; [B, 1, C] each."""

    attention_gate: Tensor
    shift: Tensor
    scale: Tensor
    feed_forward_gate: Tensor


def _first_norm(block: nn.Module, segments: Segments, call: Call) -> tuple[Tensor, _Modulation | None]:
    states = call.hidden_states
    if block.norm_type == "ada_norm":
        return block.norm1(states, call.timestep), None
    if block.norm_type == "ada_norm_zero":
        normed, *rest = block.norm1(states, call.timestep, call.class_labels, hidden_dtype=states.dtype)
        return normed, _Modulation(*(value.unsqueeze(1) for value in rest))
    normed = _norm(states, block.norm1, segments.norm1)
    if block.norm_type == "layer_norm":
        return normed, None
    table = block.scale_shift_table[None] + call.timestep.reshape(states.shape[0], 6, -1)
    first_shift, first_scale, *rest = table.chunk(6, dim=1)
    return _modulate(normed, first_scale, first_shift), _Modulation(*rest)


def _feed_forward(
    block: nn.Module,
    segments: Segments,
    normed: Tensor,
    hidden_states: Tensor,
    modulation: _Modulation | None,
) -> Tensor:
    """With the residual sum."""
    gate = modulation.feed_forward_gate if modulation is not None else None
    if block._chunk_size is not None:
        function = partial(_feed_forward_update, block.ff, segments)
        update = _chunked_feed_forward(function, normed, block._chunk_dim, block._chunk_size)
        return _sum(update, hidden_states, gate)
    if not segments.last_linear:
        return _sum(_feed_forward_update(block.ff, segments, normed), hidden_states, gate)
    linear = block.ff.net._modules["2"]
    inner = _inner_states(block.ff, segments, normed)
    if inner.dtype != hidden_states.dtype:
        return _sum(linear(inner), hidden_states, None)
    update = F.linear(inner, linear.weight)
    if not _are_alike(update, hidden_states):
        return _sum(update + linear.bias, hidden_states, None)
    return _call(_bias_add, update, linear.bias, hidden_states)


def _feed_forward_update(feed_forward: nn.Module, segments: Segments, normed: Tensor) -> Tensor:
    if not segments.gate:
        return feed_forward(normed)
    states = _inner_states(feed_forward, segments, normed)
    for layer in list(feed_forward.net._modules.values())[2:]:
        states = layer(states)
    return states


def _inner_states(feed_forward: nn.Module, segments: Segments, normed: Tensor) -> Tensor:
    """What the feed-forward's last linear layer takes."""
    layers = feed_forward.net._modules  # indexing the ModuleList itself takes as long as a small operator
    activation, dropout = layers["0"], layers["1"]
    states = _gated(activation, segments, normed) if segments.gate else activation(normed)
    return states if _is_idle_dropout(dropout) else dropout(states)


def _gated(activation: nn.Module, segments: Segments, normed: Tensor) -> Tensor:
    kind = ACTIVATION_TYPES[type(activation)]
    linear = activation.proj
    if segments.gated_linear and _is_suitable(normed) and normed.dtype == linear.weight.dtype:
        return _call(_gated_linear, normed, linear.weight, linear.bias, kind)
    states = linear(normed)
    if _is_suitable(states):
        return _call(_gated_activation, states, None, kind)
    values, gates = states.chunk(2, dim=-1)
    return values * _GATES[kind](gates)


def _norm(states: Tensor, norm: nn.Module, fused: bool) -> Tensor:
    if fused and _is_suitable(states) and _has_dtype_of(norm, states):
        return _call(_layer_norm, states, norm.weight, norm.bias, norm.eps)
    return norm(states)


def _norm_of_sum(
    update: Tensor | None, residual: Tensor, gate: Tensor | None, norm: nn.Module, fused: bool
) -> tuple[Tensor, Tensor]:
    """The norm of update · gate + residual, and this sum. update None: of residual alone."""
    is_one_operator = fused and update is not None and gate is None
    if is_one_operator and _are_alike(update, residual) and _has_dtype_of(norm, residual):
        return _call(_residual_layer_norm, update, None, residual, norm.weight, norm.bias, norm.eps)
    total = _sum(update, residual, gate)
    return _norm(total, norm, fused), total


def _sum(update: Tensor | None, residual: Tensor, gate: Tensor | None) -> Tensor:
    if update is None:
        return residual
    if gate is None:
        total = update + residual
    elif gate.dtype == update.dtype == residual.dtype:
        total = torch.addcmul(residual, gate, update)
    else:
        total = gate * update + residual
    return total.squeeze(1) if total.dim() == 4 else total


def _modulate(normed: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """normed · (1 + scale) + shift"""
    if normed.dtype == scale.dtype == shift.dtype:
        return torch.addcmul(shift, normed, 1 + scale)
    return normed * (1 + scale) + shift


def _has_dtype_of(norm: nn.Module, states: Tensor) -> bool:
    return norm.weight is None or norm.weight.dtype == states.dtype


def _are_alike(first: Tensor, second: Tensor) -> bool:
    return (
        _is_suitable(first)
        and _is_suitable(second)
        and first.dtype == second.dtype
        and first.dim() == second.dim() == 3
        # While tracing for TorchScript a look at sizes would be taken for a part of the model.
        and (torch._C._get_tracing_state() is not None or first.shape == second.shape)
    )


def _is_suitable(states: Tensor) -> bool:
    """Whether the operators compute with it: attention processors and layers return what they like."""
    return type(states) in PLAIN_TENSORS and states.dtype in DTYPES


def _call(operator: torch._ops.OpOverload, *arguments: Any) -> Any:
    return operator(*arguments) if torch.is_grad_enabled() else call_without_gradient(operator, *arguments)
