"""What blocks do with the prompts that are kept of them, and fixtures for the tests of it."""

import copy
from collections.abc import Iterator
from typing import Any

import ds_diffusers
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from ds_diffusers import blocks, prompts
from helpers.unets import Arguments, make_block
from helpers.weights import check_close
from torch import nn


class Seen:
    """What patched blocks did: whether each call of the operator got keys and values, and how often some were
    computed to be kept."""

    def __init__(self) -> None:
        self.kept: list[bool] = []
        self.computed = 0

    def take(self) -> tuple[list[bool], int]:
        taken = self.kept, self.computed
        self.kept, self.computed = [], 0
        return taken


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Of all patched blocks, from now on."""
    found = Seen()
    operator, compute = blocks.block_forward, prompts.KeptPrompts._compute

    def call(*arguments: Any, **named: Any) -> torch.Tensor:
        found.kept.append("attn2_key_value" in named)
        return operator(*arguments, **named)

    def compute_and_count(*arguments: Any) -> torch.Tensor | None:
        found.computed += 1
        return compute(*arguments)

    monkeypatch.setattr(blocks, "block_forward", call)
    monkeypatch.setattr(prompts.KeptPrompts, "_compute", compute_and_count)
    return found


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """No hook, and no handle."""
    yield
    assert prompts._handles == 0 and prompts._hook is None
    assert not nn.modules.module._global_module_registration_hooks


def patched(**config: Any) -> BasicTransformerBlock:
    return ds_diffusers.patch(make_block(**config))


def call(block: nn.Module, values: Arguments) -> torch.Tensor:
    with torch.no_grad():
        return block(**values)


def expected(block: nn.Module, values: Arguments) -> torch.Tensor:
    """What an unpatched copy computes."""
    return call(ds_diffusers.unpatch(copy.deepcopy(block)), values)


def check(block: nn.Module, values: Arguments) -> None:
    check_close(call(block, values), expected(block, values))
