"""TorchScript of each operator: scripted, traced, frozen, saved and loaded."""

# labels: torch gpu
import io
from pathlib import Path

import pytest
import torch

from cases import Maker, Operator
from helpers.operators import as_tuple, bits, call, every_operator
from helpers.scripts import inputs, layer, schema_defaults, scripted_operator

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning"
)


def check_same(one, other) -> None:
    for first, second in zip(as_tuple(one), as_tuple(other), strict=True):
        assert torch.equal(bits(first), bits(second))


def check_layer(module: torch.nn.Module, operator: Operator, device: torch.device) -> None:
    """The layer's parameters were made for size 2; its inputs may have any."""
    fixed = operator.growing.make(Maker.seeded(torch.float32, device), 2)
    for size in (2, 3, 5):
        given = inputs(operator, operator.growing.make(Maker.seeded(torch.float32, device, seed=size), size))
        for _ in range(3):  # the second call is the one that TorchScript optimises
            check_same(module(*given.values()), call(operator, fixed | given))


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@every_operator
def test_scripted_call_agrees_on_every_case(operator: Operator, device: torch.device) -> None:
    scripted = scripted_operator(operator)
    for case in operator.cases:
        if case.heavy:
            continue
        arguments = case.make(Maker.seeded(torch.float32, device))
        check_same(scripted(**(schema_defaults(operator) | arguments)), call(operator, arguments))


@every_operator
@pytest.mark.parametrize("how", ["script", "trace"])
def test_frozen_and_saved_layer_agrees(
    operator: Operator, how: str, device: torch.device, tmp_path: Path
) -> None:
    arguments = operator.growing.make(Maker.seeded(torch.float32, device), 2)
    module = layer(operator, arguments, tmp_path)
    examples = tuple(inputs(operator, arguments).values())
    graph = torch.jit.script(module) if how == "script" else torch.jit.trace(module, examples)
    check_layer(graph, operator, device)
    check_layer(saved_and_loaded(graph), operator, device)
    frozen = torch.jit.freeze(graph)
    assert f"ds_diffusers::{operator.name}" in str(frozen.graph)
    check_layer(frozen, operator, device)
    check_layer(saved_and_loaded(frozen), operator, device)


@every_operator
def test_error_in_a_script_names_the_argument(operator: Operator, device: torch.device) -> None:
    wrong = next(wrong for wrong in operator.wrong if not wrong.only_on)
    arguments = schema_defaults(operator) | wrong.make(Maker.seeded(wrong.dtype, device))
    with pytest.raises(RuntimeError, match=wrong.message):
        scripted_operator(operator)(**arguments)
