"""The UNets of Stable Diffusion 1.5, 2.1 and XL: published configurations, seeded random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from torch import Tensor

TOKENS = 77  # of a prompt, as CLIP's tokenizers pad it
LATENT_SCALE = 8  # pixels for each element of the latents, in each direction


@dataclass(frozen=True)
class Architecture:
    """What the demo needs to know of a model: `size` is its own resolution in pixels."""

    unet: dict[str, Any]
    size: int
    prediction_type: str
    guidance_scale: float


_SD_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": (
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}

_SD21_UNET = _SD_UNET | {
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
    "upcast_attention": True,
}

_SDXL_UNET = _SD_UNET | {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}

ARCHITECTURES = {
    "sd15": Architecture(_SD_UNET, 512, "epsilon", 7.5),
    "sd21": Architecture(_SD21_UNET, 768, "v_prediction", 7.5),
    "sdxl": Architecture(_SDXL_UNET, 1024, "epsilon", 5.0),
}


def random_unet(
    config: dict[str, Any], seed: int, device: torch.device, dtype: torch.dtype
) -> UNet2DConditionModel:
    """A UNet in evaluation mode, each layer initialised by PyTorch's defaults. The same seed gives the same
    weights on the same kind of device."""
    torch.manual_seed(seed)
    with torch.device(device):
        unet = UNet2DConditionModel(**config)
    return unet.to(dtype).eval().requires_grad_(False)


def scheduler(architecture: Architecture) -> EulerDiscreteScheduler:
    """A scheduler with the noise schedule that all three models were trained with."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=architecture.prediction_type,
        timestep_spacing="leading",
        steps_offset=1,
    )


def random_inputs(
    config: dict[str, Any],
    size: int | tuple[int, int],
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, dict[str, Any]]:
    """Noise [1, 4, height/8, width/8], and a UNet's keyword arguments for a batch of two, in place of the
    text encoders' embeddings of an empty and of a given prompt. `size`: height and width in pixels, or one
    number for both. Drawn in float32 on the CPU: the same for each dtype and device.
    """
    height, width = (size, size) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    noise = normal(1, config["in_channels"], height // LATENT_SCALE, width // LATENT_SCALE)
    conditions: dict[str, Any] = {"encoder_hidden_states": normal(2, TOKENS, config["cross_attention_dim"])}
    if config.get("addition_embed_type") == "text_time":
        # original height and width, the crop's top and left, target height and width
        time_ids = [height, width, 0, 0, height, width]
        text_features = (
            config["projection_class_embeddings_input_dim"]
            - len(time_ids) * config["addition_time_embed_dim"]
        )
        conditions["added_cond_kwargs"] = {
            "text_embeds": normal(2, text_features),
            "time_ids": torch.tensor([time_ids, time_ids], device=device, dtype=dtype),
        }
    return noise, conditions
