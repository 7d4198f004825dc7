"""Writes diffusers models, patched or not, for programs without Python.

A C++ program that has loaded libds_diffusers.so (torch.ops.load_library's dlopen) reads the file with
torch::jit::load.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .layout import GROUPS
from .library import load


class _TensorsOnly(nn.Module):
    """A diffusers model as a function of tensors: positional arguments in the order of `names`, one
    result."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.names = tuple(name for name in names if name in parameters)
        self.conditioning_names = tuple(name for name in names if name not in parameters)
        if self.names + self.conditioning_names != names:
            raise ValueError(f"example_inputs has {', '.join(names)}, must have added conditions at the end")
        if self.conditioning_names and "added_cond_kwargs" not in parameters:
            raise ValueError(f"{type(model).__name__}.forward takes no {', '.join(self.conditioning_names)}")

    def forward(self, *inputs: Tensor) -> Tensor:
        arguments: dict[str, Any] = dict(zip(self.names, inputs))
        if self.conditioning_names:
            arguments["added_cond_kwargs"] = dict(zip(self.conditioning_names, inputs[len(self.names) :]))
        return self.model(**arguments, return_dict=False)[0]


def _place_weights(graph: torch.Graph) -> None:
    """Makes constants of block_forward that it takes as one matrix parts of one tensor, which the file keeps
    as such."""
    names = [argument.name for argument in torch.ops.ds_diffusers.block_forward.default._schema.arguments]
    for call in graph.findAllNodes("ds_diffusers::block_forward"):
        inputs = dict(zip(names, call.inputs(), strict=True))
        for group in GROUPS:
            nodes = [inputs[name].node() for name in group]
            if all(node.hasAttribute("value") and node.kindOf("value") == "t" for node in nodes):
                tensors = [node.t("value") for node in nodes]
                whole = torch.cat([tensor.flatten() for tensor in tensors])
                parts = whole.split([tensor.numel() for tensor in tensors])
                for node, tensor, part in zip(nodes, tensors, parts, strict=True):
                    node.t_("value", part.view(tensor.shape))


def torchscript(
    unet: nn.Module, path: str | os.PathLike[str], example_inputs: Mapping[str, Tensor | float]
) -> torch.jit.ScriptModule:
    """Traces and freezes a diffusers UNet in evaluation mode, writes it to a file, and returns it.

    Patch the UNet before, and check `report`, to have the fused blocks in the file. The path of each block
    and the sizes that the UNet itself computes in Python are those of the example.

    Args:
        unet: a diffusers model whose forward takes return_dict; left as it was.
        path: file to write, usually "….pt".
        example_inputs: by name, in the order in which the written module takes them as positional
            arguments: first arguments of the model's forward ("sample", "timestep", "encoder_hidden_states",
            …), then entries of its added_cond_kwargs (SDXL: "text_embeds", "time_ids"). Numbers become
            tensors on the model's device, so that the written module takes them at each call.

    Returns:
        The frozen module: positional tensors to the sample.
    """
    load()
    names = tuple(example_inputs)
    device = next(unet.parameters()).device
    inputs = tuple(torch.as_tensor(value, device=device) for value in example_inputs.values())
    function = _TensorsOnly(unet, names)
    in_training = [module for module in function.modules() if module.training]
    function.eval()
    try:
        with torch.no_grad():
            traced = torch.jit.freeze(torch.jit.trace(function, inputs, check_trace=False))
            _place_weights(traced.graph)
    finally:
        for module in in_training:
            module.training = True
    traced.save(os.fspath(path))
    return traced
