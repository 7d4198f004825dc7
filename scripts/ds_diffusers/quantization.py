"""int8 weights for the feed-forward of diffusers' transformer blocks: half of float16's memory.

    ds_diffusers.quantize(pipeline)      # the feed-forward's two linears of each block, in place
    ds_diffusers.patch(pipeline)         # quantised blocks run as block_forward, as others do
    ds_diffusers.dequantize(pipeline, torch.float16)    # torch.nn.Linear again

The quantisation is that of DeepSpeed's GroupQuantizer: symmetric, in groups, by default one for each output
row,

    scale = max |w| * 2 / 256,   q = clamp(round(w / scale), -128, 127),   w is about q * scale,

computed in float32, ties rounded to even. What divides by zero there is defined here: a group of zeros, or of
numbers so small that its scale would be zero, becomes zeros with the scale 1. A weight with an element that
is not finite, which would make its whole group NaN, is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .class_names import class_name
from .ops import DTYPES
from .patching import named_modules_of

_FEED_FORWARD_LINEARS = (("ff.net.0", "proj"), ("ff.net", "2"))


def quantize_rows(weight: Tensor, groups_per_row: int = 1, rows_per_group: int = 1) -> tuple[Tensor, Tensor]:
    """Quantises a matrix to int8 with a scale for each group of its elements.

    Args:
        weight: [N, K], float32, float16 or bfloat16, any strides, every element finite.
        groups_per_row: number of groups that a row is cut into, a divisor of K.
        rows_per_group: number of rows that share a scale, a divisor of N (GroupQuantizer's group_size); above
            1 only with groups_per_row 1.

    Returns:
        The int8 matrix [N, K], contiguous, and the scale: float32, [N] for groups_per_row 1, else
        [N, groups_per_row]. Rows that share a scale each have it.

    Raises:
        TypeError, ValueError: for any other argument; an element that is not finite is named.
    """
    _check_weight(weight)
    _check_groups(weight, groups_per_row, rows_per_group)
    rows = weight.shape[0]
    quantized, scale = quantize_groups(weight, rows * groups_per_row // rows_per_group)
    scale = scale.repeat_interleave(rows_per_group)
    return quantized, scale if groups_per_row == 1 else scale.view(rows, groups_per_row)


def quantize_groups(weight: Tensor, groups: int, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Quantises a tensor of any shape to int8 with a scale for each group: a run of its elements in row-major
    order.

    Args:
        weight: float32, float16 or bfloat16, any strides, every element finite.
        groups: number of groups, of equal length: a divisor of the number of elements.
        bits: 2 to 8; scale = max |w| * 2 / 2**bits, and results are from -2**(bits - 1) to 2**(bits - 1) - 1.

    Returns:
        int8 of weight's shape, contiguous, and the scale, float32 [groups].

    Raises:
        TypeError, ValueError: as `quantize_rows`.
    """
    _check_weight(weight)
    if weight.numel() == 0:
        empty = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
        return empty, torch.ones(groups, device=weight.device)
    half = 2 ** (bits - 1)
    grouped = weight.detach().float().contiguous().view(groups, -1)
    largest = grouped.abs().amax(dim=1, keepdim=True)
    _check_finite(largest, weight)
    scale = largest / half  # the same, without overflow
    scale = torch.where(scale > 0, scale, 1.0)
    quantized = (grouped / scale).round_().clamp_(-half, half - 1).to(torch.int8)
    return quantized.view(weight.shape), scale.flatten()


def dequantize_rows(weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a quantised matrix stands for: weight * scale, computed in float32 and rounded to `dtype`.

    Args:
        weight: [N, K], int8.
        scale: [N], or [N, G] where G divides K, float32: as `quantize_rows` returns them.

        dtype: of the result, a floating-point one.

    Returns:
        [N, K], contiguous, on weight's device.

    Raises:
        RuntimeError: where weight and scale do not fit each other.
    """
    rows, columns = weight.shape
    groups = 1 if scale.dim() == 1 else scale.shape[1]
    grouped = weight.reshape(rows, groups, columns // groups) * scale.reshape(rows, groups, 1)
    return grouped.view(rows, columns).to(dtype)


class Int8Linear(nn.Module):
    """torch.nn.Linear with an int8 weight [out_features, in_features] and its scale in float32.

    A patched block hands both to block_forward. Called itself, it computes with the dequantised weight, in
    the input's dtype. `to(dtype)` leaves the scale in float32. A state_dict holds `weight`, `scale` and
    `bias`, and loads into a model that was quantised alike.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: nn.Parameter | None = None) -> None:
        """weight, scale: what `quantize_rows` returned. bias: [out_features]; None: none."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_parameter("bias", bias)

    @classmethod
    def from_linear(cls, linear: nn.Linear, groups_per_row: int = 1, rows_per_group: int = 1) -> Int8Linear:
        """Quantises a layer; see `quantize_rows`. The bias is the layer's own."""
        made = cls(*quantize_rows(linear.weight, groups_per_row, rows_per_group), linear.bias)
        return made.train(linear.training)

    def to_linear(self, dtype: torch.dtype) -> nn.Linear:
        """A plain layer of what the weight stands for. The bias is this layer's own."""
        made = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        made.weight = nn.Parameter(dequantize_rows(self.weight, self.scale, dtype))
        made.bias = self.bias
        return made.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features], in the input's dtype. Gradients reach input and bias."""
        return F.linear(input, dequantize_rows(self.weight, self.scale, input.dtype), self.bias)

    def extra_repr(self) -> str:
        """What printing the layer shows in brackets."""
        groups = 1 if self.scale.dim() == 1 else self.scale.shape[1]
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, groups_per_row={groups}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Int8Linear:
        kept = self.scale.detach()
        super()._apply(fn, recurse)
        if self.scale.dtype != torch.float32:
            # A cast of the whole module: a scale in 16 bits would put the whole row off.
            self.scale = nn.Parameter(kept.to(self.scale.device), requires_grad=False)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if not is_quantized_entry(state_dict, f"{prefix}weight", error_msgs):
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def is_quantized_entry(state_dict: dict[str, Any], key: str, error_msgs: list[str]) -> bool:
    """Whether an int8 parameter may take what state_dict has under its key. Adds to error_msgs, which
    torch.nn.Module raises, where it may not: copying would cut the numbers down to integers without a
    word."""
    weight = state_dict.get(key)
    if weight is None or weight.dtype == torch.int8:
        return True
    error_msgs.append(
        f"{key} has dtype {weight.dtype}, must be torch.int8: the model is quantised, load such weights "
        "before it is"
    )
    return False


def quantize(model: Any, groups_per_row: int = 1, rows_per_group: int = 1) -> Any:
    """Quantises the feed-forward's weights of the BasicTransformerBlocks of a diffusers model or pipeline, in
    place, and returns it.

    Each `ff.net.0.proj` and `ff.net.2` becomes an `Int8Linear`, in patched blocks and others; those that are
    one already stay. The blocks' other weights and all biases are left alone.

    model: in float32, float16 or bfloat16. groups_per_row, rows_per_group: number of groups that each row of
    a weight is cut into, and number of rows that share a scale, as for `quantize_rows`.

    Raises TypeError for anything but a torch.nn.Module or a diffusers pipeline, and for a layer that is not a
    plain torch.nn.Linear (LoRA: fuse or unload it first); ValueError as `quantize_rows` for a weight, or
    where it is offloaded. Nothing was changed then. Warns where there is no block.
    """
    found = dict(_feed_forward_linears(model))
    if not found:
        warnings.warn(
            f"ds_diffusers.quantize: {type(model).__name__} has no BasicTransformerBlock", stacklevel=2
        )
    for path, (_, _, linear) in found.items():
        if type(linear) is not Int8Linear:
            _check_linear(path, linear, groups_per_row, rows_per_group)
    # One after the other, so that each original makes room for the next.
    for parent, name, linear in found.values():
        if type(linear) is nn.Linear:
            parent._modules[name] = Int8Linear.from_linear(linear, groups_per_row, rows_per_group)
    return model


def dequantize(model: Any, dtype: torch.dtype) -> Any:
    """Turns each Int8Linear of a model or pipeline into a torch.nn.Linear again, in place, and returns it.

    The weights, in `dtype`, are what the model's int8 weights stand for: what rounding lost is not brought
    back.
    Raises TypeError for anything but a torch.nn.Module or a diffusers pipeline.
    """
    for _, parent in list(named_modules_of(model)):
        for name, layer in list(parent.named_children()):
            if type(layer) is Int8Linear:
                parent._modules[name] = layer.to_linear(dtype)
    return model


def _feed_forward_linears(model: Any) -> Iterator[tuple[str, tuple[nn.Module, str, nn.Module]]]:
    """The path of each layer, and where it is: its parent, its name there, itself."""
    from diffusers.models.attention import BasicTransformerBlock

    for path, block in named_modules_of(model):
        if isinstance(block, BasicTransformerBlock):
            for parent_path, name in _FEED_FORWARD_LINEARS:
                parent = block.get_submodule(parent_path)
                yield f"{path}.{parent_path}.{name}".lstrip("."), (parent, name, parent._modules[name])


def _check_linear(path: str, linear: nn.Module, groups_per_row: int, rows_per_group: int) -> None:
    if type(linear) is not nn.Linear:
        raise TypeError(f"{path} is {class_name(linear)}, must be torch.nn.Linear")
    try:
        _check_weight(linear.weight)
        _check_groups(linear.weight, groups_per_row, rows_per_group)
        _check_finite(linear.weight, linear.weight)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from None


def _check_weight(weight: Tensor) -> None:
    if type(weight) not in (Tensor, nn.Parameter):
        raise TypeError(f"weight is {type(weight).__qualname__}, must be a plain tensor")
    if weight.dtype not in DTYPES or weight.layout != torch.strided:
        raise TypeError(
            f"weight is {weight.dtype}, {weight.layout}, must be float32, float16 or bfloat16, torch.strided"
        )
    if weight.is_meta:
        raise ValueError("weight is on meta, must have values: load it, or end its offloading")


def _check_groups(weight: Tensor, groups_per_row: int, rows_per_group: int) -> None:
    if weight.dim() != 2:
        raise ValueError(f"weight has shape {list(weight.shape)}, must be [N, K]")
    rows, columns = weight.shape
    if groups_per_row < 1 or columns % groups_per_row != 0:
        raise ValueError(
            f"groups_per_row is {groups_per_row}, must be a divisor of weight's {columns} columns"
        )
    if rows_per_group < 1 or rows % rows_per_group != 0:
        raise ValueError(f"rows_per_group is {rows_per_group}, must be a divisor of weight's {rows} rows")
    if groups_per_row > 1 and rows_per_group > 1:
        raise ValueError(
            f"groups_per_row is {groups_per_row} and rows_per_group {rows_per_group}, one of them must be 1"
        )


def _check_finite(largest: Tensor, weight: Tensor) -> None:
    """`largest`: some values of weight that are finite only if all are."""
    if not bool(largest.isfinite().all()):
        weight = weight.detach()
        index = (~weight.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"weight{index} is {float(weight[tuple(index)])}, must be finite")
