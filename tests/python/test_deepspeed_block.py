"""ds_diffusers.deepspeed.DeepSpeedDiffusersTransformerBlock: DeepSpeed's block with diffusers' results."""

# labels: torch diffusers gpu

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor
from ds_diffusers.deepspeed import (
    DeepSpeedDiffusersAttention,
    DeepSpeedDiffusersTransformerBlock,
    Diffusers2DTransformerConfig,
    GroupQuantizer,
    load_transformer_module,
)
from helpers.accuracy import Errors
from helpers.deepspeed import (
    IN_ONE,
    IN_PARTS,
    INT8,
    NO_INT8,
    WAYS,
    as_block,
    operators_of,
    with_deepspeed_attentions,
    with_hooks,
)
from helpers.operators import every_dtype
from helpers.unets import BLOCKS, CHANNELS, CONTEXT, HEADS, additive_mask, block_arguments, make_block

pytestmark = pytest.mark.diffusers


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
