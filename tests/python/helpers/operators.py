"""The operators' case tables as pytest parameters, and calls of the operators on them."""

from collections.abc import Callable

import pytest
import torch

from cases import Arguments, Maker, Operator, operators

OPERATORS = operators()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_case = pytest.mark.parametrize(
    ("operator", "case"),
    [
        pytest.param(operator, case, id=f"{operator.name}-{case.id}")
        for operator in OPERATORS
        for case in operator.cases
    ],
)
every_light_case = pytest.mark.parametrize(
    ("operator", "case"),
    [
        pytest.param(operator, case, id=f"{operator.name}-{case.id}")
        for operator in OPERATORS
        for case in operator.cases
        if not case.heavy
    ],
)
every_wrong_case = pytest.mark.parametrize(
    ("operator", "wrong"),
    [
        pytest.param(operator, wrong, id=f"{operator.name}-{wrong.id}")
        for operator in OPERATORS
        for wrong in operator.wrong
    ],
)


def overload(operator: Operator) -> Callable:
    """The registered operator, as torch.library's functions take it."""
    return getattr(torch.ops.ds_diffusers, operator.name).default


def call(operator: Operator, arguments: Arguments):
    return getattr(torch.ops.ds_diffusers, operator.name)(**arguments)


def as_tuple(results) -> tuple[torch.Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def convert(arguments: Arguments, change: Callable[[torch.Tensor], torch.Tensor]) -> Arguments:
    """The arguments with each tensor changed."""
    return {
        name: change(value) if isinstance(value, torch.Tensor) else value for name, value in arguments.items()
    }


def tensors(arguments: Arguments) -> dict[str, torch.Tensor]:
    return {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}


def on_meta(value: torch.Tensor) -> torch.Tensor:
    """A tensor without memory, of the same sizes and strides."""
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="meta")


def used_strides(value: torch.Tensor) -> list[int]:
    """The strides that reach an element: those of a dimension of size 1, or of an empty tensor, do not, and
    torch.empty_like itself has others on "meta" than elsewhere."""
    if value.numel() == 0:
        return []
    return [stride for size, stride in zip(value.shape, value.stride()) if size != 1]


def small(
    operator: Operator, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Arguments:
    """An ordinary set of arguments."""
    return operator.growing.make(Maker.seeded(dtype, device), 2)


def bits(value: torch.Tensor) -> torch.Tensor:
    """The elements as integers, for comparisons in which a NaN equals itself."""
    return value.contiguous().view({2: torch.int16, 4: torch.int32}[value.element_size()])
