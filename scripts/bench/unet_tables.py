"""The table of `bench unet`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .samples import Samples
from .tables import ratio, seconds, table
from .unet import StepResult, UNetResult

if TYPE_CHECKING:
    from rich.table import Table


def unet_table(results: Sequence[UNetResult]) -> Table:
    columns = ["step", "GPU, ms", "wall, ms", "peak memory, MiB", "first call", "from eager", "from float32"]
    rows = [
        [f"{_title(result)}: {name}", *_cells(result, name, step)]
        for result in results
        for name, step in result.steps.items()
    ]
    return table(
        "one step of a UNet, batch 2",
        columns,
        rows,
        "GPU: CUDA-graph replay; ×: of our time; memory beyond weights and input; "
        "from: norm of the difference over the norm of the output",
    )


def _title(result: UNetResult) -> str:
    return f"{result.model} {result.size}² {str(result.dtype).removeprefix('torch.')}"


def _cells(result: UNetResult, name: str, step: StepResult) -> list[str]:
    if step.failure:
        return ["failed"] * 6
    return [
        _milliseconds(step.time, result.over_ours(name, "time")),
        _milliseconds(step.wall, result.over_ours(name, "wall")),
        "–" if step.extra_bytes is None else f"{step.extra_bytes / 2**20:.0f}",
        seconds(step.first_call_seconds),
        "–" if step.difference is None else f"{step.difference.relative:.1e}",
        "–" if step.error is None else f"{step.error.relative:.1e}",
    ]


def _milliseconds(samples: Samples | None, over_ours: float | None) -> str:
    if samples is None:
        return "–"
    return f"{samples.median * 1e3:.2f} ±{samples.spread * 50:.1f}% {ratio(over_ours)}"
