"""What each operator promises about its results and arguments beside the values."""

# labels: torch gpu
import torch

from cases import Case, Maker, Operator
from helpers.operators import (
    as_tuple,
    bits,
    call,
    convert,
    every_dtype,
    every_light_case,
    every_operator,
    on_meta,
    small,
    tensors,
    used_strides,
)


def extent(value: torch.Tensor) -> range:
    """The addresses of a tensor's whole storage."""
    storage = value.untyped_storage()
    return range(storage.data_ptr(), storage.data_ptr() + storage.nbytes())


@every_light_case
@every_dtype
def test_results_are_as_the_meta_kernel_says(
    operator: Operator, case: Case, dtype: torch.dtype, device: torch.device
) -> None:
    arguments = case.make(Maker.seeded(dtype, device))
    promised = as_tuple(call(operator, convert(arguments, on_meta)))
    results = as_tuple(call(operator, arguments))
    assert len(results) == len(promised)
    for result, promise in zip(results, promised):
        assert result.shape == promise.shape
        assert used_strides(result) == used_strides(promise)
        assert result.dtype == promise.dtype == dtype
        assert result.device == next(iter(tensors(arguments).values())).device
        assert promise.device.type == "meta"
        assert not result.requires_grad


@every_light_case
@every_dtype
def test_arguments_are_left_alone(
    operator: Operator, case: Case, dtype: torch.dtype, device: torch.device
) -> None:
    arguments = case.make(Maker.seeded(dtype, device))
    whole = {name: value.untyped_storage().clone() for name, value in tensors(arguments).items()}
    results = as_tuple(call(operator, arguments))
    for name, value in tensors(arguments).items():
        before = torch.tensor(whole[name], dtype=torch.uint8, device=device)
        after = torch.tensor(value.untyped_storage(), dtype=torch.uint8, device=device)
        assert torch.equal(before, after), f"{name} changed"
        for result in results:
            own, other = extent(result), extent(value)
            assert own.stop <= other.start or other.stop <= own.start, f"a result lies in {name}"
    for index, result in enumerate(results):
        for other in results[index + 1 :]:
            assert result.numel() == 0 or extent(result).start != extent(other).start


@every_light_case
def test_two_calls_agree(operator: Operator, case: Case, device: torch.device) -> None:
    arguments = case.make(Maker.seeded(torch.float32, device))
    first, second = (as_tuple(call(operator, arguments)) for _ in range(2))
    for one, other in zip(first, second):
        assert torch.equal(bits(one), bits(other))


@every_operator
def test_autocast_changes_no_result(operator: Operator, device: torch.device) -> None:
    """Operators compute in the dtype of their arguments, or say that they cannot."""
    arguments = small(operator, device=device)
    expected = as_tuple(call(operator, arguments))
    with torch.autocast(device.type, torch.bfloat16):
        try:
            results = as_tuple(call(operator, arguments))
        except RuntimeError as error:
            assert "call it outside of autocast" in str(error)
            return
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(bits(one), bits(other))
