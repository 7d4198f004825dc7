"""Checks of which way a patched block takes, and that it computes what it does unpatched."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

import ds_diffusers
from diffusers.models.attention import BasicTransformerBlock
from helpers.unets import Arguments
from torch import nn

Change = Callable[[BasicTransformerBlock], object]


class OwnLinear(nn.Linear):
    pass


def own_class(module: nn.Linear) -> None:
    module.__class__ = OwnLinear


def check_original(
    block: BasicTransformerBlock,
    values: Arguments,
    reason: str,
    state: Callable[[], AbstractContextManager] = torch.no_grad,
) -> None:
    """The patched block does what the block itself does, and reports the reason."""
    result, expected = run_patched_and_not(block, values, state)
    assert torch.equal(result, expected)
    assert result.requires_grad == expected.requires_grad
    check_path(block, "original", reason)


def check_segments(
    block: BasicTransformerBlock,
    values: Arguments,
    reason: str,
    state: Callable[[], AbstractContextManager] = torch.no_grad,
) -> None:
    """The patched block computes the same in segments, and reports why not as one operator."""
    result, expected = run_patched_and_not(block, values, state)
    check_close(result, expected)
    check_path(block, "segments", reason)


def run_patched_and_not(
    block: BasicTransformerBlock, values: Arguments, state: Callable[[], AbstractContextManager]
) -> tuple[torch.Tensor, torch.Tensor]:
    def run() -> torch.Tensor:
        torch.manual_seed(0)
        with state():
            return block(**values)

    ds_diffusers.unpatch(block)
    expected = run()
    ds_diffusers.patch(block)
    return run(), expected


def check_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def check_path(block: BasicTransformerBlock, path: str, reason: str, fused_calls: int = 0) -> None:
    """Of the only call, or of the one after `fused_calls`."""
    report = ds_diffusers.report(block)[0]
    counts = (report.fused_calls, report.segmented_calls, report.original_calls)
    assert (report.path, counts) == (path, (fused_calls, int(path == "segments"), int(path == "original")))
    assert reason in report.reason


def check_fused(block: BasicTransformerBlock, values: Arguments) -> None:
    before = ds_diffusers.report(block)[0].fused_calls
    with torch.no_grad():
        block(**values)
    report = ds_diffusers.report(block)[0]
    assert (report.path, report.reason, report.fused_calls) == ("block_forward", "", before + 1)
