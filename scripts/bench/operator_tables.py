"""The table of `bench ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .operators import EAGER, OURS, OperatorResult
from .tables import microseconds, ratio, table

if TYPE_CHECKING:
    from rich.table import Table


def operator_table(results: Sequence[OperatorResult], bandwidth: float, on_gpu: bool) -> Table:
    """Of one dtype. `bandwidth`: bytes a second of a large copy."""
    peers = [name for name in results[0].variants if name != OURS]
    columns = ["operator, shape", "ours", "TB/s", "copy", "copy/ours", *peers, "error, ours", "eager"]
    method = "GPU time, CUDA-graph replay" if on_gpu else "time on the clock"
    return table(
        f"operators, {str(results[0].dtype).removeprefix('torch.')}: {method}, µs",
        columns[: None if EAGER in peers else -1],
        [_row(result, peers) for result in results],
        f"×: of our time. copy: a kernel that reads and writes as many bytes; a large one moves "
        f"{bandwidth / 1e12:.3g} TB/s. "
        "error: norm of the difference from float64 over the norm of the result",
    )


def _row(result: OperatorResult, peers: Sequence[str]) -> list[str]:
    ours = result.variants[OURS]
    row = [f"{result.case} {result.shape}", microseconds(ours.time, spread=True)]
    row += [f"{result.bytes / ours.time.median / 1e12:.3g}", microseconds(result.copy)]
    row += [f"{result.share_of_copy:.0%}"]
    for name in peers:
        noted = result.variants[name]
        shown = f"{microseconds(noted.time)} {ratio(result.over_ours(name))}"
        row.append("failed" if noted.failure else shown)
    errors = [result.variants[name].error for name in (OURS, EAGER) if name in result.variants]
    return row + [f"{error.relative:.1e}" for error in errors]
