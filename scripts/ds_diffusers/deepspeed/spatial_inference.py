"""The operators of DeepSpeed's module "spatial_inference": the forms of `ds_diffusers.ops.nhwc_bias_add`.

Activations are [B, S, C] or [N, C, H, W], in float32, float16 or bfloat16, on the CPU or on CUDA devices,
with any strides; the result has the activation's shape and memory format.
"""

from __future__ import annotations

from torch import Tensor

from .. import ops

__all__ = ["nhwc_bias_add", "nhwc_bias_add_add", "nhwc_bias_add_bias_add"]


def nhwc_bias_add(activation: Tensor, bias: Tensor) -> Tensor:
    """activation + bias, for a bias [C]."""
    return ops.nhwc_bias_add(activation, bias)


def nhwc_bias_add_add(activation: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """activation + bias + other, for a bias [C] and an `other` of the activation's shape."""
    return ops.nhwc_bias_add(activation, bias, other)


def nhwc_bias_add_bias_add(activation: Tensor, bias: Tensor, other: Tensor, other_bias: Tensor) -> Tensor:
    """(activation + bias) + (other + other_bias), for biases [C] and an `other` of the activation's shape."""
    return ops.nhwc_bias_add(activation, bias, other, other_bias)
