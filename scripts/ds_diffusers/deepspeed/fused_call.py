"""Whether a call of a DeepSpeedDiffusersTransformerBlock can run as block_forward, and with which arguments.

Importing this module imports diffusers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..block_modules import attention_parameters
from ..conditions import call_obstacle, operator_mask
from ..hooks import has_hooks_or_own_forward
from .attention import DeepSpeedDiffusersAttention

if TYPE_CHECKING:
    from .transformer_block import DeepSpeedDiffusersTransformerBlock

Parameters = dict[str, Tensor]


def operator_arguments(
    block: DeepSpeedDiffusersTransformerBlock,
    hidden_states: Tensor,
    context: Any,
    attention_mask: Tensor | None,
    encoder_attention_mask: Tensor | None,
) -> dict[str, Any] | None:
    """The arguments of block_forward but hidden_states; None where the block must run in parts."""
    found = block_parameters(block, context is not None)
    if found is None:
        return None
    parameters, heads = found
    uses = {
        "attn1_context": context if block.only_cross_attention else None,
        "attn1_mask": attention_mask,
        "attn2_context": context if block.attn_2 is not None else None,
        "attn2_mask": encoder_attention_mask if block.attn_2 is not None else None,
    }
    inputs = {name: value for name, value in uses.items() if value is not None}
    if call_obstacle(hidden_states, inputs, parameters, heads, None) is not None:
        return None
    for name, value in inputs.items():
        if name.endswith("context"):
            # The operator wants its rows at one stride, which e.g. an expanded batch does not have.
            inputs[name] = value.contiguous()
        else:
            inputs[name] = operator_mask(value, hidden_states, heads)
    settings = {
        "heads": heads,
        "activation_type": int(block.activation_type),
        "norm_epsilon": block.norm1_eps,
    }
    return {**parameters, **inputs, **settings}


def block_parameters(
    block: DeepSpeedDiffusersTransformerBlock, with_context: bool
) -> tuple[Parameters, int] | None:
    """The block's tensors by the names of block_forward's arguments, and its number of heads; None where the
    block is not made of what block_forward computes."""
    if block.pos_embed is not None or block.norm3_eps != block.norm1_eps:
        return None
    first = _attention_parameters(
        "attn1", block.attn_1, block.attn_1_bias, with_context and block.only_cross_attention
    )
    if first is None:
        return None
    parameters, heads = first
    norms = ["norm1", "norm3"]
    if block.attn_2 is not None:
        second = _attention_parameters("attn2", block.attn_2, block.attn_2_bias, with_context)
        if second is None or second[1] != heads or block.norm2_eps != block.norm1_eps:
            return None
        parameters |= second[0]
        norms.append("norm2")
    for name in norms:
        parameters[f"{name}_weight"] = getattr(block, f"{name}_g")
        parameters[f"{name}_bias"] = getattr(block, f"{name}_b")
    for name, argument in (("ff1", "ff_in"), ("ff2", "ff_out")):
        parameters[f"{argument}_weight"] = getattr(block, f"{name}_w")
        parameters[f"{argument}_scale"] = block.feed_forward_scale(f"{name}_w")
        parameters[f"{argument}_bias"] = getattr(block, f"{name}_b")
    return {name: tensor for name, tensor in parameters.items() if tensor is not None}, heads


def _attention_parameters(
    name: str, attention: nn.Module, added_bias: Tensor, with_context: bool
) -> tuple[Parameters, int] | None:
    """`added_bias`: what the block adds to the attention's output."""
    if type(attention) is DeepSpeedDiffusersAttention:
        found = _deepspeed_parameters(name, attention, with_context)
    else:
        obstacle, found = attention_parameters(name, attention)
        found = found if obstacle is None else None
    if found is None:
        return None
    own_bias = found.get(f"{name}_out_bias")
    if own_bias is not None and own_bias.dtype == added_bias.dtype and own_bias.device == added_bias.device:
        found[f"{name}_out_bias"] = own_bias + added_bias
    elif own_bias is None:
        found[f"{name}_out_bias"] = added_bias
    else:
        return None
    heads = attention.config.heads if type(attention) is DeepSpeedDiffusersAttention else attention.heads
    return found, heads


def _deepspeed_parameters(
    name: str, attention: DeepSpeedDiffusersAttention, with_context: bool
) -> Parameters | None:
    is_scaled = math.isclose(attention.norm_factor**4, attention.hidden_size_per_attention_head)
    if not is_scaled or has_hooks_or_own_forward(attention):
        return None
    weights, biases = attention.projection_weights(with_context), attention.projection_biases()
    found = {f"{name}_out_weight": attention.attn_ow.t()}
    if attention.do_out_bias and attention.attn_ob is not None:
        found[f"{name}_out_bias"] = attention.attn_ob
    for projection, weight, bias in zip("qkv", weights, biases):
        found[f"{name}_{projection}_weight"] = weight
        if bias is not None:
            found[f"{name}_{projection}_bias"] = bias
    return found
