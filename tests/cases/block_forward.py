"""Cases of block_forward: the whole of diffusers' BasicTransformerBlock with norm_type "layer_norm"."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
import torch.nn.functional as F

from . import block_forward_wrong, gated_activation, layer_norm, layouts
from .case import Arguments, Case, Growing, Maker, Operator

NAME = "block_forward"


@dataclass(frozen=True)
class Attention:
    """One attention of a block: from its own hidden states, unless it has a context."""

    context: tuple[int, int] | None = None  # tokens, features
    mask: str = ""  # a name of MASKS
    adjacent: bool = False  # q, k, v weights one behind the other in memory, as far as their sizes allow
    out_bias: bool = True
    given: bool = False  # of the context's tokens the keys and values, in the place of what they come from


@dataclass(frozen=True)
class Block:
    batch: int = 2
    tokens: int = 7
    channels: int = 24
    heads: int = 2
    head_size: int = 8
    attn1: Attention = Attention()
    attn2: Attention | None = Attention(context=(5, 20))
    qkv_bias: bool = False
    affine: bool = True
    ff_inner: int = 40
    ff_bias: bool = True
    # Groups of each row of the weight, quantised; 0: one, in a scale without that dimension; None: not quantised.
    ff_in_groups: int | None = None
    ff_out_groups: int | None = None
    activation_type: int = gated_activation.GATED_GELU
    norm_epsilon: float | None = None
    layout: layouts.Layout = layouts.contiguous  # of hidden_states


MASKS: dict[str, Callable[[Block, int], tuple[int, ...]]] = {
    "rank_3": lambda block, keys: (block.batch, 1, keys),
    "rank_3_full": lambda block, keys: (block.batch, block.tokens, keys),
    "rank_3_shared": lambda block, keys: (1, 1, keys),
    "rank_4": lambda block, keys: (block.batch, 1, 1, keys),
    "rank_4_full": lambda block, keys: (block.batch, block.heads, block.tokens, keys),
    "rank_4_heads": lambda block, keys: (1, block.heads, 1, keys),
}


def _adjacent(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copies of matrices with equally many columns, or vectors, as parts of one buffer."""
    return list(torch.cat(parts).split([part.shape[0] for part in parts]))


def _mask(maker: Maker, block: Block, attention: Attention, keys: int) -> torch.Tensor:
    """Half of the keys left out for good, the others weighted."""
    mask = maker.normal(*MASKS[attention.mask](block, keys))
    mask[..., 1::2] = -10000.0
    return mask


def _attention(maker: Maker, block: Block, attention: Attention) -> Arguments:
    inner = block.heads * block.head_size
    keys, features = attention.context or (block.tokens, block.channels)

    def weight(rows: int, columns: int) -> torch.Tensor:
        return maker.normal(rows, columns, scale=1 / math.sqrt(max(columns, 1)))

    weights = [weight(inner, block.channels), weight(inner, features), weight(inner, features)]
    biases = [maker.normal(inner, scale=0.3) for _ in weights] if block.qkv_bias else []
    if attention.adjacent:
        whole = 0 if features == block.channels and attention.context is None else 1
        weights[whole:] = _adjacent(weights[whole:])
        biases[whole:] = _adjacent(biases[whole:]) if biases else []
    projections = ("q",) if attention.given else ("q", "k", "v")
    made = {f"{name}_weight": weight for name, weight in zip(projections, weights)}
    made |= {f"{name}_bias": bias for name, bias in zip(projections, biases)}
    made["out_weight"] = weight(block.channels, inner)
    if attention.out_bias:
        made["out_bias"] = maker.normal(block.channels, scale=0.3)
    if attention.given:
        made["key_value"] = maker.normal(block.batch, keys, 2 * inner)
    elif attention.context is not None:
        made["context"] = maker.normal(block.batch, keys, features)
    if attention.mask:
        made["mask"] = _mask(maker, block, attention, keys)
    return made


def _feed_forward(maker: Maker, name: str, rows: int, columns: int, groups: int | None) -> Arguments:
    """A weight; quantised, with the scale, unless groups is None."""
    weight = maker.normal(rows, columns, scale=1 / math.sqrt(columns))
    if groups is None:
        return {f"{name}_weight": weight}
    grouped = weight.float().view(rows, max(groups, 1), -1)
    scale = grouped.abs().amax(-1, keepdim=True) / 128
    weight = (grouped / scale).round().clamp(-128, 127).to(torch.int8).view(rows, columns)
    return {f"{name}_weight": weight, f"{name}_scale": scale.view((rows, groups) if groups else rows)}


def arguments(maker: Maker, block: Block = Block()) -> Arguments:
    channels = block.channels
    made: Arguments = {"hidden_states": block.layout(maker.normal(block.batch, block.tokens, channels))}
    for name, attention in (("attn1", block.attn1), ("attn2", block.attn2)):
        if attention is not None:
            made |= {
                f"{name}_{argument}": value for argument, value in _attention(maker, block, attention).items()
            }
    if block.affine:
        for name in ("norm1", "norm2", "norm3") if block.attn2 else ("norm1", "norm3"):
            made[f"{name}_weight"] = maker.normal(channels, scale=0.3, shift=1.0)
            made[f"{name}_bias"] = maker.normal(channels, scale=0.3)
    made |= _feed_forward(maker, "ff_in", 2 * block.ff_inner, channels, block.ff_in_groups)
    made |= _feed_forward(maker, "ff_out", channels, block.ff_inner, block.ff_out_groups)
    if block.ff_bias:
        made["ff_in_bias"] = maker.normal(2 * block.ff_inner, scale=0.3)
        made["ff_out_bias"] = maker.normal(channels, scale=0.3)
    made |= {"heads": block.heads, "activation_type": block.activation_type}
    return made if block.norm_epsilon is None else made | {"norm_epsilon": block.norm_epsilon}


@dataclass(frozen=True)
class _Arithmetic:
    """What a block is composed of."""

    norm: Callable[..., torch.Tensor]
    linear: Callable[..., torch.Tensor]
    attend: Callable[..., torch.Tensor]
    gate: Callable[..., torch.Tensor]


def _run_attention(
    arithmetic: _Arithmetic, name: str, hidden_states: torch.Tensor, given: dict[str, Any], heads: int
) -> torch.Tensor:
    def get(argument: str) -> torch.Tensor | None:
        return given.get(f"{name}_{argument}")

    def project(part: str, source: torch.Tensor) -> torch.Tensor:
        return arithmetic.linear(source, get(f"{part}_weight"), get(f"{part}_bias"))

    context = hidden_states if get("context") is None else get("context")
    batch = hidden_states.shape[0]
    query = project("q", hidden_states)
    if get("key_value") is None:
        key, value = project("k", context), project("v", context)
    else:
        # Copies: PyTorch's attention on CUDA reads vectors also where keys and values do not begin at one.
        key, value = (
            part.clone(memory_format=torch.contiguous_format) for part in get("key_value").chunk(2, dim=-1)
        )
    inner = query.shape[-1]
    query, key, value = (
        part.reshape(batch, part.shape[1], heads, inner // heads).transpose(1, 2)
        for part in (query, key, value)
    )
    mask = get("mask")
    if mask is not None and mask.dim() == 3:
        mask = mask.unsqueeze(1)
    if mask is not None:
        mask = mask.expand(batch, heads, -1, mask.shape[-1])
    result = arithmetic.attend(query, key, value, mask)
    result = result.transpose(1, 2).reshape(batch, hidden_states.shape[1], inner)
    return arithmetic.linear(result, get("out_weight"), get("out_bias"))


def _weight(given: dict[str, Any], name: str, dtype: torch.dtype) -> torch.Tensor:
    """A weight of the feed-forward, or what a quantised one stands for."""
    weight, scale = given[f"{name}_weight"], given.get(f"{name}_scale")
    if scale is None:
        return weight
    scale = scale.view(weight.shape[0], -1, 1)
    return (weight.to(scale.dtype).view(*scale.shape[:2], -1) * scale).view(weight.shape).to(dtype)


def _run(
    arithmetic: _Arithmetic,
    hidden_states: torch.Tensor,
    heads: int,
    activation_type: int = 3,
    norm_epsilon: float = 1e-5,
    **given: Any,
) -> torch.Tensor:
    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        return arithmetic.norm(values, given.get(f"{name}_weight"), given.get(f"{name}_bias"), norm_epsilon)

    for number in (1, 2) if given.get("attn2_q_weight") is not None else (1,):
        normalised = norm(f"norm{number}", hidden_states)
        hidden_states = _run_attention(arithmetic, f"attn{number}", normalised, given, heads) + hidden_states
    ff_in, ff_out = (_weight(given, name, hidden_states.dtype) for name in ("ff_in", "ff_out"))
    inner = arithmetic.linear(norm("norm3", hidden_states), ff_in, given.get("ff_in_bias"))
    gated = arithmetic.gate(inner, None, activation_type)
    return arithmetic.linear(gated, ff_out, given.get("ff_out_bias")) + hidden_states


def _softmax_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return torch.softmax(scores if mask is None else scores + mask, dim=-1) @ value


def _matrix_product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return values @ weight.T if bias is None else values @ weight.T + bias


def _scaled_dot_product_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    if query.numel() == 0:  # PyTorch 2.11 returns None for an empty batch on CUDA
        return torch.empty_like(query)
    if mask is not None:  # on CUDA it reads misaligned masks as if they were aligned
        mask = mask.clone(memory_format=torch.contiguous_format)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.0, is_causal=False)


_REFERENCE = _Arithmetic(
    layer_norm.reference, _matrix_product, _softmax_attention, gated_activation.reference
)
_EAGER = _Arithmetic(layer_norm.eager, F.linear, _scaled_dot_product_attention, gated_activation.eager)


def reference(hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
    return _run(_REFERENCE, hidden_states, **given)


def eager(hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
    return _run(_EAGER, hidden_states, **given)


def of(case_id: str, block: Block, heavy: bool = False) -> Case:
    return Case(case_id, lambda maker: arguments(maker, block), heavy)


def _changed(case_id: str, change: Callable[[Arguments], Arguments], block: Block = Block()) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, block)
        return made | change(made)

    return Case(case_id, make)


def _with_layout(layout: layouts.Layout, *names: str) -> Callable[[Arguments], Arguments]:
    return lambda made: {name: layout(made[name]) for name in names}


def _heads_cases() -> list[Case]:
    sizes = ((1, 5), (2, 8), (8, 40), (5, 64), (2, 72), (2, 80), (1, 128), (2, 160))
    return [
        of(f"heads_{heads}_of_{head_size}", Block(heads=heads, head_size=head_size, tokens=19))
        for heads, head_size in sizes
    ]


def _given_cases() -> list[Case]:
    given = Attention(context=(77, 20), given=True)
    return [
        of("key_value", Block(attn2=given)),
        of("key_value_qkv_bias", Block(attn2=given, qkv_bias=True)),
        of("key_value_only_cross", Block(attn1=Attention(context=(5, 20)), attn2=given)),
        of("key_value_quantized", Block(attn2=given, ff_in_groups=0, ff_out_groups=5)),
        of("key_value_of_odd_width", Block(tokens=11, attn2=given, heads=3, head_size=5)),
        *(
            of(f"key_value_{tokens}", Block(attn2=replace(given, context=(tokens, 20))))
            for tokens in (1, 5, 129)
        ),
        *(of(f"key_value_mask_{name}", Block(attn2=replace(given, mask=name))) for name in MASKS),
    ]


def _form_cases() -> list[Case]:
    cross, own = Attention(context=(77, 20)), Attention()
    masked = [(name, replace(own, mask=name), replace(cross, mask=name)) for name in MASKS]
    return [
        of("cross", Block()),
        of("self_only", Block(attn2=None)),
        of("double_self", Block(attn2=own)),
        of("only_cross", Block(attn1=cross, attn2=cross)),
        of("context_in_first_only", Block(attn1=cross, attn2=None)),
        of("qkv_bias", Block(qkv_bias=True)),
        of("adjacent", Block(attn1=Attention(adjacent=True), attn2=Attention((5, 20), adjacent=True))),
        of(
            "adjacent_qkv_bias",
            Block(attn1=Attention(adjacent=True), attn2=Attention((5, 20), adjacent=True), qkv_bias=True),
        ),
        of("adjacent_double_self", Block(attn1=Attention(adjacent=True), attn2=Attention(adjacent=True))),
        *_given_cases(),
        of("no_out_bias", Block(attn1=replace(own, out_bias=False), attn2=replace(cross, out_bias=False))),
        of("no_ff_bias", Block(ff_bias=False)),
        of("not_affine", Block(affine=False)),
        of("no_vectors", Block(affine=False, ff_bias=False, attn1=replace(own, out_bias=False), attn2=None)),
        of("silu", Block(activation_type=gated_activation.GATED_SILU)),
        *(
            of(f"quantized_{groups[0]}_{groups[1]}", Block(ff_in_groups=groups[0], ff_out_groups=groups[1]))
            for groups in ((0, 0), (1, 1), (0, None), (None, 0), (3, 5), (24, 40))
        ),
        *(of(f"mask_{name}", Block(attn1=first, attn2=second)) for name, first, second in masked),
        *(of(f"norm_epsilon_{epsilon:g}", Block(norm_epsilon=epsilon)) for epsilon in (0.0, 1e-3)),
    ]


def _size_cases() -> list[Case]:
    return [
        *(of(f"tokens_{tokens}", Block(tokens=tokens)) for tokens in (1, 2, 64, 77, 144, 255)),
        *(
            of(f"context_{tokens}x{features}", Block(attn2=Attention(context=(tokens, features))))
            for tokens, features in ((1, 20), (77, 96), (129, 7))
        ),
        *(of(f"batch_{batch}", Block(batch=batch)) for batch in (0, 1, 5)),
        of("no_tokens", Block(tokens=0)),
        of("inner_narrower_than_channels", Block(channels=48, heads=2, head_size=8)),
        of("inner_wider_than_channels", Block(channels=8, heads=3, head_size=16)),
        of("one_channel", Block(channels=1, heads=1, head_size=1, ff_inner=1)),
        of(
            "odd_sizes",
            Block(channels=13, heads=3, head_size=5, ff_inner=17, tokens=11, attn2=Attention(context=(3, 7))),
        ),
    ]


def _model_cases() -> list[Case]:
    def model(
        heads: int, head_size: int, tokens: int, features: int, name: str = "model", **others: Any
    ) -> Case:
        channels = heads * head_size
        cross = Attention(context=(77, features), adjacent=True)
        block = Block(
            tokens=tokens,
            channels=channels,
            heads=heads,
            head_size=head_size,
            ff_inner=4 * channels,
            attn1=Attention(adjacent=True),
            attn2=cross,
        )
        return of(f"{name}_{tokens}x{channels}", replace(block, **others), heavy=True)

    return [
        model(8, 160, 64, 768, attn1=Attention(), attn2=Attention(context=(77, 768))),
        model(10, 64, 256, 1024),
        model(10, 64, 256, 1024, "key_value_model", attn2=Attention(context=(77, 1024), given=True)),
        model(8, 40, 1024, 768, layout=layouts.transposed),
        model(8, 160, 64, 768, "quantized_model", ff_in_groups=0, ff_out_groups=0),
        model(10, 64, 256, 1024, "quantized_model", ff_in_groups=5, ff_out_groups=40),
    ]


def _layout_cases() -> list[Case]:
    weights = [f"attn{number}_{part}_weight" for number in (1, 2) for part in ("q", "k", "v", "out")]
    weights += ["ff_in_weight", "ff_out_weight"]
    vectors = [f"attn{number}_{part}_bias" for number in (1, 2) for part in ("q", "k", "v", "out")]
    vectors += [f"norm{number}_{part}" for number in (1, 2, 3) for part in ("weight", "bias")]
    vectors += ["ff_in_bias", "ff_out_bias"]
    quantized = ("ff_in_weight", "ff_in_scale", "ff_out_weight", "ff_out_scale")
    quantized_block = Block(ff_in_groups=3, ff_out_groups=5)
    given = Block(attn2=Attention(context=(5, 20), given=True))
    masked = Block(attn1=Attention(mask="rank_4_full"), attn2=Attention((5, 20), mask="rank_3_full"))
    weight_layouts = {
        name: layouts.ROWS[name]
        for name in (
            "misaligned",
            "transposed",
            "sliced_columns",
            "every_other_column",
            "every_other_row",
            "expanded_rows",
            "expanded_columns",
        )
    }
    return [
        *(of(f"hidden_states_{name}", Block(layout=layout)) for name, layout in layouts.ROWS.items()),
        *(
            _changed(f"context_{name}", _with_layout(layout, "attn2_context"))
            for name, layout in layouts.ROWS.items()
        ),
        *(
            _changed(f"key_value_{name}", _with_layout(layout, "attn2_key_value"), given)
            for name, layout in layouts.ROWS.items()
        ),
        *(
            _changed(f"weights_{name}", _with_layout(layout, *weights))
            for name, layout in weight_layouts.items()
        ),
        *(
            _changed(f"quantized_weights_{name}", _with_layout(layout, *quantized), quantized_block)
            for name, layout in weight_layouts.items()
        ),
        *(
            _changed(f"vectors_{name}", _with_layout(layout, *vectors), Block(qkv_bias=True))
            for name, layout in layouts.VECTORS.items()
        ),
        *(
            _changed(f"mask_{name}", _with_layout(layout, "attn1_mask", "attn2_mask"), masked)
            for name, layout in layouts.ROWS.items()
        ),
    ]


def _random(maker: Maker, random: Random) -> Arguments:
    def attention(own: bool, given: bool = False) -> Attention:
        context = None if own else (random.randint(1, 9), random.randint(1, 24))
        return Attention(
            context,
            mask=random.choice(("", "", *MASKS)),
            adjacent=bool(random.randrange(2)),
            out_bias=bool(random.randrange(4)),
            given=given and bool(random.randrange(2)),
        )

    def groups(columns: int) -> int | None:
        divisors = [count for count in range(1, columns + 1) if columns % count == 0]
        return random.choice((None, None, 0, random.choice(divisors)))

    own_first = random.randrange(4) > 0
    channels, ff_inner = random.randint(1, 40), random.randint(1, 40)
    block = Block(
        batch=random.randint(0 if random.randrange(8) == 0 else 1, 3),
        tokens=random.randint(1, 12),
        channels=channels,
        heads=random.randint(1, 4),
        head_size=random.randint(1, 20),
        attn1=attention(own_first),
        attn2=None if random.randrange(4) == 0 else attention(random.randrange(3) == 0, given=True),
        qkv_bias=bool(random.randrange(2)),
        affine=bool(random.randrange(4)),
        ff_inner=ff_inner,
        ff_in_groups=groups(channels),
        ff_out_groups=groups(ff_inner),
        ff_bias=bool(random.randrange(4)),
        activation_type=random.choice(tuple(gated_activation.ACTIVATIONS.values())),
    )
    made = arguments(maker, block)
    viewed = [
        name for name, value in made.items() if isinstance(value, torch.Tensor) and random.randrange(3) == 0
    ]
    return made | {name: layouts.random_view(made[name], random) for name in viewed}


def _growing(maker: Maker, size: int) -> Arguments:
    return arguments(maker, Block(batch=size, tokens=3 * size, attn2=Attention(context=(2 * size + 1, 20))))


WRONG = Block(
    qkv_bias=True, attn1=Attention(mask="rank_3_full"), attn2=Attention((5, 20), mask="rank_4_full")
)

OPERATOR = Operator(
    name=NAME,
    reference=reference,
    eager=eager,
    cases=(*_form_cases(), *_heads_cases(), *_size_cases(), *_model_cases(), *_layout_cases()),
    wrong=tuple(
        block_forward_wrong.wrong(
            lambda maker: arguments(maker, WRONG),
            lambda maker: arguments(maker, replace(WRONG, attn2=replace(WRONG.attn2, given=True))),
        )
    ),
    growing=Growing(
        _growing,
        {"hidden_states": {0: "batch", 1: "tokens"}, "attn2_context": {0: "batch", 1: "context_tokens"}},
    ),
    random=_random,
)
