"""The plot of `bench ops`: the bandwidth that each operator reaches against the bytes that it moves, and of
those whose floor is a matrix product the operations a second against their number."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from .plots import COLOURS, LIMIT, add_legend, error_bars, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 3.8, 3.4  # inches of a panel


def operator_plot(pyplot: ModuleType, content: dict[str, Any]) -> Figure:
    """A row of panels for each dtype, a panel for each operator."""
    results = content["results"]
    cases, dtypes = (unique([result[key] for result in results]) for key in ("case", "dtype"))
    figure, panels = pyplot.subplots(
        len(dtypes),
        len(cases),
        figsize=(WIDTH * len(cases) + 0.4, HEIGHT * len(dtypes) + 0.9),
        squeeze=False,
        layout="constrained",
    )
    for row, dtype in zip(panels, dtypes, strict=True):
        for axes, case in zip(row, cases, strict=True):
            found = [result for result in results if (result["case"], result["dtype"]) == (case, dtype)]
            axes.set_title(f"{case}, {dtype}", fontsize="medium")
            if found:
                _draw_panel(axes, found, content["environment"])
    add_legend(figure, columns=8)
    return figure


def _draw_panel(axes: Axes, results: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    from matplotlib import ticker

    quantity = "operations" if results[0]["operations"] else "bytes"
    results = sorted(results, key=lambda result: result[quantity])
    if quantity == "bytes":
        limit = environment["copy_bytes_per_second"]
        axes.set(xlabel="moved, bytes", ylabel="bandwidth, GB/s")
    else:
        limit = environment["gemm_operations_per_second"][results[0]["dtype"]]
        axes.set(xlabel="operations", ylabel="operations a second, Gop/s")
    axes.axhline(limit / 1e9, color=LIMIT, linestyle="--", linewidth=1, label="a large copy or product")
    floors = [result["floor"]["time_us"] for result in results]
    floor = {"label": "copy of as many bytes, or the product alone", "color": LIMIT, "linestyle": ":"}
    _draw_line(axes, results, quantity, floors, marker=".", **floor)
    for name in unique([name for result in results for name in result["variants"]]):
        times = [result["variants"].get(name, {}).get("time_us") for result in results]
        _draw_line(axes, results, quantity, times, label=name, color=COLOURS.get(name), marker="o")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(numticks=5))
    if results[-1][quantity] < 50 * results[0][quantity]:
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _draw_line(
    axes: Axes,
    results: list[dict[str, Any]],
    quantity: str,
    times: list[dict[str, float] | None],
    **style: Any,
) -> None:
    measured = [(result[quantity], time) for result, time in zip(results, times, strict=True) if time]
    if not measured:
        return
    rates = [size / time["median"] / 1e3 for size, time in measured]  # a microsecond's bytes to GB/s
    bars = [error_bars([time], lambda each, size=size: size / each / 1e3) for size, time in measured]
    spreads = [[bar[end][0] for bar in bars] for end in (0, 1)]
    sizes = [size for size, _ in measured]
    axes.errorbar(sizes, rates, spreads, markersize=3.5, linewidth=1.2, capsize=2, **style)
