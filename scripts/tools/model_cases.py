"""A small instance, and arguments, of each diffusers model that can hold a BasicTransformerBlock."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CONTEXT = 16
Arguments = dict[str, Any]

# Models whose blocks are chosen by name, of which the ones with a BasicTransformerBlock raise an error there.
WITHOUT_BLOCKS = {
    "AsymmetricAutoencoderKL",
    "AutoencoderKL",
    "AutoencoderKLFlux2",
    "AutoencoderKLTemporalDecoder",
    "ConsistencyDecoderVAE",
    "UNet2DModel",
    "VQModel",
}


class Case(NamedTuple):
    """`make` returns the model; `arguments` those of its forward, None: it is but a part of another model."""

    make: Callable[[], nn.Module]
    arguments: Callable[[], Arguments] | None


def _context(batch: int = 2, words: int = 5, channels: int = CONTEXT) -> Tensor:
    return torch.randn(batch, words, channels)


def _image_arguments(**others: Any) -> Arguments:
    sample = torch.randn(2, 4, 8, 8)
    return {"sample": sample, "timestep": torch.tensor(3), "encoder_hidden_states": _context()} | others


def _video_arguments(**others: Any) -> Arguments:
    """Two videos of two frames."""
    return _image_arguments(sample=torch.randn(2, 4, 2, 8, 8)) | others


def _unet_config(suffix: str = "2D", heads: str = "attention_head_dim", **others: Any) -> Arguments:
    return {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": (f"CrossAttnDownBlock{suffix}", f"DownBlock{suffix}"),
        "up_block_types": (f"UpBlock{suffix}", f"CrossAttnUpBlock{suffix}"),
        "cross_attention_dim": CONTEXT,
        "norm_num_groups": 8,
        heads: 4,
    } | others


def _controlnet_config(**others: Any) -> Arguments:
    config = _unet_config(conditioning_embedding_out_channels=(4, 8), **others)
    del config["up_block_types"]
    return config


_CONTROL_IMAGE = (2, 3, 16, 16)


def _pipeline_module(name: str) -> ModuleType:
    """diffusers' pipelines.`name`, which releases move to pipelines.deprecated when they like."""
    try:
        return importlib.import_module(f"diffusers.pipelines.deprecated.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"diffusers.pipelines.{name}")


def unet2d_condition() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**_unet_config())


def unet3d_condition() -> nn.Module:
    from diffusers import UNet3DConditionModel

    return UNet3DConditionModel(**_unet_config("3D"))


def unet_motion() -> nn.Module:
    from diffusers import UNetMotionModel

    config = _unet_config("Motion", "num_attention_heads", motion_num_attention_heads=4)
    return UNetMotionModel(**config)


def unet_spatio_temporal_condition() -> nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    config = _unet_config("SpatioTemporal", "num_attention_heads", block_out_channels=(32, 64))
    del config["norm_num_groups"]
    return UNetSpatioTemporalConditionModel(
        **config, addition_time_embed_dim=8, projection_class_embeddings_input_dim=24
    )


def spatio_temporal_arguments() -> Arguments:
    return {
        "sample": torch.randn(2, 3, 8, 8, 8),
        "timestep": torch.tensor(3),
        "encoder_hidden_states": _context(words=1),
        "added_time_ids": torch.arange(6.0).reshape(2, 3),
    }


def unet_flat_condition() -> nn.Module:
    module = _pipeline_module("versatile_diffusion.modeling_text_unet")
    return module.UNetFlatConditionModel(**_unet_config("Flat"))


def audio_unet() -> nn.Module:
    from diffusers import AudioLDM2UNet2DConditionModel

    config = _unet_config(
        cross_attention_dim=((None, CONTEXT, 24), (None, CONTEXT, 24)),
        mid_block_type="UNetMidBlock2DCrossAttn",
    )
    return AudioLDM2UNet2DConditionModel(**config)


def audio_arguments() -> Arguments:
    return _image_arguments(encoder_hidden_states_1=_context(words=3, channels=24))


def image_to_video_unet() -> nn.Module:
    from diffusers import I2VGenXLUNet

    return I2VGenXLUNet(**_unet_config("3D"))


def image_to_video_arguments() -> Arguments:
    return _video_arguments(
        fps=torch.tensor([2, 2]),
        image_latents=torch.randn(2, 4, 2, 8, 8),
        image_embeddings=torch.randn(2, CONTEXT),
    )


def controlnet() -> nn.Module:
    from diffusers import ControlNetModel

    return _with_control(ControlNetModel(**_controlnet_config()))


def controlnet_union() -> nn.Module:
    from diffusers import ControlNetUnionModel

    config = _controlnet_config(
        num_trans_channel=16,
        num_trans_head=4,
        num_proj_channel=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    return _with_control(ControlNetUnionModel(**config))


def controlnet_union_arguments() -> Arguments:
    return _image_arguments(
        controlnet_cond=[torch.randn(_CONTROL_IMAGE)],
        control_type=torch.tensor([[1, 0, 0, 0, 0, 0]] * 2),
        control_type_idx=[0],
        added_cond_kwargs={"text_embeds": torch.randn(2, 16), "time_ids": torch.arange(12.0).reshape(2, 6)},
    )


def sparse_controlnet() -> nn.Module:
    from diffusers import SparseControlNetModel

    config = _controlnet_config(
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), motion_num_attention_heads=4
    )
    return _with_control(SparseControlNetModel(**config))


def sparse_controlnet_arguments() -> Arguments:
    return _video_arguments(
        controlnet_cond=torch.randn(2, 4, 2, 8, 8),
        conditioning_mask=torch.ones(2, 1, 2, 8, 8),
        encoder_hidden_states=_context(batch=4),
    )


def controlnet_xs_adapter() -> nn.Module:
    from diffusers import ControlNetXSAdapter

    return ControlNetXSAdapter(
        block_out_channels=(8, 16),
        base_block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(4, 8),
        cross_attention_dim=CONTEXT,
        max_norm_num_groups=4,
        num_attention_heads=2,
    )


def unet_controlnet_xs() -> nn.Module:
    from diffusers import UNetControlNetXSModel

    config = _unet_config(
        heads="num_attention_heads",
        ctrl_block_out_channels=(8, 16),
        ctrl_conditioning_embedding_out_channels=(4, 8),
        ctrl_max_norm_num_groups=4,
        ctrl_num_attention_heads=2,
    )
    del config["layers_per_block"]
    return UNetControlNetXSModel(**config, sample_size=8)


def _with_control(model: nn.Module) -> nn.Module:
    """With values in the output layers, which are zero at first."""
    with torch.no_grad():
        for layer in [*model.controlnet_down_blocks, model.controlnet_mid_block]:
            layer.weight.normal_(0, 0.1)
    return model


def motion_adapter() -> nn.Module:
    from diffusers import MotionAdapter

    return MotionAdapter(block_out_channels=(16, 32), motion_num_attention_heads=4, motion_norm_num_groups=8)


def transformer_2d() -> nn.Module:
    from diffusers import Transformer2DModel

    return Transformer2DModel(4, 8, in_channels=16, norm_num_groups=4, cross_attention_dim=CONTEXT)


def transformer_temporal() -> nn.Module:
    from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

    return TransformerTemporalModel(4, 8, in_channels=16, norm_num_groups=4)


def dit() -> nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(4, 8, num_layers=2, sample_size=8, num_embeds_ada_norm=10)


def dit_arguments() -> Arguments:
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([3, 3]),
        "class_labels": torch.tensor([1, 2]),
    }


def pixart() -> nn.Module:
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        4, 8, num_layers=2, sample_size=8, cross_attention_dim=32, caption_channels=CONTEXT
    )


def pixart_arguments() -> Arguments:
    return {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": _context(),
        "timestep": torch.tensor([3, 3]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def latte() -> nn.Module:
    from diffusers import LatteTransformer3DModel

    return LatteTransformer3DModel(
        4,
        8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        patch_size=2,
        sample_size=8,
        video_length=2,
        cross_attention_dim=32,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=CONTEXT,
    )


def latte_arguments() -> Arguments:
    return {
        "hidden_states": torch.randn(2, 4, 2, 8, 8),
        "encoder_hidden_states": _context(),
        "timestep": torch.tensor([3, 3]),
    }


def prior() -> nn.Module:
    from diffusers import PriorTransformer

    return PriorTransformer(4, 8, num_layers=2, embedding_dim=CONTEXT, num_embeddings=5)


def prior_arguments() -> Arguments:
    return {
        "hidden_states": torch.randn(2, CONTEXT),
        "timestep": torch.tensor(3),
        "proj_embedding": torch.randn(2, CONTEXT),
        "encoder_hidden_states": _context(),
    }


def uvit() -> nn.Module:
    from diffusers import UVit2DModel

    return UVit2DModel(
        hidden_size=32,
        cond_embed_dim=16,
        micro_cond_encode_dim=8,
        micro_cond_embed_dim=40,
        encoder_hidden_size=CONTEXT,
        vocab_size=24,
        codebook_size=16,
        in_channels=32,
        block_out_channels=32,
        num_res_blocks=1,
        block_num_heads=4,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        sample_size=8,
    )


def uvit_arguments() -> Arguments:
    return {
        "input_ids": torch.arange(2 * 8 * 8).remainder(16).reshape(2, 8, 8),
        "encoder_hidden_states": _context(),
        "pooled_text_emb": torch.randn(2, 16),
        "micro_conds": torch.rand(2, 5),
    }


def dreamlite() -> nn.Module:
    from diffusers import DreamLiteUNetModel

    return DreamLiteUNetModel(
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        cross_attention_dim=CONTEXT,
        norm_num_groups=8,
        attention_head_dim=4,
    )


def paint_by_example_encoder() -> nn.Module:
    from transformers import CLIPVisionConfig

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=16,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return _pipeline_module("paint_by_example.image_encoder").PaintByExampleImageEncoder(config)


def image_features() -> Arguments:
    return {"hidden_states": torch.randn(2, 16, 4, 4), "encoder_hidden_states": _context()}


CASES: dict[str, Case] = {
    "AudioLDM2UNet2DConditionModel": Case(audio_unet, audio_arguments),
    "ControlNetModel": Case(
        controlnet, lambda: _image_arguments(controlnet_cond=torch.randn(_CONTROL_IMAGE))
    ),
    "ControlNetUnionModel": Case(controlnet_union, controlnet_union_arguments),
    "ControlNetXSAdapter": Case(controlnet_xs_adapter, None),
    "DiTTransformer2DModel": Case(dit, dit_arguments),
    "DreamLiteUNetModel": Case(dreamlite, _image_arguments),
    "I2VGenXLUNet": Case(image_to_video_unet, image_to_video_arguments),
    "LatteTransformer3DModel": Case(latte, latte_arguments),
    "MotionAdapter": Case(motion_adapter, None),
    "PaintByExampleImageEncoder": Case(
        paint_by_example_encoder, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)}
    ),
    "PixArtTransformer2DModel": Case(pixart, pixart_arguments),
    "PriorTransformer": Case(prior, prior_arguments),
    "SparseControlNetModel": Case(sparse_controlnet, sparse_controlnet_arguments),
    "Transformer2DModel": Case(transformer_2d, image_features),
    "TransformerTemporalModel": Case(
        transformer_temporal, lambda: {"hidden_states": torch.randn(4, 16, 4, 4), "num_frames": 2}
    ),
    "UNet2DConditionModel": Case(unet2d_condition, _image_arguments),
    "UNet3DConditionModel": Case(unet3d_condition, _video_arguments),
    "UNetControlNetXSModel": Case(
        unet_controlnet_xs, lambda: _image_arguments(controlnet_cond=torch.randn(_CONTROL_IMAGE))
    ),
    "UNetFlatConditionModel": Case(
        unet_flat_condition, lambda: _image_arguments(sample=torch.randn(2, 4, 4, 1))
    ),
    "UNetMotionModel": Case(
        unet_motion, lambda: _video_arguments(encoder_hidden_states=_context(batch=4))
    ),
    "UNetSpatioTemporalConditionModel": Case(unet_spatio_temporal_condition, spatio_temporal_arguments),
    "UVit2DModel": Case(uvit, uvit_arguments),
}
