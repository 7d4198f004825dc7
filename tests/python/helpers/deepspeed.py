"""What the tests of ds_diffusers.deepspeed share: blocks in each way in which they run."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from ds_diffusers.deepspeed import (
    DeepSpeedDiffusersAttention,
    DeepSpeedDiffusersTransformerBlock,
    DeepSpeedInferenceConfig,
    Diffusers2DTransformerConfig,
)

NO_INT8, INT8 = Diffusers2DTransformerConfig(), Diffusers2DTransformerConfig(int8_quantization=True)


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "ds_diffusers":
            self.names.add(function._opname)
        return function(*args, **(kwargs or {}))


def operators_of(call: Callable[[], Any]) -> set[str]:
    """The names of our operators that a call uses."""
    with torch.no_grad(), _Record() as record:
        call()
    return record.names


IN_ONE, IN_PARTS = {"block_forward"}, {"layer_norm", "layer_norm_residual_store_pre_ln_res", "gated_linear"}


def deepspeed_attention(
    attention: Attention, dtype: torch.dtype | None = None
) -> DeepSpeedDiffusersAttention:
    """With the weights of an attention of diffusers."""
    query = attention.to_q.weight
    size, dtype = query.shape[1], dtype or query.dtype
    made = DeepSpeedDiffusersAttention(DeepSpeedInferenceConfig(size, heads=attention.heads, dtype=dtype))
    made.to(query.device)
    parts = attention.to_q, attention.to_k, attention.to_v
    weights = [linear.weight.data.t().contiguous().to(dtype) for linear in parts]
    if weights[0].shape == weights[1].shape:
        made.attn_qkvw.data = torch.cat(weights, dim=1)
        made.attn_qw = made.attn_kw = made.attn_vw = None
    else:
        made.attn_qkvw = None
        made.attn_qw.data, made.attn_kw.data, made.attn_vw.data = weights
    made.attn_qkvb = None
    if attention.to_q.bias is not None:
        biases = torch.cat([linear.bias.data for linear in parts])
        made.attn_qkvb = nn.Parameter(biases.to(dtype), requires_grad=False)
    out = attention.to_out[0]
    made.attn_ow.data = out.weight.data.t().contiguous().to(dtype)
    if out.bias is None:
        made.attn_ob = None
    else:
        made.attn_ob.data = out.bias.data.to(dtype)
    return made


def with_deepspeed_attentions(block: BasicTransformerBlock) -> BasicTransformerBlock:
    block = copy.deepcopy(block)
    block.attn1 = deepspeed_attention(block.attn1)
    if block.attn2 is not None:
        block.attn2 = deepspeed_attention(block.attn2)
    return block


def with_hooks(block: DeepSpeedDiffusersTransformerBlock) -> DeepSpeedDiffusersTransformerBlock:
    """Runs in parts."""
    block.attn_1.register_forward_hook(lambda *_: None)
    return block


def as_block(block: BasicTransformerBlock, **_: Any) -> DeepSpeedDiffusersTransformerBlock:
    return DeepSpeedDiffusersTransformerBlock(copy.deepcopy(block), NO_INT8)


WAYS: dict[str, tuple[Callable[[BasicTransformerBlock], DeepSpeedDiffusersTransformerBlock], bool]] = {
    "one_operator": (as_block, True),
    "in_parts": (lambda block: with_hooks(as_block(block)), False),
    "deepspeed_attention": (lambda block: as_block(with_deepspeed_attentions(block)), True),
    "deepspeed_attention_in_parts": (
        lambda block: with_hooks(as_block(with_deepspeed_attentions(block))),
        False,
    ),
}
