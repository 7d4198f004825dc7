"""The architectures that the commands know, with fewer and narrower layers."""

import pytest
from ds_diffusers.architectures import ARCHITECTURES

SMALL = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
SMALL_SD = SMALL | {
    "cross_attention_dim": 32,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SMALL_SDXL = SMALL | {
    "cross_attention_dim": 48,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (4, 8),
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 6 * 16 + 24,
}


def make_architectures_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test, under their own names."""
    for name, architecture in ARCHITECTURES.items():
        small = SMALL_SDXL if name == "sdxl" else SMALL_SD
        for key, value in small.items():
            monkeypatch.setitem(architecture.unet, key, value)
