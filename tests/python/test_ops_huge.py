"""Tensors of more than 2³¹ elements: offsets and counts that do not fit into 32 bits."""

# labels: torch gpu
# alone
import pytest
import torch

from cases import Arguments, Huge, Maker
from helpers.operators import OPERATORS, as_tuple, call

every_huge_case = pytest.mark.parametrize(
    ("operator", "huge"),
    [
        pytest.param(operator, huge, id=f"{operator.name}-{huge.id}")
        for operator in OPERATORS
        for huge in operator.huge
    ],
)
SPARE = 4 << 30


def available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    return int(fields["MemAvailable"].split()[0]) << 10


def pieces(rows: int, columns: int) -> list[slice]:
    """The first rows, those around element 2³¹, and the last."""
    middle = min(2**31 // columns, rows - 2)
    return [slice(0, 2), slice(max(0, middle - 2), middle + 2), slice(rows - 2, rows)]


@every_huge_case
def test_huge_tensors(operator, huge: Huge, device: torch.device) -> None:
    # On a GPU untouched memory counts as well.
    needed = huge.memory + SPARE + (2**33 if device.type == "cuda" else 0)
    if available_bytes(device) < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free memory")
    arguments = huge.make(Maker.seeded(torch.bfloat16, device))
    results = as_tuple(call(operator, arguments))
    rows, columns = results[0].shape[0], results[0].numel() // results[0].shape[0]
    for piece in pieces(rows, columns):
        part: Arguments = {
            name: value[piece] if name in huge.rows else value for name, value in arguments.items()
        }
        for result, expected in zip(results, as_tuple(call(operator, part)), strict=True):
            assert torch.equal(result[piece], expected)
        # Copies, since PyTorch's own functions need not manage such strides.
        copies = {name: value.contiguous() if name in huge.rows else value for name, value in part.items()}
        for result, expected in zip(results, as_tuple(operator.eager(**copies)), strict=True):
            torch.testing.assert_close(result[piece], expected, rtol=2e-2, atol=2e-2)
