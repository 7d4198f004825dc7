"""ds_diffusers.deepspeed: DeepSpeed's names with diffusers' results."""

# labels: torch diffusers gpu
import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("diffusers")

import ds_diffusers
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from ds_diffusers.deepspeed import (
    ActivationFuncType,
    DeepSpeedDiffusersAttention,
    DeepSpeedDiffusersTransformerBlock,
    DeepSpeedInferenceConfig,
    Diffusers2DTransformerConfig,
    GroupQuantizer,
    load_spatial_module,
    load_transformer_module,
    nhwc_bias_add,
)
from ds_diffusers.quantization import dequantize_rows, quantize_rows
from helpers.accuracy import Errors
from helpers.operators import every_dtype
from helpers.unets import (
    BLOCKS,
    CHANNELS,
    CONTEXT,
    HEADS,
    UNETS,
    additive_mask,
    block_arguments,
    make_block,
    run_unet,
    unet_arguments,
)

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

NO_INT8, INT8 = Diffusers2DTransformerConfig(), Diffusers2DTransformerConfig(int8_quantization=True)


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "ds_diffusers":
            self.names.add(function._opname)
        return function(*args, **(kwargs or {}))


def operators_of(call: Callable[[], Any]) -> set[str]:
    """The names of our operators that a call uses."""
    with torch.no_grad(), _Record() as record:
        call()
    return record.names


IN_ONE, IN_PARTS = {"block_forward"}, {"layer_norm", "layer_norm_residual_store_pre_ln_res", "gated_linear"}


def deepspeed_attention(
    attention: Attention, dtype: torch.dtype | None = None
) -> DeepSpeedDiffusersAttention:
    """With the weights of an attention of diffusers."""
    query = attention.to_q.weight
    size, dtype = query.shape[1], dtype or query.dtype
    made = DeepSpeedDiffusersAttention(DeepSpeedInferenceConfig(size, heads=attention.heads, dtype=dtype))
    made.to(query.device)
    parts = attention.to_q, attention.to_k, attention.to_v
    weights = [linear.weight.data.t().contiguous().to(dtype) for linear in parts]
    if weights[0].shape == weights[1].shape:
        made.attn_qkvw.data = torch.cat(weights, dim=1)
        made.attn_qw = made.attn_kw = made.attn_vw = None
    else:
        made.attn_qkvw = None
        made.attn_qw.data, made.attn_kw.data, made.attn_vw.data = weights
    made.attn_qkvb = None
    if attention.to_q.bias is not None:
        biases = torch.cat([linear.bias.data for linear in parts])
        made.attn_qkvb = nn.Parameter(biases.to(dtype), requires_grad=False)
    out = attention.to_out[0]
    made.attn_ow.data = out.weight.data.t().contiguous().to(dtype)
    if out.bias is None:
        made.attn_ob = None
    else:
        made.attn_ob.data = out.bias.data.to(dtype)
    return made


def with_deepspeed_attentions(block: BasicTransformerBlock) -> BasicTransformerBlock:
    block = copy.deepcopy(block)
    block.attn1 = deepspeed_attention(block.attn1)
    if block.attn2 is not None:
        block.attn2 = deepspeed_attention(block.attn2)
    return block


def with_hooks(block: DeepSpeedDiffusersTransformerBlock) -> DeepSpeedDiffusersTransformerBlock:
    """Runs in parts."""
    block.attn_1.register_forward_hook(lambda *_: None)
    return block


def as_block(block: BasicTransformerBlock, **_: Any) -> DeepSpeedDiffusersTransformerBlock:
    return DeepSpeedDiffusersTransformerBlock(copy.deepcopy(block), NO_INT8)


WAYS: dict[str, tuple[Callable[[BasicTransformerBlock], DeepSpeedDiffusersTransformerBlock], bool]] = {
    "one_operator": (as_block, True),
    "in_parts": (lambda block: with_hooks(as_block(block)), False),
    "deepspeed_attention": (lambda block: as_block(with_deepspeed_attentions(block)), True),
    "deepspeed_attention_in_parts": (
        lambda block: with_hooks(as_block(with_deepspeed_attentions(block))),
        False,
    ),
}


@every_dtype
@pytest.mark.parametrize("way", WAYS)
def test_block_computes_what_diffusers_block_does(way: str, dtype: torch.dtype, device: torch.device) -> None:
    make, in_one = WAYS[way]
    for name, config in BLOCKS.items():
        if "deepspeed" in way and name == "head_size_of_5":
            continue  # DeepSpeed's attention has C channels inside
        original = make_block(**config).to(device, dtype)
        reference = copy.deepcopy(original).double()
        block = make(original)
        errors = Errors()
        for seed, tokens in enumerate((10, 1, 65)):
            arguments = block_arguments(original, seed, tokens)
            exact = {key: value.double() for key, value in arguments.items()}
            with torch.no_grad():
                errors.add(block(**arguments), original(**arguments), reference(**exact))
        errors.check(dtype, name)
        used = operators_of(lambda: block(**arguments))
        assert used == IN_ONE if in_one else used >= IN_PARTS, name


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


def test_attributes() -> None:
    original = make_block()
    block = DeepSpeedDiffusersTransformerBlock(original, NO_INT8)
    assert block.config is NO_INT8
    assert isinstance(block.quantizer, GroupQuantizer) and not block.quantizer.q_int8
    assert block.transformer_cuda_module is load_transformer_module()
    assert block.attn_1 is original.attn1 and block.attn_2 is original.attn2
    shared = {
        "ff1_w": original.ff.net[0].proj.weight,
        "ff1_b": original.ff.net[0].proj.bias,
        "ff2_w": original.ff.net[2].weight,
        "ff2_b": original.ff.net[2].bias,
    }
    for name in ("norm1", "norm2", "norm3"):
        norm = getattr(original, name)
        shared |= {f"{name}_g": norm.weight, f"{name}_b": norm.bias}
        assert getattr(block, f"{name}_eps") == norm.eps
    for name, parameter in shared.items():
        own = getattr(block, name)
        assert type(own) is nn.Parameter and not own.requires_grad
        assert own.shape == parameter.shape and own.dtype == parameter.dtype
        assert own.data_ptr() == parameter.data_ptr(), name
    for name in ("attn_1_bias", "attn_2_bias"):
        bias = getattr(block, name)
        assert bias.shape == (CHANNELS,) and not bias.any() and not bias.requires_grad
    own = {name for name, _ in block.named_parameters() if not name.startswith(("attn_1.", "attn_2."))}
    assert own == {*shared, "attn_1_bias", "attn_2_bias"}


def test_output_bias_moves_into_the_block() -> None:
    original = with_deepspeed_attentions(make_block())
    biases = original.attn1.attn_ob, original.attn2.attn_ob
    block = DeepSpeedDiffusersTransformerBlock(original, NO_INT8)
    assert (block.attn_1_bias, block.attn_2_bias) == biases
    assert not block.attn_1.do_out_bias and not block.attn_2.do_out_bias
    states = torch.randn(2, 5, CHANNELS)
    without = block.attn_1(states)
    block.attn_1.do_out_bias = True
    torch.testing.assert_close(block.attn_1(states), without + biases[0])


@pytest.mark.parametrize("way", WAYS)
def test_biases_of_the_block_count_in_every_way(way: str) -> None:
    make, in_one = WAYS[way]
    original = make_block()
    arguments = block_arguments(original)
    block = make(original)
    added = torch.randn(CHANNELS)
    block.attn_2_bias.data.add_(added)
    original.attn2.to_out[0].bias.data.add_(added)
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), original(**arguments), rtol=1e-5, atol=1e-5)
        if in_one and "deepspeed" in way:
            block.attn_2.do_out_bias = True  # both add it then
            original.attn2.to_out[0].bias.data.add_(block.attn_2_bias)
            torch.testing.assert_close(block(**arguments), original(**arguments), rtol=1e-5, atol=1e-5)


def test_both_names_of_the_context_and_what_has_no_effect() -> None:
    original = make_block()
    block = as_block(original)
    arguments = block_arguments(original)
    states, context = arguments["hidden_states"], arguments["encoder_hidden_states"]
    with torch.no_grad():
        expected = original(**arguments)
        other = torch.randn_like(context)
        for found in (
            block(states, context),
            block(states, context=context, timestep=torch.tensor(7)),
            block(states, context, torch.tensor(7)),
            block(states, encoder_hidden_states=context, class_labels=None, added_cond_kwargs={}),
            block(states, context=other, encoder_hidden_states=context),
            block(states, context, encoder_hidden_states=None, cross_attention_kwargs={}),
        ):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(block(states, other), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_masks_and_biases_of_projections(way: str, per_head: bool) -> None:
    make, in_one = WAYS[way]
    original = make_block(attention_bias=True)
    arguments = block_arguments(original)
    masks = {
        "attention_mask": additive_mask(torch.rand(2, 10) < 0.5, torch.float32),
        "encoder_attention_mask": additive_mask(torch.rand(2, 7) < 0.5, torch.float32),
    }
    if per_head:
        masks = {name: mask.repeat_interleave(HEADS, dim=0) for name, mask in masks.items()}
    block = make(original)
    with torch.no_grad():
        expected = original(**arguments, **masks)
        assert not torch.allclose(expected, original(**arguments), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(block(**arguments, **masks), expected, rtol=1e-5, atol=1e-5)
    assert (operators_of(lambda: block(**arguments, **masks)) == IN_ONE) == in_one


class _Scaled(AttnProcessor):
    """Takes an argument of its own, and a context in a tuple."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        factor: float = 1.0,
    ) -> Tensor:
        if isinstance(encoder_hidden_states, tuple):
            encoder_hidden_states = encoder_hidden_states[0]
        return factor * super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)


def test_attention_modules_are_called_as_what_they_have_become() -> None:
    def use_processor(block: nn.Module, first: Attention, second: Attention) -> dict[str, Any]:
        second.set_processor(_Scaled())
        return {"cross_attention_kwargs": {"factor": 0.25}}

    def use_tuple(block: nn.Module, first: Attention, second: Attention) -> dict[str, Any]:
        second.set_processor(_Scaled())
        return {"encoder_hidden_states": (torch.randn(2, 7, CONTEXT), None)}

    def use_other_layer(block: nn.Module, first: Attention, second: Attention) -> dict[str, Any]:
        first.to_q = nn.Sequential(first.to_q, nn.Tanh())
        return {}

    def use_hook(block: nn.Module, first: Attention, second: Attention) -> dict[str, Any]:
        second.to_v.register_forward_hook(lambda module, inputs, result: 2 * result)
        return {}

    for change in (use_processor, use_tuple, use_other_layer, use_hook):
        original = make_block()
        block = as_block(original)
        arguments = block_arguments(original)
        with torch.no_grad():
            before = original(**arguments)
            torch.manual_seed(1)
            given = arguments | change(original, original.attn1, original.attn2)
            torch.manual_seed(1)
            change(block, block.attn_1, block.attn_2)
            if change is use_processor:
                original.attn1.set_processor(_Scaled())
                block.attn_1.set_processor(_Scaled())
            expected = original(**given)
            assert not torch.allclose(expected, before, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(block(**given), expected, rtol=1e-5, atol=1e-5)


def test_grounding_and_positional_embeddings() -> None:
    original = make_block(attention_type="gated")
    for parameter in (original.fuser.alpha_attn, original.fuser.alpha_dense):
        parameter.data.fill_(0.5)
    objects = torch.randn(2, 3, CONTEXT)
    arguments = block_arguments(original) | {"cross_attention_kwargs": {"gligen": {"objs": objects}}}
    block = as_block(original)
    positioned = make_block(positional_embeddings="sinusoidal", num_positional_embeddings=16)
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), original(**arguments), rtol=1e-5, atol=1e-5)
        given = block_arguments(positioned)
        torch.testing.assert_close(as_block(positioned)(**given), positioned(**given), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        TypeError, match="cross_attention_kwargs has gligen, for which the block has no fuser"
    ):
        as_block(make_block())(**arguments)


def test_gradients_reach_inputs_and_attentions() -> None:
    original = make_block()
    block = as_block(original)
    arguments = {name: value.requires_grad_() for name, value in block_arguments(original).items()}
    names = {"attn1.to_q.weight": "attn_1.to_q.weight", "attn2.to_out.0.bias": "attn_2.to_out.0.bias"}
    results = []
    for module, found in ((original, names), (block, names.values())):
        wanted = [*arguments.values(), *(module.get_parameter(name) for name in found)]
        results.append(torch.autograd.grad(module(**arguments).square().sum(), wanted))
    for own, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [NO_INT8, INT8], ids=["float", "int8"])
def test_autocast(config: Diffusers2DTransformerConfig) -> None:
    original = make_block()
    arguments = block_arguments(original)
    for module in (original, with_deepspeed_attentions(original)):
        block = DeepSpeedDiffusersTransformerBlock(copy.deepcopy(module), config)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found, expected = block(**arguments), original(**arguments)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected.float(), rtol=0.05, atol=0.05)


@every_dtype
@pytest.mark.parametrize("way", WAYS)
def test_int8_block(way: str, dtype: torch.dtype, device: torch.device) -> None:
    """Errors are those against the quantised block in float64."""
    make = WAYS[way][0]
    original = make_block().to(device, dtype)
    quantized = ds_diffusers.quantize(copy.deepcopy(original))
    reference = copy.deepcopy(quantized).double()
    source = make(original)
    block = DeepSpeedDiffusersTransformerBlock(
        with_deepspeed_attentions(original) if "deepspeed" in way else copy.deepcopy(original), INT8
    )
    if "parts" in way:
        with_hooks(block)
    for name, layer in (("ff1_w", quantized.ff.net[0].proj), ("ff2_w", quantized.ff.net[2])):
        weight = getattr(block, name)
        assert weight.dtype == torch.int8 and torch.equal(weight, layer.weight)
        assert weight.scale.dtype == torch.float32 and torch.equal(weight.scale[:, 0], layer.scale)
    errors = Errors()
    with torch.no_grad():
        for seed, tokens in enumerate((10, 1, 65)):
            arguments = block_arguments(original, seed, tokens)
            exact = {name: value.double() for name, value in arguments.items()}
            errors.add(block(**arguments), quantized(**arguments), reference(**exact))
        errors.check(dtype, "result")
        found, whole = block(**arguments).float(), source(**arguments).float()
    assert 1e-5 < float((found - whole).norm() / whole.norm()) < 0.01
    assert (operators_of(lambda: block(**arguments)) == IN_ONE) == ("parts" not in way)
    assert block.quantizer.q_int8 and block.config is INT8


def test_int8_layers_and_weights_are_taken_as_they_are() -> None:
    original = make_block()
    arguments = block_arguments(original)
    quantized = ds_diffusers.quantize(copy.deepcopy(original), groups_per_row=4)
    block = DeepSpeedDiffusersTransformerBlock(quantized, NO_INT8)
    assert block.ff1_w.scale.shape == (block.ff1_w.shape[0], 4)
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), quantized(**arguments), rtol=1e-4, atol=1e-4)

    float_weight = original.ff.net[0].proj.weight.data
    rows = len(float_weight)
    for quantizer in (GroupQuantizer(), GroupQuantizer(group_size=4), GroupQuantizer(num_groups=4 * rows)):
        block = as_block(original)
        block.ff1_w = quantizer.quantize(float_weight)
        groups = max(1, len(block.ff1_w.scale) // rows)
        stands_for = block.ff1_w.view(len(block.ff1_w.scale), -1) * block.ff1_w.scale
        expected = copy.deepcopy(original)
        expected.ff.net[0].proj.weight.data = stands_for.view(rows, -1)
        assert block.feed_forward_scale("ff1_w").shape == ((rows, groups) if groups > 1 else (rows,))
        for changed in (block, with_hooks(copy.deepcopy(block))):
            with torch.no_grad():
                torch.testing.assert_close(changed(**arguments), expected(**arguments), rtol=1e-4, atol=1e-4)
    block.ff1_w = nn.Parameter(float_weight, requires_grad=False)
    assert block.feed_forward_scale("ff1_w") is None
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), original(**arguments), rtol=1e-5, atol=1e-5)
    block.ff1_w = nn.Parameter(float_weight.char(), requires_grad=False)
    with pytest.raises(
        RuntimeError, match="ff1_w is int8 without a scale, must be assigned as GroupQuantizer"
    ):
        block(**arguments)
    with pytest.raises(
        ValueError, match="ff1_w.scale has 3 groups, must have a multiple or a divisor of the"
    ):
        block.ff1_w = GroupQuantizer(num_groups=3).quantize(torch.randn(256, 3 * 11))


def test_int8_block_keeps_its_scales() -> None:
    original = make_block()
    arguments = block_arguments(original)
    block = DeepSpeedDiffusersTransformerBlock(original, INT8)
    with torch.no_grad():
        expected = block(**arguments)
    scales = {name: getattr(block, name).scale.clone() for name in ("ff1_w", "ff2_w")}
    file = io.BytesIO()
    torch.save(block, file)
    file.seek(0)
    other = DeepSpeedDiffusersTransformerBlock(make_block(), INT8)
    assigned = DeepSpeedDiffusersTransformerBlock(make_block(), INT8)
    state = block.state_dict()
    assert state["ff1_w"].dtype == torch.int8 and state["ff1_w_scale"].dtype == torch.float32
    assert "ff1_w_scale" not in as_block(make_block()).state_dict()
    other.load_state_dict(state)
    assigned.load_state_dict(state, assign=True)
    copies = (
        copy.deepcopy(block),
        pickle.loads(pickle.dumps(block)),
        torch.load(file, weights_only=False),
        other,
        assigned,
        copy.deepcopy(block).half().to("cpu").float(),
    )
    for copied in copies:
        for name, scale in scales.items():
            assert torch.equal(getattr(copied, name).scale, scale)
        with torch.no_grad():
            tolerance = 1e-2 if copied is copies[-1] else 1e-6
            torch.testing.assert_close(copied(**arguments), expected, rtol=tolerance, atol=tolerance)
    assert copy.deepcopy(block).to("meta").ff2_w.scale.is_meta
    with pytest.raises(RuntimeError, match="ff1_w has dtype torch.float32, must be torch.int8: the model is"):
        block.load_state_dict(as_block(make_block()).state_dict(), strict=False)
    assert torch.equal(block.ff1_w, state["ff1_w"]) and torch.equal(block.ff1_w.scale, scales["ff1_w"])


def test_block_in_graphs() -> None:
    original = make_block()
    arguments = block_arguments(original)
    for block in (
        as_block(original),
        DeepSpeedDiffusersTransformerBlock(with_deepspeed_attentions(original), INT8),
        with_hooks(as_block(original)),
    ):
        torch._dynamo.reset()
        with torch.no_grad():
            expected = block(**arguments)
            compiled = torch.compile(block, fullgraph=True, backend="eager")(**arguments)
            traced = torch.jit.trace(block.eval(), tuple(arguments.values()), check_trace=False)
            for found in (compiled, traced(*arguments.values())):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    block = DeepSpeedDiffusersTransformerBlock(with_deepspeed_attentions(original), INT8)
    tokens = torch.export.Dim("tokens", min=2, max=4096)
    states, context = arguments.values()
    with torch.no_grad():
        program = torch.export.export(block, (states, context), dynamic_shapes=({1: tokens}, None)).module()
        fewer = states[:, :7]
        torch.testing.assert_close(program(fewer, context), block(fewer, context), rtol=1e-5, atol=1e-5)


def test_strides_and_odd_channels() -> None:
    """DeepSpeed's kernels take neither."""
    original = BasicTransformerBlock(21, 3, 7, cross_attention_dim=5).eval()
    image = torch.randn(2, 21, 3, 5)
    states = image.flatten(2).transpose(1, 2)
    context = torch.randn(1, 9, 5).expand(2, 9, 5)
    for equivalent in (original, with_deepspeed_attentions(original)):
        block = as_block(equivalent)
        with torch.no_grad():
            torch.testing.assert_close(
                block(states, context), original(states, encoder_hidden_states=context), rtol=1e-5, atol=1e-5
            )


def test_wrong_equivalents_are_refused() -> None:
    def changed(change: Callable[[BasicTransformerBlock], Any], **config: Any) -> BasicTransformerBlock:
        block = make_block(**config)
        change(block)
        return block

    def keep(block: nn.Module) -> None:
        pass

    lora = nn.Sequential(nn.Linear(4, 4))
    for module, error, message in (
        (
            nn.Linear(4, 4),
            TypeError,
            "equivalent_module is Linear without norm1, must be a BasicTransformerBlock",
        ),
        (
            changed(keep, norm_type="ada_norm", num_embeds_ada_norm=3),
            ValueError,
            "equivalent_module.norm_type is ada_norm, must be layer_norm",
        ),
        (
            changed(keep, activation_fn="gelu"),
            TypeError,
            "equivalent_module.ff.net.0 is GELU, must be one of GEGLU, SwiGLU",
        ),
        (
            changed(lambda block: setattr(block.ff.net[0], "proj", lora)),
            TypeError,
            "equivalent_module.ff.net.0.proj is torch.nn.modules.container.Sequential, must be torch.nn.",
        ),
        (
            changed(lambda block: setattr(block, "norm2", nn.GroupNorm(1, 4))),
            TypeError,
            "equivalent_module.norm2 is torch.nn.modules.normalization.GroupNorm, must be torch.nn",
        ),
    ):
        with pytest.raises(error, match=re.escape(message)):
            DeepSpeedDiffusersTransformerBlock(module, NO_INT8)
    with pytest.raises(TypeError, match="config is NoneType, must be a Diffusers2DTransformerConfig"):
        DeepSpeedDiffusersTransformerBlock(make_block(), None)
    bad = make_block()
    bad.ff.net[2].weight.data[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"weight\[1, 2\] is nan, must be finite"):
        DeepSpeedDiffusersTransformerBlock(bad, INT8)


def test_wrong_calls_are_refused() -> None:
    original = make_block()
    arguments = block_arguments(original)
    block = as_block(original)
    states, context = arguments["hidden_states"], arguments["encoder_hidden_states"]
    for call, error, message in (
        (lambda: block(states[..., :-1], context), RuntimeError, "must be"),
        (lambda: block(states.half(), context.half()), RuntimeError, "must be"),
        (lambda: block(states, context, unknown=1), TypeError, "unknown"),
        (
            lambda: as_block(with_deepspeed_attentions(original))(
                states, context, cross_attention_kwargs={"factor": 2}
            ),
            TypeError,
            "cross_attention_kwargs has factor, which attn_1, a DeepSpeedDiffusersAttention, does not take",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


class _OtherAttention(nn.Module):
    """One that takes its input and a context alone."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.attention(x, encoder_hidden_states=context)


def test_attentions_of_other_libraries() -> None:
    original = make_block()
    arguments = block_arguments(original)
    other = copy.deepcopy(original)
    other.attn1, other.attn2 = _OtherAttention(other.attn1), _OtherAttention(other.attn2)
    block = as_block(other)
    with torch.no_grad():
        torch.testing.assert_close(block(**arguments), original(**arguments), rtol=1e-5, atol=1e-5)
    with pytest.raises(
        TypeError, match="a mask is given for attn_2, a _OtherAttention, which does not take one"
    ):
        block(**arguments, encoder_attention_mask=torch.zeros(2, 1, 7))


@every_dtype
@pytest.mark.parametrize("context_size", [None, 24])
def test_attention_is_diffusers_attention(
    context_size: int | None, dtype: torch.dtype, device: torch.device
) -> None:
    for bias in (False, True):
        original = Attention(32, context_size, heads=4, dim_head=8, bias=bias).to(device, dtype).eval()
        original.set_processor(AttnProcessor2_0())
        attention = deepspeed_attention(original)
        reference = copy.deepcopy(original).double()
        errors = Errors()
        for tokens in (1, 10, 144):
            states = torch.randn(2, tokens, 32, device=device, dtype=dtype)
            context = None
            if context_size is not None:
                context = torch.randn(2, 7, context_size, device=device, dtype=dtype)
            exact = states.double(), context if context is None else context.double()
            with torch.no_grad():
                errors.add(attention(states, context), original(states, context), reference(*exact))
        errors.check(dtype, "result")
        attention.do_out_bias = False
        with torch.no_grad():
            difference = attention(states, context) + attention.attn_ob - original(states, context)
        assert difference.abs().max() < 0.02


def test_masks_of_attention() -> None:
    original = Attention(32, 24, heads=4, dim_head=8).eval()
    attention = deepspeed_attention(original)
    states, context = torch.randn(2, 5, 32), torch.randn(2, 7, 24)
    kept = torch.rand(2, 7) < 0.6
    kept[:, 0] = True
    additive = torch.zeros(2, 7).masked_fill(~kept, -10000.0)
    with torch.no_grad():
        expected = original(states, context, attention_mask=additive.unsqueeze(1))
        for mask in (
            additive,
            kept,
            additive.unsqueeze(1),
            additive.unsqueeze(1).repeat_interleave(4, dim=0),
            additive[:, None, None].double(),
            kept[:, None, None].expand(2, 4, 5, 7),
        ):
            torch.testing.assert_close(attention(states, context, mask), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="input_mask has 1 dimensions, must have 2, 3 or 4"):
        attention(states, context, kept[0])


def test_parameters_of_attention() -> None:
    config = DeepSpeedInferenceConfig(hidden_size=32, heads=4, dtype=torch.bfloat16, mp_size=1)
    before = DeepSpeedDiffusersAttention.layer_id
    attention = DeepSpeedDiffusersAttention(config)
    assert DeepSpeedDiffusersAttention.layer_id == before + 1 and config.layer_id == before
    shapes = {name: tuple(parameter.shape) for name, parameter in attention.named_parameters()}
    square = {f"attn_{name}": (32, 32) for name in ("qw", "kw", "vw", "ow")}
    assert shapes == {"attn_qkvw": (32, 96), "attn_qkvb": (96,), "attn_ob": (32,), **square}
    for name, parameter in attention.named_parameters():
        assert parameter.dtype == torch.bfloat16 and not parameter.requires_grad
        assert parameter.isnan().all() if name.endswith("w") else not parameter.any()
    assert attention.do_out_bias and attention.config is config
    assert attention.norm_factor**4 == pytest.approx(8)
    sizes = (
        "num_attention_heads_per_partition",
        "hidden_size_per_partition",
        "hidden_size_per_attention_head",
    )
    assert [getattr(attention, name) for name in sizes] == [4, 32, 8]
    assert attention(torch.randn(1, 3, 32)).isnan().all()
    attention.attn_qw = attention.attn_qkvw = None
    with pytest.raises(
        RuntimeError, match="attn_qw is None, must be a weight where attn_qkvw does not serve"
    ):
        attention(torch.randn(1, 3, 32))


def test_attention_takes_the_weights_that_there_are() -> None:
    original = Attention(32, heads=4, dim_head=8).eval()
    states, context = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    whole = deepspeed_attention(original)
    separate = copy.deepcopy(whole)
    parts = (nn.Parameter(part, requires_grad=False) for part in whole.attn_qkvw.data.chunk(3, dim=1))
    separate.attn_qw, separate.attn_kw, separate.attn_vw = parts
    separate.attn_qkvw = None
    with torch.no_grad():
        for given in (None, context):
            expected = original(states, given)
            torch.testing.assert_close(whole(states, given), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(separate(states, given), expected, rtol=1e-5, atol=1e-5)
        half = deepspeed_attention(original, torch.bfloat16)
        found = half(states, context)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


def test_scores_divided_by_the_number_of_the_layer() -> None:
    block = with_deepspeed_attentions(make_block())
    config = DeepSpeedInferenceConfig(
        CHANNELS, heads=HEADS, dtype=torch.float32, scale_attn_by_inverse_layer_idx=True
    )
    divided = DeepSpeedDiffusersAttention(config)
    divided.load_state_dict(block.attn1.state_dict() | {"attn_qkvb": torch.zeros(3 * CHANNELS)}, strict=False)
    block.attn1.attn_qkvw.data[:, :CHANNELS] /= config.layer_id + 1
    states, context = torch.randn(2, 5, CHANNELS), torch.randn(2, 7, CONTEXT)
    torch.testing.assert_close(divided(states), block.attn1(states), rtol=1e-4, atol=1e-5)
    original, block.attn1 = as_block(block), divided
    assert operators_of(lambda: as_block(block)(states, context)) >= IN_PARTS
    with torch.no_grad():
        torch.testing.assert_close(
            as_block(block)(states, context), original(states, context), rtol=1e-4, atol=1e-5
        )


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


def test_group_quantizer() -> None:
    weight = torch.randn(12, 10)
    weight[3] = 0
    quantized = GroupQuantizer(q_int8=True).quantize(weight, qkv=True, count=2, parallel_dim=1)
    values, scale = quantize_rows(weight)
    assert type(quantized) is nn.Parameter and not quantized.requires_grad
    assert torch.equal(quantized, values) and torch.equal(quantized.scale, scale.unsqueeze(1))
    assert quantized.scale[3] == 1
    torch.testing.assert_close(quantized * quantized.scale, dequantize_rows(values, scale))
    for options, groups in (
        ({"group_size": 3}, 4),
        ({"num_groups": 8}, 8),
        ({"num_groups": 60}, 60),
        ({"group_size": 5, "num_groups": 1}, 1),
        ({"num_bits": 4}, 12),
        ({"num_bits": 2, "group_size": 12}, 1),
    ):
        levels = 2 ** options.get("num_bits", 8)
        found = GroupQuantizer(**options).quantize(weight.to(torch.bfloat16).t().contiguous().t())
        exact = weight.to(torch.bfloat16).double().reshape(groups, -1)
        exact_scale = exact.abs().amax(1, keepdim=True) * 2 / levels
        exact_scale[exact_scale == 0] = 1
        assert found.shape == weight.shape and found.dtype == torch.int8 and found.scale.shape == (groups, 1)
        torch.testing.assert_close(found.scale.double(), exact_scale)
        clamped = (exact / exact_scale).round().clamp(-levels // 2, levels // 2 - 1)
        assert (found.double().view(groups, -1) - clamped).abs().max() <= 1
        assert (found.double().view(groups, -1) != clamped).sum() <= 1  # ties in float32
    vector = GroupQuantizer(num_groups=2).quantize(weight.flatten())
    assert vector.shape == (120,) and len(vector.scale) == 2


def test_group_quantizer_that_keeps_weights() -> None:
    weight = torch.randn(4, 6)
    for kept in (GroupQuantizer(q_int8=False).quantize(weight), GroupQuantizer().quantize(weight, qkv=False)):
        assert type(kept) is nn.Parameter and not kept.requires_grad
        assert kept.data_ptr() == weight.data_ptr() and kept.scale.tolist() == [1.0]


def test_group_quantizer_refuses() -> None:
    for options, message in (
        ({"num_bits": 1}, "num_bits is 1, must be from 2 to 8"),
        ({"num_bits": 16}, "num_bits is 16, must be from 2 to 8"),
        ({"group_size": 0}, "group_size is 0, must be at least 1"),
        ({"num_groups": -1}, "num_groups is -1, must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            GroupQuantizer(**options)
    for quantizer, weight, error, message in (
        (
            GroupQuantizer(group_size=3),
            torch.ones(4, 6),
            ValueError,
            "inputs has 4 rows, must be a multiple of",
        ),
        (
            GroupQuantizer(num_groups=5),
            torch.ones(4, 6),
            ValueError,
            "inputs has 24 elements, must be a multiple",
        ),
        (GroupQuantizer(), torch.ones(()), ValueError, "inputs has no dimensions, must have at least one"),
        (GroupQuantizer(), torch.ones(2, 2).int(), TypeError, "weight is torch.int32"),
        (
            GroupQuantizer(),
            torch.full((2, 3, 4), float("inf")),
            ValueError,
            r"weight\[0, 0, 0\] is inf, must be",
        ),
    ):
        with pytest.raises(error, match=message):
            quantizer.quantize(weight)


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
