"""What is known of patched blocks: what they did at their eager calls, and where their weights lie.

Kept beside the modules and not in them: nothing of it is copied, pickled, or seen in a state_dict.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

from torch import nn

from .layout import Layout


@dataclass
class Calls:
    """The record of one block.

    `fused`, `original`: number of its eager calls on each path. `last_obstacle`: the last call's obstacle in
    its arguments or in PyTorch's state; None where it had none, or where the block's modules were the
    obstacle.
    """

    fused: int = 0
    original: int = 0
    last_obstacle: str | None = None
    layout: Layout = field(default_factory=Layout)

    def note(self, reason: str | None, module_obstacle: str | None) -> None:
        """Counts a call with its first obstacle of all, and its obstacle in the block's modules."""
        self.last_obstacle = reason if module_obstacle is None else None
        if reason is None:
            self.fused += 1
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
