"""How far a result is from a reference in higher precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Error:
    """`relative`: norm of the difference over the norm of the reference; `largest`: absolute difference of an
    element."""

    relative: float
    largest: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def error_of(result: Tensor, reference: Tensor) -> Error:
    """Computed in float64; NaN where the result holds one."""
    difference = result.double() - reference.double()
    norm = torch.linalg.vector_norm
    return Error((norm(difference) / norm(reference.double())).item(), difference.abs().max().item())
