"""The table of `bench compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .compare import TOLERANCE, Change, Comparison, Time
from .tables import in_microseconds, ratio, table

if TYPE_CHECKING:
    from rich.table import Table


def comparison_table(found: Comparison, files: Sequence[Path]) -> Table:
    """What became slower, then what became faster."""
    changed = len(found.slower) + len(found.faster)
    alone = [f"; {count} only in {file}" for count, file in zip(found.alone, files, strict=True) if count > 0]
    summary = (
        f"{len(found.changes)} times compared: {len(found.slower)} slower, {len(found.faster)} faster, "
        f"{len(found.changes) - changed} within the spread or {TOLERANCE:.0%}{''.join(alone)}"
    )
    columns = ["", "variant", "kind", f"{files[0]}, µs", f"{files[1]}, µs", "after/before"]
    rows = [*_rows("slower", found.slower), *_rows("faster", found.faster)]
    return table("what changed beyond the spread", columns, rows, summary)


def _rows(what: str, changes: Sequence[Change]) -> list[list[str]]:
    return [
        [
            f"{what}: {each.key.case}",
            each.key.variant,
            each.key.kind,
            _microseconds(each.before),
            _microseconds(each.after),
            ratio(each.ratio),
        ]
        for each in changes
    ]


def _microseconds(time: Time) -> str:
    return f"{in_microseconds(time.median)} ±{50 * time.spread / time.median:.1f}%"
