"""The operators as TorchScript, written from their schemas."""

import importlib.util
import warnings
from pathlib import Path

import torch

from cases import Arguments, Operator

from .operators import overload, tensors


def schema_defaults(operator: Operator) -> Arguments:
    """The arguments that may be left out, with their values then."""
    arguments = overload(operator)._schema.arguments
    return {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}


def scripted_operator(operator: Operator) -> torch.jit.ScriptFunction:
    """A function that takes all of the operator's arguments by name."""
    schema = overload(operator)._schema
    parameters = ", ".join(f"{argument.name}: {argument.type}" for argument in schema.arguments)
    passed = ", ".join(f"{argument.name}={argument.name}" for argument in schema.arguments)
    returned = ", ".join(str(result.type) for result in schema.returns)
    returned = returned if len(schema.returns) == 1 else f"Tuple[{returned}]"
    call = f"torch.ops.ds_diffusers.{operator.name}({passed})"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unit = torch.jit.CompilationUnit(f"def call({parameters}) -> {returned}:\n    return {call}\n")
    return unit.call


def inputs(operator: Operator, arguments: Arguments) -> dict[str, torch.Tensor]:
    """Those tensors whose sizes change from call to call; the others are a module's parameters."""
    return {name: value for name, value in tensors(arguments).items() if name in operator.growing.dynamic}


def layer(operator: Operator, arguments: Arguments, folder: Path) -> torch.nn.Module:
    """A module that holds all arguments but the inputs. Its source lies in `folder`, for torch.jit.script."""
    names = list(inputs(operator, arguments))
    others = {name: value for name, value in arguments.items() if name not in names}
    passed = [f"{name}={name}" for name in names]
    passed += [
        f"{name}=self.{name}" if isinstance(value, torch.Tensor) else f"{name}={value!r}"
        for name, value in others.items()
    ]
    source = folder / f"{operator.name}_layer.py"
    source.write_text(
        "import torch\n\n\n"
        "class Layer(torch.nn.Module):\n"
        f"    def forward(self, {', '.join(f'{name}: torch.Tensor' for name in names)}):\n"
        f"        return torch.ops.ds_diffusers.{operator.name}({', '.join(passed)})\n"
    )
    spec = importlib.util.spec_from_file_location(source.stem, source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.Layer()
    for name, value in tensors(others).items():
        made.register_buffer(name, value)
    return made.eval()
