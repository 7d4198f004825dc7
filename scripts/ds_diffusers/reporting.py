"""Which path each transformer block takes, and why not the fused one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import nn

from .library import load
from .patching import named_modules_of

FUSED, ORIGINAL = "block_forward", "original"


@dataclass(frozen=True)
class BlockReport:
    """One block. `path` is "block_forward" or "original", `reason` why it is the original ("" otherwise);
    `fused_calls` and `original_calls` count its eager calls since `patch` (compiled calls are not
    counted)."""

    name: str
    path: str
    reason: str
    fused_calls: int
    original_calls: int


class Report(list[BlockReport]):
    """The blocks of a model in order. Printing it gives a summary; rich.print a table of all blocks."""

    @property
    def fused(self) -> int:
        """Number of blocks whose path is block_forward."""
        return sum(block.path == FUSED for block in self)

    def __str__(self) -> str:
        lines = [f"{self.fused} of {len(self)} blocks run as {FUSED}"]
        reasons = Counter(block.reason for block in self if block.path != FUSED)
        for reason, count in reasons.most_common():
            lines.append(f"{count} of {len(self)} blocks run as diffusers' own: {reason}")
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table("block", "path", "reason", "fused calls", "original calls", title=str(self))
        for block in self:
            table.add_row(
                block.name, block.path, block.reason, str(block.fused_calls), str(block.original_calls)
            )
        return table


def report(model: Any) -> Report:
    """Says for each BasicTransformerBlock of a model or pipeline, patched or not, which path its next call
    takes.

    Judged by the state of its modules now, without a call; what only a call shows (autocast, gradients,
    arguments) is taken from the block's last eager call.
    """
    load()
    from .blocks import OriginalBlock

    return Report(
        _block_report(name, module)
        for name, module in named_modules_of(model)
        if isinstance(module, OriginalBlock)
    )


def _block_report(name: str, block: nn.Module) -> BlockReport:
    from .blocks import BasicTransformerBlock
    from .calls import calls_of

    if type(block) is not BasicTransformerBlock:
        kind = type(block)
        patchable = kind is BasicTransformerBlock.__base__
        reason = "not patched" if patchable else f"its class is {kind.__module__}.{kind.__qualname__}"
        return BlockReport(name, ORIGINAL, reason, 0, 0)
    calls = calls_of(block)
    reason = _static_reason(block) or calls.last_obstacle or ""
    return BlockReport(name, ORIGINAL if reason else FUSED, reason, calls.fused, calls.original)


def _static_reason(block: nn.Module) -> str | None:
    from .block_modules import block_modules, block_parameters
    from .conditions import parameters_obstacle

    obstacle, modules = block_modules(block)
    if obstacle is not None:
        return obstacle
    weight = modules["ff.net.2"].weight
    is_quantized = not weight.is_floating_point()
    dtype = modules["attn1.to_q"].weight.dtype if is_quantized else weight.dtype
    return parameters_obstacle(block_parameters(modules), dtype, weight.device)
