"""The table of `bench overhead`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .overhead import BLOCK, OPERATOR, OURS, PYTORCH, OverheadResult
from .tables import microseconds, ratio, table

if TYPE_CHECKING:
    from rich.table import Table


def overhead_table(results: Sequence[OverheadResult]) -> Table:
    rows = []
    for result in results:
        dtype = str(result.dtype).removeprefix("torch.")
        row = [f"{result.case}, {result.device}, {dtype}"]
        row += [_times(result, way) for way in (*OURS, PYTORCH)]
        rows.append([*row, ratio(result.over_pytorch(OPERATOR))])
    return table(
        "a call on small tensors, µs",
        ["", "torch.ops", "its overload", "ds_diffusers.ops", "PyTorch", "torch.ops/PyTorch"],
        rows,
        "on a GPU: wall / CPU, until the call returns, of which the ratio is. "
        f"{BLOCK}: the patched block in the place of ds_diffusers.ops",
    )


def _times(result: OverheadResult, way: str) -> str:
    wall = microseconds(result.walls[way])
    return f"{wall} / {microseconds(result.enqueues[way])}" if result.enqueues else wall
