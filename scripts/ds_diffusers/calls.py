"""What patched blocks did at their eager calls, kept beside the modules and not in them: nothing of it is
copied, pickled, or seen in a state_dict."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import nn


@dataclass
class Calls:
    """Number of a block's eager calls on each path, and the last call's obstacle in its arguments or in
    PyTorch's state; None where it had none, or where the block's modules were the obstacle."""

    fused: int = 0
    original: int = 0
    last_obstacle: str | None = None


_calls: weakref.WeakKeyDictionary[nn.Module, Calls] = weakref.WeakKeyDictionary()


def calls_of(block: nn.Module) -> Calls:
    """The record of `block`, empty at first."""
    calls = _calls.get(block)
    if calls is None:
        calls = _calls[block] = Calls()
    return calls


def forget(block: nn.Module) -> None:
    """Drops the record of `block`."""
    _calls.pop(block, None)
