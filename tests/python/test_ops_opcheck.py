"""torch.library.opcheck of each operator: schema, autograd registration, fake tensors, dynamic tracing."""

# labels: torch gpu
import pytest
import torch

from cases import Maker, Operator
from helpers.operators import every_dtype, every_operator, overload, small


@every_operator
@every_dtype
def test_opcheck(operator: Operator, dtype: torch.dtype, device: torch.device) -> None:
    torch.library.opcheck(overload(operator), (), small(operator, dtype, device))


@every_operator
def test_opcheck_of_all_layouts(operator: Operator, device: torch.device) -> None:
    """The parts of opcheck that look at one call, on every case."""
    for case in operator.cases:
        if case.heavy:
            continue
        arguments = case.make(Maker.seeded(torch.float32, device))
        try:
            torch.library.opcheck(
                overload(operator), (), arguments, test_utils=("test_schema", "test_faketensor")
            )
        except Exception as error:
            pytest.fail(f"{case.id}: {error}")
