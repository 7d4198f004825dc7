"""Plots of speed-ups over eager: of whole UNets, and of the operators and the block on the CPU."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from ds_diffusers.command_line import UserError

from .block_variants import CHAIN, OPERATOR
from .compare import CASES
from .plots import COLOURS, LIMIT, add_legend, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EAGER = "eager"
WIDTH = 6.5  # inches of a panel
BAR_HEIGHT = 0.22  # inches


def unet_plot(pyplot: ModuleType, content: dict[str, Any]) -> Figure:
    """A panel for the GPU's time, where there is one, and one for the wall time from Python."""
    results = content["results"]
    kinds = {"time_ms": "GPU time of a step", "wall_ms": "wall time of a step"}
    row = {title: speed_ups(results, kind) for kind, title in kinds.items()}
    return _figure(pyplot, [{title: found for title, found in row.items() if found}])


def cpu_plot(pyplot: ModuleType, content: dict[str, Any]) -> Figure:
    """A row of panels for the operators and one for the block, in each a panel for each dtype."""
    rows = []
    for benchmark in ("ops", "block"):
        results = [result for result in content["results"] if result["benchmark"] == benchmark]
        dtypes = unique([result["dtype"] for result in results])
        of_dtypes = {dtype: [result for result in results if result["dtype"] == dtype] for dtype in dtypes}
        rows.append(
            {dtype: _without(dtype, speed_ups(found, "time_us")) for dtype, found in of_dtypes.items()}
        )
    return _figure(pyplot, rows)


def _without(dtype: str, found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The panel's title has it."""
    return {case.removesuffix(f" {dtype}"): ratios for case, ratios in found.items()}


def speed_ups(results: list[dict[str, Any]], kind: str) -> dict[str, dict[str, float]]:
    """By cases and variants, how many times as fast as eager the variant is."""
    found = {}
    for result in results:
        times = {name: noted[kind] for name, noted in result["variants"].items() if noted[kind]}
        if EAGER in times:
            case = CASES[result["benchmark"]](result)
            found[case] = {
                name: times[EAGER]["median"] / time["median"]
                for name, time in times.items()
                if name not in (EAGER, OPERATOR, CHAIN)
            }
    return found


def _figure(pyplot: ModuleType, rows: list[dict[str, dict[str, dict[str, float]]]]) -> Figure:
    """Of rows of panels by their titles."""
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise UserError("a plot shows speed-ups over eager, which was not measured: --peers must have eager")
    heights = [max(map(_bars, row.values())) * BAR_HEIGHT + 0.9 for row in rows]
    columns = max(map(len, rows))
    figure, panels = pyplot.subplots(
        len(rows),
        columns,
        figsize=(WIDTH * columns, sum(heights) + 0.5),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for row, row_panels in zip(rows, panels, strict=True):
        for axes, (title, found) in zip(row_panels, row.items(), strict=False):
            axes.set_title(title, fontsize="medium")
            if found:
                _draw_panel(axes, found)
    add_legend(figure, columns=8)
    return figure


def _bars(found: dict[str, dict[str, float]]) -> int:
    """With the gaps between groups."""
    return sum(map(len, found.values())) + len(found)


def _draw_panel(axes: Axes, found: dict[str, dict[str, float]]) -> None:
    """Horizontal bars, a group for each case, from top to bottom."""
    place, ticks = 0.0, []
    labelled = set()
    for case, ratios in found.items():
        ticks.append((place + (len(ratios) - 1) / 2, case))
        for name, ratio in ratios.items():
            label = "" if name in labelled else name
            bars = axes.barh(place, ratio, 0.9, color=COLOURS.get(name), label=label)
            axes.bar_label(bars, [f" ×{ratio:.2f}"], fontsize="x-small")
            labelled.add(name)
            place += 1
        place += 1
    axes.axvline(1, color=LIMIT, linestyle="--", linewidth=1)
    axes.set_yticks(*zip(*ticks, strict=True), fontsize="small")
    axes.margins(y=0.03)
    axes.invert_yaxis()
    axes.set_xlim(right=1.1 * max(ratio for ratios in found.values() for ratio in ratios.values()))
    axes.set_xlabel("times as fast as eager")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
