"""Each argument of each operator, wrong in each way: an error that says so, and no harm done."""

# labels: torch gpu
import re

import pytest
import torch

from cases import Maker, Operator, Wrong
from helpers.operators import (
    as_tuple,
    bits,
    call,
    convert,
    every_operator,
    every_wrong_case,
    on_meta,
    overload,
    small,
    tensors,
)


@every_wrong_case
def test_wrong_argument_is_refused(operator: Operator, wrong: Wrong, device: torch.device) -> None:
    if wrong.only_on not in ("", device.type):
        pytest.skip(f"needs tensors on {wrong.only_on}")
    arguments = wrong.make(Maker.seeded(wrong.dtype, device))
    with pytest.raises(RuntimeError) as raised:
        call(operator, arguments)
    assert re.fullmatch(wrong.message, str(raised.value)), str(raised.value)


@every_operator
def test_none_for_a_required_tensor_is_refused(operator: Operator, device: torch.device) -> None:
    arguments = small(operator, device=device)
    if len(tensors(arguments)) == 1:
        pytest.skip("PyTorch itself refuses a call without any tensor")
    schema = overload(operator)._schema
    required = [argument.name for argument in schema.arguments if str(argument.type) == "Tensor"]
    assert required
    for name in required:
        with pytest.raises(RuntimeError) as raised:
            call(operator, arguments | {name: None})
        assert str(raised.value) == f"ds_diffusers::{operator.name}: {name} is None, must be a tensor"


@every_operator
def test_one_meta_tensor_among_others_is_refused(operator: Operator, device: torch.device) -> None:
    """One is enough for the dispatcher to choose the Meta kernel, whose results have no values."""
    arguments = small(operator, device=device)
    given = tensors(arguments)
    if len(given) == 1:
        pytest.skip("the operator takes one tensor alone")
    for name in given:
        with pytest.raises(RuntimeError, match="is not on meta, must be on meta, as another tensor is"):
            call(operator, arguments | {name: on_meta(given[name])})


@every_operator
def test_wrong_dtypes_are_refused_on_meta(operator: Operator) -> None:
    """In the same words, but for tensors that may be of a dtype of their own: so tracing refuses them."""
    refused = 0
    for wrong in operator.wrong:
        if re.escape("has dtype") not in wrong.message or wrong.only_on:
            continue
        try:
            call(operator, convert(wrong.make(Maker.seeded(wrong.dtype)), on_meta))
        except RuntimeError as error:
            assert re.fullmatch(wrong.message, str(error)), str(error)
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_residual_store_pre_ln_res", "gated_activation"])
def test_rank_65_is_refused(name: str, device: torch.device) -> None:
    many = torch.ones([1] * 64 + [2], device=device)
    arguments = {"gated_activation": (None, 3), "layer_norm": ()}.get(name, (None, many))
    with pytest.raises(RuntimeError, match="has rank 65, must be of rank 64 or less"):
        getattr(torch.ops.ds_diffusers, name)(many, *arguments)


@every_operator
def test_result_after_an_error_is_that_of_before(operator: Operator, device: torch.device) -> None:
    arguments = small(operator, device=device)
    before = as_tuple(call(operator, arguments))
    for wrong in operator.wrong:
        if wrong.only_on not in ("", device.type):
            continue
        with pytest.raises(RuntimeError):
            call(operator, wrong.make(Maker.seeded(wrong.dtype, device)))
    for one, other in zip(before, as_tuple(call(operator, arguments))):
        assert torch.equal(bits(one), bits(other))
