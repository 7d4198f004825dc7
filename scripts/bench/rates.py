"""What the device reaches in this run: bytes a second of a large copy, operations a second of a large matrix
product. No kernel that moves or computes as much is expected to take less than the roofline they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .products import Product, part_timer
from .rotation import CACHES, cache_bytes
from .timing import Call, Timer, device_timer, in_rounds

LARGE_COPY_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}  # read and written
LARGE_PRODUCT = {"cuda": Product(8192, 8192, 8192), "cpu": Product(1024, 1024, 1024)}
ROUNDS = 5


@dataclass(frozen=True)
class Rates:
    bytes_per_second: float
    operations_per_second: dict[torch.dtype, float]

    def seconds(self, size: int, operations: int, dtype: torch.dtype) -> float:
        """The roofline: moving the bytes or computing the operations, whichever takes longer."""
        return max(size / self.bytes_per_second, operations / self.operations_per_second[dtype])

    def as_json(self) -> dict[str, Any]:
        """For the file's environment."""
        products = {
            str(dtype).removeprefix("torch."): rate for dtype, rate in self.operations_per_second.items()
        }
        return {"copy_bytes_per_second": self.bytes_per_second, "gemm_operations_per_second": products}


@torch.no_grad()
def measured_rates(device: torch.device, dtypes: Sequence[torch.dtype]) -> Rates:
    size = max(LARGE_COPY_BYTES[device.type], CACHES * cache_bytes(device))
    product = LARGE_PRODUCT[device.type]
    return Rates(
        size / _median(device_timer(copies(size, 2, device), device)),
        {dtype: product.operations / _median(part_timer(product, dtype, device)) for dtype in dtypes},
    )


def _median(timer: Timer) -> float:
    return in_rounds({"": timer}, ROUNDS)[""].median


def copies(size: int, count: int, device: torch.device) -> list[Call]:
    """Calls that read and write `size` bytes in all, by a kernel: a copy of PyTorch's is not always one, and
    slower where it is not."""
    calls = []
    for _ in range(count):
        source = torch.randn(max(size // 8, 1), dtype=torch.float32, device=device)
        calls.append(partial(torch.neg, source, out=torch.empty_like(source)))
    return calls
