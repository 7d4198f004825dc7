"""What is known of patched blocks: what they did at their eager calls, where their weights lie, and what is
kept of their prompts.

Kept beside the modules and not in them: nothing of it is copied, pickled, or seen in a state_dict.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from .layout import Layout

if TYPE_CHECKING:
    from .prompts import KeptPrompts


@dataclass
class Calls:
    """The record of one block.

    `fused`, `segmented`, `original`: number of its eager calls on each path. `last_obstacle`,
    `last_segments_obstacle`: what in the last call's arguments or in PyTorch's state kept it from running as
    one operator, or in segments; None where nothing did, or where the block's modules already did.
    `prompts`: None outside of `keep_prompt`.
    """

    fused: int = 0
    segmented: int = 0
    original: int = 0
    last_obstacle: str | None = None
    last_segments_obstacle: str | None = None
    layout: Layout = field(default_factory=Layout)
    prompts: KeptPrompts | None = None

    def note_fused(self) -> None:
        """Counts a call that ran as one operator."""
        self.fused += 1
        self.last_obstacle = self.last_segments_obstacle = None

    def note_not_fused(self, in_segments: bool, obstacle: str | None, segments_obstacle: str | None) -> None:
        """Counts a call that ran in segments, or as diffusers' own, with what in it was an obstacle."""
        self.last_obstacle, self.last_segments_obstacle = obstacle, segments_obstacle
        if in_segments:
            self.segmented += 1
        else:
            self.original += 1


_calls: weakref.WeakKeyDictionary[nn.Module, Calls] = weakref.WeakKeyDictionary()


def calls_of(block: nn.Module) -> Calls:
    """The record of `block`, empty at first."""
    calls = _calls.get(block)
    # Of two threads that come first, both get the same record.
    return _calls.setdefault(block, Calls()) if calls is None else calls


def forget(block: nn.Module) -> None:
    """Drops the record of `block`, and takes back what its layout did."""
    calls = _calls.pop(block, None)
    if calls is not None:
        calls.layout.separate(block)
