"""Where a block may not run as one operator, it runs in segments or as diffusers' own and says why; where the
obstacle goes, it is fused again. What PyTorch's state does to it is in test_patch_torch_state.py."""

# labels: torch diffusers
import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch

pytest.importorskip("diffusers")

import diffusers.models.attention_processor as processors
import ds_diffusers
from diffusers.models.activations import GELU
from diffusers.models.attention import BasicTransformerBlock
from ds_diffusers.blocks import full_look
from ds_diffusers.quick_look import quick_arguments
from helpers.patched_blocks import (
    Change,
    own_class,
    check_original,
    check_segments,
    check_close,
    check_path,
    check_fused,
)
from helpers.unets import BLOCKS, CHANNELS, CONTEXT, HEADS, Arguments, block_arguments, make_block
from torch import nn

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*weight_norm", "ignore:.*batching rule", "ignore:.*torch.jit"),
]


class OwnProcessor(processors.AttnProcessor2_0):
    pass


class OwnParameter(nn.Parameter):
    pass


def set_forward(module: nn.Module) -> None:
    forward = module.forward
    module.forward = lambda *arguments, **named: forward(*arguments, **named) * 2


def add_parametrization(module: nn.Linear) -> None:
    nn.utils.parametrizations.weight_norm(module)


def own_parameter(module: nn.Linear) -> None:
    module.weight = OwnParameter(module.weight.detach())


def transposed_memory(module: nn.Linear) -> None:
    module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())


def as_attribute(module: nn.Module, name: str) -> None:
    """As in the replicas of torch.nn.DataParallel."""
    value = getattr(module, name).detach()
    delattr(module, name)
    object.__setattr__(module, name, value)


def make_sparse(module: nn.Linear) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.weight = nn.Parameter(module.weight.detach().to_sparse_csr())


def norm_over_two_dimensions(block: BasicTransformerBlock) -> None:
    block.norm3 = nn.LayerNorm((10, CHANNELS))


def other_heads(block: BasicTransformerBlock) -> None:
    block.attn2.heads = 2


def fuse_projections(attention: processors.Attention) -> None:
    attention.fuse_projections()
    attention.set_processor(processors.FusedAttnProcessor2_0())


def ungated(block: BasicTransformerBlock) -> None:
    block.ff.net[0] = GELU(CHANNELS, 4 * CHANNELS)


# (what is done to a block, the reason that the report must give)
MODULE_CASES: dict[str, tuple[Change, str]] = {
    "linear_of_another_class": (
        lambda block: own_class(block.attn1.to_k),
        "attn1.to_k is helpers.patched_blocks.OwnLinear, not Linear",
    ),
    "weight_norm": (
        lambda block: add_parametrization(block.ff.net[2]),
        "ff.net.2 is torch.nn.utils.parametrize.",
    ),
    "old_weight_norm": (lambda block: nn.utils.weight_norm(block.attn1.to_q), "attn1.to_q has hooks"),
    "parameter_of_another_class": (
        lambda block: own_parameter(block.attn2.to_v),
        "attn2.to_v.weight is test_patch_conditions.OwnParameter, not a plain tensor",
    ),
    "transposed_weight": (
        lambda block: transposed_memory(block.attn1.to_out[0]),
        "attn1.to_out.0.weight is not contiguous",
    ),
    "weight_that_is_no_parameter": (
        lambda block: as_attribute(block.attn1.to_q, "weight"),
        "attn1.to_q does not own its weight or bias",
    ),
    "norm_weight_that_is_no_parameter": (
        lambda block: as_attribute(block.norm2, "weight"),
        "norm2 does not own its weight or bias",
    ),
    "sparse_weight": (
        lambda block: make_sparse(block.attn2.to_q),
        "attn2.to_q.weight has layout torch.sparse_csr, not torch.strided",
    ),
    "processor": (
        lambda block: block.attn1.set_processor(processors.AttnProcessor()),
        "processor AttnProcessor",
    ),
    "derived_processor": (
        lambda block: block.attn2.set_processor(OwnProcessor()),
        "attn2 has processor OwnProcessor",
    ),
    "sliced_attention": (lambda block: block.attn1.set_attention_slice(2), "processor SlicedAttnProcessor"),
    "fused_projections": (
        lambda block: fuse_projections(block.attn1),
        "attn1 has processor FusedAttnProcessor2_0",
    ),
    "forward_hook": (
        lambda block: block.attn1.to_v.register_forward_hook(lambda module, inputs, output: output * 2),
        "attn1.to_v has hooks",
    ),
    "forward_pre_hook": (
        lambda block: block.ff.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
        "ff has hooks",
    ),
    "backward_hook": (
        lambda block: block.norm2.register_full_backward_hook(lambda *arguments: None),
        "norm2 has hooks",
    ),
    "hook_on_a_dropout": (
        lambda block: block.attn1.to_out[1].register_forward_hook(lambda module, inputs, output: output + 1),
        "attn1.to_out.1 has hooks",
    ),
    "forward_of_a_linear": (lambda block: set_forward(block.attn1.to_q), "attn1.to_q.forward was replaced"),
    "forward_of_an_attention": (lambda block: set_forward(block.attn2), "attn2.forward was replaced"),
    "chunking": (lambda block: block.set_chunk_feed_forward(5, 1), "the feed-forward is chunked"),
    "ungated_activation": (ungated, "ff.net.0 is diffusers.models.activations.GELU, not GEGLU or SwiGLU"),
    "another_layer": (
        lambda block: block.ff.net.extend([nn.Dropout().eval(), nn.ReLU()]),
        "ff.net has 5 modules, not 3 or 4",
    ),
    "another_kind_of_layer": (lambda block: block.ff.net.append(nn.ReLU()), "ff.net.3 is torch.nn.modules"),
    "norm_over_two_dimensions": (norm_over_two_dimensions, "norm3 normalises 2 dimensions, not 1"),
    "root_mean_square_norm": (
        lambda block: setattr(block, "norm1", nn.RMSNorm(CHANNELS)),
        "norm1 is torch.nn.modules.normalization.RMSNorm, not LayerNorm",
    ),
    "different_eps": (lambda block: setattr(block.norm2, "eps", 1e-2), "norm2 has eps 0.01, norm1 1e-05"),
    "different_heads": (other_heads, "attn1 has 4 heads, attn2 2"),
    "rescaled_attention": (
        lambda block: setattr(block.attn1, "rescale_output_factor", 2.0),
        "attn1 has residual_connection or rescale_output_factor",
    ),
    "attention_with_residual": (
        lambda block: setattr(block.attn2, "residual_connection", True),
        "attn2 has residual_connection or rescale_output_factor",
    ),
    "norm_of_the_context": (
        lambda block: setattr(block.attn2, "norm_cross", nn.LayerNorm(CONTEXT)),
        "attn2 has a norm of its own",
    ),
    "norm_of_the_queries": (
        lambda block: setattr(block.attn1, "norm_q", nn.LayerNorm(CHANNELS // HEADS)),
        "attn1 has a norm of its own",
    ),
}


@pytest.mark.parametrize("name", MODULE_CASES)
def test_modules(name: str) -> None:
    block = make_block()
    change, reason = MODULE_CASES[name]
    change(block)
    ds_diffusers.patch(block)
    assert reason in ds_diffusers.report(block)[0].reason, "the report knows before the first call"
    check_segments(block, block_arguments(block), reason)


@pytest.mark.parametrize("name", MODULE_CASES)
def test_modules_that_change_after_a_fused_call(name: str) -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    check_fused(block, values)
    change, reason = MODULE_CASES[name]
    change(block)
    with torch.no_grad():
        result = block(**values)
        check_path(block, "segments", reason, fused_calls=1)
        check_close(result, ds_diffusers.unpatch(block)(**values))


# (constructor arguments, the reason)
FORMS: dict[str, tuple[Arguments, str]] = {
    "positional_embeddings": (
        {"positional_embeddings": "sinusoidal", "num_positional_embeddings": 16},
        "the block has positional embeddings",
    ),
    "gelu": ({"activation_fn": "gelu"}, "ff.net.0 is diffusers.models.activations.GELU"),
    "geglu_approximate": ({"activation_fn": "geglu-approximate"}, "activations.ApproximateGELU"),
    "linear_silu": ({"activation_fn": "linear-silu"}, "activations.LinearActivation"),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    config, reason = FORMS[name]
    block = make_block(**config)
    check_segments(block, block_arguments(block), reason)


def test_adaptive_norm() -> None:
    block = make_block(norm_type="ada_norm", num_embeds_ada_norm=10)
    values = block_arguments(block) | {"timestep": torch.tensor(3)}
    check_segments(block, values, "norm_type is ada_norm, not layer_norm")


def test_dropout_in_training_mode() -> None:
    block = make_block(dropout=0.5).train()
    check_segments(block, block_arguments(block), "attn1.to_out.1 drops out in training mode")
    check_fused(block.eval(), block_arguments(block))


def test_final_dropout_in_training_mode() -> None:
    block = make_block(final_dropout=True, dropout=0.5)
    block.ff.net[3].train()
    check_segments(block, block_arguments(block), "ff.net.3 drops out in training mode")


# (changes of a call's arguments, the reason)
CALL_CASES: dict[str, tuple[Callable[[Arguments], Arguments], str]] = {
    "cross_attention_kwargs": (
        lambda values: {"cross_attention_kwargs": {"ip_adapter_masks": None}},
        "cross_attention_kwargs has ip_adapter_masks",
    ),
    "mask_of_another_dtype": (
        lambda values: {"encoder_attention_mask": torch.ones(2, 1, 7, dtype=torch.bool)},
        "encoder_attention_mask has dtype torch.bool, hidden_states torch.float32",
    ),
    "mask_of_two_dimensions": (
        lambda values: {"encoder_attention_mask": torch.randn(2, 7)},
        "encoder_attention_mask has 2 dimensions, not 3",
    ),
}


@pytest.mark.parametrize("name", CALL_CASES)
def test_calls(name: str) -> None:
    block = make_block()
    values = block_arguments(block)
    change, reason = CALL_CASES[name]
    check_segments(block, values | change(values), reason)
    check_fused(block, values)


@pytest.mark.parametrize("name", CALL_CASES)
def test_calls_after_a_fused_call(name: str) -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    check_fused(block, values)
    change, reason = CALL_CASES[name]
    changed = values | change(values)
    with torch.no_grad():
        result = block(**changed)
        assert reason in ds_diffusers.report(block)[0].reason
        check_close(result, ds_diffusers.unpatch(block)(**changed))


# What the quick look leaves to the operator: changes of a block and of its arguments, the path, the reason.
OPERATOR_CASES: dict[str, tuple[Change, Callable[[torch.Tensor], torch.Tensor], str, str]] = {
    "float64": (
        lambda block: block.double(),
        torch.Tensor.double,
        "original",
        "hidden_states has dtype torch.float64",
    ),
    "meta": (
        lambda block: block.to("meta"),
        lambda value: value.to("meta"),
        "original",
        "hidden_states is on meta",
    ),
    "some_weights": (
        lambda block: block.attn1.to_v.double(),
        torch.Tensor.float,
        "segments",
        "attn1.to_v.weight has",
    ),
    "arguments": (
        lambda block: None,
        torch.Tensor.half,
        "segments",
        "has dtype torch.float32, hidden_states",
    ),
    "some_on_meta": (lambda block: block.attn1.to_q.to("meta"), torch.Tensor.float, "segments", "is on meta"),
    "dimensions": (
        lambda block: None,
        lambda value: value[0],
        "original",
        "hidden_states has 2 dimensions, not 3",
    ),
}


@pytest.mark.parametrize("name", OPERATOR_CASES)
def test_tensors_that_change_after_a_fused_call(name: str) -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    check_fused(block, values)
    change_block, change, path, reason = OPERATOR_CASES[name]
    change_block(block)
    with torch.no_grad(), suppress(RuntimeError, IndexError, ValueError):
        block(**{name: change(value) for name, value in values.items()})
    check_path(block, path, reason, fused_calls=1)


@pytest.mark.parametrize("form", sorted(BLOCKS.keys() - {"swiglu", "final_dropout"}))
def test_quick_look_sees_what_the_full_look_sees(form: str) -> None:
    """Such blocks must not take the long way."""
    block = ds_diffusers.patch(make_block(**BLOCKS[form]))
    values = block_arguments(block)
    states, context = values["hidden_states"], values.get("encoder_hidden_states")
    with torch.no_grad():
        found, adapters = quick_arguments(block, states, context)
        _, reason, full = full_look(block, states, None, context, None, None)
    assert reason is None
    assert adapters == full[1] == {}
    assert found.keys() == full[0].keys()
    assert all(found[name] is full[0][name] for name in found)


def test_float64() -> None:
    block = make_block().double()
    check_original(block, block_arguments(block), "hidden_states has dtype torch.float64")


def test_meta_device() -> None:
    block = ds_diffusers.patch(make_block().to("meta"))
    with torch.no_grad():
        block(**block_arguments(block))
    assert ds_diffusers.report(block)[0].reason == "hidden_states is on meta, not on cpu or cuda"


def test_weights_of_another_dtype() -> None:
    block = make_block()
    values = block_arguments(block)
    block.ff.net[2].to(torch.bfloat16)
    ds_diffusers.patch(block)
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        block(**values)
    assert "has dtype" in ds_diffusers.report(block)[0].reason


def test_tensor_subclass() -> None:
    class OwnTensor(torch.Tensor):
        pass

    block = make_block()
    values = block_arguments(block)
    reason = (
        "hidden_states is test_patch_conditions.test_tensor_subclass.<locals>.OwnTensor, not a plain tensor"
    )
    check_original(block, values | {"hidden_states": values["hidden_states"].as_subclass(OwnTensor)}, reason)


def test_errors_of_the_original_path_stay() -> None:
    block = ds_diffusers.patch(make_block())
    with torch.no_grad(), pytest.raises(AttributeError):
        block(None)


def test_wrong_context_is_an_error() -> None:
    block = ds_diffusers.patch(make_block())
    with torch.no_grad(), pytest.raises(RuntimeError, match="attn2_k_weight has shape"):
        block(block_arguments(block)["hidden_states"], encoder_hidden_states=torch.randn(2, 7, CONTEXT + 1))


def test_obstacles_come_and_go() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    check_fused(block, values)
    handle = block.attn1.register_forward_hook(lambda module, inputs, output: output * 2)
    check_segments(block, values, "attn1 has hooks")
    handle.remove()
    check_fused(block, values)
    check_original(
        block, values | {"cross_attention_kwargs": {"scale": 1.0}}, "cross_attention_kwargs has scale"
    )
    check_fused(block, values)


def test_ip_adapter() -> None:
    block = make_block()
    block.attn2.set_processor(
        processors.IPAdapterAttnProcessor2_0(CHANNELS, CONTEXT, num_tokens=(4,), scale=0.5)
    )
    values = block_arguments(block)
    values["encoder_hidden_states"] = (values["encoder_hidden_states"], [torch.randn(2, 1, 4, CONTEXT)])
    check_segments(block, values, "attn2 has processor IPAdapterAttnProcessor2_0")


def test_context_in_a_tuple() -> None:
    block = ds_diffusers.patch(make_block())
    values = block_arguments(block)
    with torch.no_grad(), pytest.raises(AttributeError, match="tuple"):
        block(**values | {"encoder_hidden_states": (values["encoder_hidden_states"],)})
    assert (
        ds_diffusers.report(block)[0].reason == "encoder_hidden_states is builtins.tuple, not a plain tensor"
    )


def test_grounding() -> None:
    block = make_block(attention_type="gated")
    values = block_arguments(block)
    check_fused(ds_diffusers.patch(block), values)
    objects = torch.randn(2, 3, CONTEXT)
    with torch.no_grad():
        block.fuser.alpha_attn.fill_(0.5)
    gligen = {"cross_attention_kwargs": {"gligen": {"objs": objects}}}
    check_segments(block, values | gligen, "cross_attention_kwargs has gligen")
