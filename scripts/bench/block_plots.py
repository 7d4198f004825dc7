"""The plot of `bench block`: the block's time on each shape beside its floor, stacked by node."""

from __future__ import annotations

from itertools import cycle
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .block_variants import CHAIN, OPERATOR, OURS
from .plots import COLOURS, LIMIT, add_legend, error_bars, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Parts of the floor -> what they are, and a colour.
NODES = {
    "attn1_qkv": ("self-attention: q, k, v", "#bcbddc"),
    "attn1": ("self-attention", "#756bb1"),
    "attn1_out": ("self-attention: out", "#dadaeb"),
    "attn2_q": ("cross-attention: q", "#a1d99b"),
    "attn2_kv": ("cross-attention: k, v", "#74c476"),
    "attn2": ("cross-attention", "#238b45"),
    "attn2_out": ("cross-attention: out", "#c7e9c0"),
    "ff_in": ("feed-forward: in", "#fdae6b"),
    "ff_out": ("feed-forward: out", "#fdd0a2"),
}
MARKERS = "osD^vPX"
WIDTH, HEIGHT = 1.15, 4.2  # inches of a shape and of a panel
LEAST_WIDTH = 10
BAR = 0.36
LEAST_PLACES = 4
LEAST_MILLISECONDS = 10_000  # microseconds from which the axis counts in milliseconds


def block_plot(pyplot: ModuleType, content: dict[str, Any]) -> Figure:
    """A panel for each dtype."""
    results = content["results"]
    dtypes = unique([result["dtype"] for result in results])
    of_dtypes = [[result for result in results if result["dtype"] == dtype] for dtype in dtypes]
    figure, panels = pyplot.subplots(
        len(dtypes),
        figsize=(max(WIDTH * max(map(len, of_dtypes)), LEAST_WIDTH), HEIGHT * len(dtypes) + 1.2),
        squeeze=False,
        layout="constrained",
    )
    for axes, dtype, of_dtype in zip(panels.flat, dtypes, of_dtypes, strict=True):
        axes.set_title(dtype, fontsize="medium")
        draw_blocks(axes, of_dtype)
    add_legend(figure, columns=5, last="floor")
    return figure


def draw_blocks(axes: Axes, results: list[dict[str, Any]]) -> None:
    """The floor stacked by node, ours beside it with its ratio to the floor, and the others as markers."""
    longest = max(result["variants"][OURS]["time_us"]["median"] for result in results)
    unit, scale = ("µs", 1) if longest < LEAST_MILLISECONDS else ("ms", 1e-3)
    _draw_floors(axes, results, scale)
    _draw_ours(axes, results, scale)
    _draw_others(axes, results, scale)
    axes.set_xticks(range(len(results)), [result["shape"]["name"] for result in results])
    axes.set_xlim(-0.6, max(len(results), LEAST_PLACES) - 0.4)
    axes.set_ylabel(f"time, {unit}")
    axes.margins(y=0.08)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def _draw_floors(axes: Axes, results: list[dict[str, Any]], scale: float) -> None:
    places = range(len(results))
    bottoms = [0.0] * len(results)
    for name, (label, colour) in NODES.items():
        times = [scale * result["floor"]["parts"][name]["time_us"]["median"] for result in results]
        axes.bar(places, times, -BAR, bottom=bottoms, align="edge", color=colour, label=f"floor, {label}")
        bottoms = [bottom + time for bottom, time in zip(bottoms, times, strict=True)]
    rooflines = [scale * result["floor"]["roofline_us"] for result in results]
    starts = [place - BAR for place in places]
    axes.hlines(rooflines, starts, places, color=LIMIT, linewidth=1.5, label="roofline")


def _draw_ours(axes: Axes, results: list[dict[str, Any]], scale: float) -> None:
    times = [result["variants"][OURS]["time_us"] for result in results]
    bars = axes.bar(
        range(len(results)),
        [scale * time["median"] for time in times],
        BAR,
        yerr=error_bars(times, lambda time: scale * time),
        align="edge",
        color=COLOURS[OURS],
        ecolor="black",
        capsize=2,
        label="ours (× of the floor)",
    )
    ratios = [f"×{result['ours_over_floor']:.2f}" for result in results]
    axes.bar_label(bars, ratios, label_type="center", color="white", fontsize="x-small")


def _draw_others(axes: Axes, results: list[dict[str, Any]], scale: float) -> None:
    names = unique([name for result in results for name in result["variants"]])
    shown = [name for name in names if name not in (OURS, OPERATOR, CHAIN)]
    style = {"s": 22, "zorder": 3, "edgecolor": "white", "linewidth": 0.5}
    for index, (name, marker) in enumerate(zip(shown, cycle(MARKERS), strict=False), start=1):
        measured = [
            (place + BAR * index / (len(shown) + 1), scale * result["variants"][name]["time_us"]["median"])
            for place, result in enumerate(results)
            if result["variants"].get(name, {}).get("time_us")
        ]
        if measured:
            axes.scatter(
                *zip(*measured, strict=True), color=COLOURS.get(name), marker=marker, label=name, **style
            )
