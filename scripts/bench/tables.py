"""Tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ds_diffusers.command_line import UserError

from .samples import Samples

if TYPE_CHECKING:
    from rich.table import Table

FILE_WIDTH = 150  # where the output is no terminal


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
    """The first column is left-aligned, numbers in the others right-aligned."""
    try:
        from rich import box
        from rich.table import Table
    except ModuleNotFoundError as error:
        raise missing_rich(error) from error
    made = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        made.add_row(*row)
    return made


def show(made: Sequence[Table]) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=FILE_WIDTH)
    for each in made:
        console.print(each)


def missing_rich(error: ModuleNotFoundError) -> UserError:
    return UserError(f"the benchmarks need the package {error.name}: pip install 'ds_diffusers[bench]'")


def microseconds(samples: Samples | None, spread: bool = False) -> str:
    if samples is None:
        return "–"
    shown = in_microseconds(samples.median)
    return f"{shown} ±{samples.spread * 50:.1f}%" if spread else shown


def in_microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def per_second(value: float | None, unit: str) -> str:
    """In thousands, as far as the value has them: 3.12 TB/s."""
    if value is None:
        return "–"
    prefixes = ["", "k", "M", "G", "T", "P"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}{unit}/s"


def ratio(value: float | None) -> str:
    return "–" if value is None else f"×{value:.2f}"


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.1f} ms"
