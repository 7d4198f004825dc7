"""Each operator on random sizes, strides and dtypes, which hypothesis makes smaller where one fails."""

# labels: torch gpu
from random import Random

import torch
from hypothesis import HealthCheck, given, settings, strategies

from cases import Maker, Operator
from helpers.accuracy import Errors, check_arguments
from helpers.operators import DTYPES, as_tuple, call, convert, every_operator, on_meta, used_strides


@every_operator
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    dtype=strategies.sampled_from(DTYPES),
    seed=strategies.integers(0, 2**31),
    random=strategies.randoms(use_true_random=False),
)
def test_random_arguments(
    operator: Operator, dtype: torch.dtype, seed: int, random: Random, device: torch.device
) -> None:
    arguments = operator.random(Maker.seeded(dtype, device, seed), random)
    errors: list[Errors] = []
    results = check_arguments(operator, arguments, errors)
    for index, found in enumerate(errors):
        # A single draw of few elements may happen to be rounded well by PyTorch.
        found.torch_largest += torch.finfo(dtype).eps * found.reference_largest
        found.torch_squares += torch.finfo(dtype).eps ** 2 * found.reference_squares
        found.check(dtype, f"result {index}")
    for result, promise in zip(results, as_tuple(call(operator, convert(arguments, on_meta))), strict=True):
        assert result.shape == promise.shape
        assert used_strides(result) == used_strides(promise)
