"""Gradients of the single operators against those of PyTorch's own functions in float64: the error is at most
twice that of PyTorch's in the same dtype. block_forward has none and says so."""

# labels: torch gpu
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import ds_diffusers
import pytest
import torch
from cases import Arguments, Case, Maker, Operator
from ds_diffusers.ops import ActivationFuncType
from helpers.accuracy import Errors, draws
from helpers.operators import OPERATORS, as_tuple, call, every_dtype, overload, tensors

DIFFERENTIABLE = [operator for operator in OPERATORS if operator.name != "block_forward"]
BLOCK_FORWARD = next(operator for operator in OPERATORS if operator.name == "block_forward")


def kinds(operator: Operator) -> list[Case]:
    """One case of those whose names differ in their numbers alone: the formulas are PyTorch's, whatever the
    size."""
    return list({re.sub(r"\d+", "", case.id): case for case in operator.cases if not case.heavy}.values())


every_operator = pytest.mark.parametrize("operator", DIFFERENTIABLE, ids=lambda operator: operator.name)
every_kind_of_case = pytest.mark.parametrize(
    ("operator", "case"),
    [
        pytest.param(operator, case, id=f"{operator.name}-{case.id}")
        for operator in DIFFERENTIABLE
        for case in kinds(operator)
    ],
)


def call_named(operator: Operator, **arguments: object) -> object:
    return call(operator, arguments)


def call_function(operator: Operator, **arguments: object) -> object:
    return getattr(ds_diffusers.ops, operator.name)(**arguments)


every_way = pytest.mark.parametrize("way", [call_named, call_function])


def leaves(arguments: Arguments, needed: set[str]) -> Arguments:
    """The arguments with new leaves for tensors, of the same memory layout; those in `needed` require
    gradients."""
    return {
        name: value.detach().requires_grad_(name in needed) if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }


def gradients(
    function: Callable[..., object],
    arguments: Arguments,
    needed: set[str],
    upstream: tuple[torch.Tensor, ...],
) -> dict[str, torch.Tensor]:
    """Of the sum of the results, each times its `upstream`."""
    made = leaves(arguments, needed)
    results = as_tuple(function(**made))
    wanted = {name: made[name] for name in sorted(needed)}
    upstream = tuple(value.to(results[0].dtype) for value in upstream)
    found = torch.autograd.grad(
        results, list(wanted.values()), upstream, allow_unused=True, materialize_grads=True
    )
    return dict(zip(wanted, found, strict=True))


def upstream_of(operator: Operator, maker: Maker, arguments: Arguments) -> tuple[torch.Tensor, ...]:
    """Gradients of the results, as they come from the rest of a network."""
    return tuple(maker.normal(*result.shape) for result in as_tuple(operator.eager(**arguments)))


def in_double(arguments: Arguments) -> Arguments:
    return {
        name: value.cpu().double() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }


def sample(
    operator: Operator, device: torch.device, size: int = 3
) -> tuple[Arguments, set[str], tuple[torch.Tensor, ...]]:
    """Arguments with all tensors given, these tensors' names, and gradients of the results."""
    maker = Maker.seeded(torch.float32, device)
    arguments = operator.growing.make(maker, size)
    return arguments, set(tensors(arguments)), upstream_of(operator, maker, arguments)


@every_kind_of_case
@every_dtype
def test_error_is_at_most_twice_that_of_pytorch(
    operator: Operator, case: Case, dtype: torch.dtype, device: torch.device
) -> None:
    errors: dict[str, Errors] = {}
    seed, count = 0, 1
    while seed < count:
        maker = Maker.seeded(dtype, device, seed)
        arguments = case.make(maker)
        upstream = upstream_of(operator, maker, arguments)
        count = draws(upstream)
        needed = set(tensors(arguments))
        own = gradients(partial(call_named, operator), arguments, needed, upstream)
        eager = gradients(operator.eager, arguments, needed, upstream)
        upstream = tuple(value.cpu() for value in upstream)
        reference = gradients(operator.reference, in_double(arguments), needed, upstream)
        for name in needed:
            assert own[name].dtype == dtype
            assert own[name].shape == arguments[name].shape
            errors.setdefault(name, Errors()).add(own[name].cpu(), eager[name].cpu(), reference[name])
        seed += 1
    for name, found in errors.items():
        found.check(dtype, f"gradient of {name}")


@every_operator
def test_each_argument_alone(operator: Operator, device: torch.device) -> None:
    """Only what needs a gradient gets one, and it is the same as with all others."""
    arguments, needed, upstream = sample(operator, device)
    together = gradients(partial(call_named, operator), arguments, needed, upstream)
    for name in needed:
        alone = gradients(partial(call_named, operator), arguments, {name}, upstream)
        assert torch.equal(alone[name], together[name])


@every_operator
def test_each_result_alone(operator: Operator, device: torch.device) -> None:
    def pick(function: Callable[..., object], index: int) -> Callable[..., torch.Tensor]:
        return lambda **arguments: as_tuple(function(**arguments))[index]

    arguments, needed, upstream = sample(operator, device)
    for index in range(len(upstream)):
        found, expected = (
            gradients(pick(function, index), arguments, needed, upstream[index : index + 1])
            for function in (partial(call_named, operator), operator.eager)
        )
        torch.testing.assert_close(found, expected)


@every_operator
def test_upstream_gradients_of_any_layout(operator: Operator, device: torch.device) -> None:
    """A sum's gradient, for one, has strides of 0."""
    arguments, needed, upstream = sample(operator, device)
    layouts = (
        lambda value: torch.ones((), device=device).expand_as(value),
        lambda value: value.transpose(0, -1).contiguous().transpose(0, -1),
    )
    for layout in layouts:
        laid_out = tuple(layout(value) for value in upstream)
        found = gradients(partial(call_named, operator), arguments, needed, laid_out)
        expected = gradients(operator.eager, arguments, needed, laid_out)
        torch.testing.assert_close(found, expected)


@every_operator
def test_gradients_of_gradients(operator: Operator, device: torch.device) -> None:
    arguments, _, upstream = sample(operator, device)
    check_gradients_of_gradients(operator, arguments, upstream)


def test_gradients_of_gradients_through_silu(device: torch.device) -> None:
    """gated_activation's other function."""
    operator = next(operator for operator in DIFFERENTIABLE if operator.name == "gated_activation")
    arguments, _, upstream = sample(operator, device)
    arguments["activation_type"] = ActivationFuncType.GATED_SILU
    check_gradients_of_gradients(operator, arguments, upstream)


def check_gradients_of_gradients(
    operator: Operator, arguments: Arguments, upstream: tuple[torch.Tensor, ...]
) -> None:
    needed = set(tensors(arguments))
    second = []
    for function in (partial(call_named, operator), operator.eager):
        made = leaves(arguments, needed)
        first = next(iter(made.values()))
        # The square makes the sums, which are linear, have a second derivative as well.
        results = tuple(result.square() for result in as_tuple(function(**made)))
        (gradient,) = torch.autograd.grad(results, first, upstream, create_graph=True)
        second += torch.autograd.grad(gradient.square().sum(), first)
    torch.testing.assert_close(*second, rtol=1e-3, atol=1e-3)


@every_operator
def test_compiled_training(operator: Operator, device: torch.device) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(partial(call_named, operator), fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (3, 4, 7):
        arguments, needed, upstream = sample(operator, device, size)
        found = gradients(compiled, arguments, needed, upstream)
        expected = gradients(partial(call_named, operator), arguments, needed, upstream)
        torch.testing.assert_close(found, expected)


@every_operator
def test_registration(operator: Operator, device: torch.device) -> None:
    arguments, needed, _ = sample(operator, device)
    torch.library.opcheck(overload(operator), (), leaves(arguments, needed))


@every_operator
@every_way
def test_without_grad_mode(operator: Operator, way: Callable[..., object], device: torch.device) -> None:
    arguments, needed, _ = sample(operator, device)
    made = leaves(arguments, needed)
    with torch.no_grad():
        assert not any(result.requires_grad for result in as_tuple(way(operator, **made)))
    with torch.inference_mode():
        assert all(result.is_inference() for result in as_tuple(way(operator, **made)))
    assert all(result.requires_grad for result in as_tuple(way(operator, **made)))


@every_operator
def test_a_failed_call_leaves_gradients_on(operator: Operator, device: torch.device) -> None:
    arguments, needed, _ = sample(operator, device)
    wrong = {name: value.double() if torch.is_tensor(value) else value for name, value in arguments.items()}
    with torch.no_grad(), pytest.raises(RuntimeError, match="float64"):
        call_function(operator, **wrong)
    results = as_tuple(call_function(operator, **leaves(arguments, needed)))
    assert all(result.requires_grad for result in results)


def test_a_sum_that_was_changed_in_place() -> None:
    """The backward pass needs it, and PyTorch notices."""
    made = torch.randn(3, 8, requires_grad=True)
    output, total = ds_diffusers.ops.layer_norm_residual_store_pre_ln_res(made, None, torch.randn(3, 8))
    with torch.no_grad():
        total.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def of_tensors(
    function: Callable[..., object], arguments: Arguments, upstream: tuple[torch.Tensor, ...]
) -> tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]:
    """The sum of the results, squared and each times its `upstream`, as a function of the tensors alone, and
    these."""
    given = tensors(arguments)

    def total(*values: torch.Tensor) -> torch.Tensor:
        results = as_tuple(function(**arguments | dict(zip(given, values, strict=True))))
        return sum((result.square() * factor).sum() for result, factor in zip(results, upstream))

    return total, tuple(given.values())


def both(
    operator: Operator, device: torch.device, way: Callable[..., object] = call_named
) -> tuple[tuple, tuple[torch.Tensor, ...]]:
    """The operator and PyTorch's functions as `of_tensors`, and the tensors."""
    arguments, _, upstream = sample(operator, device)
    own, values = of_tensors(partial(way, operator), arguments, upstream)
    eager, _ = of_tensors(operator.eager, arguments, upstream)
    return (own, eager), values


@every_operator
@every_way
def test_function_transforms(operator: Operator, way: Callable[..., object], device: torch.device) -> None:
    functions, values = both(operator, device, way)
    every = tuple(range(len(values)))
    # Sums of products, which cuBLAS need not cut into the same parts.
    within = {"rtol": 1e-5, "atol": 1e-4}
    torch.testing.assert_close(
        *(torch.func.grad(function, every)(*values) for function in functions), **within
    )
    one = torch.ones((), device=device)
    torch.testing.assert_close(
        *(torch.func.vjp(function, *values)[1](one) for function in functions), **within
    )


@every_operator
@every_way
def test_nested_function_transforms(
    operator: Operator, way: Callable[..., object], device: torch.device
) -> None:
    """A level that missed what another one computes would give wrong numbers, not an error."""
    functions, (first, *others) = both(operator, device, way)

    def second_derivative(function: Callable[..., torch.Tensor]) -> torch.Tensor:
        def slope(value: torch.Tensor) -> torch.Tensor:
            return torch.func.grad(function)(value, *others).square().sum()

        return torch.func.grad(slope)(first)

    torch.testing.assert_close(*map(second_derivative, functions), rtol=1e-3, atol=1e-3)


@every_operator
@pytest.mark.filterwarnings("ignore:.*batching rule")
def test_gradients_of_a_batch(operator: Operator, device: torch.device) -> None:
    functions, values = both(operator, device)
    batch = tuple(torch.stack((value, 2 * value, value.flip(0))) for value in values)
    found, expected = (torch.vmap(torch.func.grad(function))(*batch) for function in functions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_operator
@every_way
@pytest.mark.parametrize("state", [nullcontext, torch.no_grad])
def test_tangents_are_refused(
    operator: Operator,
    way: Callable[..., object],
    state: Callable[[], AbstractContextManager],
    device: torch.device,
) -> None:
    """They would be zero in silence."""
    (own, _), (first, *others) = both(operator, device, way)
    reason = f"ds_diffusers::{operator.name} has no forward-mode derivative"
    with pytest.raises(RuntimeError, match=reason):
        torch.func.jvp(lambda value: own(value, *others), (first,), (first,))
    with torch.autograd.forward_ad.dual_level(), state():
        expected = own(first, *others)
        with pytest.raises(RuntimeError, match=reason):
            own(torch.autograd.forward_ad.make_dual(first, first), *others)
        assert torch.equal(own(first, *others), expected)


def block_leaves(device: torch.device, needed: set[str]) -> Arguments:
    return leaves(BLOCK_FORWARD.growing.make(Maker.seeded(torch.float32, device), 3), needed)


@pytest.mark.parametrize("needed", ["hidden_states", "attn2_context", "ff_out_weight", "norm1_bias"])
def test_block_forward_has_none(needed: str, device: torch.device) -> None:
    made = block_leaves(device, {needed})
    expected = call(BLOCK_FORWARD, block_leaves(device, set()))
    result = call(BLOCK_FORWARD, made)
    assert result.requires_grad and not expected.requires_grad
    assert torch.equal(result, expected)
    with pytest.raises(RuntimeError, match="block_forward is for inference and has no gradient"):
        result.sum().backward()
    with torch.no_grad():
        assert not call(BLOCK_FORWARD, made).requires_grad


def test_block_forward_in_function_transforms(device: torch.device) -> None:
    made = block_leaves(device, set())
    states = made.pop("hidden_states")

    def total(value: torch.Tensor) -> torch.Tensor:
        return call(BLOCK_FORWARD, made | {"hidden_states": value}).sum()

    with pytest.raises(RuntimeError, match="block_forward is for inference and has no gradient"):
        torch.func.grad(total)(states)
    with pytest.raises(RuntimeError, match="block_forward has no forward-mode derivative"):
        torch.func.jvp(total, (states,), (states,))


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_block_forward_compiled_for_training() -> None:
    torch._dynamo.reset()
    made = block_leaves(torch.device("cpu"), {"hidden_states"})
    compiled = torch.compile(partial(call_named, BLOCK_FORWARD), fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="block_forward is for inference and has no gradient"):
        compiled(**made).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(compiled(**made), call(BLOCK_FORWARD, made))
