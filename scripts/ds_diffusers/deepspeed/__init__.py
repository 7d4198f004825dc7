"""The names of DeepSpeed's diffusers transformer block, for programs that were written for it.

    from ds_diffusers.deepspeed import DeepSpeedDiffusersTransformerBlock, Diffusers2DTransformerConfig

    block = DeepSpeedDiffusersTransformerBlock(block, Diffusers2DTransformerConfig(int8_quantization=True))

Names, arguments and attributes are those of DeepSpeed 0.16.5 (deepspeed.ops.transformer.inference,
deepspeed.module_inject, deepspeed.utils.types); what they compute is what diffusers' own block does.
DeepSpeed itself is not needed, and importing this package imports neither it nor diffusers. Where you can
choose, `ds_diffusers.patch` and `ds_diffusers.quantize` do the same to a whole model and keep its modules and
state_dict.
"""

from ..ops import ActivationFuncType, nhwc_bias_add
from .attention import DeepSpeedDiffusersAttention
from .configuration import DeepSpeedInferenceConfig, Diffusers2DTransformerConfig
from .group_quantizer import GroupQuantizer
from .operator_modules import load_spatial_module, load_transformer_module
from .transformer_block import DeepSpeedDiffusersTransformerBlock

__all__ = [
    "ActivationFuncType",
    "DeepSpeedDiffusersAttention",
    "DeepSpeedDiffusersTransformerBlock",
    "DeepSpeedInferenceConfig",
    "Diffusers2DTransformerConfig",
    "GroupQuantizer",
    "load_spatial_module",
    "load_transformer_module",
    "nhwc_bias_add",
]
