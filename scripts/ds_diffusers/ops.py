"""The operators as documented Python functions: `torch.ops.ds_diffusers.*`, loaded at the first use.

They work in eager mode, under torch.compile (call `ds_diffusers.load()` before), torch.export and
torch.jit.trace. Tensors are float32, float16 or bfloat16, all arguments of a call of one dtype and on one
device, the CPU or a CUDA device; results are new tensors. Sums run in float32 and are rounded once, on the
store.

The single operators have gradients in reverse mode, also through torch.func; forward-mode tangents
raise a RuntimeError. `block_forward` is for inference. A wrong argument raises a RuntimeError that names the
argument, what it is, and what it must be.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from .dispatch import call
from .library import load

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Of the tensors that the operators take."""


class ActivationFuncType(IntEnum):
    """DeepSpeed's numbering of activation functions. `gated_activation` takes the two gated ones."""

    UNKNOWN = 0
    GELU = 1
    ReLU = 2
    GATED_GELU = 3
    GATED_SILU = 4


def layer_norm(
    input: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Layer normalisation over the last dimension.

        (x - mean) * rsqrt(variance + epsilon) * gamma + beta

    with the biased variance (Ba, Kiros, Hinton: Layer Normalization, 2016; torch.nn.functional.layer_norm).

    Args:
        input: [..., C], at least one dimension, C >= 1, any strides.
        gamma: [C], contiguous; None: ones.
        beta: [C], contiguous; None: zeros.
        epsilon: finite, >= 0.

    Returns:
        [..., C], contiguous.
    """
    load()
    return call(torch.ops.ds_diffusers.layer_norm.default, input, gamma, beta, epsilon)


def layer_norm_residual_store_pre_ln_res(
    input: Tensor,
    bias: Tensor | None,
    residual: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """The sum of a layer's output, its bias and the residual, and the sum's layer normalisation.

        s = input + bias + residual;  returns (layer_norm(s, gamma, beta, epsilon), s)

    The norm is taken of the unrounded float32 sum (DeepSpeed's operator of this name).

    Args:
        input: [..., C], at least one dimension, C >= 1, any strides.
        bias: [C], contiguous; None: zeros.
        residual: of input's shape, any strides.
        gamma, beta, epsilon: as for `layer_norm`.

    Returns:
        The normalised sum and the sum, [..., C] each, contiguous.
    """
    load()
    operator = torch.ops.ds_diffusers.layer_norm_residual_store_pre_ln_res.default
    return call(operator, input, bias, residual, gamma, beta, epsilon)


def gated_activation(
    activation: Tensor, bias: Tensor | None, activation_type: ActivationFuncType | int
) -> Tensor:
    """The activation of a gated linear unit: GEGLU or SwiGLU.

        (v + bias_v) * act(g + bias_g),  where v, g are the first and second half of the last dimension

    (Shazeer: GLU Variants Improve Transformer, 2020). GATED_GELU is the exact x * (1 + erf(x / sqrt(2))) / 2,
    GATED_SILU is x / (1 + exp(-x)).

    Args:
        activation: [..., 2D], at least one dimension, any strides.
        bias: [2D], contiguous; None: zeros.
        activation_type: ActivationFuncType.GATED_GELU or GATED_SILU.

    Returns:
        [..., D], contiguous.
    """
    load()
    return call(torch.ops.ds_diffusers.gated_activation.default, activation, bias, int(activation_type))


def gated_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation_type: ActivationFuncType | int = ActivationFuncType.GATED_GELU,
) -> Tensor:
    """A linear layer and the gated activation of its result: the first half of a gated feed-forward.

        (v + bias_v) * act(g + bias_g),  where v, g are the first and second half of input @ weight.T

    (Shazeer: GLU Variants Improve Transformer, 2020; act as for `gated_activation`). float16 and bfloat16 on
    Hopper GPUs in one kernel, without the linear's result in memory; elsewhere in two steps, between which
    it is rounded.

    Args:
        input: [..., K], at least one dimension, K >= 1; rows at one stride are the fast case.
        weight: [2D, K], values first, gates second, as torch.nn.Linear keeps it.
        bias: [2D], contiguous; None: zeros.
        activation_type: ActivationFuncType.GATED_GELU or GATED_SILU.

    Returns:
        [..., D], contiguous.
    """
    load()
    return call(torch.ops.ds_diffusers.gated_linear.default, input, weight, bias, int(activation_type))


def nhwc_bias_add(
    activation: Tensor, bias: Tensor, other: Tensor | None = None, other_bias: Tensor | None = None
) -> Tensor:
    """Bias and residual sums of an activation whose channels are the last dimension in memory.

        activation + bias;  activation + bias + other;  (activation + bias) + (other + other_bias)

    (DeepSpeed's operator of this name).

    Args:
        activation: [B, S, C] or [N, C, H, W], any strides; channels last in memory is the fast case.
        bias: [C], contiguous.
        other: of activation's shape, any strides; None: no sum.
        other_bias: [C], contiguous, only together with other; None: zeros.

    Returns:
        As torch.empty_like(activation): of its shape and memory format.
    """
    load()
    return call(torch.ops.ds_diffusers.nhwc_bias_add.default, activation, bias, other, other_bias)


def block_forward(
    hidden_states: Tensor,
    *,
    attn1_context: Tensor | None = None,
    attn1_mask: Tensor | None = None,
    attn2_context: Tensor | None = None,
    attn2_mask: Tensor | None = None,
    attn2_key_value: Tensor | None = None,
    norm1_weight: Tensor | None = None,
    norm1_bias: Tensor | None = None,
    attn1_q_weight: Tensor,
    attn1_q_bias: Tensor | None = None,
    attn1_k_weight: Tensor,
    attn1_k_bias: Tensor | None = None,
    attn1_v_weight: Tensor,
    attn1_v_bias: Tensor | None = None,
    attn1_out_weight: Tensor,
    attn1_out_bias: Tensor | None = None,
    norm2_weight: Tensor | None = None,
    norm2_bias: Tensor | None = None,
    attn2_q_weight: Tensor | None = None,
    attn2_q_bias: Tensor | None = None,
    attn2_k_weight: Tensor | None = None,
    attn2_k_bias: Tensor | None = None,
    attn2_v_weight: Tensor | None = None,
    attn2_v_bias: Tensor | None = None,
    attn2_out_weight: Tensor | None = None,
    attn2_out_bias: Tensor | None = None,
    norm3_weight: Tensor | None = None,
    norm3_bias: Tensor | None = None,
    ff_in_weight: Tensor,
    ff_in_scale: Tensor | None = None,
    ff_in_bias: Tensor | None = None,
    ff_out_weight: Tensor,
    ff_out_scale: Tensor | None = None,
    ff_out_bias: Tensor | None = None,
    heads: int,
    activation_type: ActivationFuncType | int = ActivationFuncType.GATED_GELU,
    norm_epsilon: float = 1e-5,
) -> Tensor:
    """diffusers' BasicTransformerBlock with norm_type "layer_norm", in evaluation mode, as one call.

        n1 = layer_norm(x);   s1 = x + attention1(n1, attn1_context or n1)
        n2 = layer_norm(s1);  s2 = s1 + attention2(n2, attn2_context or n2)     (not without attn2_q_weight)
        n3 = layer_norm(s2);  returns s2 + ff_out(gated_activation(ff_in(n3)))

        attention(q, c) = out(softmax(Q Kᵀ / sqrt(head_size) + mask) V) for each head of
            Q = q Wqᵀ + bq,  K = c Wkᵀ + bk,  V = c Wvᵀ + bv

    (diffusers: BasicTransformerBlock.forward with AttnProcessor2_0).

    For inference: a backward pass through it raises RuntimeError.

    Args:
        hidden_states: [B, S, C], any strides.
        attn1_context, attn2_context: [B, T, K], rows at one stride with a contiguous last dimension; None:
            keys and values come from the normalised hidden states.
        attn1_mask, attn2_mask: [B or 1, S or 1, T] or [B or 1, heads or 1, S or 1, T], any strides, added to
            the scores; None: none.
        attn2_key_value: [B, T, 2I], rows at one stride with a contiguous last dimension: in each row K of all
            heads, then V, as they are projected; attn2_context and the weights and biases of attn2's k and v
            are None then. None: K and V are projected.
        norm*_weight, norm*_bias: [C], contiguous; None: ones, zeros.
        attn*_q_weight: [I, C]; attn*_k_weight, attn*_v_weight: [I, K]; attn*_out_weight: [C, I]; I is heads
            times the head size. All attn2 arguments None: the block has no second attention.
        ff_in_weight: [2F, C], values first, gates second; ff_out_weight: [C, F].
        ff_in_scale, ff_out_scale: for a weight [N, K] that is quantised (int8, see `quantize_rows`): [N], or
            [N, G] where G divides K, float32, contiguous; the weight stands for weight[n, k] *
            scale[n, k // (K // G)]. None: the weight is not quantised.
        *_bias of a weight [N, ...]: [N], contiguous; None: none.
        heads: number of attention heads, a divisor of I.
        activation_type: ActivationFuncType.GATED_GELU or GATED_SILU.
        norm_epsilon: of all three norms; finite, >= 0.

    Returns:
        [B, S, C], contiguous.
    """
    load()
    return torch.ops.ds_diffusers.block_forward(
        hidden_states,
        attn1_context=attn1_context,
        attn1_mask=attn1_mask,
        attn2_context=attn2_context,
        attn2_mask=attn2_mask,
        attn2_key_value=attn2_key_value,
        norm1_weight=norm1_weight,
        norm1_bias=norm1_bias,
        attn1_q_weight=attn1_q_weight,
        attn1_q_bias=attn1_q_bias,
        attn1_k_weight=attn1_k_weight,
        attn1_k_bias=attn1_k_bias,
        attn1_v_weight=attn1_v_weight,
        attn1_v_bias=attn1_v_bias,
        attn1_out_weight=attn1_out_weight,
        attn1_out_bias=attn1_out_bias,
        norm2_weight=norm2_weight,
        norm2_bias=norm2_bias,
        attn2_q_weight=attn2_q_weight,
        attn2_q_bias=attn2_q_bias,
        attn2_k_weight=attn2_k_weight,
        attn2_k_bias=attn2_k_bias,
        attn2_v_weight=attn2_v_weight,
        attn2_v_bias=attn2_v_bias,
        attn2_out_weight=attn2_out_weight,
        attn2_out_bias=attn2_out_bias,
        norm3_weight=norm3_weight,
        norm3_bias=norm3_bias,
        ff_in_weight=ff_in_weight,
        ff_in_scale=ff_in_scale,
        ff_in_bias=ff_in_bias,
        ff_out_weight=ff_out_weight,
        ff_out_scale=ff_out_scale,
        ff_out_bias=ff_out_bias,
        heads=heads,
        activation_type=int(activation_type),
        norm_epsilon=norm_epsilon,
    )
