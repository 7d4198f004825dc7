"""`bench overhead`: what a call from Python costs on tensors so small that nothing else counts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from .block_sets import BlockSet, make_set, operator_arguments, require_fused
from .block_shapes import BlockShape
from .operator_cases import OPERATOR_CASES, OperatorCase, OperatorShape
from .samples import Samples
from .timing import Call, EnqueueTimer, Timer, WallTimer, in_rounds

OPERATOR, OVERLOAD, FUNCTION, PYTORCH = "operator", "overload", "function", "PyTorch"
OURS = (OPERATOR, OVERLOAD, FUNCTION)
BLOCK = "block_forward"
CASES = (*OPERATOR_CASES, BLOCK)

SHAPE = OperatorShape(2, 8, 64)
BLOCK_SHAPE = BlockShape("small", 2, 8, 64, 2, 64)

WALL_SECONDS = 5e-3  # of calls in a sample, about
ENQUEUED = {BLOCK: 8}  # calls in a sample, within the number of launches that may be pending
ENQUEUED_OTHERS = 64


@dataclass
class OverheadResult:
    """Of one operator on one device: by the ways to call it, wall time and on a GPU the CPU's alone."""

    case: str
    device: torch.device
    dtype: torch.dtype
    walls: dict[str, Samples] = field(default_factory=dict)
    enqueues: dict[str, Samples] = field(default_factory=dict)

    def over_pytorch(self, way: str) -> float:
        """The share of PyTorch's time that a way of ours takes, until the call returns."""
        times = self.enqueues or self.walls
        return times[way].over(times[PYTORCH])


def run(settings: argparse.Namespace) -> Iterator[OverheadResult]:
    """On one CPU thread: waking others would cost more than the call."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for device in settings.devices:
            for dtype in settings.dtypes:
                for name in settings.cases:
                    yield measure(name, dtype, device, settings.rounds)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def measure(name: str, dtype: torch.dtype, device: torch.device, rounds: int) -> OverheadResult:
    torch.manual_seed(0)
    result = OverheadResult(name, device, dtype)
    block_set = make_set(BLOCK_SHAPE, dtype, device) if name == BLOCK else None
    if block_set is None:
        ways = operator_ways(OPERATOR_CASES[name], dtype, device)
    else:
        ways = block_ways(block_set)
    walls: dict[str, Timer] = {way: WallTimer([call], device, WALL_SECONDS) for way, call in ways.items()}
    result.walls = in_rounds(walls, rounds)
    if device.type == "cuda":
        count = ENQUEUED.get(name, ENQUEUED_OTHERS)
        enqueues: dict[str, Timer] = {way: EnqueueTimer([call], count) for way, call in ways.items()}
        result.enqueues = in_rounds(enqueues, rounds)
    if block_set is not None:
        require_fused(block_set.patched)
    return result


def operator_ways(case: OperatorCase, dtype: torch.dtype, device: torch.device) -> dict[str, Call]:
    arguments = case.arguments(SHAPE, dtype, device)
    functions: dict[str, Callable] = {
        OPERATOR: case.packet,
        OVERLOAD: case.packet.default,
        FUNCTION: case.function,
        PYTORCH: case.pytorch,
    }
    return {way: partial(function, *arguments) for way, function in functions.items()}


def block_ways(block_set: BlockSet) -> dict[str, Call]:
    """The function here is the patched block, as a model calls it."""
    operator = torch.ops.ds_diffusers.block_forward
    arguments = operator_arguments(block_set.patched, block_set.context)
    blocks = {FUNCTION: block_set.patched, PYTORCH: block_set.original}
    calls: dict[str, Call] = {
        OPERATOR: partial(operator, block_set.hidden_states, **arguments),
        OVERLOAD: partial(operator.default, block_set.hidden_states, **arguments),
    }
    for way, block in blocks.items():
        calls[way] = partial(block, block_set.hidden_states, encoder_hidden_states=block_set.context)
    return calls


def as_json(result: OverheadResult) -> dict[str, Any]:
    """Times in microseconds."""
    return {
        "case": result.case,
        "device": str(result.device),
        "dtype": str(result.dtype).removeprefix("torch."),
        "wall_us": {way: samples.as_json(1e6) for way, samples in result.walls.items()},
        "enqueue_us": {way: samples.as_json(1e6) for way, samples in result.enqueues.items()},
        "over_pytorch": {way: result.over_pytorch(way) for way in OURS},
    }
