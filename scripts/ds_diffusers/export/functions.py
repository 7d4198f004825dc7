"""A diffusers model as a function of tensors, and the comparison of its exported form with it."""

from __future__ import annotations

import inspect
import keyword
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..library import load

Inputs = Mapping[str, Tensor | float]

TF32_ROUNDING = 2.0**-10


class ExportError(RuntimeError):
    """What was exported does not do what the model does."""


class TensorFunction(nn.Module):
    """A model as a function of tensors alone; `tensor_function` makes it."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], conditioning_names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.conditioning_names = conditioning_names

    def call(self, arguments: dict[str, Any]) -> Tensor:
        """The model's result for inputs by name."""
        if self.conditioning_names:
            conditions = {name: arguments.pop(name) for name in self.conditioning_names}
            arguments["added_cond_kwargs"] = conditions
        return self.model(**arguments, return_dict=False)[0]

    def tensors(self, inputs: Inputs, what: str) -> dict[str, Tensor]:
        """The inputs, numbers as tensors on the model's device; ValueError for other names, or in another
        order."""
        if tuple(inputs) != self.names:
            raise ValueError(f"{what} has {', '.join(inputs)}, must have {', '.join(self.names)}")
        return {name: torch.as_tensor(value, device=self.device) for name, value in inputs.items()}

    @property
    def device(self) -> torch.device:
        """The model's."""
        return next(self.model.parameters()).device


def tensor_function(model: nn.Module, names: tuple[str, ...]) -> TensorFunction:
    """The model as a module whose forward has parameters of these names, in this order, and returns one
    tensor: TorchScript and torch.export keep the names. First come arguments of the model's forward, then
    entries of its added_cond_kwargs; ValueError for anything else."""
    parameters = inspect.signature(model.forward).parameters
    conditioning_names = tuple(name for name in names if name not in parameters)
    if tuple(name for name in names if name in parameters) + conditioning_names != names:
        raise ValueError(f"example_inputs has {', '.join(names)}, must have added conditions at the end")
    if conditioning_names and "added_cond_kwargs" not in parameters:
        raise ValueError(f"{type(model).__name__}.forward takes no {', '.join(conditioning_names)}")
    wrong = [name for name in names if not name.isidentifier() or keyword.iskeyword(name)]
    if wrong:
        raise ValueError(f"example_inputs has {wrong[0]!r}, which is no name of an argument")
    passed = ", ".join(f"{name}={name}" for name in names)
    defined: dict[str, Any] = {}
    exec(f"def forward(self, {', '.join(names)}):\n    return self.call(dict({passed}))\n", defined)
    kind = type(TensorFunction.__name__, (TensorFunction,), {"forward": defined["forward"]})
    return kind(model, names, conditioning_names)


class Export:
    """What all formats share: the model's function, its inputs, and what it computes from them."""

    def __init__(self, model: nn.Module, example_inputs: Inputs, other_inputs: Sequence[Inputs]) -> None:
        load()
        self.function = tensor_function(model, tuple(example_inputs))
        self.inputs = {"example_inputs": self.function.tensors(example_inputs, "example_inputs")}
        for index, inputs in enumerate(other_inputs):
            name = f"other_inputs[{index}]"
            self.inputs[name] = self.function.tensors(inputs, name)

    @property
    def example(self) -> dict[str, Tensor]:
        """The example's inputs by name."""
        return self.inputs["example_inputs"]

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Without gradients and in evaluation mode; afterwards each module is in its own mode again."""
        in_training = [module for module in self.function.modules() if module.training]
        self.function.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in in_training:
                module.training = True

    def check(self, exported: Callable[[dict[str, Tensor]], Tensor], fused_blocks: int) -> None:
        """ExportError where the exported form has fewer block_forward than the model runs, or cannot
        compute what the model does from one of the inputs."""
        for index, (name, inputs) in enumerate(self.inputs.items()):
            before = self._fused_calls()
            expected = self.function(**inputs)
            used = self._fused_calls() - before
            if index == 0 and fused_blocks < used:
                raise ExportError(
                    f"the exported model has {fused_blocks} calls of block_forward, must have {used}, as the "
                    "patched model makes them"
                )
            _check_result(name, inputs, exported, expected)

    def _fused_calls(self) -> int:
        from ..reporting import report

        return sum(block.fused_calls for block in report(self.function.model))


def _check_result(
    name: str, inputs: dict[str, Tensor], exported: Callable[[dict[str, Tensor]], Tensor], expected: Tensor
) -> None:
    sizes = ", ".join(f"{key} {list(value.shape)}" for key, value in inputs.items())
    try:
        result = exported(inputs)
    except (AssertionError, RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].removeprefix("RuntimeError: ") if lines else type(error).__name__
        raise ExportError(f"the exported model does not work with {name} ({sizes}): {reason}") from error
    if result.shape != expected.shape:
        difference = f"its result has shape {list(result.shape)}, must have {list(expected.shape)}"
    else:
        distance = ((result.double() - expected.double()).norm() / expected.double().norm()).item()
        # Far above the rounding of a whole UNet, far below what a wrong constant makes.
        largest = _rounding(expected) ** 0.5
        if distance <= largest or torch.equal(result, expected):
            return
        difference = f"its result differs by {distance:.2g} of the norm, must by at most {largest:.2g}"
    raise ExportError(f"the exported model does not work with {name} ({sizes}): {difference}")


def _rounding(result: Tensor) -> float:
    """The relative step between numbers in which products are computed: for float32 on a GPU that of TF32, in
    which PyTorch's convolutions compute by default."""
    return max(torch.finfo(result.dtype).eps, TF32_ROUNDING if result.is_cuda else 0)


def size_multiple(model: nn.Module) -> int:
    """What the height and width of a UNet's sample are multiples of where all its upsamplers double: 2 to
    their number; 1 for other models."""
    return 2 ** getattr(model, "num_upsamplers", 0)


def existing_folder(path: str | os.PathLike[str]) -> str:
    """The path as a string; ValueError where the folder to write in is missing."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"path is {os.fspath(path)}, but its folder does not exist")
    return os.fspath(path)
