"""A patched UNet with what diffusers, PEFT and accelerate do to models: each gives what the unpatched one
gives."""

# labels: torch diffusers
import copy

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from diffusers import UNet2DConditionModel
from helpers.unets import run_unet, sd15_unet, unet_arguments

pytestmark = pytest.mark.diffusers

BLOCKS = 7


def run(unet: UNet2DConditionModel, **others) -> torch.Tensor:
    with torch.no_grad():
        return run_unet(unet, unet_arguments(unet) | others)


def fused_blocks(unet: UNet2DConditionModel) -> int:
    """How many blocks ran fused in one call."""
    before = sum(block.fused_calls for block in ds_diffusers.report(unet))
    run(unet)
    return sum(block.fused_calls for block in ds_diffusers.report(unet)) - before


def reasons(unet: UNet2DConditionModel) -> set[str]:
    """Why blocks run in segments and not whole; none runs as diffusers' own."""
    report = ds_diffusers.report(unet)
    assert report.original == 0, report
    return set(report.reasons("segments"))


def check_close(result: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def add_lora(unet: UNet2DConditionModel, *targets: str) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    unet.add_adapter(peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False))


@pytest.mark.parametrize("target", ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"])
def test_lora(target: str) -> None:
    unet = sd15_unet()
    patched = ds_diffusers.patch(copy.deepcopy(unet))
    assert fused_blocks(patched) == BLOCKS
    add_lora(unet, target)
    add_lora(patched, target)
    check_close(run(patched), run(unet))
    assert all(
        f"{target} is peft.tuners.lora.layer.Linear, not Linear" in reason for reason in reasons(patched)
    )
    assert fused_blocks(patched) == 0
    patched.unload_lora()
    assert fused_blocks(patched) == BLOCKS


def test_lora_in_some_blocks() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    add_lora(unet, "mid_block.attentions.0.transformer_blocks.0.attn2.to_v")
    assert fused_blocks(unet) == BLOCKS - 1
    assert reasons(unet) == {"attn2.to_v is peft.tuners.lora.layer.Linear, not Linear"}


def test_lora_scale() -> None:
    unet = sd15_unet()
    add_lora(unet, "to_q", "to_v")
    scale = {"cross_attention_kwargs": {"scale": 0.3}}
    expected = run(unet, **scale)
    assert not torch.equal(expected, run(unet))
    check_close(run(ds_diffusers.patch(unet), **scale), expected)


def test_fused_lora() -> None:
    """fuse_lora adds to the base weights in place; once the adapter is gone the blocks use them fused."""
    unet = ds_diffusers.patch(sd15_unet())
    plain = run(unet)
    add_lora(unet, "to_q", "to_v", "ff.net.2")
    with_lora = run(unet)
    unet.fuse_lora()
    torch.testing.assert_close(run(unet), with_lora)
    unet.unfuse_lora()
    torch.testing.assert_close(run(unet), with_lora)
    unet.fuse_lora()
    unet.unload_lora()
    assert fused_blocks(unet) == BLOCKS
    torch.testing.assert_close(run(unet), with_lora)
    assert not torch.allclose(with_lora, plain)


def test_attention_processors() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    unet.set_attn_processor(AttnProcessor())
    torch.testing.assert_close(run(unet), expected)
    assert reasons(unet) == {"attn1 has processor AttnProcessor"}
    unet.set_default_attn_processor()
    assert fused_blocks(unet) == 0, "the default processor is AttnProcessor"


def test_attention_slicing() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    unet.set_attention_slice("max")
    torch.testing.assert_close(run(unet), expected)
    assert reasons(unet) == {"attn1 has processor SlicedAttnProcessor"}


def test_fused_projections() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    unet.fuse_qkv_projections()
    torch.testing.assert_close(run(unet), expected)
    assert reasons(unet) == {"attn1 has processor FusedAttnProcessor2_0"}
    unet.unfuse_qkv_projections()
    assert fused_blocks(unet) == BLOCKS


def test_forward_chunking() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    for module in unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(8, 1)
    torch.testing.assert_close(run(unet), expected)
    assert reasons(unet) == {"the feed-forward is chunked"}


def test_freeu() -> None:
    unet = sd15_unet()
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    expected = run(unet)
    ds_diffusers.patch(unet)
    torch.testing.assert_close(run(unet), expected)
    assert fused_blocks(unet) == BLOCKS


def test_residuals_of_a_controlnet() -> None:
    from diffusers import ControlNetModel

    unet = sd15_unet()
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8)).eval()
    condition = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for parameter in controlnet.controlnet_mid_block.parameters():
            parameter.normal_()

    def run_both() -> torch.Tensor:
        values = unet_arguments(unet)
        with torch.no_grad():
            down, middle = controlnet(**values, controlnet_cond=condition, return_dict=False)
        return run(unet, down_block_additional_residuals=down, mid_block_additional_residual=middle)

    expected = run_both()
    ds_diffusers.patch(unet)
    ds_diffusers.patch(controlnet)
    torch.testing.assert_close(run_both(), expected)
    assert ds_diffusers.report(controlnet).fused == len(ds_diffusers.report(controlnet)) == 3
    again = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    assert {block.reason for block in ds_diffusers.report(again)} == {"not patched"}


@pytest.mark.filterwarnings("ignore:.*layerwise casting")
def test_layerwise_casting() -> None:
    unet = sd15_unet()
    unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    expected = run(unet)
    check_close(run(ds_diffusers.patch(unet)), expected)
    assert reasons(unet) == {
        "attn1.to_q.forward was replaced (by a hook of accelerate or diffusers, or by hand)"
    }


def test_group_offloading() -> None:
    unet = sd15_unet()
    device = torch.device("cpu")
    unet.enable_group_offload(onload_device=device, offload_device=device, offload_type="leaf_level")
    expected = run(unet)
    torch.testing.assert_close(run(ds_diffusers.patch(unet)), expected)


def test_cpu_offload() -> None:
    accelerate = pytest.importorskip("accelerate")
    unet = sd15_unet()
    expected = run(unet)
    for patch_first in (True, False):
        offloaded = copy.deepcopy(unet)
        if patch_first:
            ds_diffusers.patch(offloaded)
        accelerate.cpu_offload(offloaded, execution_device=torch.device("cpu"))
        ds_diffusers.patch(offloaded)
        assert {parameter.device.type for parameter in offloaded.parameters()} == {"meta"}
        check_close(run_unet_without_grad(offloaded, unet), expected)
        assert all("forward was replaced" in reason for reason in reasons(offloaded))
        assert ds_diffusers.report(offloaded).fused == 0


def test_cpu_offload_that_is_over() -> None:
    accelerate = pytest.importorskip("accelerate")
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    accelerate.cpu_offload(unet, execution_device=torch.device("cpu"))
    accelerate.hooks.remove_hook_from_module(unet, recurse=True)
    assert "forward" in unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.__dict__
    assert fused_blocks(unet) == BLOCKS
    assert torch.equal(run(unet), expected)


def run_unet_without_grad(offloaded: UNet2DConditionModel, unet: UNet2DConditionModel) -> torch.Tensor:
    with torch.no_grad():
        return run_unet(offloaded, unet_arguments(unet))


def test_hooks_on_whole_blocks() -> None:
    """Offloading of blocks, not of leaves, replaces a block's forward by one that calls the patched one."""
    accelerate = pytest.importorskip("accelerate")
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    accelerate.hooks.add_hook_to_module(
        block, accelerate.hooks.AlignDevicesHook("cpu", place_submodules=True)
    )
    assert fused_blocks(unet) == BLOCKS
    assert torch.equal(run(unet), expected)
    ds_diffusers.unpatch(unet)
    torch.testing.assert_close(run(unet), expected)
    accelerate.hooks.remove_hook_from_module(block)
    torch.testing.assert_close(run(unet), expected)
