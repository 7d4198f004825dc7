"""A block put together by hand from what PyTorch offers, as an expert would without a kernel of their own:
q, k, v in one product, attention on strided views, residual sums inside the products (torch.addmm), norms
with their sums and the gated activation fused by torch.compile.

addmm takes a residual but no bias, so a bias is added to the residual before, in the kernel of the norm that
reads it anyway: two roundings more than diffusers' block has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .block_shapes import BlockShape
from .compiling import compiled
from .products import attention, block_weights, split_heads


def norm(input: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return F.layer_norm(input, weight.shape, weight, bias, epsilon)


def biased_norm_and_sum(
    input: Tensor, input_bias: Tensor, weight: Tensor, bias: Tensor, epsilon: float, next_bias: Tensor
) -> tuple[Tensor, Tensor]:
    biased = input + input_bias
    return F.layer_norm(biased, weight.shape, weight, bias, epsilon), biased + next_bias


def norm_and_sum(
    input: Tensor, weight: Tensor, bias: Tensor, epsilon: float, next_bias: Tensor
) -> tuple[Tensor, Tensor]:
    return F.layer_norm(input, weight.shape, weight, bias, epsilon), input + next_bias


def gated(activation: Tensor, bias: Tensor) -> Tensor:
    values, gates = (activation + bias).chunk(2, dim=-1)
    return values * F.gelu(gates)


@dataclass(frozen=True)
class Pieces:
    """The four functions above under torch.compile, for one shape."""

    norm: Callable
    biased_norm_and_sum: Callable
    norm_and_sum: Callable
    gated: Callable


def compiled_pieces() -> Pieces:
    return Pieces(*(compiled(piece) for piece in (norm, biased_norm_and_sum, norm_and_sum, gated)))


def add_product(residual: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """residual + input · weightᵀ over the last dimension."""
    rows = torch.addmm(residual.flatten(0, -2), input.flatten(0, -2), weight.t())
    return rows.view_as(residual)


def hand_composed(
    shape: BlockShape, block: nn.Module, pieces: Pieces, backends: dict[str, str]
) -> Callable[[Tensor, Tensor], Tensor]:
    """The block as a function of (hidden states, context)."""
    weights = block_weights(block)
    norms = [(layer.weight, layer.bias, layer.eps) for layer in (block.norm1, block.norm2, block.norm3)]
    first_bias, second_bias = block.attn1.to_out[0].bias, block.attn2.to_out[0].bias
    ff_in_bias, ff_out_bias = block.ff.net[0].proj.bias, block.ff.net[2].bias

    def call(hidden_states: Tensor, context: Tensor) -> Tensor:
        projected = F.linear(pieces.norm(hidden_states, *norms[0]), weights["attn1_qkv"])
        heads = attention(*split_heads(projected, 3, shape.heads), backends["attn1"])
        total = add_product(hidden_states, heads.transpose(1, 2).flatten(2), weights["attn1_out"])

        normed, residual = pieces.biased_norm_and_sum(total, first_bias, *norms[1], second_bias)
        (query,) = split_heads(F.linear(normed, weights["attn2_q"]), 1, shape.heads)
        key, value = split_heads(F.linear(context, weights["attn2_kv"]), 2, shape.heads)
        heads = attention(query, key, value, backends["attn2"])
        total = add_product(residual, heads.transpose(1, 2).flatten(2), weights["attn2_out"])

        normed, residual = pieces.norm_and_sum(total, *norms[2], ff_out_bias)
        inner = pieces.gated(F.linear(normed, weights["ff_in"]), ff_in_bias)
        return add_product(residual, inner, weights["ff_out"])

    return call
