"""`bench unet`: one step of a whole UNet at a batch of two, as diffusers runs it, patched, and both under
torch.compile."""

from __future__ import annotations

import argparse
import copy
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

import ds_diffusers
from ds_diffusers.architectures import ARCHITECTURES, random_inputs, random_unet

from .accuracy import Error, error_of
from .block_sets import lay_out, require_fused
from .compiling import MODES, compiled, forget_compiled, one_compilation
from .samples import Samples
from .timing import (
    Call,
    GraphTimer,
    Timer,
    WallTimer,
    extra_memory,
    first_call_seconds,
    in_rounds,
)

OURS, EAGER = "ours", "eager"
WITH_OURS = "ours+"  # before a mode of torch.compile: the patched UNet compiled in it
DEFAULT_PEERS = (EAGER, "compile", "ours+compile")
PEERS = (*DEFAULT_PEERS, "max-autotune", "ours+max-autotune")
MODELS = tuple(ARCHITECTURES)
DEFAULT_MODELS = ("sd15", "sdxl")

WALL_ROUNDS = 5
WALL_SECONDS = 0.3  # of steps in a sample, about
TIMESTEP = 500


@dataclass
class StepResult:
    """`time` is the GPU's by graph replay; `wall` the clock's, from Python. None: not measured."""

    first_call_seconds: float | None = None
    extra_bytes: int | None = None
    difference: Error | None = None  # from eager
    error: Error | None = None  # from float32
    time: Samples | None = None
    wall: Samples | None = None
    failure: str | None = None


@dataclass
class UNetResult:
    model: str
    size: int
    dtype: torch.dtype
    weight_bytes: int
    blocks: int
    steps: dict[str, StepResult] = field(default_factory=dict)

    def over_ours(self, name: str, quantity: str) -> float | None:
        """How many times as long as ours: quantity is "time" or "wall"."""
        other, ours = (getattr(self.steps[each], quantity) for each in (name, OURS))
        return other.over(ours) if other and ours else None


def run(settings: argparse.Namespace) -> Iterator[UNetResult]:
    """A result for each dtype and model, as each is done."""
    for dtype in settings.dtypes:
        for model in settings.models:
            start = perf_counter()
            result = measure(model, dtype, settings)
            yield result
            print(f"{model}: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            forget_compiled()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def run_unet(unet: nn.Module, sample: Tensor, timestep: Tensor, conditions: dict[str, Any]) -> Tensor:
    return unet(sample, timestep, **conditions, return_dict=False)[0]


@torch.no_grad()
def measure(model: str, dtype: torch.dtype, settings: argparse.Namespace) -> UNetResult:
    architecture, device = ARCHITECTURES[model], settings.device
    size = settings.size or architecture.size
    unet = random_unet(architecture.unet, 0, device, dtype)
    inputs = step_inputs(architecture.unet, size, device, dtype)
    patched = patched_copy(unet)
    result = UNetResult(
        model,
        size,
        dtype,
        weight_bytes=sum(parameter.nbytes for parameter in unet.parameters()),
        blocks=len(ds_diffusers.report(patched)),
    )
    exact = reference(unet, inputs)
    calls = _prepare(result, unet, patched, inputs, exact, settings)
    _measure_times(result, calls, settings)
    require_fused(patched)
    return result


def step_inputs(config: dict[str, Any], size: int, device: torch.device, dtype: torch.dtype) -> tuple:
    """Of `run_unet` after the UNet."""
    noise, conditions = random_inputs(config, size, 0, device, dtype)
    return torch.cat([noise, noise]), torch.tensor(TIMESTEP, device=device), conditions


def patched_copy(unet: nn.Module) -> nn.Module:
    """With weights of its own, as patching may move them, and captured graphs know them by their address."""
    patched = copy.deepcopy(unet)
    for module in patched.modules():
        if isinstance(module, BasicTransformerBlock):
            lay_out(module)
    return ds_diffusers.patch(patched)


def reference(unet: nn.Module, inputs: tuple) -> Tensor:
    """The step in float32, without TF32."""

    def upcast(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: upcast(each) for name, each in value.items()}
        return value.float() if value.is_floating_point() else value

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return run_unet(copy.deepcopy(unet).float(), *(upcast(value) for value in inputs))
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _prepare(
    result: UNetResult,
    unet: nn.Module,
    patched: nn.Module,
    inputs: tuple,
    exact: Tensor,
    settings: argparse.Namespace,
) -> dict[str, Call]:
    """The ways that work, each called; notes what the first calls show."""
    calls: dict[str, Call] = {}
    expected = None
    for name in (EAGER, OURS, *PEERS[1:]):
        if name not in (OURS, *settings.peers):
            continue
        noted = result.steps[name] = StepResult()
        mode = name.removeprefix(WITH_OURS)
        run = compiled(run_unet, MODES[mode]) if mode in MODES else run_unet
        call = partial(run, patched if name.startswith(OURS) else unet, *inputs)
        try:
            with one_compilation():
                output = _first_calls(noted, call, settings.device)
        except Exception as error:
            if name in (OURS, EAGER):
                raise
            noted.failure = f"{type(error).__name__}: {error}"
            print(f"{name} failed: {noted.failure}", file=sys.stderr, flush=True)
            continue
        calls[name] = call
        noted.error = error_of(output, exact)
        expected = output if name == EAGER else expected
        if expected is not None:
            noted.difference = error_of(output, expected)
    return calls


def _first_calls(noted: StepResult, call: Callable[[], Tensor], device: torch.device) -> Tensor:
    noted.first_call_seconds = first_call_seconds(call, device)
    output = call()
    if device.type == "cuda":
        noted.extra_bytes = extra_memory(call)
    return output


def _measure_times(result: UNetResult, calls: dict[str, Call], settings: argparse.Namespace) -> None:
    if settings.device.type == "cuda":
        graphs: dict[str, Timer] = {name: GraphTimer([call], least_calls=1) for name, call in calls.items()}
        for name, samples in in_rounds(graphs, settings.rounds).items():
            result.steps[name].time = samples
    walls: dict[str, Timer] = {
        name: WallTimer([call], settings.device, WALL_SECONDS) for name, call in calls.items()
    }
    for name, samples in in_rounds(walls, min(settings.rounds, WALL_ROUNDS)).items():
        result.steps[name].wall = samples


def as_json(result: UNetResult) -> dict[str, Any]:
    """Times in milliseconds."""
    return {
        "model": result.model,
        "size": result.size,
        "dtype": str(result.dtype).removeprefix("torch."),
        "weight_bytes": result.weight_bytes,
        "blocks": result.blocks,
        "variants": {
            name: {
                "first_call_seconds": step.first_call_seconds,
                "extra_bytes": step.extra_bytes,
                "difference_from_eager": step.difference.as_json() if step.difference else None,
                "error": step.error.as_json() if step.error else None,
                "failure": step.failure,
                "time_ms": step.time.as_json(1e3) if step.time else None,
                "wall_ms": step.wall.as_json(1e3) if step.wall else None,
                "time_over_ours": result.over_ours(name, "time"),
                "wall_over_ours": result.over_ours(name, "wall"),
            }
            for name, step in result.steps.items()
        },
    }
