"""Gradients of the operators, which the library itself does not have.

Without them PyTorch would let a backward pass through with a warning and a missing gradient. Each formula is
made of PyTorch's own functions: what the forward pass did not keep is computed again from its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from .ops import ActivationFuncType

aten = torch.ops.aten
Gradient = Tensor | None

# Keeps the registrations alive: they end with this object.
_library: torch.library.Library | None = None


def register_gradients() -> None:
    """Gives the loaded operators their gradients, all or, where that fails, none. To be called until it
    succeeds."""
    global _library
    library = torch.library.Library("ds_diffusers", "FRAGMENT")
    try:
        _register_all(library)
    except BaseException:
        # The exception's traceback refers to it, so it would live on, and its registrations with it.
        library._destroy()
        raise
    _library = library


def _register_all(library: torch.library.Library) -> None:
    for name, backward, setup_context in (
        ("layer_norm", _layer_norm_backward, _layer_norm_context),
        ("layer_norm_residual_store_pre_ln_res", _layer_norm_residual_backward, _layer_norm_residual_context),
        ("gated_activation", _gated_activation_backward, _gated_activation_context),
        ("gated_linear", _gated_linear_backward, _gated_linear_context),
        ("nhwc_bias_add", _nhwc_bias_add_backward, _nhwc_bias_add_context),
    ):
        _register(library, name, backward, setup_context)
    _register(library, "block_forward", _block_forward_backward, lambda ctx, inputs, output: None)


def _register(library: torch.library.Library, name: str, backward: Callable, setup_context: Callable) -> None:
    """Gives an operator its kernel for autograd.

    torch.library.register_autograd takes no tensors as keyword-only arguments, makes a function that
    torch.func cannot differentiate, and lets forward-mode tangents pass through as zeros.
    """
    operator = getattr(torch.ops.ds_diffusers, name).default
    arguments = operator._schema.arguments
    positional = sum(not argument.kwarg_only for argument in arguments)
    after_autograd = torch._C._after_autograd_keyset

    def below_autograd(*values: Any) -> Any:
        named = {argument.name: value for argument, value in zip(arguments[positional:], values[positional:])}
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*values[:positional], **named)

    def next_level(*values: Any) -> Any:
        # A Function's forward has derivatives off; they are the next level's to take.
        with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
            return below_autograd(*values)

    def refuse_tangents(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(
            f"ds_diffusers::{name} has no forward-mode derivative: use reverse mode or PyTorch's own functions"
        )

    methods = {
        "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward),
        "jvp": staticmethod(refuse_tangents),
    }
    # torch.func calls this kernel once for each of its levels, where a Function would be for all of them.
    function, level = (
        type(f"{name}_gradient", (base,), {"forward": staticmethod(forward), **methods})
        for base, forward in (
            (torch.autograd.Function, below_autograd),
            (torch.autograd.function._SingleLevelFunction, next_level),
        )
    )

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        # A tensor does not say whether it has a tangent.
        if forward_ad._current_level < 0 and not (
            torch.is_grad_enabled() and torch._C._any_requires_grad(*args, *kwargs.values())
        ):
            return operator.redispatch(keyset & after_autograd, *args, **kwargs)
        # Arguments that equal their defaults are left out.
        left = arguments[len(args) :]
        values = [*args, *(kwargs.get(argument.name, argument.default_value) for argument in left)]
        if not torch._C._are_functorch_transforms_active():
            return function.apply(*values)
        with enable_single_level_autograd_function():
            return level.apply(*values)

    library.impl(name, kernel, "Autograd", with_keyset=True)


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
    mask = [ctx.needs_input_grad[index] for index in range(3)]
    return *_norm_gradients(gradient, x, gamma, beta, ctx.epsilon, mask), None


def _layer_norm_residual_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, _, _, gamma, beta, ctx.epsilon = inputs
    ctx.save_for_backward(output[1], gamma, beta)


def _layer_norm_residual_backward(ctx: Any, to_output: Tensor, to_sum: Tensor) -> tuple[Gradient, ...]:
    total, gamma, beta = ctx.saved_tensors
    needs_total = any(ctx.needs_input_grad[index] for index in range(3))
    mask = [needs_total, ctx.needs_input_grad[3], ctx.needs_input_grad[4]]
    through_norm, to_gamma, to_beta = _norm_gradients(to_output, total, gamma, beta, ctx.epsilon, mask)
    to_total = through_norm + to_sum if needs_total else None
    return (
        to_total if ctx.needs_input_grad[0] else None,
        _sum_to_channels(to_total, -1) if ctx.needs_input_grad[1] else None,
        to_total if ctx.needs_input_grad[2] else None,
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


def _gate_gradient(gradient: Tensor, activation: Tensor, activation_type: int) -> Tensor:
    """Gradient of the values and gates, biases included, side by side in the last dimension."""
    value, gate = activation.chunk(2, dim=-1)
    if activation_type == ActivationFuncType.GATED_GELU:
        to_value = gradient * aten.gelu.default(gate)
        to_gate = aten.gelu_backward.default(gradient * value, gate)
    else:
        to_value = gradient * aten.silu.default(gate)
        to_gate = _silu_backward(gradient * value, gate)
    return torch.cat((to_value, to_gate), dim=-1)


def _gated_activation_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    activation, bias = ctx.saved_tensors
    total = activation if bias is None else activation + bias
    to_activation = _gate_gradient(gradient, total, ctx.activation_type)
    return (
        to_activation if ctx.needs_input_grad[0] else None,
        _sum_to_channels(to_activation, -1) if ctx.needs_input_grad[1] else None,
        None,
    )


def _gated_linear_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weight, bias, ctx.activation_type = inputs
    ctx.save_for_backward(x, weight, bias)


def _gated_linear_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    x, weight, bias = ctx.saved_tensors
    to_hidden = _gate_gradient(gradient, aten.linear.default(x, weight, bias), ctx.activation_type)
    rows = math.prod(x.shape[:-1])
    to_weight = None
    if ctx.needs_input_grad[1]:
        to_weight = to_hidden.reshape(rows, weight.shape[0]).T @ x.reshape(rows, x.shape[-1])
    return (
        to_hidden @ weight if ctx.needs_input_grad[0] else None,
        to_weight,
        _sum_to_channels(to_hidden, -1) if ctx.needs_input_grad[2] else None,
        None,
    )


def _nhwc_bias_add_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.channel_dim = 1 if output.dim() == 4 else -1


def _nhwc_bias_add_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    needs_bias, needs_other_bias = ctx.needs_input_grad[1], ctx.needs_input_grad[3]
    to_bias = _sum_to_channels(gradient, ctx.channel_dim) if needs_bias or needs_other_bias else None
    return (
        gradient if ctx.needs_input_grad[0] else None,
        to_bias if needs_bias else None,
        gradient if ctx.needs_input_grad[2] else None,
        to_bias if needs_other_bias else None,
    )


def _block_forward_backward(ctx: Any, gradient: Tensor) -> tuple[Gradient, ...]:
    raise RuntimeError(
        "ds_diffusers::block_forward is for inference and has no gradient: call the module's own forward "
        "(ds_diffusers.unpatch, or a patched block in grad mode), or run under torch.no_grad()"
    )
