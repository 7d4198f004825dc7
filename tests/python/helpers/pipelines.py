"""A whole text-to-image pipeline, small enough to write, load and run in a second."""

import json
from pathlib import Path

from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CHANNELS = 32
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Knows single letters."""
    folder.mkdir()
    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder() -> CLIPTextModel:
    tokens = 2 * len(LETTERS) + 2
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=CHANNELS,
            intermediate_size=2 * CHANNELS,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        )
    ).eval()


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(CHANNELS, 2 * CHANNELS),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CHANNELS,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


def write_pipeline(folder: Path) -> Path:
    """Writes the pipeline below `folder`, for DiffusionPipeline.from_pretrained. Its images are 64 x 64."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(CHANNELS, CHANNELS),
            norm_num_groups=8,
            down_block_types=2 * ("DownEncoderBlock2D",),
            up_block_types=2 * ("UpDecoderBlock2D",),
        ).eval(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder / "words"),
        unet=unet(),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
