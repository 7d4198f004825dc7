"""`bench compare`: what became slower or faster from one JSON file to another.

Every time that both files have of the same case, shape, dtype, variant and kind (GPU or clock, wall, CPU) is
compared by its median. It changed where the medians differ by more than either sample's spread, the distance
of its quartiles, and by more than TOLERANCE of the earlier median: clocks and addresses differ from one
process to the next, which the spread within one does not show. First calls are left out: there is one of
each, so it has no spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ds_diffusers.command_line import UserError

from . import overhead

TOLERANCE = 0.02
RULE = (
    "Says what became slower or faster between two JSON files: where medians differ by more than either "
    f"sample's spread (the distance of its quartiles) and by more than {TOLERANCE:.0%}. The exit status is 1 "
    "where something of ours became slower."
)

KINDS = {"time": "time", "wall": "wall", "enqueue": "CPU"}
UNITS = {"_us": 1e-6, "_ms": 1e-3}
FLOOR = "floor"


class Key(NamedTuple):
    """What a time is of. `kind`: of KINDS; "time" is the GPU's by graph replay, on the CPU the clock's."""

    case: str
    variant: str
    kind: str

    @property
    def ours(self) -> bool:
        """Whether the variant runs this project's operators."""
        return self.variant.startswith("ours") or self.variant in ("int8", "kept-prompt", *overhead.OURS)


@dataclass(frozen=True)
class Time:
    """Seconds."""

    median: float
    spread: float  # distance of the quartiles


@dataclass(frozen=True)
class Change:
    key: Key
    before: Time
    after: Time

    @property
    def ratio(self) -> float:
        return self.after.median / self.before.median

    @property
    def beyond_spread(self) -> bool:
        difference = abs(self.after.median - self.before.median)
        spread = max(self.before.spread, self.after.spread)
        return difference > spread and difference > TOLERANCE * self.before.median


@dataclass(frozen=True)
class Comparison:
    """`alone`: how many times only the earlier and only the later file has."""

    changes: list[Change]
    alone: tuple[int, int]

    @property
    def slower(self) -> list[Change]:
        """The worst first."""
        found = [each for each in self.changes if each.beyond_spread and each.ratio > 1]
        return sorted(found, key=lambda each: -each.ratio)

    @property
    def faster(self) -> list[Change]:
        """The best first."""
        found = [each for each in self.changes if each.beyond_spread and each.ratio < 1]
        return sorted(found, key=lambda each: each.ratio)


def compare(earlier: dict[Key, Time], later: dict[Key, Time]) -> Comparison:
    both = [Change(key, earlier[key], later[key]) for key in earlier if key in later]
    return Comparison(both, (len(earlier) - len(both), len(later) - len(both)))


def times_in(file: Path, content: dict[str, Any]) -> dict[Key, Time]:
    try:
        return dict(_times(content["results"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{file} has results that no benchmark wrote: {error!r}") from error


def _times(found: list[dict[str, Any]]) -> Iterator[tuple[Key, Time]]:
    for result in found:
        case = CASES[result["benchmark"]](result)
        for variant, noted in _variants(result):
            for kind, shown in KINDS.items():
                for unit, scale in UNITS.items():
                    samples = noted.get(kind + unit)
                    if samples is not None:
                        spread = samples["upper_quartile"] - samples["lower_quartile"]
                        yield Key(case, variant, shown), Time(samples["median"] * scale, spread * scale)


def _variants(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The variants of a result, and its floor as another, each with its samples by kind and unit."""
    if result["benchmark"] == "overhead":
        for way in result["wall_us"]:
            yield way, {kind: result[kind].get(way) for kind in ("wall_us", "enqueue_us")}
        return
    yield from result["variants"].items()
    if "floor" in result:
        yield FLOOR, result["floor"]


CASES = {
    "ops": lambda result: f"{result['case']} {'x'.join(map(str, result['shape']))} {result['dtype']}",
    "block": lambda result: f"block {result['shape']['name']} {result['dtype']}",
    "unet": lambda result: f"{result['model']} {result['size']}² {result['dtype']}",
    "overhead": lambda result: f"{result['case']} {result['device']} {result['dtype']}",
}


def differences(earlier: dict[str, Any], later: dict[str, Any]) -> list[str]:
    """In device, processor and versions, each as a sentence."""
    facts = [
        {
            "the device": each.get("device", {}).get("name"),
            "the processor": each.get("machine", {}).get("processor"),
            "the number of CPU threads": each.get("machine", {}).get("cores"),
            **each.get("versions", {}),
        }
        for each in (earlier, later)
    ]
    return [
        f"{name} was {facts[0].get(name)} and is {facts[1].get(name)}"
        for name in dict.fromkeys([*facts[0], *facts[1]])
        if facts[0].get(name) != facts[1].get(name)
    ]
