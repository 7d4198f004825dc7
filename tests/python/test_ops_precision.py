"""Products of float32 on a GPU round to TF32 where torch's settings allow it, and nowhere else."""

# labels: torch gpu
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from cases import Case, Maker, block_forward
from helpers.accuracy import check_case
from helpers.operators import call, convert

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Wide enough for kernels of both kinds.
BLOCK = block_forward.Block(
    tokens=256,
    channels=320,
    heads=5,
    head_size=64,
    attn1=block_forward.Attention(adjacent=True),
    attn2=block_forward.Attention(context=(77, 768), adjacent=True),
    ff_inner=1280,
)
CASE = Case("block", partial(block_forward.arguments, block=BLOCK))


@pytest.fixture(autouse=True)
def restored_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def relative_error() -> float:
    arguments = CASE.make(Maker.seeded(torch.float32, "cuda"))
    reference = block_forward.reference(**convert(arguments, torch.Tensor.double))
    return float((call(block_forward.OPERATOR, arguments) - reference).norm() / reference.norm())


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_error_is_at_most_twice_that_of_pytorch(precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    check_case(block_forward.OPERATOR, CASE, torch.float32, torch.device("cuda"))


def test_the_setting_counts_at_each_call() -> None:
    errors = {}
    for precision in ("highest", "high", "highest"):
        torch.set_float32_matmul_precision(precision)
        errors[precision] = relative_error()
    assert errors["highest"] < 1e-5
    if torch.cuda.get_device_capability() >= (8, 0):
        assert errors["high"] > 10 * errors["highest"]


def test_allow_tf32_is_the_same_setting() -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    rounded = relative_error()
    torch.backends.cuda.matmul.allow_tf32 = False
    assert relative_error() < rounded
