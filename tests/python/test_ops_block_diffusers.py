"""block_forward and its PyTorch equivalent in the case table against diffusers' own BasicTransformerBlock."""

# labels: torch diffusers gpu
import pytest
import torch

from cases import Arguments, Maker
from cases.block_forward import OPERATOR, Attention, Block, arguments
from cases.gated_activation import GATED_SILU
from helpers.accuracy import Errors, check_arguments
from helpers.operators import every_dtype

BasicTransformerBlock = pytest.importorskip("diffusers.models.attention").BasicTransformerBlock

FORMS = {
    "cross": Block(),
    "self_only": Block(attn2=None),
    "double_self": Block(attn2=Attention()),
    "only_cross": Block(attn1=Attention(context=(5, 20))),
    "biases": Block(qkv_bias=True),
    "no_biases": Block(
        ff_bias=False, attn1=Attention(out_bias=False), attn2=Attention((5, 20), out_bias=False)
    ),
    "not_affine": Block(affine=False),
    "silu": Block(activation_type=GATED_SILU),
    "epsilon": Block(norm_epsilon=1e-3),
    "odd_sizes": Block(channels=13, heads=3, head_size=5, ff_inner=17, tokens=11),
    "masks": Block(attn1=Attention(mask="rank_3"), attn2=Attention((5, 20), mask="rank_3")),
}


def module_of(block: Block, given: Arguments) -> torch.nn.Module:
    """diffusers' block with the parameters of block_forward's arguments."""
    context = block.attn2.context if block.attn2 else block.attn1.context
    module = BasicTransformerBlock(
        block.channels,
        block.heads,
        block.head_size,
        cross_attention_dim=context[1] if context else None,
        activation_fn="swiglu" if block.activation_type == GATED_SILU else "geglu",
        attention_bias=block.qkv_bias,
        only_cross_attention=block.attn1.context is not None,
        double_self_attention=block.attn2 is not None and block.attn2.context is None,
        norm_elementwise_affine=block.affine,
        norm_eps=block.norm_epsilon or 1e-5,
        ff_inner_dim=block.ff_inner,
        ff_bias=block.ff_bias,
        attention_out_bias=block.attn1.out_bias,
    )
    modules = {"ff_in": module.ff.net[0].proj, "ff_out": module.ff.net[2]}
    for name in ("norm1", "norm2", "norm3") if block.attn2 else ("norm1", "norm3"):
        modules[name] = getattr(module, name)
    for name in ("attn1", "attn2") if block.attn2 else ("attn1",):
        attention = getattr(module, name)
        parts = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "out": attention.to_out[0]}
        modules |= {f"{name}_{part}": owner for part, owner in parts.items()}
    for name, owner in modules.items():
        for kind in ("weight", "bias"):
            value = given.get(f"{name}_{kind}")
            assert (value is None) == (getattr(owner, kind, None) is None), f"{name}.{kind}"
            if value is not None:
                setattr(owner, kind, torch.nn.Parameter(value, requires_grad=False))
    return module.eval()


@pytest.mark.parametrize("form", FORMS)
@every_dtype
def test_block_forward_is_diffusers_block(form: str, dtype: torch.dtype, device: torch.device) -> None:
    block = FORMS[form]
    given = arguments(Maker.seeded(dtype, device), block)
    if block.attn2 and block.attn2.context and block.attn1.context:
        # diffusers has one context for both.
        given["attn1_context"] = given["attn2_context"]
    with torch.no_grad():
        expected = module_of(block, given)(
            given["hidden_states"],
            attention_mask=given.get("attn1_mask"),
            encoder_hidden_states=given.get("attn2_context", given.get("attn1_context")),
            encoder_attention_mask=given.get("attn2_mask"),
        )
        assert torch.equal(OPERATOR.eager(**given), expected)
        errors: list[Errors] = []
        check_arguments(OPERATOR, given, errors)
    errors[0].check(dtype, "result")
