"""DeepSpeed's attention for diffusers models, computed by PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import DTYPES
from .configuration import DeepSpeedInferenceConfig


class DeepSpeedDiffusersAttention(nn.Module):
    """Self- or cross-attention over [B, S, C], with its weights as DeepSpeed keeps them: [in, out].

        softmax(Q K.T / norm_factor**2 + mask) V @ attn_ow + attn_ob,
        Q, K, V the thirds of input @ attn_qkvw + attn_qkvb; with a context
        Q, K, V = input @ attn_qw, context @ attn_kw, context @ attn_vw, the thirds of attn_qkvb added

    for each of the config's heads (Vaswani et al.: Attention Is All You Need, 2017). norm_factor**2 is the
    square root of the head size.

    Attributes, all without gradient, of config.dtype, C = config.hidden_size:
        attn_qkvw: [C, 3C]; None: attn_qw, attn_kw and attn_vw serve without a context as well.
        attn_qw: [C, C]; attn_kw, attn_vw: [K, C] for contexts [B, T, K]; attn_qw None: the thirds of
            attn_qkvw serve with a context as well.
        attn_qkvb: [3C]; None: no bias. attn_ow: [C, C]. attn_ob: [C]; None: no bias.
        do_out_bias: whether attn_ob is added. A `DeepSpeedDiffusersTransformerBlock` adds it itself.

    A new one has weights of NaN and biases of zero: assign what they are to be, for instance
    `attention.attn_ow.data = linear.weight.data.t()`. The biases follow attn_ow to its device.
    """

    layer_id = 0
    """Number of attentions made so far."""

    def __init__(self, config: DeepSpeedInferenceConfig) -> None:
        """Raises ValueError for a configuration that it cannot have, TypeError for another object."""
        super().__init__()
        _check_config(config)
        self.config = config
        config.layer_id = DeepSpeedDiffusersAttention.layer_id
        DeepSpeedDiffusersAttention.layer_id += 1

        size, dtype = config.hidden_size, config.dtype
        for name, columns in (("qkvw", 3 * size), ("kw", size), ("vw", size), ("qw", size), ("ow", size)):
            unset = torch.full((size, columns), math.nan, dtype=dtype)
            self.register_parameter(f"attn_{name}", nn.Parameter(unset, requires_grad=False))
        self.attn_qkvb = nn.Parameter(torch.zeros(3 * size, dtype=dtype), requires_grad=False)
        self.attn_ob = nn.Parameter(torch.zeros(size, dtype=dtype), requires_grad=False)
        self.do_out_bias = True

        self.num_attention_heads_per_partition = config.heads
        self.hidden_size_per_partition = size
        self.hidden_size_per_attention_head = size // config.heads
        self.norm_factor = math.sqrt(math.sqrt(self.hidden_size_per_attention_head))
        if config.scale_attn_by_inverse_layer_idx:
            self.norm_factor *= math.sqrt(config.layer_id + 1)

    def forward(
        self, input: Tensor, context: Tensor | None = None, input_mask: Tensor | None = None
    ) -> Tensor:
        """
        Args:
            input: [B, S, C], of the weights' dtype; float32 is converted to the weights' 16-bit dtype.
            context: [B, T, K], as input; None: keys and values come from input.
            input_mask: [B or 1, T], [B or 1, S or 1, T], [B * heads, S or 1, T] or
                [B or 1, heads or 1, S or 1, T], added to the scores, or boolean: True where there is
                attention. None: none.

        Returns:
            [B, S, C], of the weights' dtype.

        Raises:
            RuntimeError: for weights that are missing, a mask of another shape, and as PyTorch does.
        """
        self._bring_biases()
        query, key, value = (
            projected.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)
            for projected in self._projections(input, context)
        )
        mask = None if input_mask is None else self._mask(input_mask, query)
        merged = F.scaled_dot_product_attention(query, key, value, mask, scale=self.norm_factor**-2)
        merged = merged.transpose(1, 2).flatten(2)
        return F.linear(merged, self.attn_ow.t(), self.attn_ob if self.do_out_bias else None)

    def projection_weights(self, with_context: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Those for query, key and value, [out, in] as torch.nn.Linear has them: views of the attributes.

        Raises RuntimeError where an attribute that is needed is None.
        """
        separate = self.attn_qw, self.attn_kw, self.attn_vw
        is_whole = self.attn_qkvw is not None
        if is_whole and (not with_context or self.attn_qw is None):
            return self.attn_qkvw.t().chunk(3)
        for name, weight in zip(("attn_qw", "attn_kw", "attn_vw"), separate):
            if weight is None:
                raise RuntimeError(f"{name} is None, must be a weight where attn_qkvw does not serve")
        return tuple(weight.t() for weight in separate)

    def projection_biases(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Those for query, key and value: views of attn_qkvb."""
        return (None, None, None) if self.attn_qkvb is None else self.attn_qkvb.chunk(3)

    def lay_out_weights(self) -> None:
        """Gives the weights, which keep shape and values, the memory order of torch.nn.Linear's, in which the
        transformer block can hand them to its operator, and the biases the device of the weights."""
        self._bring_biases()
        for name in ("attn_qkvw", "attn_qw", "attn_kw", "attn_vw", "attn_ow"):
            weight = getattr(self, name)
            if weight is not None and not weight.t().is_contiguous():
                weight.data = weight.data.t().contiguous().t()

    def _bring_biases(self) -> None:
        """A program for DeepSpeed, whose attention is made on the GPU, assigns weights that are there and
        copies values into the biases, which so stay where they were made."""
        for bias in (self.attn_qkvb, self.attn_ob):
            if bias is not None and bias.device != self.attn_ow.device:
                bias.data = bias.data.to(self.attn_ow.device)

    def _projections(self, input: Tensor, context: Tensor | None) -> tuple[Tensor, ...]:
        weights = self.projection_weights(context is not None)
        source = input if context is None else context
        return tuple(
            F.linear(_in_dtype_of(weight, states), weight, bias)
            for states, weight, bias in zip((input, source, source), weights, self.projection_biases())
        )

    def _mask(self, mask: Tensor, query: Tensor) -> Tensor:
        batch, heads = query.shape[:2]
        if mask.dim() == 2:
            mask = mask[:, None, None, :]
        elif mask.dim() == 3:
            per_head = mask.shape[0] == batch * heads and mask.shape[0] != batch
            mask = mask.unflatten(0, (batch, heads)) if per_head else mask.unsqueeze(1)
        elif mask.dim() != 4:
            raise RuntimeError(f"input_mask has {mask.dim()} dimensions, must have 2, 3 or 4")
        return mask if mask.dtype == torch.bool else mask.to(query.dtype)


def _in_dtype_of(weight: Tensor, states: Tensor) -> Tensor:
    is_narrower = states.dtype == torch.float32 and weight.dtype in (torch.float16, torch.bfloat16)
    return states.to(weight.dtype) if is_narrower else states


def _check_config(config: DeepSpeedInferenceConfig) -> None:
    for name in ("hidden_size", "heads", "mp_size", "dtype", "scale_attn_by_inverse_layer_idx"):
        if not hasattr(config, name):
            raise TypeError(
                f"config is {type(config).__name__} without {name}, must be a DeepSpeedInferenceConfig"
            )
    if config.hidden_size < 1:
        raise ValueError(f"config.hidden_size is {config.hidden_size}, must be at least 1")
    if config.heads < 1 or config.hidden_size % config.heads != 0:
        raise ValueError(
            f"config.heads is {config.heads}, must be a divisor of hidden_size {config.hidden_size}"
        )
    if config.mp_size != 1:
        raise ValueError(f"config.mp_size is {config.mp_size}, must be 1: the attention is not split")
    if config.dtype not in DTYPES:
        raise ValueError(f"config.dtype is {config.dtype}, must be float32, float16 or bfloat16")
