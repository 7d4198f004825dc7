"""What PyTorch's state does to patched blocks: gradients, autocast, transforms, modes, hooks on all modules and
replaced functions keep them from running as one operator as long as they last."""

# labels: torch diffusers
import copy
import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers.models.attention_processor as processors
import ds_diffusers
from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from ds_diffusers.block_modules import own_function
from helpers.patched_blocks import (
    Change,
    OwnLinear,
    own_class,
    check_original,
    check_segments,
    run_patched_and_not,
    check_path,
    check_fused,
)
from helpers.unets import CHANNELS, CONTEXT, block_arguments, make_block, run_unet, sd15_unet, unet_arguments
from torch import nn
from torch.overrides import TorchFunctionMode

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*weight_norm", "ignore:.*batching rule", "ignore:.*torch.jit"),
]


def test_gradients() -> None:
    block = make_block()
    values = block_arguments(block)
    check_original(block, values, "a gradient may be needed", state=nullcontext)
    check_fused(block, values)
    block.requires_grad_(False)
    check_fused(block, values)
    values["encoder_hidden_states"].requires_grad_()
    check_original(block, values, "a gradient may be needed", state=nullcontext)


def test_training_gives_the_same_gradients() -> None:
    unet = sd15_unet().train()
    patched = ds_diffusers.patch(copy.deepcopy(unet))
    for model in (unet, patched):
        run_unet(model, unet_arguments(model)).square().mean().backward()
    for (name, parameter), other in zip(unet.named_parameters(), patched.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), name


def test_gradient_checkpointing() -> None:
    unet = ds_diffusers.patch(sd15_unet().train())
    run_unet(unet, unet_arguments(unet)).square().mean().backward()
    expected = [parameter.grad.clone() for parameter in unet.parameters()]
    unet.zero_grad()
    unet.enable_gradient_checkpointing()
    run_unet(unet, unet_arguments(unet)).square().mean().backward()
    for parameter, other in zip(unet.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, other)


@pytest.mark.parametrize("change", [lambda block: None, lambda block: own_class(block.attn1.to_q)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype: torch.dtype, change: Change) -> None:
    """In its own dtype a block may run as one operator. In segments its layers and processors see the dtypes
    that they see as diffusers' own."""
    block = make_block().to(dtype)
    change(block)
    values = block_arguments(block)
    result, expected = run_patched_and_not(block, values, autocast_without_gradients)
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0.02)
    report = ds_diffusers.report(block)[0]
    if type(block.attn1.to_q) is OwnLinear:
        assert (report.path, report.segmented_calls) == ("segments", 1)
    elif dtype == torch.float32:
        reason = "autocast to torch.bfloat16 is on, hidden_states has dtype torch.float32"
        check_path(block, "segments", reason)
        check_fused(block, values)
    else:
        assert (report.path, report.fused_calls) == ("block_forward", 1)


def test_autocast_while_compiling() -> None:
    block = ds_diffusers.patch(make_block().bfloat16())
    values = block_arguments(block)
    with autocast_without_gradients():
        compiled = torch.compile(block, fullgraph=True, backend="eager")(**values)
        torch.testing.assert_close(compiled, block(**values))


@contextmanager
def autocast_without_gradients() -> Iterator[None]:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        yield


def test_autocast_of_another_device() -> None:
    block = ds_diffusers.patch(make_block())
    with mock.patch("torch.is_autocast_enabled", lambda device_type: device_type == "cuda"):
        check_fused(block, block_arguments(block))


def test_function_transforms() -> None:
    block = make_block().requires_grad_(False)
    states = torch.randn(3, 2, 10, CHANNELS)
    context = torch.randn(2, 7, CONTEXT)

    def call(hidden_states: torch.Tensor) -> torch.Tensor:
        return block(hidden_states, encoder_hidden_states=context)

    expected = torch.vmap(call)(states), torch.func.grad(lambda value: call(value).sum())(states[0])
    ds_diffusers.patch(block)
    assert torch.equal(torch.vmap(call)(states), expected[0])
    assert ds_diffusers.report(block)[0].reason == "a torch.func transform is on"
    assert torch.equal(torch.func.grad(lambda value: call(value).sum())(states[0]), expected[1])
    assert ds_diffusers.report(block)[0].fused_calls == 0


def test_forward_mode_differentiation() -> None:
    block = ds_diffusers.patch(make_block().requires_grad_(False))
    values = block_arguments(block)
    with (
        torch.autograd.forward_ad.dual_level(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
    ):
        states = torch.autograd.forward_ad.make_dual(values["hidden_states"], torch.ones(2, 10, CHANNELS))
        result = block(**values | {"hidden_states": states})
        assert torch.autograd.forward_ad.unpack_dual(result).tangent is not None
    assert ds_diffusers.report(block)[0].reason == "forward-mode differentiation is on"


def test_hooks_on_all_modules() -> None:
    block = make_block()
    values = block_arguments(block)
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *others: seen.append(module))
    try:
        check_original(block, values, "there is a hook on all modules")
    finally:
        handle.remove()
    assert block.attn1.to_q in seen
    check_fused(block, values)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (BasicTransformerBlock, "forward"),
        (processors.Attention, "forward"),
        (processors.AttnProcessor2_0, "__call__"),
        (FeedForward, "forward"),
        (GEGLU, "forward"),
        (nn.LayerNorm, "forward"),
        (nn.Linear, "forward"),
        (nn.Dropout, "forward"),
        (nn.functional, "scaled_dot_product_attention"),
    ],
)
def test_replaced_functions(owner: object, name: str) -> None:
    block = make_block()
    values = block_arguments(block)
    original = getattr(owner, name)
    calls = []

    @functools.wraps(original)
    def replacement(*arguments, **named):
        calls.append(name)
        return original(*arguments, **named)

    with mock.patch.object(owner, name, replacement):
        check = check_original if owner is BasicTransformerBlock else check_segments
        check(block, values, f"{owner.__name__}.{name} was replaced")
    assert len(calls) >= 2
    check_fused(block, values)


class DoubledAttention(TorchFunctionMode):
    """As libraries do that compute attention in another way."""

    def __torch_function__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        return 2 * result if function is nn.functional.scaled_dot_product_attention else result


def test_modes_that_replace_functions() -> None:
    block = make_block()
    values = block_arguments(block)

    @contextmanager
    def state() -> Iterator[None]:
        with torch.no_grad(), DoubledAttention():
            yield

    reason = f"the mode {__name__}.DoubledAttention is on, which may replace PyTorch's functions"
    check_original(block, values, reason, state)
    with torch.device("cpu"):
        check_fused(block, values)


def test_functions_that_were_replaced_before_import(tmp_path) -> None:
    block = make_block()
    torch.save((block, block_arguments(block)), tmp_path / "block.pt")
    program = (
        "import sys, torch\n"
        "function = torch.nn.functional.scaled_dot_product_attention\n"
        "doubled = lambda *inputs, **named: 2 * function(*inputs, **named)\n"
        "torch.nn.functional.scaled_dot_product_attention = doubled\n"
        "block, values = torch.load(sys.argv[1], weights_only=False)\n"
        "import ds_diffusers\n"
        "with torch.no_grad():\n"
        "    expected = block(**values)\n"
        "    torch.testing.assert_close(ds_diffusers.patch(block)(**values), expected)\n"
        "print(ds_diffusers.report(block)[0].reason)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "block.pt")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output.strip() == "torch.nn.functional.scaled_dot_product_attention was replaced"


@pytest.mark.parametrize(
    ("owner", "name"), [(nn.Linear, "forward"), (nn.functional, "scaled_dot_product_attention")]
)
def test_own_functions_are_known(owner: object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(owner, name)
    assert own_function(owner, name) is original
    monkeypatch.setattr(owner, name, functools.wraps(original)(lambda *inputs: original(*inputs)))
    assert own_function(owner, name) is None
