"""The tables of `bench block`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .block import BlockResult, VariantResult
from .block_variants import CHAIN, OPERATOR, OURS
from .products import AttentionProduct, block_parts
from .rates import Rates
from .tables import microseconds, per_second, ratio, seconds, table

if TYPE_CHECKING:
    from rich.table import Table


def block_tables(results: Sequence[BlockResult], rates: Rates, on_gpu: bool) -> list[Table]:
    """Of one dtype: time; from Python; first call, memory and error."""
    dtype = str(results[0].dtype).removeprefix("torch.")
    peers = [name for name in results[0].variants if name not in (OURS, OPERATOR, CHAIN)]
    tables = [_times(results, peers, rates, on_gpu)]
    if on_gpu:
        tables.append(_from_python(results, [OURS, OPERATOR, *peers], dtype))
    tables.append(_others(results, [OURS, *peers], dtype))
    return tables


def _times(results: Sequence[BlockResult], peers: Sequence[str], rates: Rates, on_gpu: bool) -> Table:
    dtype = results[0].dtype
    rows = []
    for result in results:
        variants = result.variants
        row = [result.shape.name, microseconds(variants[OURS].time, spread=True), _floor(result)]
        row += [ratio(result.over_floor), f"{sum(result.rooflines.values()) * 1e6:.1f}"]
        if on_gpu:
            row.append(microseconds(variants[CHAIN].time))
        row += [_against_ours(result, name) for name in peers]
        rows.append(row)
    chain = ["chain"] if on_gpu else []
    copy = per_second(rates.bytes_per_second, "B")
    product = per_second(rates.operations_per_second[dtype], "op")
    method = "GPU time, CUDA-graph replay" if on_gpu else "time on the clock"
    return table(
        f"block, {str(dtype).removeprefix('torch.')}: {method}, µs",
        ["shape", "ours", "floor = products + attn1 + attn2", "ours/floor", "roofline", *chain, *peers],
        rows,
        "×: of our time. floor: products and attentions measured one by one; chain: in one graph; roofline: "
        f"their operations at {product}, a large product's rate, or bytes at {copy}, a large copy's. "
        "±: half the distance of the quartiles",
    )


def _floor(result: BlockResult) -> str:
    parts = block_parts(result.shape)
    products = sum(
        samples.median
        for name, samples in result.parts.items()
        if not isinstance(parts[name], AttentionProduct)
    )
    pieces = (products, result.parts["attn1"].median, result.parts["attn2"].median)
    return f"{microseconds(result.floor)} = " + " + ".join(f"{piece * 1e6:.1f}" for piece in pieces)


def _against_ours(result: BlockResult, name: str) -> str:
    noted = result.variants[name]
    if noted.failure:
        return "failed"
    if noted.time is None:
        return "–"
    return f"{microseconds(noted.time)} {ratio(result.over_ours(name))}"


def _from_python(results: Sequence[BlockResult], names: Sequence[str], dtype: str) -> Table:
    def cell(noted: VariantResult | None) -> str:
        if noted is None or noted.failure or noted.wall is None:
            return "–"
        return f"{microseconds(noted.wall)} / {microseconds(noted.enqueue)}"

    shown = [name for name in names if any(result.variants[name].wall for result in results)]
    rows = [[result.shape.name, *(cell(result.variants.get(name)) for name in shown)] for result in results]
    return table(
        f"block, {dtype}: a call from Python without a graph, µs: wall / CPU",
        ["shape", *shown],
        rows,
        "wall: calls in a loop, one wait at the end; CPU: until the call returns, the GPU kept busy",
    )


def _others(results: Sequence[BlockResult], names: Sequence[str], dtype: str) -> Table:
    def cell(noted: VariantResult) -> str:
        if noted.failure:
            return "failed"
        memory = "–" if noted.extra_bytes is None else f"{noted.extra_bytes / 2**20:.0f}"
        error = "–" if noted.error is None else f"{noted.error.relative:.1e}"
        return f"{seconds(noted.first_call_seconds)} · {memory} · {error}"

    rows = [[result.shape.name, *(cell(result.variants[name]) for name in names)] for result in results]
    return table(
        f"block, {dtype}: first call · peak memory beyond weights and input, MiB · error",
        ["shape", *names],
        rows,
        "error: norm of the difference from float64 over the norm of the result",
    )
