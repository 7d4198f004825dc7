"""torch.export: a graph of the model for any sizes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .functions import Export, ExportError, Inputs, existing_folder

Dynamic = bool | Mapping[str, Sequence[int]]


def program(
    unet: nn.Module,
    example_inputs: Inputs,
    path: str | os.PathLike[str] | None = None,
    *,
    dynamic: Dynamic = True,
    other_inputs: Sequence[Inputs] = (),
) -> torch.export.ExportedProgram:
    """The program that torch.export makes of a diffusers UNet in evaluation mode, for batches and sizes other
    than the example's; written to a file as well, if given.

    Patch the UNet before: each fused block is one call of block_forward in the graph. `program.module()`
    takes the inputs by name. Conditions that the model's own code puts on sizes are the program's: for a UNet
    of diffusers, height and width are multiples of 2 to the number of upsamplings, the batch at most 63.

    Args:
        unet: a diffusers model whose forward takes return_dict; left as it was.
        example_inputs: by name: arguments of the model's forward ("sample", "timestep",
            "encoder_hidden_states", …), then entries of its added_cond_kwargs (SDXL: "text_embeds",
            "time_ids"). Numbers become tensors on the model's device.
        path: file to write, "….pt2", for torch.export.load.
        dynamic: which dimensions may change: numbers of dimensions by the input's name; True for the batch of
            all, the height and width of images, and the tokens of text and masks; False for none. A dimension
            of size 1 in the example cannot be dynamic.
        other_inputs: more of the same kind, of other sizes, that the program must work with.

    Raises:
        ValueError: for names that the model does not take, dimensions that cannot be dynamic, or a path in no
            folder.
        ExportError: (a RuntimeError) names a dimension that the model's code fixes, or an input with which
            the program fails or computes something else than the model; or blocks that run fused are not in
            it. Nothing is written then.
    """
    if path is not None:
        path = existing_folder(path)
    made = export_program(Export(unet, example_inputs, other_inputs), dynamic)
    if path is not None:
        torch.export.save(made, path)
    return made


def export_program(export: Export, dynamic: Dynamic) -> torch.export.ExportedProgram:
    """The program, compared with the model; errors as `program`."""
    dimensions = _dynamic_dimensions(export.example, dynamic)
    shapes = {name: {number: torch.export.Dim.AUTO for number in dimensions[name]} for name in export.example}
    with export.inference():
        made = torch.export.export(export.function, (), export.example, dynamic_shapes=shapes, strict=False)
        _check_dimensions(made, dimensions)
        module = made.module()
        export.check(lambda inputs: module(**inputs), fused_blocks(made))
    return made


def fused_blocks(made: torch.export.ExportedProgram) -> int:
    """Number of the program's calls of block_forward."""
    operator = torch.ops.ds_diffusers.block_forward.default
    return sum(node.target is operator for node in made.graph.nodes)


def _dynamic_dimensions(inputs: dict[str, Tensor], dynamic: Dynamic) -> dict[str, list[int]]:
    """By input, the numbers of the dimensions to leave open, all at least 0."""
    if isinstance(dynamic, bool):
        return {name: _usual_dimensions(name, value) if dynamic else [] for name, value in inputs.items()}
    unknown = [name for name in dynamic if name not in inputs]
    if unknown:
        raise ValueError(f"dynamic names {', '.join(unknown)}, must name inputs: {', '.join(inputs)}")
    found: dict[str, list[int]] = {}
    for name, value in inputs.items():
        found[name] = []
        for number in dynamic.get(name, ()):
            if not -value.dim() <= number < value.dim():
                raise ValueError(f"dynamic[{name!r}] has {number}, but {name} has {value.dim()} dimensions")
            found[name].append(number % value.dim())
            _check_size(name, value, found[name][-1])
    return found


def _usual_dimensions(name: str, value: Tensor) -> list[int]:
    if name.endswith("mask"):
        numbers = sorted({0, value.dim() - 1})
    elif value.dim() == 3:  # batch, tokens, channels
        numbers = [0, 1]
    else:  # images, whose channels come second, and one row for each entry of the batch
        numbers = [number for number in range(value.dim()) if number == 0 or value.dim() > 3 and number != 1]
    for number in numbers:
        _check_size(name, value, number)
    return numbers


def _check_size(name: str, value: Tensor, number: int) -> None:
    if value.shape[number] < 2:
        raise ValueError(
            f"{name} has size {value.shape[number]} in dimension {number}, must have at least 2 to be dynamic"
        )


def _check_dimensions(made: torch.export.ExportedProgram, dimensions: dict[str, list[int]]) -> None:
    """torch.export says nothing where it makes a dimension a constant, as the model's code asks for it."""
    for node in made.graph.nodes:
        for number in dimensions.get(node.name, ()) if node.op == "placeholder" else ():
            size = node.meta["val"].shape[number]
            if isinstance(size, int) or size.node.maybe_as_int() is not None:
                raise ExportError(
                    f"dimension {number} of {node.name} cannot be dynamic: "
                    f"the model's code fixes it at {size}"
                )
