"""TorchScript: a traced and frozen model for programs without Python.

A C++ program that has loaded libds_diffusers.so (torch.ops.load_library's dlopen) reads the file with
torch::jit::load.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..layout import GROUPS
from .functions import Export, Inputs, existing_folder, size_multiple


def torchscript(
    unet: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Inputs,
    other_inputs: Sequence[Inputs] = (),
) -> torch.jit.ScriptModule:
    """Traces and freezes a diffusers UNet in evaluation mode, writes it to a file, and returns it.

    Patch the UNet before, and check `report`, to have the fused blocks in the file. The path of each block is
    that of the example. Sizes may change from call to call where the model's Python code only passes them on
    to tensor operations: a UNet2DConditionModel with diffusers' default attention takes any batch, height,
    width and number of tokens. What `other_inputs` holds is tried.

    Args:
        unet: a diffusers model whose forward takes return_dict; left as it was.
        path: file to write, usually "….pt".
        example_inputs: by name, in the order in which the written module takes them as positional
            arguments: first arguments of the model's forward ("sample", "timestep", "encoder_hidden_states",
            …), then entries of its added_cond_kwargs (SDXL: "text_embeds", "time_ids"). Numbers become
            tensors on the model's device, so that the written module takes them at each call.
        other_inputs: more of the same kind, of other sizes, that the module must work with.

    Returns:
        The frozen module: tensors, by position or name, to the sample.

    Raises:
        ValueError: for names that the model does not take, or a path in no folder.
        ExportError: (a RuntimeError) names an input, of the example or of `other_inputs`, with which the
            traced module fails or computes something else than the model. Nothing is written then.
    """
    path = existing_folder(path)
    export = Export(unet, example_inputs, other_inputs)
    with export.inference():
        candidates = _traced_inputs(unet, export.example)
        for inputs in candidates:
            try:
                traced = _trace(export, inputs)
                break
            except (RuntimeError, ValueError):
                if inputs is candidates[-1]:
                    raise
    traced.save(path)
    return traced


def _trace(export: Export, inputs: dict[str, Tensor]) -> torch.jit.ScriptModule:
    """A module that was traced with these inputs, and checked with the export's."""
    traced = torch.jit.freeze(torch.jit.trace(export.function, tuple(inputs.values()), check_trace=False))
    blocks = len(traced.graph.findAllNodes("ds_diffusers::block_forward"))
    _place_weights(traced.graph)
    export.check(lambda inputs: traced(*inputs.values()), blocks)
    return traced


def _traced_inputs(model: nn.Module, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """What to trace with, best first: the example, before it with a sample one larger where a trace of that
    serves more sizes.

    A UNet hands its upsamplers the sizes to make only where the sample's are no multiple of all their
    factors; otherwise they double, in a trace for good. Some settings, such as the chunking of feed-forwards,
    allow no such sizes.
    """
    factor = size_multiple(model)
    images = [name for name, value in inputs.items() if value.dim() >= 4]
    if factor == 1 or images != ["sample"] or inputs["sample"].dim() != 4:
        return [inputs]
    if any(size % factor != 0 for size in inputs["sample"].shape[2:]):
        return [inputs]
    return [inputs | {"sample": functional.pad(inputs["sample"], (0, 1, 0, 1))}, inputs]


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
