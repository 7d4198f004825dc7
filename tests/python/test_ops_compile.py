"""torch.compile of each operator among PyTorch's own, without a graph break, for one size and for any."""

# labels: torch gpu
from collections.abc import Callable

import pytest
import torch

from cases import Arguments, Maker, Operator
from helpers.operators import as_tuple, call, convert, every_operator, small


def surrounded(operator: Operator) -> Callable[[Arguments], tuple[torch.Tensor, ...]]:
    """The operator between pointwise ones, which the compiler fuses and whose layouts it may choose."""

    def function(arguments: Arguments) -> tuple[torch.Tensor, ...]:
        twisted = convert(
            arguments, lambda value: (value.transpose(-1, 0).contiguous() * 0.5).transpose(-1, 0)
        )
        return tuple(result.sin() + 1 for result in as_tuple(call(operator, twisted)))

    return function


@pytest.fixture(autouse=True)
def forget_compiled_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check(function: Callable, compiled: Callable, arguments: Arguments) -> None:
    for one, other in zip(compiled(arguments), function(arguments), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other)


@every_operator
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_graph_agrees(operator: Operator, dynamic: bool, device: torch.device) -> None:
    function = surrounded(operator)
    graphs = 0

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        nonlocal graphs
        graphs += 1
        return torch._inductor.compile(module, inputs)

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=backend)
    for size in (2, 5, 3) if dynamic else (2, 2):
        check(function, compiled, operator.growing.make(Maker.seeded(torch.float32, device, size), size))
    assert graphs == 1


@every_operator
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_a_wrong_dtype_fails_while_it_is_traced(
    operator: Operator, dynamic: bool, device: torch.device
) -> None:
    arguments = convert(small(operator, device=device), torch.Tensor.double)
    traced = []

    def backend(module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable:
        traced.append(module)
        return module.forward

    compiled = torch.compile(surrounded(operator), fullgraph=True, dynamic=dynamic, backend=backend)
    with pytest.raises(RuntimeError, match="has dtype float64, must be float32, float16 or bfloat16"):
        compiled(arguments)
    assert not traced
