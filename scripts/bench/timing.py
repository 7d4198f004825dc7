"""Timers. A timer's `sample()` measures seconds a call once; `in_rounds` takes samples of several in turns,
so that what drifts meanwhile (clocks, other load) meets all alike.

A timer is made of several calls that do the same work on inputs and weights of their own: enough of them that
none finds its data in a cache because it ran a moment before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle, islice
from random import Random
from time import perf_counter
from typing import Protocol

import torch

from .samples import Samples

Call = Callable[[], object]

GRAPH_CALLS = 16  # at least, so that the start of a graph's replay hides behind them
GRAPH_SECONDS = 2e-3  # of replays in a sample, about
WALL_SECONDS = 20e-3  # of calls in a sample, about
SLEEP_CYCLES = 8_000_000  # of the GPU, about 4 ms; doubled where calls take longer


class Timer(Protocol):
    def sample(self) -> float: ...


class GraphTimer:
    """GPU time: replays of one CUDA graph that holds all the calls, between two events."""

    def __init__(self, calls: Sequence[Call], least_calls: int = GRAPH_CALLS) -> None:
        repeats = -(-least_calls // len(calls))
        self._calls = list(calls) * repeats
        self._graph = capture(self._calls, kept=len(calls))
        self._replays = 1
        self.sample()  # the first replay uploads the graph
        seconds = self.sample() * len(self._calls)
        self._replays = max(1, round(GRAPH_SECONDS / seconds))

    def sample(self) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._graph.replay()  # the timed replays find the caches and the clock as this graph leaves them
        start.record()
        for _ in range(self._replays):
            self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / (self._replays * len(self._calls))


class WallTimer:
    """Time on the clock, as a program meets it that calls in a loop and waits at the end."""

    def __init__(self, calls: Sequence[Call], device: torch.device, seconds: float = WALL_SECONDS) -> None:
        self._device = device
        self._calls = calls
        self._count = len(calls)
        self.sample()  # first calls allocate, and choose algorithms
        self._count = 2
        self._count = max(2, round(seconds / self.sample()))

    def sample(self) -> float:
        calls = list(islice(cycle(self._calls), self._count))
        synchronise(self._device)
        start = perf_counter()
        for call in calls:
            call()
        synchronise(self._device)
        return (perf_counter() - start) / self._count


class EnqueueTimer:
    """CPU time of a CUDA call: the GPU is kept busy, so that no call waits for it."""

    def __init__(self, calls: Sequence[Call], count: int = 8) -> None:
        self._calls = list(islice(cycle(calls), count))
        self._cycles = SLEEP_CYCLES
        self.sample()

    def sample(self) -> float:
        for _ in range(10):
            torch.cuda.synchronize()
            torch.cuda._sleep(self._cycles)
            asleep = torch.cuda.Event()
            asleep.record()
            start = perf_counter()
            for call in self._calls:
                call()
            seconds = perf_counter() - start
            if not asleep.query():
                torch.cuda.synchronize()
                return seconds / len(self._calls)
            self._cycles *= 2
        raise RuntimeError(
            f"{len(self._calls)} calls took {seconds:.3f} s to enqueue, and outlasted the GPU's sleep "
            "each time"
        )


def in_rounds(timers: dict[str, Timer], rounds: int) -> dict[str, Samples]:
    """`rounds` samples of each timer; each round takes one of each, in an order of its own."""
    order = list(timers)
    random = Random(0)
    values: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            values[name].append(timers[name].sample())
    return {name: Samples(tuple(taken)) for name, taken in values.items()}


def device_timer(calls: Sequence[Call], device: torch.device) -> Timer:
    """Of what the device takes for a call: GPU time by graph replay, on the CPU time on the clock."""
    return GraphTimer(calls) if device.type == "cuda" else WallTimer(calls, device)


def capture(calls: Sequence[Call], kept: int) -> torch.cuda.CUDAGraph:
    """A graph of all the calls, one behind the other. The results of the last `kept` calls stay in memory, so
    that results rotate as inputs do."""
    stream = capture_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # What a first call does (plans, workspaces, compilation) cannot be captured.
        for call in calls[:kept]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        results: deque[object] = deque(maxlen=kept)
        for call in calls:
            results.append(call())
    del results
    return graph


@cache
def capture_stream(device: int) -> torch.cuda.Stream:
    """One for all captures, as cuBLAS gets a workspace for each stream."""
    return torch.cuda.Stream(device)


def first_call_seconds(call: Call, device: torch.device) -> float:
    """Time on the clock of one call, compilation and whatever else it does included."""
    synchronise(device)
    start = perf_counter()
    call()
    synchronise(device)
    return perf_counter() - start


def extra_memory(call: Call) -> int:
    """Bytes that one call takes of PyTorch's CUDA allocator at its peak, result included."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    del result
    return peak - before


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
