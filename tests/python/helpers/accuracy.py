"""The bound on an operator's error: twice PyTorch's own in the same dtype, and one rounding of the result."""

import math
from dataclasses import dataclass

import torch

from cases import Arguments, Case, Maker, Operator

from .operators import as_tuple, call, convert


@dataclass
class Errors:
    """Of one result, over several draws of its arguments."""

    own_excess: float = 0.0  # the largest, past one rounding
    torch_largest: float = 0.0
    own_squares: float = 0.0
    torch_squares: float = 0.0
    reference_squares: float = 0.0
    reference_largest: float = 0.0
    torch_measured: bool = False

    def add(self, own: torch.Tensor, eager: torch.Tensor, reference: torch.Tensor) -> None:
        """Takes the errors of results that were computed from the same arguments."""
        limits = torch.finfo(own.dtype)
        rounded = reference.to(own.dtype)
        check_not_finite(own, eager, rounded)
        finite = own.isfinite() & rounded.isfinite()
        comparable = finite & eager.isfinite()
        own_error = torch.where(finite, own.double() - reference, 0).abs()
        torch_error = torch.where(comparable, eager.double() - reference, 0).abs()
        size = torch.where(finite, reference, 0).abs()
        rounding = size * (limits.eps / 2) + limits.smallest_normal * limits.eps / 2
        self.own_excess = max(self.own_excess, largest(own_error - rounding))
        self.torch_largest = max(self.torch_largest, largest(torch_error))
        self.own_squares += float(own_error.square().sum())
        self.torch_squares += float(torch_error.square().sum())
        self.reference_squares += float(size.square().sum())
        self.reference_largest = max(self.reference_largest, largest(size))
        self.torch_measured |= bool(comparable.any())

    def fault(self, dtype: torch.dtype) -> str | None:
        """What is above the bound; None: nothing is."""
        unit = torch.finfo(dtype).eps / 2
        # Where PyTorch has no finite result to compare with, that of a correctly rounded one.
        torch_largest = self.torch_largest if self.torch_measured else unit * self.reference_largest
        if self.own_excess > 2 * torch_largest:
            return f"largest error past one rounding {self.own_excess:.3g}, PyTorch's {torch_largest:.3g}"
        own, norm = math.sqrt(self.own_squares), math.sqrt(self.reference_squares)
        torch_error = math.sqrt(self.torch_squares) if self.torch_measured else unit * norm
        tiny = torch.finfo(dtype).smallest_normal
        if own > 2 * torch_error + unit * norm + tiny:
            return f"error {own:.3g} of norm {norm:.3g}, PyTorch's {torch_error:.3g}"
        return None

    def check(self, dtype: torch.dtype, name: str) -> None:
        fault = self.fault(dtype)
        assert fault is None, f"{name}: {fault}"


def largest(values: torch.Tensor) -> float:
    return float(values.max()) if values.numel() > 0 else 0.0


def check_not_finite(own: torch.Tensor, eager: torch.Tensor, rounded: torch.Tensor) -> None:
    """An infinity or NaN must be where the formula, or PyTorch's way of computing it, has one, no other."""

    def same(expected: torch.Tensor) -> torch.Tensor:
        return (own == expected) | (own.isnan() & expected.isnan())

    strange = ~(own.isfinite() & rounded.isfinite())
    wrong = strange & ~same(rounded) & ~same(eager)
    assert not wrong.any(), (
        f"{int(wrong.sum())} elements are not finite, or finite where they must not be: "
        f"{own[wrong][:4].tolist()}, must be {rounded[wrong][:4].tolist()}, "
        f"PyTorch has {eager[wrong][:4].tolist()}"
    )


MOST_DRAWS = 8


def draws(results: tuple[torch.Tensor, ...]) -> int:
    """How often to draw the arguments: the error of a few elements says little about the arithmetic."""
    return min(MOST_DRAWS, max(1, 2048 // max(1, results[0].numel())))


def check_arguments(
    operator: Operator, arguments: Arguments, errors: list[Errors]
) -> tuple[torch.Tensor, ...]:
    own = as_tuple(call(operator, arguments))
    eager = as_tuple(operator.eager(**arguments))
    reference = as_tuple(operator.reference(**convert(arguments, lambda value: value.cpu().double())))
    errors += [Errors() for _ in own[len(errors) :]]
    assert len(own) == len(reference)
    for index in range(len(own)):
        assert own[index].shape == reference[index].shape
        errors[index].add(own[index].cpu(), eager[index].cpu(), reference[index])
    return own


def check_case(operator: Operator, case: Case, dtype: torch.dtype, device: torch.device) -> None:
    """Compares the operator with its reference on the case's arguments."""
    errors: list[Errors] = []
    count = draws(check_arguments(operator, case.make(Maker.seeded(dtype, device)), errors))
    for seed in range(1, MOST_DRAWS):
        # The largest error of all is that of one element, and can be far off by chance: where it is, it is
        # judged by more draws, with those before.
        if seed >= count and not any(found.fault(dtype) for found in errors):
            break
        check_arguments(operator, case.make(Maker.seeded(dtype, device, seed)), errors)
    for index, found in enumerate(errors):
        found.check(dtype, f"result {index}")
