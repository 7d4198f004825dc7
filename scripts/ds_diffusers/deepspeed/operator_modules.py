"""DeepSpeed's two modules of operators, loaded at the first use."""

from __future__ import annotations

from types import ModuleType

from ..library import load
from . import spatial_inference, transformer_inference


def load_transformer_module() -> ModuleType:
    """Loads the library, and returns the module with layer_norm, layer_norm_residual_store_pre_ln_res and
    gated_activation: `ds_diffusers.deepspeed.transformer_inference`.

    Raises RuntimeError as `ds_diffusers.load`.
    """
    load()
    return transformer_inference


def load_spatial_module() -> ModuleType:
    """Loads the library, and returns the module with nhwc_bias_add, nhwc_bias_add_add and
    nhwc_bias_add_bias_add: `ds_diffusers.deepspeed.spatial_inference`.

    Raises RuntimeError as `ds_diffusers.load`.
    """
    load()
    return spatial_inference
