"""What diffusers, PEFT and accelerate do to models works on patched ones: each feature gives what it gives
unpatched, on the path that it should take, and acts at the next call.

Training, gradient checkpointing and torch.func are in test_patch_torch_state.py, torch.compile and exports in
test_patch_graphs.py, copies, files and unpatch in test_patch_state.py.
"""

# labels: torch diffusers gpu
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from diffusers import UNet2DConditionModel
from diffusers.models import attention_processor as processors
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from helpers.unets import CHANNELS, CONTEXT, Arguments, run_unet, sd15_unet, unet_arguments
from torch import nn

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*layerwise casting", "ignore:.*adapter", "ignore:.*deprecated"),
]

BLOCKS = 7
LINEARS = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
SETTINGS = [
    pytest.param("cpu", torch.float32, id="cpu-float32"),
    pytest.param("cpu", torch.bfloat16, id="cpu-bfloat16"),
    pytest.param("cuda", torch.float16, id="cuda-float16", marks=pytest.mark.gpu),
]


def no_arguments(unet: UNet2DConditionModel) -> Arguments:
    return {}


def no_state(unet: UNet2DConditionModel) -> AbstractContextManager:
    return nullcontext()


class Feature(NamedTuple):
    """`apply` is done to a UNet, `reason` is why its blocks run in segments then ("": they run as one
    operator), `undo` makes them one operator again; `arguments` are added to those of a call, which runs
    under `state`."""

    apply: Callable[[UNet2DConditionModel], Any]
    reason: str
    undo: Callable[[UNet2DConditionModel], Any] | None = None
    arguments: Callable[[UNet2DConditionModel], Arguments] = no_arguments
    state: Callable[[UNet2DConditionModel], AbstractContextManager] = no_state


def nothing(unet: UNet2DConditionModel) -> None:
    pass


def lora(*targets: str, adapter: str = "default", **options: bool) -> Callable[[UNet2DConditionModel], None]:
    def apply(unet: UNet2DConditionModel) -> None:
        peft = pytest.importorskip("peft")
        torch.manual_seed(len(adapter))
        config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, **options)
        unet.add_adapter(config, adapter_name=adapter)

    return apply


def in_turn(*changes: Callable[[UNet2DConditionModel], Any]) -> Callable[[UNet2DConditionModel], None]:
    def apply(unet: UNet2DConditionModel) -> None:
        for change in changes:
            change(unet)

    return apply


def hot_swapped(unet: UNet2DConditionModel) -> None:
    """Other weights in the place of a loaded adapter's."""
    peft = pytest.importorskip("peft")
    lora("to_q", "ff.net.2")(unet)
    run(unet)
    weights = peft.get_peft_model_state_dict(unet, adapter_name="default")
    torch.manual_seed(9)
    peft.set_peft_model_state_dict(
        unet, {name: torch.randn_like(value) / 4 for name, value in weights.items()}, adapter_name="default"
    )


def ip_adapter(unet: UNet2DConditionModel) -> None:
    torch.manual_seed(1)
    found = {}
    for name, processor in unet.attn_processors.items():
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if ".attn2." in name:
            processor = processors.IPAdapterAttnProcessor2_0(
                attention.query_dim, CONTEXT, num_tokens=(4,), scale=0.5
            )
        found[name] = processor
    unet.set_attn_processor(found)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([ImageProjection(12, CONTEXT, 4)])
    unet.config["encoder_hid_dim_type"] = "ip_image_proj"
    unet.to(unet.device, unet.dtype)


def image_embeddings(unet: UNet2DConditionModel) -> Arguments:
    generator = torch.Generator().manual_seed(5)
    embeds = torch.randn(2, 1, 12, generator=generator).to(unet.device, unet.dtype)
    return {"added_cond_kwargs": {"image_embeds": [embeds]}}


class OwnProcessor:
    """Another one that a user wrote, in which the queries are scaled."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, factor=1.0):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states) * factor, attn.to_k(context), attn.to_v(context))
        )
        result = nn.functional.scaled_dot_product_attention(query, key, value, attention_mask)
        return attn.to_out[0](result.transpose(1, 2).flatten(2))


class EightBitLinear(nn.Linear):
    """As of bitsandbytes: a subclass of Linear whose weight is not what it computes with."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        scale = self.weight.abs().amax(dim=1, keepdim=True) / 127
        weight = (self.weight / scale).round() * scale
        return nn.functional.linear(input, weight, self.bias)


class ScaledTensor(torch.Tensor):
    """As of torchao: a tensor that stands for another one, here for its half."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            input, weight, *bias = args
            return function(input, weight.as_subclass(torch.Tensor) * 0.5, *bias, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs or {})


def transformer_linears(unet: UNet2DConditionModel) -> Iterator[nn.Linear]:
    for name, module in unet.named_modules():
        if type(module) is nn.Linear and "transformer_blocks" in name:
            yield module


def with_linear_class(unet: UNet2DConditionModel) -> None:
    for linear in transformer_linears(unet):
        linear.__class__ = EightBitLinear


def without_linear_class(unet: UNet2DConditionModel) -> None:
    for module in unet.modules():
        if type(module) is EightBitLinear:
            module.__class__ = nn.Linear


def with_tensor_class(unet: UNet2DConditionModel) -> None:
    for linear in transformer_linears(unet):
        weight = linear.weight.detach().as_subclass(ScaledTensor)
        linear.weight = nn.Parameter(weight, requires_grad=False)


def set_chunks(unet: UNet2DConditionModel) -> None:
    for module in unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(8, 1)


def unset_chunks(unet: UNet2DConditionModel) -> None:
    for module in unet.modules():
        if hasattr(module, "set_chunk_feed_forward"):
            module.set_chunk_feed_forward(None, 0)


def offload_groups(offload_type: str) -> Callable[[UNet2DConditionModel], None]:
    def apply(unet: UNet2DConditionModel) -> None:
        others = {"num_blocks_per_group": 1} if offload_type == "block_level" else {}
        unet.enable_group_offload(
            onload_device=unet.device, offload_device=torch.device("cpu"), offload_type=offload_type, **others
        )

    return apply


def offload(unet: UNet2DConditionModel) -> None:
    pytest.importorskip("accelerate").cpu_offload(unet, execution_device=unet.device)


def stop_offload(unet: UNet2DConditionModel) -> None:
    pytest.importorskip("accelerate").hooks.remove_hook_from_module(unet, recurse=True)


def cast_layers(unet: UNet2DConditionModel) -> None:
    unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=unet.dtype)


def quantize_with_torchao(unet: UNet2DConditionModel) -> None:
    quantization = pytest.importorskip("torchao.quantization", exc_type=ImportError)
    quantization.quantize_(unet, quantization.Int8WeightOnlyConfig())


def quantize_with_bitsandbytes(unet: UNet2DConditionModel) -> None:
    layers = pytest.importorskip("bitsandbytes").nn
    for name, linear in list(unet.named_modules()):
        if type(linear) is nn.Linear and "transformer_blocks" in name:
            sizes = linear.in_features, linear.out_features, linear.bias is not None
            quantized = layers.Linear8bitLt(*sizes, has_fp16_weights=False)
            quantized.load_state_dict(linear.state_dict())
            unet.set_submodule(name, quantized.to(unet.device))


def words_kept(unet: UNet2DConditionModel) -> Arguments:
    kept = torch.ones(2, 7, dtype=torch.bool, device=unet.device)
    kept[0, 4:] = False
    return {"encoder_attention_mask": kept}


HOOK = "forward was replaced (by a hook of accelerate or diffusers, or by hand)"

FEATURES = {
    "nothing": Feature(nothing, ""),
    "masks": Feature(nothing, "", arguments=words_kept),
    "freeu": Feature(lambda unet: unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4), ""),
    "lora": Feature(lora(*LINEARS), "", lambda unet: unet.unload_lora()),
    "lora_to_out": Feature(lora("to_out.0"), "", lambda unet: unet.unload_lora()),
    "lora_feed_forward": Feature(lora("ff.net.0.proj", "ff.net.2"), "", lambda unet: unet.unload_lora()),
    "lora_scale": Feature(
        lora(*LINEARS), "", arguments=lambda unet: {"cross_attention_kwargs": {"scale": 0.3}}
    ),
    "lora_adapters": Feature(
        in_turn(
            lora("to_q", "to_v"),
            lora("to_v", "ff.net.2", adapter="other"),
            lambda unet: unet.set_adapters(["default", "other"], [0.7, 0.4]),
        ),
        "",
    ),
    "lora_disabled": Feature(in_turn(lora("to_q", "ff.net.2"), lambda unet: unet.disable_lora()), ""),
    "lora_hot_swapped": Feature(hot_swapped, ""),
    "lora_fused": Feature(in_turn(lora("to_q", "ff.net.2"), lambda unet: unet.fuse_lora()), ""),
    "lora_fused_and_unloaded": Feature(
        in_turn(lora("to_q", "ff.net.2"), lambda unet: unet.fuse_lora(), lambda unet: unet.unload_lora()), ""
    ),
    "lora_unfused": Feature(
        in_turn(lora("to_q", "ff.net.2"), lambda unet: unet.fuse_lora(), lambda unet: unet.unfuse_lora()), ""
    ),
    "lora_with_magnitudes": Feature(
        lora("to_q", use_dora=True),
        "attn1.to_q: the adapter default is a variant of LoRA",
        lambda unet: unet.unload_lora(),
    ),
    "lora_with_bias": Feature(
        lora("to_out.0", lora_bias=True),
        "attn1.to_out.0: lora_B of the adapter default is not a linear layer without bias",
        lambda unet: unet.unload_lora(),
    ),
    "lora_and_ip_adapter": Feature(
        in_turn(lora(*LINEARS), ip_adapter),
        "attn2 has processor IPAdapterAttnProcessor2_0",
        arguments=image_embeddings,
    ),
    "ip_adapter": Feature(
        ip_adapter, "attn2 has processor IPAdapterAttnProcessor2_0", arguments=image_embeddings
    ),
    "attention_slicing": Feature(
        lambda unet: unet.set_attention_slice("max"), "attn1 has processor SlicedAttnProcessor"
    ),
    "attention_processor": Feature(
        lambda unet: unet.set_attn_processor(processors.AttnProcessor()),
        "attn1 has processor AttnProcessor",
        lambda unet: unet.set_attn_processor(processors.AttnProcessor2_0()),
    ),
    "own_processor": Feature(
        lambda unet: unet.set_attn_processor(OwnProcessor()),
        "attn1 has processor OwnProcessor",
        arguments=lambda unet: {"cross_attention_kwargs": {"factor": 0.5}},
    ),
    "fused_projections": Feature(
        lambda unet: unet.fuse_qkv_projections(),
        "attn1 has processor FusedAttnProcessor2_0",
        lambda unet: unet.unfuse_qkv_projections(),
    ),
    "forward_chunking": Feature(set_chunks, "the feed-forward is chunked", unset_chunks),
    "layerwise_casting": Feature(cast_layers, f"attn1.to_q.{HOOK}"),
    "group_offload_of_blocks": Feature(offload_groups("block_level"), ""),
    "group_offload_of_layers": Feature(offload_groups("leaf_level"), f"norm1.{HOOK}"),
    "cpu_offload": Feature(offload, f"norm1.{HOOK}", stop_offload),
    "torchao": Feature(quantize_with_torchao, "not a plain tensor"),
    "bitsandbytes": Feature(quantize_with_bitsandbytes, "Linear8bitLt, not Linear"),
    "linear_class": Feature(with_linear_class, "EightBitLinear, not Linear", without_linear_class),
    "tensor_class": Feature(with_tensor_class, "ScaledTensor, not a plain tensor"),
}


def run_feature(unet: UNet2DConditionModel, feature: Feature, values: Arguments) -> torch.Tensor:
    with torch.no_grad(), feature.state(unet):
        return run_unet(unet, values | feature.arguments(unet)).float()


def check_error(result: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype) -> None:
    """At most twice PyTorch's own, and a rounding of float32 for each block, where PyTorch's may be zero."""
    rounding = {torch.float32: 1e-6 * BLOCKS}.get(dtype, torch.finfo(dtype).eps)
    assert (result - exact).norm() <= 2 * (eager - exact).norm() + rounding * exact.norm()


@pytest.mark.parametrize(("device", "dtype"), SETTINGS)
@pytest.mark.parametrize("name", FEATURES)
def test_feature(name: str, device: str, dtype: torch.dtype) -> None:
    check_feature(FEATURES[name], device, dtype)


@pytest.mark.parametrize(("device", "dtype"), SETTINGS)
def test_autocast(device: str, dtype: torch.dtype) -> None:
    """In the model's own dtype it changes nothing."""
    reason = "" if dtype == torch.bfloat16 else "has dtype"
    autocast = Feature(nothing, reason, nothing, state=lambda unet: torch.autocast(device, torch.bfloat16))
    check_feature(autocast, device, dtype)


def check_feature(feature: Feature, device: str, dtype: torch.dtype) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    original = sd15_unet().to(device, dtype)
    patched = ds_diffusers.patch(copy.deepcopy(original))
    exact = copy.deepcopy(original).float()
    values, exact_values = unet_arguments(original), unet_arguments(exact)
    plain = run_feature(patched, FEATURES["nothing"], values)
    check_path(patched, "")
    for unet in (original, patched, exact):
        feature.apply(unet)
    result = run_feature(patched, feature, values)
    eager = run_feature(original, feature, values)
    check_error(result, eager, run_feature(exact, feature._replace(state=no_state), exact_values), dtype)
    check_path(patched, feature.reason)
    # A feature that came before patch is no other.
    ds_diffusers.patch(original)
    assert torch.equal(run_feature(original, feature, values), result)
    check_path(original, feature.reason)
    if feature.undo is not None:
        feature.undo(patched)
        assert torch.equal(run_feature(patched, FEATURES["nothing"], values), plain)
        check_path(patched, "")


def check_path(unet: UNet2DConditionModel, reason: str) -> None:
    """All blocks take one path, at the last call too."""
    report = ds_diffusers.report(unet)
    if reason:
        assert report.segmented == BLOCKS, report
        assert all(reason in found for found in report.reasons("segments")), report
    else:
        assert report.fused == BLOCKS, report
    assert all(block.original_calls == 0 for block in report)
    assert len({(block.fused_calls, block.segmented_calls) for block in report}) == 1


def run(unet: UNet2DConditionModel, **others) -> torch.Tensor:
    with torch.no_grad():
        return run_unet(unet, unet_arguments(unet) | others)


def fused_blocks(unet: UNet2DConditionModel) -> int:
    """How many blocks ran fused in one call."""
    before = sum(block.fused_calls for block in ds_diffusers.report(unet))
    run(unet)
    return sum(block.fused_calls for block in ds_diffusers.report(unet)) - before


def test_training_of_lora() -> None:
    """Blocks that need no gradient run fused, the others as diffusers' own."""
    unet = sd15_unet().requires_grad_(False)
    lora("mid_block.attentions.0.transformer_blocks.0.attn2.to_v")(unet)
    patched = ds_diffusers.patch(copy.deepcopy(unet))
    gradients = []
    for model in (unet, patched):
        run_unet(model, unet_arguments(model)).square().mean().backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    assert len(gradients[0]) == 2
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    calls = [(block.fused_calls, block.original_calls) for block in ds_diffusers.report(patched)]
    assert sorted(calls) == [(0, 1)] * 5 + [(1, 0)] * 2


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


def test_cpu_offload_that_is_over() -> None:
    accelerate = pytest.importorskip("accelerate")
    unet = ds_diffusers.patch(sd15_unet())
    expected = run(unet)
    accelerate.cpu_offload(unet, execution_device=torch.device("cpu"))
    accelerate.hooks.remove_hook_from_module(unet, recurse=True)
    assert "forward" in unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.__dict__
    assert fused_blocks(unet) == BLOCKS
    assert torch.equal(run(unet), expected)


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
