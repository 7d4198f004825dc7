"""The operators that DeepSpeed's block takes from its module "transformer_inference".

float32, float16 and bfloat16, any strides and sizes, on the CPU and on CUDA devices; see `ds_diffusers.ops`.
"""

from __future__ import annotations

from torch import Tensor

from ..ops import gated_activation, layer_norm, layer_norm_residual_store_pre_ln_res

__all__ = [
    "_layer_norm_residual",
    "gated_activation",
    "layer_norm",
    "layer_norm_residual_store_pre_ln_res",
]


def _layer_norm_residual(
    input: Tensor, bias: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> Tensor:
    """layer_norm(input + bias + residual), of the unrounded sum: the first result of
    `layer_norm_residual_store_pre_ln_res`, which describes the arguments."""
    return layer_norm_residual_store_pre_ln_res(input, bias, residual, gamma, beta, epsilon)[0]
