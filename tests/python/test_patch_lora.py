"""Blocks whose layers have LoRA adapters of PEFT: when they run as one operator, and with which weights.

What diffusers does with adapters on whole models is in test_patch_features.py.
"""

# labels: torch diffusers
from collections.abc import Callable

import pytest
import torch

peft = pytest.importorskip("peft")
pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers.blocks import full_look
from ds_diffusers.lora import Adapter, adapted_tensors
from ds_diffusers.quick_look import quick_arguments
from helpers.unets import block_arguments, make_block
from torch import nn

pytestmark = pytest.mark.diffusers

LINEARS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]


def block_with_lora(*targets: str, **options) -> nn.Module:
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **options)
    return peft.inject_adapter_in_model(config, make_block()).eval()


def check(block: nn.Module, reason: str) -> None:
    """As the block unpatched; "" for `reason` where it runs as one operator."""
    values = block_arguments(block)
    with torch.no_grad():
        ds_diffusers.unpatch(block)
        expected = block(**values)
        result = ds_diffusers.patch(block)(**values)
    torch.testing.assert_close(result, expected)
    (found,) = ds_diffusers.report(block)
    assert (found.path, found.reason) == ("segments" if reason else "block_forward", reason)


@pytest.mark.parametrize("target", LINEARS)
def test_one_kind_of_layer(target: str) -> None:
    check(block_with_lora(target), "")


def test_quick_look_sees_what_the_full_look_sees() -> None:
    block = ds_diffusers.patch(block_with_lora("to_q", "to_v", "ff.net.2"))
    values = block_arguments(block)
    states, context = values["hidden_states"], values["encoder_hidden_states"]
    with torch.no_grad():
        found, adapters = quick_arguments(block, states, context)
        _, reason, full = full_look(block, states, None, context, None, None)
    assert reason is None
    assert all(found[name] is full[0][name] for name in found)
    assert adapters.keys() == full[1].keys()
    assert len(adapters) == 5
    for name, of_weight in adapters.items():
        ((down, up, scaling),) = of_weight
        ((full_down, full_up, full_scaling),) = full[1][name]
        assert down is full_down
        assert up is full_up
        assert scaling == full_scaling


def hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, inputs, output: output * 2)


def replace(part: str, wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def change(layer: nn.Module) -> None:
        modules = getattr(layer, part)
        modules["default"] = wrap(modules["default"])

    return change


OBSTACLES = {
    "hook": (hook, "attn1.to_q has hooks"),
    "hook_on_base": (lambda layer: hook(layer.base_layer), "attn1.to_q has hooks"),
    "hook_on_down": (lambda layer: hook(layer.lora_A["default"]), "attn1.to_q.lora_A.default has hooks"),
    "hook_on_up": (lambda layer: hook(layer.lora_B["default"]), "attn1.to_q.lora_B.default has hooks"),
    "other_dropout": (
        replace("lora_dropout", lambda _: nn.Tanh()),
        "attn1.to_q: the adapter default has a dropout that acts",
    ),
    "other_up": (
        replace("lora_B", nn.Sequential),
        "attn1.to_q: lora_B of the adapter default is not a linear layer without bias",
    ),
    "other_base": (
        lambda layer: setattr(layer, "base_layer", nn.Sequential(layer.base_layer)),
        "attn1.to_q is torch.nn.modules.container.Sequential, not Linear",
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_obstacle_in_a_layer(name: str) -> None:
    change, reason = OBSTACLES[name]
    block = block_with_lora("attn1.to_q")
    change(block.attn1.to_q)
    if name == "other_up":
        # PEFT itself asks for a weight.
        block.attn1.to_q.lora_B["default"].weight = block.attn1.to_q.lora_B["default"][0].weight
    check(block, reason)


def test_dropout() -> None:
    block = block_with_lora("attn1.to_q", lora_dropout=0.5)
    check(block, "")
    ds_diffusers.patch(block)
    block.attn1.to_q.train()
    with torch.no_grad():
        block(**block_arguments(block))
    assert ds_diffusers.report(block)[0].reason == "attn1.to_q: the adapter default has a dropout that acts"


def test_forward_of_the_class_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    block = block_with_lora("attn1.to_q")
    kind = type(block.attn1.to_q)
    monkeypatch.setattr(kind, "forward", lambda layer, x: layer.base_layer(x) * 2)
    check(block, "attn1.to_q is of a class whose forward was replaced")


def test_merged_adapters_that_are_disabled() -> None:
    """PEFT takes them out of the weight at the next call, and from then on the block is a plain one."""
    block = block_with_lora("to_q", "ff.net.2")
    values = block_arguments(block)
    layers = [block.attn1.to_q, block.attn2.to_q, block.ff.net[2]]
    with torch.no_grad():
        for layer in layers:
            layer.merge()
            layer.enable_adapters(False)
        reasons = []
        for _ in range(2):
            result = ds_diffusers.patch(block)(**values)
            reasons.append(ds_diffusers.report(block)[0].reason)
        torch.testing.assert_close(result, ds_diffusers.unpatch(block)(**values))
    assert reasons == ["", ""]
    assert not any(layer.merged for layer in layers)


def test_gradients_of_adapters() -> None:
    block = block_with_lora("to_q")
    block.requires_grad_(False)
    block.attn1.to_q.lora_A["default"].weight.requires_grad_(True)
    values = block_arguments(block)
    gradients = []
    for of_block in (block, ds_diffusers.patch(block)):
        block.zero_grad()
        of_block(**values).square().mean().backward()
        gradients.append(block.attn1.to_q.lora_A["default"].weight.grad.clone())
    torch.testing.assert_close(*gradients)
    assert "a gradient may be needed" in ds_diffusers.report(block)[0].reason


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adapters_of_another_dtype(dtype: torch.dtype) -> None:
    """PEFT keeps those that are trained in float32."""
    block = block_with_lora(*LINEARS).to(dtype)
    exact = block_with_lora(*LINEARS).double()
    for name, module in block.named_modules():
        if "lora_" in name:
            module.float()
    exact.load_state_dict(block.state_dict())
    values = {name: value.to(dtype) for name, value in block_arguments(block).items()}
    with torch.no_grad():
        expected = exact(**{name: value.double() for name, value in values.items()})
        eager = block(**values).double()
        result = ds_diffusers.patch(block)(**values).double()
    assert (result - expected).norm() <= 2 * (eager - expected).norm()
    assert ds_diffusers.report(block).fused == 1


def test_scaling_that_is_a_tensor() -> None:
    """PEFT makes it one for adapters that are to be replaced below torch.compile."""
    block = block_with_lora("to_k", "to_out.0")
    for module in block.modules():
        if hasattr(module, "lora_A"):
            module.scaling["default"] = torch.tensor(module.scaling["default"])
    check(block, "")


def test_adapters_on_another_device() -> None:
    block = block_with_lora("to_q")
    block.attn1.to_q.lora_A.to("meta")
    ds_diffusers.patch(block)
    with torch.no_grad():
        block(**block_arguments(block))
    reason = ds_diffusers.report(block)[0].reason
    assert reason == "an adapter of attn1.to_q.weight is not made of plain tensors on cpu"


def test_attention_of_a_deepspeed_block_with_adapters() -> None:
    """Its block runs such an attention as a module."""
    from ds_diffusers.deepspeed import Diffusers2DTransformerConfig, DeepSpeedDiffusersTransformerBlock

    block = block_with_lora("attn1.to_q")
    values = block_arguments(block)
    with torch.no_grad():
        expected = block(**values)
        fused = DeepSpeedDiffusersTransformerBlock(block, Diffusers2DTransformerConfig())
        torch.testing.assert_close(fused(**values), expected)


def test_adapted_tensors() -> None:
    """The weights of a group lie one behind the other, as far as they are as wide."""
    torch.manual_seed(0)
    tensors = {"q": torch.randn(4, 3), "k": torch.randn(4, 5), "v": torch.randn(4, 5), "bias": torch.randn(4)}
    adapters = {
        "q": [Adapter(torch.randn(2, 3), torch.randn(4, 2), 0.5)],
        "v": [
            Adapter(torch.randn(1, 5), torch.randn(4, 1), 2.0),
            Adapter(torch.randn(3, 5), torch.randn(4, 3), -1.0),
        ],
    }
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    found = adapted_tensors(tensors, adapters, [("q", "k", "v"), ("bias",)])
    for name, tensor in before.items():
        assert torch.equal(tensors[name], tensor)
        for down, up, scaling in adapters.get(name, []):
            tensor = tensor + scaling * up @ down
        torch.testing.assert_close(found[name], tensor)
    assert found["bias"] is tensors["bias"]
    assert found["k"].data_ptr() + found["k"].numel() * 4 == found["v"].data_ptr()
