"""torch.export of each operator with dynamic sizes, and the compiled package that AOTInductor makes of it."""

# labels: torch
from pathlib import Path

import pytest
import torch

from cases import Arguments, Maker, Operator
from helpers.operators import as_tuple, call, every_operator, tensors


class Exported(torch.nn.Module):
    """The operator as a module, with pointwise operations before and after it."""

    def __init__(self, operator: Operator, others: Arguments) -> None:
        super().__init__()
        self.operator = operator
        self.others = others

    def forward(self, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        changed = {name: value * 0.5 for name, value in given.items()}
        return tuple(result.cos() for result in as_tuple(call(self.operator, changed | self.others)))


def export(operator: Operator) -> tuple[Exported, torch.export.ExportedProgram]:
    """A program for any sizes of the dimensions that the operator's table says are dynamic."""
    arguments = operator.growing.make(Maker.seeded(torch.float32), 2)
    given = tensors(arguments)
    module = Exported(operator, {name: value for name, value in arguments.items() if name not in given})
    names = {name for dimensions in operator.growing.dynamic.values() for name in dimensions.values()}
    dims = {name: torch.export.Dim(name) for name in names}
    dynamic = {
        name: {number: dims[dim] for number, dim in operator.growing.dynamic.get(name, {}).items()}
        for name in given
    }
    return module, torch.export.export(module, (given,), dynamic_shapes=(dynamic,))


def check(module: torch.nn.Module, other: torch.nn.Module, operator: Operator) -> None:
    for size in (2, 3, 7):
        given = tensors(operator.growing.make(Maker.seeded(torch.float32, seed=size), size))
        for one, two in zip(other(given), module(given), strict=True):
            torch.testing.assert_close(one, two)


@every_operator
def test_exported_program_runs_with_other_sizes(operator: Operator, tmp_path: Path) -> None:
    module, program = export(operator)
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert getattr(torch.ops.ds_diffusers, operator.name).default in targets
    check(module, program.module(), operator)
    torch.export.save(program, tmp_path / "program.pt2")
    check(module, torch.export.load(tmp_path / "program.pt2").module(), operator)


@every_operator
def test_aot_inductor_package_runs_with_other_sizes(operator: Operator, tmp_path: Path) -> None:
    module, program = export(operator)
    try:
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=str(tmp_path / "package.pt2")
        )
    except torch._inductor.exc.InvalidCxxCompiler:
        pytest.skip("AOTInductor needs a C++ compiler, and finds none")
    check(module, torch._inductor.aoti_load_package(package), operator)
