"""`bench block`: the whole transformer block, ours beside every other way to run it and beside its floor."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .accuracy import Error, error_of
from .block_sets import BlockSet, make_sets, reference, require_fused
from .block_shapes import BlockShape
from .block_variants import CHAIN, EAGER, OURS, Variant, variant_makers
from .compiling import forget_compiled, one_compilation
from .products import AttentionProduct, Part, block_parts, fastest_backend, part_timer
from .rates import Rates
from .samples import Samples, total
from .timing import (
    EnqueueTimer,
    Timer,
    WallTimer,
    device_timer,
    extra_memory,
    first_call_seconds,
    in_rounds,
)

WALL_ROUNDS = 5


@dataclass
class VariantResult:
    """`time` is the GPU's by graph replay, on the CPU the clock's. None: not measured."""

    first_call_seconds: float | None = None
    extra_bytes: int | None = None
    error: Error | None = None
    time: Samples | None = None
    wall: Samples | None = None
    enqueue: Samples | None = None
    failure: str | None = None


@dataclass
class BlockResult:
    """`rooflines`: seconds of each part, by the rates of this run."""

    shape: BlockShape
    dtype: torch.dtype
    sets: int
    backends: dict[str, str]
    rooflines: dict[str, float]
    variants: dict[str, VariantResult] = field(default_factory=dict)
    parts: dict[str, Samples] = field(default_factory=dict)

    @property
    def floor(self) -> Samples:
        """The sum of the block's products and attentions, each measured alone."""
        return total(list(self.parts.values()))

    def over_ours(self, name: str) -> float | None:
        """How many times as long as ours a variant takes; None without its or our time."""
        other, ours = self.variants[name].time, self.variants[OURS].time
        return other.over(ours) if other and ours else None

    @property
    def over_floor(self) -> float | None:
        ours = self.variants[OURS].time
        return ours.over(self.floor) if ours else None


def run(settings: argparse.Namespace, rates: Rates) -> Iterator[BlockResult]:
    """A result for each dtype and shape, as each is done."""
    for dtype in settings.dtypes:
        for shape in settings.shapes:
            start = perf_counter()
            torch.manual_seed(0)
            result = measure(shape, dtype, settings, rates)
            yield result
            print(f"{_line(result)}; {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            _free()


@torch.no_grad()
def measure(shape: BlockShape, dtype: torch.dtype, settings: argparse.Namespace, rates: Rates) -> BlockResult:
    device = settings.device
    parts = block_parts(shape)
    backends = {
        name: fastest_backend(part, dtype, device)
        for name, part in parts.items()
        if isinstance(part, AttentionProduct)
    }
    sets = make_sets(shape, dtype, device)
    rooflines = {
        name: rates.seconds(part.elements * dtype.itemsize, part.operations, dtype)
        for name, part in parts.items()
    }
    result = BlockResult(shape, dtype, len(sets), backends, rooflines)
    variants = _prepare(result, sets, settings)
    _measure_device_time(result, variants, parts, settings)
    if device.type == "cuda":
        _measure_from_python(result, variants, settings)
    require_fused(torch.nn.ModuleList(each.patched for each in sets))
    return result


def _prepare(result: BlockResult, sets: list[BlockSet], settings: argparse.Namespace) -> dict[str, Variant]:
    """The variants that work, each called with every set; notes what their first calls show."""
    exact = reference(sets[0])
    variants = {}
    for name, make in variant_makers(result.shape, sets, result.backends, settings.peers).items():
        noted = result.variants[name] = VariantResult()
        try:
            with one_compilation():
                variants[name] = make()
                _first_calls(variants[name], noted, exact, settings.device)
        except Exception as error:
            if name in (OURS, EAGER):
                raise
            _note_failure(noted, name, error)
            variants.pop(name, None)
    return variants


def _first_calls(variant: Variant, noted: VariantResult, exact: Tensor, device: torch.device) -> None:
    noted.first_call_seconds = first_call_seconds(variant.calls[0], device)
    if variant.computes_block:
        noted.error = error_of(variant.calls[0](), exact)
    for call in variant.calls:
        call()
    # Graphs that torch.compile records keep their memory to themselves.
    if device.type == "cuda" and variant.computes_block and variant.name != "reduce-overhead":
        noted.extra_bytes = extra_memory(variant.calls[0])


def _measure_device_time(
    result: BlockResult, variants: dict[str, Variant], parts: dict[str, Part], settings: argparse.Namespace
) -> None:
    timers: dict[Any, Timer] = {}
    for part in parts.values():
        if part not in timers:
            backend = result.backends.get(next(name for name in parts if parts[name] is part), "default")
            timers[part] = part_timer(part, result.dtype, settings.device, backend)
    for name, variant in variants.items():
        if variant.in_graph:
            _add_timer(timers, result, name, lambda calls=variant.calls: device_timer(calls, settings.device))
    taken = in_rounds(timers, settings.rounds)
    result.parts = {name: taken[part] for name, part in parts.items()}
    for name in variants:
        if name in taken:
            result.variants[name].time = taken[name]


def _measure_from_python(
    result: BlockResult, variants: dict[str, Variant], settings: argparse.Namespace
) -> None:
    walls: dict[str, Timer] = {}
    enqueues: dict[str, Timer] = {}
    for name, variant in variants.items():
        if variant.from_python:
            calls = variant.calls
            _add_timer(walls, result, name, lambda calls=calls: WallTimer(calls, settings.device))
            _add_timer(enqueues, result, name, lambda calls=calls: EnqueueTimer(calls))
    rounds = min(settings.rounds, WALL_ROUNDS)
    for name, samples in in_rounds(walls, rounds).items():
        result.variants[name].wall = samples
    for name, samples in in_rounds(enqueues, rounds).items():
        result.variants[name].enqueue = samples


def _add_timer(timers: dict[str, Timer], result: BlockResult, name: str, make: Any) -> None:
    try:
        timers[name] = make()
    except Exception as error:
        if name in (OURS, EAGER):
            raise
        _note_failure(result.variants[name], name, error)


def _note_failure(noted: VariantResult, name: str, error: Exception) -> None:
    noted.failure = f"{type(error).__name__}: {error}"
    print(f"{name} failed: {noted.failure}", file=sys.stderr, flush=True)


def _free() -> None:
    forget_compiled()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _line(result: BlockResult) -> str:
    """One line of progress, in case nothing more is printed."""
    ours = result.variants[OURS].time
    ratios = [
        f"{name} ×{ratio:.2f}"
        for name in result.variants
        if name not in (OURS, CHAIN) and (ratio := result.over_ours(name)) is not None
    ]
    return (
        f"{result.shape.name} {str(result.dtype).removeprefix('torch.')}: ours {ours.median * 1e6:.1f} µs, "
        f"×{result.over_floor:.3f} of the floor; {', '.join(ratios)}"
    )


def as_json(result: BlockResult) -> dict[str, Any]:
    """Times in microseconds."""
    operations = {name: part.operations for name, part in block_parts(result.shape).items()}
    return {
        "shape": asdict(result.shape),
        "dtype": str(result.dtype).removeprefix("torch."),
        "sets": result.sets,
        "attention_backends": result.backends,
        "floor": {
            "time_us": result.floor.as_json(1e6),
            "roofline_us": sum(result.rooflines.values()) * 1e6,
            "parts": {
                name: {
                    "time_us": samples.as_json(1e6),
                    "roofline_us": result.rooflines[name] * 1e6,
                    "teraflops": operations[name] / samples.median / 1e12,
                }
                for name, samples in result.parts.items()
            },
        },
        "ours_over_floor": result.over_floor,
        "variants": {
            name: _variant_json(noted) | {"over_ours": result.over_ours(name)}
            for name, noted in result.variants.items()
        },
    }


def _variant_json(noted: VariantResult) -> dict[str, Any]:
    times = {"time_us": noted.time, "wall_us": noted.wall, "enqueue_us": noted.enqueue}
    return {
        "first_call_seconds": noted.first_call_seconds,
        "extra_bytes": noted.extra_bytes,
        "error": noted.error.as_json() if noted.error else None,
        "failure": noted.failure,
        **{key: samples.as_json(1e6) if samples else None for key, samples in times.items()},
    }
