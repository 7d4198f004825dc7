"""Gradients of the operators, which the library itself does not have.

Without them PyTorch would let a backward pass through with a warning and a missing gradient. Each formula is
made of PyTorch's own functions: what the forward pass did not keep is computed again from its inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .ops import ActivationFuncType

aten = torch.ops.aten
Gradient = Tensor | None

# Keeps the registrations alive: they end with this object.
_library = torch.library.Library("ds_diffusers", "FRAGMENT")


def register_gradients() -> None:
    """Gives the loaded operators their gradients. To be called once."""
    for name, backward, setup_context in (
        ("layer_norm", _layer_norm_backward, _layer_norm_context),
        ("layer_norm_residual_store_pre_ln_res", _layer_norm_residual_backward, _layer_norm_residual_context),
        ("gated_activation", _gated_activation_backward, _gated_activation_context),
        ("nhwc_bias_add", _nhwc_bias_add_backward, _nhwc_bias_add_context),
    ):
        torch.library.register_autograd(
            f"ds_diffusers::{name}", backward, setup_context=setup_context, lib=_library
        )
    _library.impl("block_forward", _block_forward_autograd, "Autograd", with_keyset=True)


def _needs(ctx: Any, index: int) -> bool:
    # Arguments that equal their defaults may be left out at the end.
    return index < len(ctx.needs_input_grad) and ctx.needs_input_grad[index]


def _sum_to_channels(gradient: Tensor, channel_dim: int) -> Tensor:
    """Gradient of a vector that was added to every row."""
    dims = [dim for dim in range(gradient.dim()) if dim != channel_dim % gradient.dim()]
    return gradient.sum(dims) if dims else gradient


def _norm_gradients(
    gradient: Tensor, x: Tensor, gamma: Gradient, beta: Gradient, epsilon: float, mask: list[bool]
) -> tuple[Gradient, Gradient, Gradient]:
    """Gradients of layer_norm's x, gamma and beta, those that `mask` asks for."""
    shape = [x.shape[-1]]
    _, mean, rstd = aten.native_layer_norm.default(x, shape, gamma, None, epsilon)
    to_x, to_gamma, _ = aten.native_layer_norm_backward.default(
        gradient, x, shape, mean, rstd, gamma, beta, [mask[0], mask[1], False]
    )
    # native_layer_norm_backward has no gradient of beta where gamma is absent.
    to_beta = _sum_to_channels(gradient, -1) if mask[2] else None
    return to_x if mask[0] else None, to_gamma if mask[1] else None, to_beta


def _layer_norm_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, gamma, beta, ctx.epsilon = inputs
    ctx.save_for_backward(x, gamma, beta)


def _layer_norm_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    x, gamma, beta = ctx.saved_tensors
    mask = [_needs(ctx, index) for index in range(3)]
    return *_norm_gradients(gradient, x, gamma, beta, ctx.epsilon, mask), None


def _layer_norm_residual_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, _, _, gamma, beta, ctx.epsilon = inputs
    ctx.save_for_backward(output[1], gamma, beta)


def _layer_norm_residual_backward(ctx: Any, to_output: Tensor, to_sum: Tensor) -> tuple[Gradient, ...]:
    total, gamma, beta = ctx.saved_tensors
    needs_total = any(_needs(ctx, index) for index in range(3))
    mask = [needs_total, _needs(ctx, 3), _needs(ctx, 4)]
    through_norm, to_gamma, to_beta = _norm_gradients(to_output, total, gamma, beta, ctx.epsilon, mask)
    to_total = through_norm + to_sum if needs_total else None
    return (
        to_total if _needs(ctx, 0) else None,
        _sum_to_channels(to_total, -1) if _needs(ctx, 1) else None,
        to_total if _needs(ctx, 2) else None,
        to_gamma,
        to_beta,
        None,
    )


def _gated_activation_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    activation, bias, ctx.activation_type = inputs
    ctx.save_for_backward(activation, bias)


def _silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    # PyTorch's function has no derivative of its own, for gradients of gradients.
    if not torch.is_grad_enabled():
        return aten.silu_backward.default(gradient, x)
    sigmoid = aten.sigmoid.default(x)
    return gradient * (sigmoid * (1 + x * (1 - sigmoid)))


def _gated_activation_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    activation, bias = ctx.saved_tensors
    value, gate = (activation if bias is None else activation + bias).chunk(2, dim=-1)
    if ctx.activation_type == ActivationFuncType.GATED_GELU:
        to_value = gradient * aten.gelu.default(gate)
        to_gate = aten.gelu_backward.default(gradient * value, gate)
    else:
        to_value = gradient * aten.silu.default(gate)
        to_gate = _silu_backward(gradient * value, gate)
    to_activation = torch.cat((to_value, to_gate), dim=-1)
    return (
        to_activation if _needs(ctx, 0) else None,
        _sum_to_channels(to_activation, -1) if _needs(ctx, 1) else None,
        None,
    )


def _nhwc_bias_add_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.channel_dim = 1 if output.dim() == 4 else -1


def _nhwc_bias_add_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    needs_bias, needs_other_bias = _needs(ctx, 1), _needs(ctx, 3)
    to_bias = _sum_to_channels(gradient, ctx.channel_dim) if needs_bias or needs_other_bias else None
    return (
        gradient if _needs(ctx, 0) else None,
        to_bias if needs_bias else None,
        gradient if _needs(ctx, 2) else None,
        to_bias if needs_other_bias else None,
    )


class _BlockForward(torch.autograd.Function):
    """block_forward where a gradient would be needed: computes, and explains itself in the backward pass."""

    @staticmethod
    def forward(ctx: Any, keyset: Any, names: tuple[str, ...], options: dict, *tensors: Tensor) -> Tensor:
        hidden_states, *others = tensors
        return _block_forward_below_autograd(
            keyset, (hidden_states,), {**dict(zip(names, others, strict=True)), **options}
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
        raise RuntimeError(
            "ds_diffusers::block_forward is for inference and has no gradient: call the module's own forward "
            "(ds_diffusers.unpatch, or a patched block in grad mode), or run under torch.no_grad()"
        )


def _block_forward_below_autograd(keyset: Any, args: tuple, kwargs: dict) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.ds_diffusers.block_forward.default.redispatch(
            keyset & torch._C._after_autograd_keyset, *args, **kwargs
        )


def _block_forward_autograd(keyset: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    # torch.library.register_autograd does not take operators with tensors as keyword-only arguments.
    # None goes on to the operator, which says that it must be a tensor.
    if torch.is_grad_enabled() and hidden_states is not None:
        tensors = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
        if hidden_states.requires_grad or any(tensor.requires_grad for tensor in tensors.values()):
            options = {name: value for name, value in kwargs.items() if name not in tensors}
            return _BlockForward.apply(keyset, tuple(tensors), options, hidden_states, *tensors.values())
    return _block_forward_below_autograd(keyset, (hidden_states,), kwargs)
