"""The functions of ds_diffusers.ops are the operators: same arguments, same defaults, same results."""

# labels: torch
import inspect

import ds_diffusers
import pytest
import torch
from cases import Maker, Operator
from ds_diffusers.ops import ActivationFuncType
from helpers.operators import as_tuple, call, every_operator, overload


@every_operator
def test_results(operator: Operator) -> None:
    arguments = operator.growing.make(Maker.seeded(torch.float32), 3)
    function = getattr(ds_diffusers.ops, operator.name)
    found, expected = as_tuple(function(**arguments)), as_tuple(call(operator, arguments))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@every_operator
def test_signature(operator: Operator) -> None:
    schema = overload(operator)._schema.arguments
    parameters = inspect.signature(getattr(ds_diffusers.ops, operator.name)).parameters
    assert list(parameters) == [argument.name for argument in schema]
    for argument in schema:
        parameter = parameters[argument.name]
        assert (parameter.kind is parameter.KEYWORD_ONLY) == argument.kwarg_only
        assert (parameter.default is parameter.empty) == (not argument.has_default_value())
        if argument.has_default_value():
            assert parameter.default == argument.default_value
        assert ("None" in str(parameter.annotation)) == str(argument.type).startswith("Optional")


@every_operator
def test_documentation(operator: Operator) -> None:
    """Each argument is described, block_forward's by patterns."""
    documentation = inspect.getdoc(getattr(ds_diffusers.ops, operator.name))
    assert "Args:" in documentation and "Returns:" in documentation
    if operator.name != "block_forward":
        for name in inspect.signature(getattr(ds_diffusers.ops, operator.name)).parameters:
            assert name in documentation


@every_operator
def test_compile(operator: Operator) -> None:
    torch._dynamo.reset()
    arguments = operator.growing.make(Maker.seeded(torch.float32), 3)
    function = getattr(ds_diffusers.ops, operator.name)
    compiled = torch.compile(lambda arguments: function(**arguments), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(arguments), function(**arguments))


def test_activation_types() -> None:
    """The numbers are DeepSpeed's."""
    assert {kind.name: kind.value for kind in ActivationFuncType} == {
        "UNKNOWN": 0,
        "GELU": 1,
        "ReLU": 2,
        "GATED_GELU": 3,
        "GATED_SILU": 4,
    }


@pytest.mark.parametrize("kind", [ActivationFuncType.GATED_GELU, ActivationFuncType.GATED_SILU])
def test_activation_types_as_arguments(kind: ActivationFuncType) -> None:
    activation = torch.randn(3, 8)
    function = ds_diffusers.ops.gated_activation
    assert torch.equal(function(activation, None, kind), function(activation, None, int(kind)))
