"""The tables of `bench ops`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .operators import EAGER, OURS, OperatorResult, OperatorVariant
from .rates import Rates
from .tables import microseconds, per_second, ratio, seconds, table

if TYPE_CHECKING:
    from rich.table import Table


def operator_tables(results: Sequence[OperatorResult], rates: Rates, on_gpu: bool) -> list[Table]:
    """Of one dtype: time; from Python."""
    names = list(dict.fromkeys(name for result in results for name in result.variants))
    dtype = results[0].dtype
    return [_times(results, names, rates, on_gpu), _others(results, names, str(dtype), on_gpu)]


def _times(results: Sequence[OperatorResult], names: Sequence[str], rates: Rates, on_gpu: bool) -> Table:
    dtype, others = results[0].dtype, [name for name in names if name != OURS]
    columns = ["operator, shape", "ours", "rate", "floor", "floor/ours", *others, "error, ours", "eager"]
    method = "GPU time, CUDA-graph replay" if on_gpu else "time on the clock"
    copy = per_second(rates.bytes_per_second, "B")
    product = per_second(rates.operations_per_second[dtype], "op")
    return table(
        f"operators, {str(dtype).removeprefix('torch.')}: {method}, µs",
        columns[: None if EAGER in names else -1],
        [_row(result, others) for result in results],
        "×: of our time. floor: a kernel that reads and writes as many bytes, or the matrix product alone; "
        f"large ones reach {copy} and {product}. "
        "error: norm of the difference from float64 over the norm of the result",
    )


def _row(result: OperatorResult, others: Sequence[str]) -> list[str]:
    row = [f"{result.case} {result.shape}", microseconds(result.variants[OURS].time, spread=True)]
    row += [per_second(result.rate(OURS), "op" if result.operations else "B")]
    row += [microseconds(result.floor), f"{result.share_of_floor:.0%}"]
    for name in others:
        noted = result.variants.get(name, OperatorVariant())
        shown = f"{microseconds(noted.time)} {ratio(result.over_ours(name))}" if noted.time else "–"
        row.append("failed" if noted.failure else shown)
    errors = [result.variants[name].error for name in (OURS, EAGER) if name in result.variants]
    return row + [f"{error.relative:.1e}" for error in errors]


def _others(results: Sequence[OperatorResult], names: Sequence[str], dtype: str, on_gpu: bool) -> Table:
    def cell(noted: OperatorVariant | None) -> str:
        if noted is None:
            return "–"
        if noted.failure:
            return "failed"
        first = seconds(noted.first_call_seconds)
        return f"{microseconds(noted.wall)} · {first} · {noted.extra_bytes / 2**20:.1f}" if on_gpu else first

    rows = [
        [f"{result.case} {result.shape}", *(cell(result.variants.get(name)) for name in names)]
        for result in results
    ]
    what = "wall time from Python, µs · first call · peak memory, MiB" if on_gpu else "first call"
    return table(
        f"operators, {dtype.removeprefix('torch.')}: {what}",
        ["operator, shape", *names],
        rows,
        "wall: calls in a loop, one wait at the end; memory beyond the arguments" if on_gpu else "",
    )
