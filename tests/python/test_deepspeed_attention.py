"""ds_diffusers.deepspeed.DeepSpeedDiffusersAttention: DeepSpeed's attention with diffusers' results."""

# labels: torch diffusers gpu

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from ds_diffusers.deepspeed import DeepSpeedDiffusersAttention, DeepSpeedInferenceConfig
from helpers.accuracy import Errors
from helpers.deepspeed import IN_PARTS, as_block, deepspeed_attention, operators_of, with_deepspeed_attentions
from helpers.operators import every_dtype
from helpers.unets import CHANNELS, CONTEXT, HEADS, make_block

pytestmark = pytest.mark.diffusers


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
