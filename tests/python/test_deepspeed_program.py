"""Programs for DeepSpeed run with ds_diffusers.deepspeed by changing their imports."""

# labels: torch diffusers gpu

import re

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("diffusers")

import ds_diffusers
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from ds_diffusers.deepspeed import (
    ActivationFuncType,
    DeepSpeedDiffusersAttention,
    DeepSpeedInferenceConfig,
    Diffusers2DTransformerConfig,
    load_spatial_module,
    load_transformer_module,
    nhwc_bias_add,
)
from helpers.deepspeed import IN_ONE, operators_of
from helpers.operators import every_dtype
from helpers.unets import UNETS, run_unet, unet_arguments

pytestmark = pytest.mark.diffusers


PROGRAM = """
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from deepspeed.module_inject import GroupQuantizer
from deepspeed.ops.transformer import DeepSpeedInferenceConfig
from deepspeed.ops.transformer.inference.bias_add import nhwc_bias_add
from deepspeed.ops.transformer.inference.diffusers_2d_transformer import Diffusers2DTransformerConfig
from deepspeed.ops.transformer.inference.diffusers_attention import DeepSpeedDiffusersAttention
from deepspeed.ops.transformer.inference.diffusers_transformer_block import (
    DeepSpeedDiffusersTransformerBlock, load_spatial_module, load_transformer_module)
from deepspeed.utils.types import ActivationFuncType


def weights_for_matmul(linear):
    return linear.weight.data.t().contiguous()


def new_attention(attention, dtype):
    config = DeepSpeedInferenceConfig(
        hidden_size=attention.to_q.weight.shape[1], heads=attention.heads, dtype=dtype,
        triangular_masking=False, max_out_tokens=4096)
    made = DeepSpeedDiffusersAttention(config)
    query, key, value = attention.to_q, attention.to_k, attention.to_v
    if query.weight.shape == key.weight.shape:
        parts = [weights_for_matmul(linear) for linear in (query, key, value)]
        made.attn_qkvw.data = torch.cat(parts, dim=1)
    else:
        made.attn_qkvw = None
        made.attn_qw.data = weights_for_matmul(query)
        made.attn_kw.data = weights_for_matmul(key)
        made.attn_vw.data = weights_for_matmul(value)
    made.attn_qkvb = None
    made.attn_ow.data = weights_for_matmul(attention.to_out[0])
    made.attn_ob.data.copy_(attention.to_out[0].bias.data)
    return made


def inject(module, dtype, int8_quantization):
    for name, child in module.named_children():
        inject(child, dtype, int8_quantization)
        if type(child) is Attention:
            setattr(module, name, new_attention(child, dtype))
        elif type(child) is BasicTransformerBlock:
            config = Diffusers2DTransformerConfig(int8_quantization)
            setattr(module, name, DeepSpeedDiffusersTransformerBlock(child, config))


inject(unet, dtype, int8_quantization)

rows = torch.randn(2, 6, 32, dtype=dtype, device=device)
vector = torch.randn(32, dtype=dtype, device=device)
operators = load_transformer_module()
normed = operators.layer_norm(rows, vector, vector, 1e-5)
normed, total = operators.layer_norm_residual_store_pre_ln_res(normed, vector, rows, vector, vector, 1e-5)
gated = operators.gated_activation(normed, vector, ActivationFuncType.GATED_GELU)
image = nhwc_bias_add(torch.randn(2, 32, 4, 4, dtype=dtype, device=device), vector)
image = load_spatial_module().nhwc_bias_add_add(image, vector, image)
quantized = GroupQuantizer(q_int8=True).quantize(rows[0])
"""
"""A program for DeepSpeed, as its own injection into a diffusers pipeline works."""


@pytest.mark.parametrize("int8_quantization", [False, True])
@pytest.mark.parametrize("name", UNETS)
def test_program_for_deepspeed_runs_with_other_imports(
    name: str, int8_quantization: bool, device: torch.device
) -> None:
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    unet = UNETS[name]().to(device, dtype)
    arguments = unet_arguments(unet)
    with torch.no_grad():
        expected = run_unet(unet, arguments)
    program = re.sub(
        r"^from deepspeed[\w.]* import", "from ds_diffusers.deepspeed import", PROGRAM, flags=re.M
    )
    variables = {"unet": unet, "dtype": dtype, "int8_quantization": int8_quantization, "device": device}
    exec(compile(program, "program", "exec"), variables)

    assert not any(type(module) in (BasicTransformerBlock, Attention) for module in unet.modules())
    assert operators_of(lambda: run_unet(unet, arguments)) == IN_ONE
    with torch.no_grad():
        found = run_unet(unet, arguments)
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    bound = 0.02 if int8_quantization else 5e-3 if dtype == torch.float16 else 1e-5
    assert error < bound
    rows, total, vector = variables["rows"], variables["total"], variables["vector"]
    torch.testing.assert_close(
        total, F.layer_norm(rows, (32,), vector, vector, 1e-5) + vector + rows, rtol=1e-2, atol=1e-2
    )
    assert variables["gated"].shape == (2, 6, 16) and variables["image"].shape == (2, 32, 4, 4)
    assert variables["quantized"].dtype == torch.int8


def test_configurations() -> None:
    assert not Diffusers2DTransformerConfig().int8_quantization
    assert Diffusers2DTransformerConfig(True).int8_quantization
    config = DeepSpeedInferenceConfig(64, heads=8, triangular_masking=False, max_out_tokens=4096)
    assert (config.hidden_size, config.intermediate_size, config.heads) == (64, 256, 8)
    assert (config.dtype, config.mp_size, config.epsilon) == (torch.float16, 1, 1e-12)
    assert (config.triangular_masking, config.max_out_tokens, config.min_out_tokens) == (False, 4096, 1)
    assert config.mlp_act_func_type is ActivationFuncType.GELU
    with pytest.raises(TypeError, match="DeepSpeedInferenceConfig has no field fp32, hiddensize"):
        DeepSpeedInferenceConfig(64, hiddensize=3, fp32=True)
    for fields, message in (
        ({}, "config.hidden_size is -1, must be at least 1"),
        ({"hidden_size": 64}, "config.heads is -1, must be a divisor of hidden_size 64"),
        ({"hidden_size": 64, "heads": 7}, "config.heads is 7, must be a divisor of hidden_size 64"),
        ({"hidden_size": 64, "heads": 8, "mp_size": 2}, "config.mp_size is 2, must be 1"),
        (
            {"hidden_size": 64, "heads": 8, "dtype": torch.int8},
            "config.dtype is torch.int8, must be float32, float16 or bfloat16",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            DeepSpeedDiffusersAttention(DeepSpeedInferenceConfig(**fields))
    with pytest.raises(
        TypeError, match="config is dict without hidden_size, must be a DeepSpeedInferenceConfig"
    ):
        DeepSpeedDiffusersAttention({"hidden_size": 64})


@every_dtype
def test_modules_of_operators(dtype: torch.dtype, device: torch.device) -> None:
    transformer, spatial = load_transformer_module(), load_spatial_module()
    assert transformer is load_transformer_module() and spatial is load_spatial_module()
    rows, other = torch.randn(2, 3, 5, 8, device=device, dtype=dtype).unbind(0)
    bias, gamma, beta = torch.randn(3, 8, device=device, dtype=dtype).unbind(0)
    ops = ds_diffusers.ops
    for name in ("layer_norm", "layer_norm_residual_store_pre_ln_res", "gated_activation"):
        assert getattr(transformer, name) is getattr(ops, name)
    expected, _ = ops.layer_norm_residual_store_pre_ln_res(rows, bias, other, gamma, beta, 1e-5)
    assert torch.equal(transformer._layer_norm_residual(rows, bias, other, gamma, beta, 1e-5), expected)
    assert nhwc_bias_add is ops.nhwc_bias_add
    image, second = (value.unsqueeze(-1).transpose(1, 2) for value in (rows, other))
    for first, added in ((rows, other), (image.contiguous(memory_format=torch.channels_last), second)):
        for found, expected in (
            (spatial.nhwc_bias_add(first, bias), nhwc_bias_add(first, bias)),
            (spatial.nhwc_bias_add_add(first, bias, added), nhwc_bias_add(first, bias, added)),
            (
                spatial.nhwc_bias_add_bias_add(first, bias, added, gamma),
                nhwc_bias_add(first, bias, added, gamma),
            ),
        ):
            assert torch.equal(found, expected)
    with pytest.raises(RuntimeError, match="bias"):
        spatial.nhwc_bias_add(rows, bias[:4])
