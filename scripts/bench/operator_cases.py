"""The single operators, what PyTorch has in their place, and arguments for both."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ds_diffusers import ops
from ds_diffusers.command_line import UserError

from .products import Product

EPSILON = 1e-5
GATED_GELU = int(ops.ActivationFuncType.GATED_GELU)


@dataclass(frozen=True)
class OperatorShape:
    """Of the hidden states, [batch, tokens, channels]."""

    batch: int
    tokens: int
    channels: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}x{self.channels}"


def operator_shape(text: str) -> OperatorShape:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2}", text):
        raise UserError(f"a shape is {text}, must be BATCHxTOKENSxCHANNELS such as 2x4096x640")
    return OperatorShape(*map(int, text.split("x")))


@dataclass(frozen=True)
class OperatorCase:
    """`operator` of torch.ops.ds_diffusers, `function` of ds_diffusers.ops, `pytorch` and, where there is
    one, `in_two` take the same arguments and return the same. `in_two`: one operator of PyTorch and one of
    ours. `product`: the matrix product that is the operator's floor; None: moving its bytes is."""

    name: str
    operator: str
    pytorch: Callable
    arguments: Callable[[OperatorShape, torch.dtype, torch.device], tuple]
    product: Callable[[OperatorShape], Product] | None = None
    in_two: Callable | None = None

    @property
    def packet(self) -> Any:
        return getattr(torch.ops.ds_diffusers, self.operator)

    @property
    def function(self) -> Callable:
        return getattr(ops, self.operator)


def layer_norm(input: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    return F.layer_norm(input, gamma.shape, gamma, beta, epsilon)


def layer_norm_of_sum(
    input: Tensor, bias: Tensor, residual: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    total = input + bias + residual
    return F.layer_norm(total, gamma.shape, gamma, beta, epsilon), total


def geglu(activation: Tensor, bias: Tensor, activation_type: int) -> Tensor:
    values, gates = (activation + bias).chunk(2, dim=-1)
    return values * F.gelu(gates)


def geglu_of_linear(input: Tensor, weight: Tensor, bias: Tensor, activation_type: int) -> Tensor:
    values, gates = F.linear(input, weight, bias).chunk(2, dim=-1)
    return values * F.gelu(gates)


def linear_and_gated_activation(input: Tensor, weight: Tensor, bias: Tensor, activation_type: int) -> Tensor:
    return torch.ops.ds_diffusers.gated_activation(F.linear(input, weight), bias, activation_type)


def bias_add(activation: Tensor, bias: Tensor) -> Tensor:
    return activation + bias


def bias_residual_add(activation: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    return activation + bias + other


def two_biases_add(activation: Tensor, bias: Tensor, other: Tensor, other_bias: Tensor) -> Tensor:
    return (activation + bias) + (other + other_bias)


@dataclass(frozen=True)
class _Maker:
    """Tensors from N(0, 1) for one shape, weights scaled so that a layer keeps its input's size."""

    shape: OperatorShape
    dtype: torch.dtype
    device: torch.device

    def states(self, width: int = 1) -> Tensor:
        shape = self.shape
        return self._normal(shape.batch, shape.tokens, width * shape.channels)

    def vector(self, width: int = 1) -> Tensor:
        return self._normal(width * self.shape.channels)

    def weight(self, width: int) -> Tensor:
        """Of a linear layer whose result is `width` times as wide as its input."""
        channels = self.shape.channels
        return self._normal(width * channels, channels) / math.sqrt(channels)

    def _normal(self, *sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float32, device=self.device).to(self.dtype)


def _case(
    name: str, operator: str, pytorch: Callable, make: Callable[[_Maker], tuple], **others: Callable
) -> OperatorCase:
    return OperatorCase(name, operator, pytorch, lambda *arguments: make(_Maker(*arguments)), **others)


def ff_in(shape: OperatorShape) -> Product:
    """The first product of a gated feed-forward."""
    return Product(shape.batch * shape.tokens, 8 * shape.channels, shape.channels)


OPERATOR_CASES = {
    case.name: case
    for case in (
        _case(
            "layer_norm",
            "layer_norm",
            layer_norm,
            lambda make: (make.states(), make.vector(), make.vector(), EPSILON),
        ),
        _case(
            "layer_norm_residual",
            "layer_norm_residual_store_pre_ln_res",
            layer_norm_of_sum,
            lambda make: (
                make.states(),
                make.vector(),
                make.states(),
                make.vector(),
                make.vector(),
                EPSILON,
            ),
        ),
        _case(
            "gated_activation",
            "gated_activation",
            geglu,
            lambda make: (make.states(8), make.vector(8), GATED_GELU),
        ),
        _case(
            "gated_linear",
            "gated_linear",
            geglu_of_linear,
            lambda make: (make.states(), make.weight(8), make.vector(8), GATED_GELU),
            product=ff_in,
            in_two=linear_and_gated_activation,
        ),
        _case("bias_add", "nhwc_bias_add", bias_add, lambda make: (make.states(), make.vector())),
        _case(
            "bias_residual_add",
            "nhwc_bias_add",
            bias_residual_add,
            lambda make: (make.states(), make.vector(), make.states()),
        ),
        _case(
            "two_biases_add",
            "nhwc_bias_add",
            two_biases_add,
            lambda make: (make.states(), make.vector(), make.states(), make.vector()),
        ),
    )
}


def tensors_of(values: Any) -> list[Tensor]:
    """Those among an operator's arguments or results."""
    return [value for value in (values if isinstance(values, tuple) else (values,)) if torch.is_tensor(value)]


def moved_bytes(arguments: tuple, results: Any) -> int:
    """Each argument read once, each result written once."""
    return sum(tensor.nbytes for tensor in tensors_of(arguments) + tensors_of(results))


def upcast(arguments: tuple) -> tuple:
    """The arguments in float64."""
    return tuple(value.double() if torch.is_tensor(value) else value for value in arguments)
