"""A DeepSpeedDiffusersTransformerBlock as single operators around its attention modules, which are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..quantization import dequantize_rows
from .attention import DeepSpeedDiffusersAttention

if TYPE_CHECKING:
    from .transformer_block import DeepSpeedDiffusersTransformerBlock


def run_in_parts(
    block: DeepSpeedDiffusersTransformerBlock,
    hidden_states: Tensor,
    context: Any,
    attention_mask: Tensor | None,
    encoder_attention_mask: Tensor | None,
    cross_attention_kwargs: dict[str, Any],
) -> Tensor:
    """The block's result, [B, S, C], for arguments as its forward describes them."""
    kwargs = dict(cross_attention_kwargs)
    grounding = kwargs.pop("gligen", None)
    norm3 = block.norm3_g, block.norm3_b, block.norm3_eps
    next_norm = norm3 if block.attn_2 is None else (block.norm2_g, block.norm2_b, block.norm2_eps)

    normed = ops.layer_norm(hidden_states, block.norm1_g, block.norm1_b, block.norm1_eps)
    own_context = context if block.only_cross_attention else None
    update = _attend(block, "attn_1", normed, own_context, attention_mask, kwargs)
    if grounding is None:
        normed, hidden_states = ops.layer_norm_residual_store_pre_ln_res(
            update, block.attn_1_bias, hidden_states, *next_norm
        )
    else:
        hidden_states = ops.nhwc_bias_add(update, block.attn_1_bias, hidden_states)
        hidden_states = _grounded(block, hidden_states, grounding)
        normed = ops.layer_norm(hidden_states, *next_norm)
    if block.attn_2 is not None:
        update = _attend(block, "attn_2", normed, context, encoder_attention_mask, kwargs)
        normed, hidden_states = ops.layer_norm_residual_store_pre_ln_res(
            update, block.attn_2_bias, hidden_states, *norm3
        )
    update = _feed_forward(block, normed)
    if block.ff2_b is None:
        return update + hidden_states
    return ops.nhwc_bias_add(update, block.ff2_b, hidden_states)


def _attend(
    block: DeepSpeedDiffusersTransformerBlock,
    name: str,
    normed: Tensor,
    context: Any,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """What the attention module returns, in normed's dtype: autocast may have given it another."""
    attention = getattr(block, name)
    if block.pos_embed is not None:
        normed = block.pos_embed(normed)
    if hasattr(attention, "processor"):  # diffusers' own
        result = attention(normed, encoder_hidden_states=context, attention_mask=mask, **kwargs)
    elif kwargs:
        kind = type(attention).__name__
        raise TypeError(
            f"cross_attention_kwargs has {', '.join(kwargs)}, which {name}, a {kind}, does not take"
        )
    elif isinstance(attention, DeepSpeedDiffusersAttention):
        result = attention(normed, context=context, input_mask=mask)
    elif mask is not None:
        raise TypeError(f"a mask is given for {name}, a {type(attention).__name__}, which does not take one")
    else:
        result = attention(normed, context=context)
    return result.to(normed.dtype)


def _grounded(
    block: DeepSpeedDiffusersTransformerBlock, hidden_states: Tensor, grounding: dict[str, Tensor]
) -> Tensor:
    if block.fuser is None:
        raise TypeError("cross_attention_kwargs has gligen, for which the block has no fuser")
    return block.fuser(hidden_states, grounding["objs"])


def _feed_forward(block: DeepSpeedDiffusersTransformerBlock, normed: Tensor) -> Tensor:
    """Without the last bias."""
    if block.feed_forward_scale("ff1_w") is None:
        inner = ops.gated_linear(normed, block.ff1_w, block.ff1_b, block.activation_type)
    else:
        inner = ops.gated_activation(_linear(block, "ff1_w", normed), block.ff1_b, block.activation_type)
    return _linear(block, "ff2_w", inner)


def _linear(block: DeepSpeedDiffusersTransformerBlock, name: str, states: Tensor) -> Tensor:
    weight, scale = getattr(block, name), block.feed_forward_scale(name)
    if scale is not None:
        weight = dequantize_rows(weight, scale, states.dtype)
    return F.linear(states, weight).to(states.dtype)
