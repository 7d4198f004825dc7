"""`bench ops`: the single operators beside eager, torch.compile, and a copy that moves as many bytes."""

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
from .rotation import CACHES, cache_bytes, set_count
from .samples import Samples
from .timing import Call, Timer, device_timer, first_call_seconds, in_rounds

OURS, EAGER, COPY = "ours", "eager", "copy"
PEERS = (EAGER, "compile", "max-autotune")
DEFAULT_PEERS = (EAGER, "compile")
DEFAULT_CASES = ("layer_norm", "layer_norm_residual", "gated_activation", "bias_residual_add")

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
LARGE_COPY_BYTES = {"cuda": 2 << 30, "cpu": 256 << 20}  # read and written


@dataclass
class OperatorVariant:
    first_call_seconds: float | None = None
    error: Error | None = None
    time: Samples | None = None
    failure: str | None = None


@dataclass
class OperatorResult:
    case: str
    shape: OperatorShape
    dtype: torch.dtype
    bytes: int  # that a call must move
    sets: int
    copy: Samples | None = None  # of as many bytes
    variants: dict[str, OperatorVariant] = field(default_factory=dict)

    def over(self, name: str, other: Samples | None) -> float | None:
        time = self.variants[name].time
        return time.over(other) if time and other else None

    def over_ours(self, name: str) -> float | None:
        return self.over(name, self.variants[OURS].time)

    @property
    def share_of_copy(self) -> float | None:
        """Our bandwidth as a share of the copy's."""
        ratio = self.over(OURS, self.copy)
        return 1 / ratio if ratio else None


def run(settings: argparse.Namespace) -> Iterator[OperatorResult]:
    for dtype in settings.dtypes:
        for name in settings.cases:
            start = perf_counter()
            for shape in settings.shapes:
                torch.manual_seed(0)
                yield measure(OPERATOR_CASES[name], shape, dtype, settings)
                forget_compiled()
                gc.collect()
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            print(f"{name}: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


@torch.no_grad()
def measure(
    case: OperatorCase, shape: OperatorShape, dtype: torch.dtype, settings: argparse.Namespace
) -> OperatorResult:
    device = settings.device
    first = case.arguments(shape, dtype, device)
    size = moved_bytes(first, case.packet(*first))
    sets = [first]
    while len(sets) < set_count(size, device):
        sets.append(case.arguments(shape, dtype, device))
    result = OperatorResult(case.name, shape, dtype, size, len(sets))
    timers: dict[str, Timer] = {COPY: device_timer(copies(size, len(sets), device), device)}
    exact = tensors_of(case.pytorch(*upcast(first)))
    functions = {OURS: lambda: case.packet} | {
        name: partial(_peer, case, name) for name in PEERS if name in settings.peers
    }
    for name, make in functions.items():
        noted = result.variants[name] = OperatorVariant()
        try:
            timers[name] = _prepare(noted, make(), sets, exact, device)
        except Exception as error:
            if name in (OURS, EAGER):
                raise
            noted.failure = f"{type(error).__name__}: {error}"
            print(f"{case.name} {shape} {name} failed: {noted.failure}", file=sys.stderr, flush=True)
    taken = in_rounds(timers, settings.rounds)
    result.copy = taken.pop(COPY)
    for name, samples in taken.items():
        result.variants[name].time = samples
    return result


def _peer(case: OperatorCase, name: str) -> Callable:
    return case.pytorch if name == EAGER else compiled(case.pytorch, MODES[name])


def _prepare(
    noted: OperatorVariant,
    function: Callable,
    sets: Sequence[tuple],
    exact: list[torch.Tensor],
    device: torch.device,
) -> Timer:
    calls: list[Call] = [partial(function, *arguments) for arguments in sets]
    with one_compilation():
        noted.first_call_seconds = first_call_seconds(calls[0], device)
        results = tensors_of(calls[0]())
        errors = [error_of(value, truth) for value, truth in zip(results, exact, strict=True)]
        noted.error = max(errors, key=lambda error: error.relative)
        del results
        return device_timer(calls, device)


def copies(size: int, count: int, device: torch.device) -> list[Call]:
    """Calls that read and write `size` bytes in all, by a kernel: a copy of PyTorch's is not always one, and
    slower where it is not."""
    calls = []
    for _ in range(count):
        source = torch.randn(max(size // 8, 1), dtype=torch.float32, device=device)
        calls.append(partial(torch.neg, source, out=torch.empty_like(source)))
    return calls


@torch.no_grad()
def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of a copy far larger than the cache."""
    size = max(LARGE_COPY_BYTES[device.type], CACHES * cache_bytes(device))
    timer = device_timer(copies(size, 2, device), device)
    return size / in_rounds({COPY: timer}, 5)[COPY].median


def as_json(result: OperatorResult) -> dict[str, Any]:
    """Times in microseconds."""
    return {
        "case": result.case,
        "shape": [result.shape.batch, result.shape.tokens, result.shape.channels],
        "dtype": str(result.dtype).removeprefix("torch."),
        "bytes": result.bytes,
        "sets": result.sets,
        "copy_us": result.copy.as_json(1e6) if result.copy else None,
        "share_of_copy": result.share_of_copy,
        "variants": {
            name: {
                "first_call_seconds": noted.first_call_seconds,
                "error": noted.error.as_json() if noted.error else None,
                "failure": noted.failure,
                "time_us": noted.time.as_json(1e6) if noted.time else None,
                "bytes_per_second": result.bytes / noted.time.median if noted.time else None,
                "over_ours": result.over_ours(name),
            }
            for name, noted in result.variants.items()
        },
    }
