"""What two ways of computing the same latents took, and how far their results lie apart."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor


@dataclass
class Difference:
    """Largest and mean absolute difference."""

    largest: float
    mean: float

    def __str__(self) -> str:
        return f"{self.largest:.2e} largest, {self.mean:.2e} mean"


def difference(first: Tensor, second: Tensor) -> Difference:
    """Of all elements, computed in float64 on the CPU."""
    distance = (first.double().cpu() - second.double().cpu()).abs()
    return Difference(distance.max().item(), distance.mean().item())


@dataclass
class Comparison:
    """The final latents of a plain and of a patched loop, and the seconds of each step."""

    plain: Tensor
    patched: Tensor
    plain_seconds: list[float]
    patched_seconds: list[float]

    @property
    def difference(self) -> Difference:
        """Of the final latents."""
        return difference(self.plain, self.patched)

    @property
    def finite(self) -> bool:
        """Whether all latents are."""
        return bool(torch.isfinite(self.plain).all() and torch.isfinite(self.patched).all())

    def speed(self) -> str:
        """Median seconds of a step in both ways, and their ratio."""
        plain, patched = median(self.plain_seconds), median(self.patched_seconds)
        return (
            f"{plain:.4g} as diffusers runs it, {patched:.4g} patched: {plain / patched:.2f} times as fast "
            f"(median step of {len(self.plain_seconds)} each)"
        )


def reference_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype to set a difference against: float32 for the halves, bfloat16 for float32."""
    return torch.bfloat16 if dtype == torch.float32 else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """As --dtype has it: "float16"."""
    return str(dtype).removeprefix("torch.")
