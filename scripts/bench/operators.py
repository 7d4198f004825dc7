"""`bench ops`: the single operators beside eager, torch.compile, and their floor: a copy that moves as many
bytes, or the matrix product that computes as much."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch

from .accuracy import Error, error_of
from .compiling import MODES, compiled, forget_compiled, one_compilation
from .operator_cases import OPERATOR_CASES, OperatorCase, OperatorShape, moved_bytes, tensors_of, upcast
from .products import part_timer
from .rates import Rates, copies
from .rotation import set_count
from .samples import Samples
from .timing import (
    Call,
    Timer,
    WallTimer,
    device_timer,
    extra_memory,
    first_call_seconds,
    in_rounds,
)

OURS, IN_TWO, EAGER, FLOOR = "ours", "ours, in two", "eager", "floor"
PEERS = (EAGER, "compile", "max-autotune")
DEFAULT_PEERS = (EAGER, "compile")
DEFAULT_CASES = ("layer_norm", "layer_norm_residual", "gated_activation", "gated_linear", "bias_residual_add")

# Those of the models at a batch of two, from the largest to the smallest, and one far beyond the cache.
OPERATOR_SHAPES = tuple(
    OperatorShape(*sizes)
    for sizes in (
        (2, 4096, 640),
        (2, 1024, 1280),
        (2, 4096, 320),
        (2, 1024, 640),
        (2, 256, 1280),
        (2, 64, 1280),
        (16, 4096, 1280),
    )
)

WALL_ROUNDS = 5
WALL_SECONDS = 5e-3  # of calls in a sample, about


@dataclass
class OperatorVariant:
    """`time` is the GPU's by graph replay, on the CPU the clock's. None: not measured."""

    first_call_seconds: float | None = None
    extra_bytes: int | None = None
    error: Error | None = None
    time: Samples | None = None
    wall: Samples | None = None
    failure: str | None = None


@dataclass
class OperatorResult:
    case: str
    shape: OperatorShape
    dtype: torch.dtype
    bytes: int  # that a call must move
    operations: int  # of its matrix product; 0 where the floor is a copy
    roofline: float  # seconds, by the rates of this run
    sets: int
    floor: Samples | None = None  # of a copy of as many bytes, or of the product
    variants: dict[str, OperatorVariant] = field(default_factory=dict)

    def over(self, name: str, other: Samples | None) -> float | None:
        time = self.variants[name].time
        return time.over(other) if time and other else None

    def over_ours(self, name: str) -> float | None:
        return self.over(name, self.variants[OURS].time)

    @property
    def share_of_floor(self) -> float | None:
        """Our bandwidth as a share of the copy's, or our rate of operations as a share of the product's."""
        ratio = self.over(OURS, self.floor)
        return 1 / ratio if ratio else None

    def rate(self, name: str) -> float | None:
        """Bytes a second, or operations where a product is the floor."""
        time = self.variants[name].time
        return (self.operations or self.bytes) / time.median if time else None


def run(settings: argparse.Namespace, rates: Rates) -> Iterator[OperatorResult]:
    """A result for each dtype, operator and shape, as each is done."""
    for dtype in settings.dtypes:
        for name in settings.cases:
            start = perf_counter()
            for shape in settings.shapes:
                torch.manual_seed(0)
                yield measure(OPERATOR_CASES[name], shape, dtype, settings, rates)
                forget_compiled()
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            print(f"{name}: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


@torch.no_grad()
def measure(
    case: OperatorCase,
    shape: OperatorShape,
    dtype: torch.dtype,
    settings: argparse.Namespace,
    rates: Rates,
) -> OperatorResult:
    device = settings.device
    first = case.arguments(shape, dtype, device)
    size = moved_bytes(first, case.packet(*first))
    operations = case.product(shape).operations if case.product else 0
    sets = [first]
    while len(sets) < set_count(size, device):
        sets.append(case.arguments(shape, dtype, device))
    roofline = rates.seconds(size, operations, dtype)
    result = OperatorResult(case.name, shape, dtype, size, operations, roofline, len(sets))
    exact = tensors_of(case.pytorch(*upcast(first)))
    timers: dict[str, Timer] = {FLOOR: _floor_timer(case, result, device)}
    walls: dict[str, Timer] = {}
    for name, function in _functions(case, settings.peers).items():
        noted = result.variants[name] = OperatorVariant()
        calls = [partial(function, *arguments) for arguments in sets]
        try:
            timers[name] = _prepare(noted, calls, exact, device)
        except Exception as error:
            if name in (OURS, EAGER):
                raise
            noted.failure = f"{type(error).__name__}: {error}"
            print(f"{case.name} {shape} {name} failed: {noted.failure}", file=sys.stderr, flush=True)
            continue
        if device.type == "cuda":
            walls[name] = WallTimer(calls, device, WALL_SECONDS)
    taken = in_rounds(timers, settings.rounds)
    result.floor = taken.pop(FLOOR)
    for name, samples in taken.items():
        result.variants[name].time = samples
    for name, samples in in_rounds(walls, min(settings.rounds, WALL_ROUNDS)).items():
        result.variants[name].wall = samples
    return result


def _floor_timer(case: OperatorCase, result: OperatorResult, device: torch.device) -> Timer:
    if case.product is not None:
        return part_timer(case.product(result.shape), result.dtype, device)
    return device_timer(copies(result.bytes, result.sets, device), device)


def _functions(case: OperatorCase, peers: Sequence[str]) -> dict[str, Callable]:
    """By the variants' names."""
    functions = {OURS: case.packet}
    if case.in_two is not None:
        functions[IN_TWO] = case.in_two
    for name in PEERS:
        if name in peers:
            functions[name] = case.pytorch if name == EAGER else compiled(case.pytorch, MODES[name])
    return functions


def _prepare(
    noted: OperatorVariant, calls: Sequence[Call], exact: list[torch.Tensor], device: torch.device
) -> Timer:
    """Notes what the first calls show."""
    with one_compilation():
        noted.first_call_seconds = first_call_seconds(calls[0], device)
        results = tensors_of(calls[0]())
        errors = [error_of(value, truth) for value, truth in zip(results, exact, strict=True)]
        noted.error = max(errors, key=lambda error: error.relative)
        del results
        if device.type == "cuda":
            noted.extra_bytes = extra_memory(calls[0])
        return device_timer(calls, device)


def as_json(result: OperatorResult) -> dict[str, Any]:
    """Times in microseconds."""
    rate = "operations_per_second" if result.operations else "bytes_per_second"
    return {
        "case": result.case,
        "shape": [result.shape.batch, result.shape.tokens, result.shape.channels],
        "dtype": str(result.dtype).removeprefix("torch."),
        "bytes": result.bytes,
        "operations": result.operations,
        "sets": result.sets,
        "floor": {
            "of": "product" if result.operations else "copy",
            "time_us": result.floor.as_json(1e6) if result.floor else None,
            "roofline_us": result.roofline * 1e6,
        },
        "share_of_floor": result.share_of_floor,
        "variants": {
            name: {
                "first_call_seconds": noted.first_call_seconds,
                "extra_bytes": noted.extra_bytes,
                "error": noted.error.as_json() if noted.error else None,
                "failure": noted.failure,
                "time_us": noted.time.as_json(1e6) if noted.time else None,
                "wall_us": noted.wall.as_json(1e6) if noted.wall else None,
                rate: result.rate(name),
                "over_ours": result.over_ours(name),
            }
            for name, noted in result.variants.items()
        },
    }
