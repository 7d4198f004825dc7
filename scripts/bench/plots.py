"""Plots of a JSON file's content, as PNG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ds_diffusers.command_line import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130

# One colour a variant in all plots.
COLOURS = {
    "ours": "tab:blue",
    "ours, in two": "tab:cyan",
    "ours, operator alone": "tab:cyan",
    "ours+compile": "tab:purple",
    "ours+max-autotune": "tab:pink",
    "eager": "tab:orange",
    "compile": "tab:green",
    "max-autotune": "tab:red",
    "reduce-overhead": "tab:brown",
    "hand-composed": "tab:olive",
    "int8": "tab:purple",
    "kept-prompt": "tab:pink",
}
LIMIT = "0.35"  # grey of floors and of the rates of large copies and products


def draw(content: dict[str, Any], file: Path) -> None:
    """Draws the content of a JSON file; UserError where its benchmark has no plot."""
    from .block_plots import block_plot
    from .operator_plots import operator_plot
    from .speed_up_plots import cpu_plot, unet_plot

    makers: dict[str, Callable[[ModuleType, dict[str, Any]], Figure]] = {
        "ops": operator_plot,
        "block": block_plot,
        "unet": unet_plot,
        "cpu": cpu_plot,
    }
    benchmark = content["benchmark"]
    if benchmark not in makers:
        raise UserError(f"a result of bench {benchmark} has no plot, must be of {', '.join(makers)}")
    figure = makers[benchmark](pyplot(), content)
    figure.suptitle(f"bench {benchmark}: {_title(content['environment'])}", fontsize="medium")
    try:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        pyplot().close(figure)


def pyplot() -> ModuleType:
    """matplotlib's, that opens no window; UserError where matplotlib is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(f"plots need the package {error.name}: pip install 'ds_diffusers[bench]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _title(environment: dict[str, Any]) -> str:
    commit, _, changed = (environment["commit"] or "unknown").partition("-")
    shown = commit[:12] + ("-" + changed if changed else "")
    return f"{environment['device']['name']}, torch {environment['versions']['torch']}, commit {shown}"


def add_legend(figure: Figure, columns: int, last: str = "\0") -> None:
    """One for all panels, below them; labels that start with `last` behind the others."""
    labels: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    names = sorted(labels, key=lambda name: name.startswith(last))
    handles = [labels[name] for name in names]
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(columns, len(names)), fontsize="small"
    )


def error_bars(samples: list[dict[str, float]], convert: Callable[[float], float]) -> list[list[float]]:
    """How far the quartiles lie below and above the median, each converted from what the file holds."""
    ends = [
        sorted(convert(each[name]) for name in ("lower_quartile", "median", "upper_quartile"))
        for each in samples
    ]
    return [[middle - low for low, middle, _ in ends], [high - middle for _, middle, high in ends]]


def unique(values: list[Any]) -> list[Any]:
    """In the order in which they come first."""
    return list(dict.fromkeys(values))
