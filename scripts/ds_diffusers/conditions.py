"""Whether a call's arguments, and PyTorch's state at the call, let the block run as block_forward, or in
segments.

As in block_modules: None where all is well, else the obstacle in a few words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from torch.utils._pytree import tree_leaves

from .block_modules import QUANTIZED_ARGUMENTS, parameter_path
from .class_names import class_name
from .library import has_cuda_module
from .lora import Adapters
from .ops import DTYPES

# Plain tensors, and what stands for them while torch.export traces. Any other subclass (quantised,
# distributed) has an arithmetic of its own.
PLAIN_TENSORS = (nn.Parameter, Tensor, FakeTensor, FunctionalTensor)


def call_obstacle(
    hidden_states: Tensor,
    contexts_and_masks: dict[str, Tensor],
    parameters: dict[str, Tensor],
    heads: int,
    cross_attention_kwargs: dict[str, Any] | None,
) -> str | None:
    """The obstacle in a call of a block whose modules have none.

    `contexts_and_masks`: those arguments of the block's forward that it would use, by name, without None.
    """
    if cross_attention_kwargs:
        return f"cross_attention_kwargs has {', '.join(map(str, cross_attention_kwargs))}"
    return (
        _hidden_states_obstacle(hidden_states)
        or _state_obstacle(hidden_states.device.type)
        or _autocast_obstacle(hidden_states)
        or _inputs_obstacle(contexts_and_masks, hidden_states, heads)
        or parameters_obstacle(parameters, hidden_states.dtype, hidden_states.device)
        or gradient_obstacle((hidden_states, *contexts_and_masks.values(), *parameters.values()))
    )


def segments_call_obstacle(
    hidden_states: Tensor,
    others: tuple[Any, ...],
    block: nn.Module,
    cross_attention_kwargs: dict[str, Any] | None,
) -> str | None:
    """The obstacle to running a block in segments that is in the call.

    `others`: whatever else the block is called with, tensors in containers as well.
    """
    if cross_attention_kwargs and cross_attention_kwargs.get("scale") is not None:
        return "cross_attention_kwargs has scale, of which diffusers warns"
    reason = _hidden_states_obstacle(hidden_states) or _state_obstacle(hidden_states.device.type)
    if reason is None and torch.is_grad_enabled():
        leaves = [leaf for leaf in tree_leaves(others) if isinstance(leaf, Tensor)]
        reason = gradient_obstacle((hidden_states, *leaves, *block.parameters()))
    return reason


def tensors_fit(module: nn.Module, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether an operator can take the module's own weight and bias, with activations of this dtype on this
    device."""
    for name in ("weight", "bias"):
        if name not in module._parameters:
            return False
        tensor = module._parameters[name]
        if tensor is not None and not is_plain_tensor(tensor, dtype, device):
            return False
    return True


def is_plain_tensor(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether it has the arithmetic of PyTorch's own tensors, and a contiguous one of this dtype, there."""
    return (
        type(tensor) in PLAIN_TENSORS
        and tensor.layout == torch.strided
        and tensor.dtype == dtype
        and tensor.device == device
        and tensor.is_contiguous()
    )


def operator_mask(mask: Tensor, hidden_states: Tensor, heads: int) -> Tensor:
    """A mask of a call without obstacle as block_forward takes it: diffusers has one mask for each batch
    entry, or one for each head of each entry."""
    return mask if mask.shape[0] == hidden_states.shape[0] else mask.unflatten(0, (-1, heads))


def parameters_obstacle(
    parameters: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> str | None:
    """The obstacle in the block's tensors, for hidden states of this dtype on this device."""
    dtypes = _quantized_dtypes(parameters)
    for argument, tensor in parameters.items():
        if not is_plain_tensor(tensor, dtypes.get(argument, dtype), device):
            return _parameter_obstacle(parameter_path(argument), tensor, dtypes.get(argument), dtype, device)
    return None


def adapters_obstacle(adapters: Adapters, device: torch.device) -> str | None:
    """The obstacle in the LoRA adapters of the block's weights."""
    if adapters and torch.is_autocast_enabled(device.type):
        return "autocast is on, which chooses the dtype of LoRA's products"
    for argument, of_weight in adapters.items():
        for down, up, _ in of_weight:
            for tensor in (down, up):
                if tensor.dtype not in DTYPES or not is_plain_tensor(tensor, tensor.dtype, device):
                    return (
                        f"an adapter of {parameter_path(argument)} is not made of plain tensors on {device}"
                    )
    return None


def _quantized_dtypes(parameters: dict[str, Tensor]) -> dict[str, torch.dtype]:
    """Of the tensors whose dtype is not that of the hidden states."""
    dtypes = {}
    for _, weight_argument, scale_argument in QUANTIZED_ARGUMENTS:
        if scale_argument in parameters:
            dtypes[weight_argument] = torch.int8
            dtypes[scale_argument] = torch.float32
    return dtypes


def _parameter_obstacle(
    path: str, tensor: Tensor, own_dtype: torch.dtype | None, dtype: torch.dtype, device: torch.device
) -> str:
    """`own_dtype`: what the tensor must have whatever the hidden states' dtype is; None: that."""
    if type(tensor) not in PLAIN_TENSORS:
        return f"{path} is {class_name(tensor)}, not a plain tensor"
    if tensor.layout != torch.strided:
        return f"{path} has layout {tensor.layout}, not torch.strided"
    if own_dtype is not None and tensor.dtype != own_dtype:
        return f"{path} has dtype {tensor.dtype}, not {own_dtype}"
    if own_dtype is None and tensor.dtype != dtype:
        return f"{path} has dtype {tensor.dtype}, hidden_states {dtype}"
    if tensor.device != device:
        return f"{path} is on {tensor.device}, hidden_states on {device}"
    return f"{path} is not contiguous"


def _hidden_states_obstacle(hidden_states: Tensor) -> str | None:
    if type(hidden_states) not in PLAIN_TENSORS:
        return f"hidden_states is {class_name(hidden_states)}, not a plain tensor"
    if hidden_states.dim() != 3:
        return f"hidden_states has {hidden_states.dim()} dimensions, not 3"
    if hidden_states.dtype not in DTYPES:
        return f"hidden_states has dtype {hidden_states.dtype}"
    return None


def _state_obstacle(device_type: str) -> str | None:
    if device_type != "cpu" and device_type != "cuda":
        return f"hidden_states is on {device_type}, not on cpu or cuda"
    if device_type == "cuda" and not has_cuda_module():
        return "the library has no CUDA module"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is on"
    # While compiling, torch.compile itself carries out transforms and modes.
    if torch.compiler.is_compiling():
        return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is on"
    return _function_mode_obstacle()


def _function_mode_obstacle() -> str | None:
    if torch._C._len_torch_function_stack() > 0:
        for mode in _get_current_function_mode_stack():
            if type(mode) is not DeviceContext:
                return f"the mode {class_name(mode)} is on, which may replace PyTorch's functions"
    return None


def _autocast_obstacle(hidden_states: Tensor) -> str | None:
    device_type, dtype = hidden_states.device.type, hidden_states.dtype
    if not torch.is_autocast_enabled(device_type):
        return None
    # In its own dtype, autocast has only the norms' results in float32, which the layers round again.
    chosen = torch.get_autocast_dtype(device_type)
    return None if chosen == dtype else f"autocast to {chosen} is on, hidden_states has dtype {dtype}"


def _inputs_obstacle(inputs: dict[str, Tensor], hidden_states: Tensor, heads: int) -> str | None:
    for name, tensor in inputs.items():
        if type(tensor) not in PLAIN_TENSORS:
            return f"{name} is {class_name(tensor)}, not a plain tensor"
        if tensor.dim() != 3:
            return f"{name} has {tensor.dim()} dimensions, not 3"
        if tensor.dtype != hidden_states.dtype:
            return f"{name} has dtype {tensor.dtype}, hidden_states {hidden_states.dtype}"
        if tensor.device != hidden_states.device:
            return f"{name} is on {tensor.device}, hidden_states on {hidden_states.device}"
        if name.endswith("mask"):
            batch = hidden_states.shape[0]
            if tensor.shape[0] != batch and tensor.shape[0] != batch * heads:
                return f"{name} is for a batch of {tensor.shape[0]}, hidden_states has {batch}"
    return None


def gradient_obstacle(tensors: Iterable[Tensor]) -> str | None:
    """That a gradient of one of the tensors may be needed."""
    if torch.is_grad_enabled():
        for tensor in tensors:
            if tensor.requires_grad:
                return "a gradient may be needed (run under torch.no_grad() or torch.inference_mode())"
    return None
