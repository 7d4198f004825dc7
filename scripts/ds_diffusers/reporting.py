"""Which path each transformer block takes, and why not a wider one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .class_names import class_name
from .library import load
from .ops import DTYPES
from .patching import named_modules_of

FUSED, SEGMENTS, ORIGINAL = "block_forward", "segments", "original"


@dataclass(frozen=True)
class BlockReport:
    """One block, by its name in the model.

    `path`: "block_forward", the whole block as one operator; "segments", its attentions and whatever is not
    a plain layer called as modules and the rest fused; or "original", diffusers' own code. `reason`: why not
    a wider one ("" where it is the whole block). `segments`: which parts are fused on that path.
    `fused_calls`, `segmented_calls`, `original_calls`: its eager calls on each path since `patch` (compiled
    calls are not counted).
    """

    name: str
    path: str
    reason: str
    segments: tuple[str, ...] = ()
    fused_calls: int = 0
    segmented_calls: int = 0
    original_calls: int = 0


class Report(list[BlockReport]):
    """The blocks of a model in order. Printing it gives a summary; rich.print a table of all blocks."""

    @property
    def fused(self) -> int:
        """Number of blocks whose path is block_forward."""
        return self._count(FUSED)

    @property
    def segmented(self) -> int:
        """Number of blocks whose path is segments."""
        return self._count(SEGMENTS)

    @property
    def original(self) -> int:
        """Number of blocks whose path is original."""
        return self._count(ORIGINAL)

    def reasons(self, path: str) -> Counter[str]:
        """Why the blocks of this path take no wider one, and how many each time."""
        return Counter(block.reason for block in self if block.path == path)

    def summary(self) -> str:
        """How many blocks take which path, in one line."""
        return (
            f"{len(self)} blocks: {self.fused} as {FUSED}, {self.segmented} in segments, "
            f"{self.original} as diffusers' own"
        )

    def __str__(self) -> str:
        lines = [f"{self.fused} of {len(self)} blocks run as {FUSED}"]
        for path, words in ((SEGMENTS, "in segments"), (ORIGINAL, "as diffusers' own")):
            for reason, count in self.reasons(path).most_common():
                lines.append(f"{count} of {len(self)} blocks run {words}: {reason}")
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table("block", "path", "why no wider one", title=str(self))
        for path in (FUSED, SEGMENTS, ORIGINAL):
            table.add_column(f"calls: {path}", justify="right")
        for block in self:
            path = f"{block.path}: {', '.join(block.segments)}" if block.segments else block.path
            counts = (block.fused_calls, block.segmented_calls, block.original_calls)
            table.add_row(block.name, path, block.reason, *map(str, counts))
        return table

    def _count(self, path: str) -> int:
        return sum(block.path == path for block in self)


def report(model: Any) -> Report:
    """Says for each transformer block of a model or pipeline, patched or not, which path its next call takes.

    Judged by the state of its modules now, without a call; what only a call shows (gradients, arguments,
    dtypes) is taken from the block's last eager call. Beside the BasicTransformerBlocks it lists modules of
    other classes of diffusers that are transformer blocks by their name, which are never patched.
    """
    load()
    from .blocks import OriginalBlock

    return Report(
        _block_report(name, module)
        for name, module in named_modules_of(model)
        if isinstance(module, OriginalBlock) or _is_other_block(type(module))
    )


def _is_other_block(kind: type) -> bool:
    return kind.__module__.startswith("diffusers.") and "TransformerBlock" in kind.__name__


def _block_report(name: str, block: nn.Module) -> BlockReport:
    from .blocks import BasicTransformerBlock
    from .calls import calls_of

    if type(block) is not BasicTransformerBlock:
        patchable = type(block) is BasicTransformerBlock.__base__
        reason = "not patched" if patchable else f"its class is {class_name(block)}"
        return BlockReport(name, ORIGINAL, reason)
    calls = calls_of(block)
    counts = {
        "fused_calls": calls.fused,
        "segmented_calls": calls.segmented,
        "original_calls": calls.original,
    }
    reason = _whole_obstacle(block) or calls.last_obstacle
    if reason is None:
        return BlockReport(name, FUSED, "", **counts)
    obstacle, segments = _segments(block)
    obstacle = obstacle or calls.last_segments_obstacle
    if obstacle is not None:
        return BlockReport(name, ORIGINAL, obstacle, **counts)
    return BlockReport(name, SEGMENTS, reason, segments, **counts)


def _whole_obstacle(block: nn.Module) -> str | None:
    from .block_modules import block_adapters, block_modules, block_parameters
    from .conditions import adapters_obstacle, parameters_obstacle

    obstacle, modules = block_modules(block)
    if obstacle is not None:
        return obstacle
    weight = modules["ff.net.2"].weight
    is_quantized = not weight.is_floating_point()
    dtype = modules["attn1.to_q"].weight.dtype if is_quantized else weight.dtype
    reason = parameters_obstacle(block_parameters(modules), dtype, weight.device)
    return reason or adapters_obstacle(block_adapters(modules), weight.device)


def _segments(block: nn.Module) -> tuple[str | None, tuple[str, ...]]:
    """The obstacle to segments, and their names, for hidden states as the block's first parameter is."""
    from .segments import find_segments

    suitable = (parameter for parameter in block.parameters() if parameter.dtype in DTYPES)
    first = next(suitable, torch.empty(0))
    obstacle, segments = find_segments(block, first.dtype, first.device, autocast=False)
    return obstacle, tuple(name for name, fused in segments._asdict().items() if fused)
