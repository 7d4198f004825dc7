"""Small models of diffusers' real architectures, and single transformer blocks of every form."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

CHANNELS, HEADS, CONTEXT = 32, 4, 24
Arguments = dict[str, Any]


def make_unet(**config: Any) -> UNet2DConditionModel:
    """A UNet with seven transformer blocks, in evaluation mode."""
    defaults = {
        "sample_size": 8,
        "block_out_channels": (CHANNELS, 2 * CHANNELS),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CONTEXT,
        "attention_head_dim": HEADS,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**(defaults | config)).eval()


def sd15_unet() -> UNet2DConditionModel:
    """Convolutional projections: the first block of each transformer gets a view of an NCHW tensor."""
    return make_unet()


def sdxl_unet() -> UNet2DConditionModel:
    """Linear projections, several blocks in a transformer, conditions on size and pooled text."""
    return make_unet(
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 16,
    )


UNETS: dict[str, Callable[[], UNet2DConditionModel]] = {"sd15": sd15_unet, "sdxl": sdxl_unet}


def unet_arguments(unet: UNet2DConditionModel, seed: int = 0, batch: int = 2) -> Arguments:
    """Arguments of the UNet's forward, in its dtype and on its device."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(unet.device, unet.dtype)

    arguments = {
        "sample": normal(batch, 4, 8, 8),
        "timestep": torch.tensor(3 + seed),
        "encoder_hidden_states": normal(batch, 7, CONTEXT),
    }
    if unet.config.addition_embed_type == "text_time":
        time_ids = torch.arange(6.0).repeat(batch, 1).to(unet.device, unet.dtype)
        arguments["added_cond_kwargs"] = {"text_embeds": normal(batch, 16), "time_ids": time_ids}
    return arguments


def run_unet(unet: nn.Module, arguments: Arguments) -> torch.Tensor:
    return unet(**arguments, return_dict=False)[0]


def make_block(**config: Any) -> BasicTransformerBlock:
    """A block of CHANNELS channels with a cross-attention, in evaluation mode. Biases, norm weights and the
    output projections get values that matter."""
    defaults = {"attention_head_dim": CHANNELS // HEADS, "cross_attention_dim": CONTEXT}
    block = BasicTransformerBlock(CHANNELS, HEADS, **(defaults | config)).eval()
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if name.startswith("norm") and name.endswith("weight") else 0.0, 0.3)
    return block


BLOCKS: dict[str, Arguments] = {
    "plain": {},
    "self_attention_only": {"cross_attention_dim": None},
    "double_self_attention": {"double_self_attention": True},
    "only_cross_attention": {"only_cross_attention": True},
    "swiglu": {"activation_fn": "swiglu"},
    "final_dropout": {"final_dropout": True, "dropout": 0.5},
    "attention_bias": {"attention_bias": True},
    "no_output_bias": {"attention_out_bias": False},
    "no_feed_forward_bias": {"ff_bias": False},
    "no_norm_weights": {"norm_elementwise_affine": False},
    "norm_eps": {"norm_eps": 1e-3},
    "feed_forward_of_odd_width": {"ff_inner_dim": 37},
    "head_size_of_5": {"attention_head_dim": 5},
}
"""Constructor arguments of every form of block that runs fused."""


def needs_context(block: BasicTransformerBlock) -> bool:
    return block.cross_attention_dim is not None and not block.double_self_attention


def block_arguments(block: BasicTransformerBlock, seed: int = 0, tokens: int = 10) -> Arguments:
    """Arguments of the block's forward, in its dtype and on its device."""
    generator = torch.Generator().manual_seed(seed)
    weight = block.ff.net[2].weight
    if not weight.is_floating_point():  # a quantised one
        weight = block.attn1.to_q.weight

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(weight.device, weight.dtype)

    arguments = {"hidden_states": normal(2, tokens, CHANNELS)}
    if needs_context(block):
        arguments["encoder_hidden_states"] = normal(2, 7, CONTEXT)
    return arguments


def additive_mask(kept: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """diffusers' mask [B, 1, T] of boolean kept [B, T]: 0 where kept, -10000 where not."""
    return (1 - kept.to(dtype)).mul(-10000.0).unsqueeze(1)


def in_double(value: Any) -> Any:
    """Arguments of a forward in float64, those in containers too."""
    if isinstance(value, dict):
        return {name: in_double(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(in_double, value))
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
