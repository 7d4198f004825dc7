"""DeepSpeed's GroupQuantizer on the quantisation of `ds_diffusers.quantization`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..quantization import quantize_groups


class GroupQuantizer:
    """Quantises weights to int8, symmetrically, with a scale for each group of elements.

        scale = max |w| * 2 / 2**num_bits,   q = clamp(round(w / scale), -half, half - 1),
        half = 2**num_bits / 2

    Groups are runs of equal length of the weight's elements in row-major order: num_groups of them, or with
    num_groups 0 one for each group_size rows. A group of zeros has the scale 1.
    """

    def __init__(
        self, q_int8: bool = True, group_size: int = 1, num_bits: int = 8, num_groups: int = 0
    ) -> None:
        """q_int8: whether it quantises at all. num_bits: 2 to 8; an element takes 8 in any case.

        Raises ValueError for another num_bits, and for numbers of rows or groups that cannot be.
        """
        if not 2 <= num_bits <= 8:
            raise ValueError(f"num_bits is {num_bits}, must be from 2 to 8")
        if group_size < 1:
            raise ValueError(f"group_size is {group_size}, must be at least 1")
        if num_groups < 0:
            raise ValueError(f"num_groups is {num_groups}, must be at least 0")
        self.q_int8 = q_int8
        self.group_size = group_size
        self.num_bits = num_bits
        self.num_groups = num_groups

    def quantize(
        self, inputs: Tensor, qkv: bool = True, count: int = 1, parallel_dim: int = 0
    ) -> nn.Parameter:
        """Quantises one weight.

        Args:
            inputs: of at least one dimension, float32, float16 or bfloat16, any strides and device, every
                element finite.
            qkv: False: leaves the weight as it is.
            count, parallel_dim: no effect; they concern models that are split over several GPUs.

        Returns:
            int8 of inputs' shape, contiguous, on its device, without gradient. Its attribute `scale` is
            float32 [groups, 1], so that `quantized.view(groups, -1) * quantized.scale` is what it stands for.
            (DeepSpeed's has the scales of the weight's two halves behind these.) With q_int8 or qkv False:
            inputs itself as a Parameter, with a scale of 1.

        Raises:
            TypeError, ValueError: for an argument that cannot be quantised; an element that is not finite is
                named.
        """
        if not self.q_int8 or not qkv:
            kept = nn.Parameter(inputs, requires_grad=False)
            kept.scale = torch.ones(1, device=inputs.device)
            return kept
        values, scale = quantize_groups(inputs, self._groups_of(inputs), self.num_bits)
        quantized = nn.Parameter(values, requires_grad=False)
        quantized.scale = scale.unsqueeze(1)
        return quantized

    def _groups_of(self, inputs: Tensor) -> int:
        if inputs.dim() == 0:
            raise ValueError("inputs has no dimensions, must have at least one")
        if self.num_groups == 0:
            if inputs.shape[0] % self.group_size != 0:
                raise ValueError(
                    f"inputs has {inputs.shape[0]} rows, must be a multiple of group_size {self.group_size}"
                )
            return inputs.shape[0] // self.group_size
        if inputs.numel() % self.num_groups != 0:
            raise ValueError(
                f"inputs has {inputs.numel()} elements, must be a multiple of num_groups {self.num_groups}"
            )
        return self.num_groups
