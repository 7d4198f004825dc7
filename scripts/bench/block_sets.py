"""Transformer blocks with weights and inputs of their own: as many as it takes to rotate past the cache."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn import functional

import ds_diffusers
from ds_diffusers.block_modules import ACTIVATION_TYPES, block_modules, block_parameters

from .block_shapes import CONTEXT_TOKENS, BlockShape
from .rotation import set_count

LEAST_SETS, MOST_SETS = 4, 32


@dataclass(frozen=True)
class BlockSet:
    """One block as diffusers runs it, a patched one with the same weights, and their inputs."""

    original: nn.Module
    patched: nn.Module
    hidden_states: Tensor
    context: Tensor


def make_sets(shape: BlockShape, dtype: torch.dtype, device: torch.device) -> list[BlockSet]:
    """As many as it takes that the GPU finds no weight and no input in its cache."""
    first = make_set(shape, dtype, device)
    tensors = [*first.original.parameters(), first.hidden_states, first.context]
    count = set_count(sum(tensor.nbytes for tensor in tensors), device, LEAST_SETS, MOST_SETS)
    return [first, *(make_set(shape, dtype, device) for _ in range(count - 1))]


def make_set(shape: BlockShape, dtype: torch.dtype, device: torch.device) -> BlockSet:
    """Weights and biases as PyTorch initialises a layer, norms around 1 and 0, inputs from N(0, 1)."""
    with torch.device(device):
        block = BasicTransformerBlock(
            shape.channels, shape.heads, shape.head_size, cross_attention_dim=shape.context_channels
        )
        for norm in (block.norm1, block.norm2, block.norm3):
            nn.init.normal_(norm.weight, 1, 0.1)
            nn.init.normal_(norm.bias, 0, 0.1)
        hidden_states = torch.randn(shape.batch, shape.tokens, shape.channels, dtype=torch.float32).to(dtype)
        context = torch.randn(shape.batch, CONTEXT_TOKENS, shape.context_channels).to(dtype)
    block = block.to(dtype).eval().requires_grad_(False)
    patched = copy.deepcopy(block)
    lay_out(patched)
    ds_diffusers.patch(patched)
    return BlockSet(block, patched, hidden_states, context)


def lay_out(block: nn.Module) -> None:
    """Makes the weights that one matrix product can take lie one behind the other in memory."""
    first, second = block.attn1, block.attn2
    _lay_out_weights([first.to_q, first.to_k, first.to_v])
    _lay_out_weights([second.to_k, second.to_v])


def _lay_out_weights(layers: list[nn.Linear]) -> None:
    weights = [layer.weight for layer in layers]
    if all(one.data_ptr() + one.nbytes == other.data_ptr() for one, other in pairwise(weights)):
        return
    buffer = torch.cat([weight.data for weight in weights])
    for weight, part in zip(weights, buffer.split([weight.shape[0] for weight in weights]), strict=True):
        weight.data = part


def operator_arguments(patched: nn.Module, context: Tensor) -> dict[str, Tensor | int | float]:
    """What a patched block passes to torch.ops.ds_diffusers.block_forward beside the hidden states."""
    obstacle, modules = block_modules(patched)
    if obstacle is not None:
        raise RuntimeError(f"the block would not run fused: {obstacle}")
    return {
        **block_parameters(modules),
        "attn2_context": context,
        "heads": modules["attn1"].heads,
        "activation_type": ACTIVATION_TYPES[type(modules["ff.net.0"])],
        "norm_epsilon": modules["norm1"].eps,
    }


def kept_arguments(patched: nn.Module, context: Tensor) -> dict[str, Tensor | int | float]:
    """The same at a later call inside of ds_diffusers.keep_prompt."""
    arguments = operator_arguments(patched, context)
    del arguments["attn2_context"]
    projections = [
        functional.linear(
            context, arguments.pop(f"attn2_{part}_weight"), arguments.pop(f"attn2_{part}_bias", None)
        )
        for part in "kv"
    ]
    return arguments | {"attn2_key_value": torch.cat(projections, dim=-1)}


def require_fused(model: nn.Module) -> None:
    """Raises RuntimeError unless each call so far ran fused: a fallback would be measured in its place."""
    report = ds_diffusers.report(model)
    if report.fused != len(report) or any(block.segmented_calls + block.original_calls for block in report):
        raise RuntimeError(f"not all calls ran fused: {report}")


def reference(block_set: BlockSet) -> Tensor:
    """The block in float64, one batch entry at a time: its attention weights are large."""
    block = copy.deepcopy(block_set.original).double()
    pairs = zip(block_set.hidden_states.double().split(1), block_set.context.double().split(1), strict=True)
    return torch.cat([block(entry, encoder_hidden_states=context) for entry, context in pairs])
