"""Each operator on each case, dtype and device, against a float64 reference."""

# labels: torch gpu
import torch

from cases import Case, Operator
from helpers.accuracy import check_case
from helpers.operators import every_case, every_dtype


@every_case
@every_dtype
def test_error_is_at_most_twice_that_of_pytorch(
    operator: Operator, case: Case, dtype: torch.dtype, device: torch.device
) -> None:
    check_case(operator, case, dtype, device)
