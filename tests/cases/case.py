"""What a case table is made of."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

Arguments = dict[str, Any]
"""An operator's arguments by name; those left out take the schema's default."""

Results = torch.Tensor | tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Maker:
    """Makes the tensors of one set of arguments.

    Values are drawn on the CPU, so that all devices see the same ones, and in float32, so that the dtypes
    see the same ones but for their rounding.
    """

    dtype: torch.dtype
    device: torch.device
    generator: torch.Generator

    @staticmethod
    def seeded(dtype: torch.dtype, device: str | torch.device = "cpu", seed: int = 0) -> "Maker":
        return Maker(dtype, torch.device(device), torch.Generator().manual_seed(seed))

    def normal(self, *sizes: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        """Normally distributed values of mean `shift` and standard deviation `scale`."""
        values = torch.randn(sizes, generator=self.generator, dtype=torch.float32)
        return (values * scale + shift).to(self.dtype).to(self.device)

    def full(self, *sizes: int, value: float) -> torch.Tensor:
        return torch.full(sizes, value, dtype=self.dtype, device=self.device)

    def empty(self, *sizes: int) -> torch.Tensor:
        """Memory that nobody touched: costs nothing until it is read or written."""
        return torch.empty(sizes, dtype=self.dtype, device=self.device)

    def like(self, dtype: torch.dtype) -> "Maker":
        """Makes tensors of another dtype."""
        return Maker(dtype, self.device, self.generator)


@dataclass(frozen=True)
class Case:
    """Arguments that an operator takes."""

    id: str
    make: Callable[[Maker], Arguments]
    heavy: bool = False
    """Takes so long that only the most important tests run it."""


@dataclass(frozen=True)
class Wrong:
    """Arguments that an operator must refuse, and how."""

    id: str
    make: Callable[[Maker], Arguments]
    message: str
    """Regular expression that the whole message must match."""
    dtype: torch.dtype = torch.float32
    only_on: str = ""
    """The type of device that the case needs; empty: any."""


@dataclass(frozen=True)
class Growing:
    """Arguments of any size, for graphs that are compiled once for all sizes."""

    make: Callable[[Maker, int], Arguments]
    """Arguments whose dynamic dimensions follow from a number of 2 or more."""
    dynamic: dict[str, dict[int, str]]
    """For each tensor argument with such dimensions: their names. Dimensions of one name have one size."""


@dataclass(frozen=True)
class Huge:
    """Arguments past 2³¹ elements, too many to compare all the results."""

    id: str
    make: Callable[[Maker], Arguments]
    rows: tuple[str, ...]
    """Arguments whose first dimension is that of the results, which can be compared in pieces of it."""
    memory: int
    """Bytes that the arguments and results touch."""


@dataclass(frozen=True)
class Operator:
    """All there is to know for testing and timing an operator."""

    name: str
    """In the namespace ds_diffusers."""
    reference: Callable[..., Results]
    """The operator's formula in plain tensor arithmetic, in its arguments' dtype. Truth, given float64."""
    eager: Callable[..., Results]
    """How PyTorch's users write it."""
    cases: tuple[Case, ...]
    wrong: tuple[Wrong, ...]
    growing: Growing
    random: Callable[[Maker, Random], Arguments]
    """Arguments of random sizes and memory layouts, from the source of chance given."""
    huge: tuple[Huge, ...] = ()

    def case(self, case_id: str) -> Case:
        return next(case for case in self.cases if case.id == case_id)


def says(operator: str, text: str) -> str:
    """A `Wrong.message` of plain text."""
    return re.escape(f"ds_diffusers::{operator}: {text}")
