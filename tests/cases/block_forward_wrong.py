"""Arguments that block_forward must refuse: each of its tensors wrong in each way, and the scalars."""

from collections.abc import Callable

import torch

from .case import Arguments, Maker, Wrong, says

NAME = "block_forward"
SUPPORTED = "must be float32, float16 or bfloat16"


def _size(sizes: list[int]) -> str:
    return "x".join(map(str, sizes)) or "rank_0"


class _Table:
    """Collects variations of one right set of arguments."""

    def __init__(self, base: Callable[[Maker], Arguments]) -> None:
        self.base = base
        self.sample = base(Maker.seeded(torch.float32))
        self.found: list[Wrong] = []

    def refuse(self, case_id: str, text: str, change: Callable[[Maker], Arguments], **others) -> None:
        self.found.append(
            Wrong(case_id, lambda maker: self.base(maker) | change(maker), says(NAME, text), **others)
        )

    def refuse_tensor(
        self, name: str, case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor | None], **others
    ) -> None:
        self.refuse(f"{name}_{case_id}", f"{name} {text}", lambda maker: {name: tensor(maker)}, **others)

    def refuse_shapes(self, name: str, must: str, shapes: list[list[int]]) -> None:
        for sizes in shapes:
            self.refuse_tensor(
                name,
                _size(sizes),
                f"has shape {sizes}, must be {must}",
                lambda maker, sizes=sizes: maker.normal(*sizes),
            )

    def refuse_kinds(self, name: str) -> None:
        """Other dtypes and devices than those of hidden_states."""
        sizes = list(self.sample[name].shape)
        self.refuse_tensor(
            name,
            "float16",
            "has dtype float16, must be float32, the dtype of hidden_states",
            lambda maker: maker.like(torch.float16).normal(*sizes),
        )
        self.refuse_tensor(
            name,
            "float64",
            f"has dtype float64, {SUPPORTED}",
            lambda maker: maker.like(torch.float64).normal(*sizes),
        )
        self.refuse_tensor(
            name,
            "on_cpu",
            "is on cpu, must be on cuda:0, the device of hidden_states",
            lambda maker: maker.normal(*sizes).cpu(),
            only_on="cuda",
        )


def _vectors(table: _Table) -> None:
    for name, value in table.sample.items():
        if not isinstance(value, torch.Tensor) or value.dim() != 1:
            continue
        size = value.shape[0]
        meaning = (
            "the size of hidden_states' last dimension"
            if name.startswith("norm")
            else ("the number of rows of its weight")
        )
        table.refuse_kinds(name)
        table.refuse_shapes(name, f"[{size}], {meaning}", [[size - 1], [size + 1], [1], [0], [], [1, size]])


def _matrices(table: _Table) -> None:
    with_last = "with hidden_states' last dimension"
    from_context = "[rows of q_weight, features of the context]"
    meanings = {
        "out_weight": "[channels of hidden_states, rows of q_weight]",
        "k_weight": from_context,
        "v_weight": from_context,
    }
    for name, value in table.sample.items():
        if not isinstance(value, torch.Tensor) or value.dim() != 2:
            continue
        rows, columns = value.shape
        table.refuse_kinds(name)
        wrong_columns = [[rows, columns - 1], [rows, columns + 1], [rows, 1], [rows], [], [1, rows, columns]]
        if name.endswith(("q_weight", "ff_in_weight")):
            table.refuse_shapes(name, f"[N, {columns}], {with_last}", [*wrong_columns, [0, columns]])
            continue
        must = (
            "[channels of hidden_states, half the rows of ff_in_weight]"
            if name == "ff_out_weight"
            else (meanings[name.partition("_")[2]])
        )
        table.refuse_shapes(
            name,
            f"[{rows}, {columns}], {must}",
            [*wrong_columns, [rows - 1, columns], [rows + 1, columns], [0, columns]],
        )
    rows, columns = table.sample["ff_in_weight"].shape
    table.refuse_shapes("ff_in_weight", "of an even number of rows", [[rows - 1, columns]])


def _inputs(table: _Table) -> None:
    batch, tokens, channels = table.sample["hidden_states"].shape
    name = "hidden_states"
    for dtype in ("float64", "int64", "bool", "complex64"):
        table.refuse_tensor(
            name,
            dtype,
            f"has dtype {dtype}, {SUPPORTED}",
            lambda maker, dtype=dtype: torch.zeros(
                batch, tokens, channels, device=maker.device, dtype=getattr(torch, dtype)
            ),
        )
    table.refuse_shapes(
        name,
        "[B, S, C] with C of 1 or more",
        [[], [channels], [tokens, channels], [1, batch, tokens, channels], [batch, tokens, 0]],
    )

    name = "attn2_context"
    _, keys, features = table.sample[name].shape
    table.refuse_kinds(name)
    table.refuse_shapes(
        name,
        f"[{batch}, T, K], with hidden_states' first dimension",
        [
            [1, keys, features],
            [batch + 1, keys, features],
            [0, keys, features],
            [keys, features],
            [],
            [1, batch, keys, features],
        ],
    )
    table.refuse(
        "attn2_context_narrow",
        f"attn2_k_weight has shape {list(table.sample['attn2_k_weight'].shape)}, must be "
        f"[16, {features - 1}], [rows of q_weight, features of the context]",
        lambda maker: {name: maker.normal(batch, keys, features - 1)},
    )


def _masks(table: _Table) -> None:
    batch, tokens, _ = table.sample["hidden_states"].shape
    heads = table.sample["heads"]
    for name, keys in (("attn1_mask", tokens), ("attn2_mask", table.sample["attn2_context"].shape[1])):
        table.refuse_kinds(name)
        must = f"[{batch} or 1, {tokens} or 1, {keys}], or rank 4 with {heads} or 1 heads as second dimension"
        table.refuse_shapes(
            name,
            must,
            [
                [],
                [keys],
                [tokens, keys],
                [batch, tokens, keys + 1],
                [batch, tokens, 1],
                [batch, tokens + 1, keys],
                [batch + 1, tokens, keys],
                [batch, heads + 1, tokens, keys],
                [batch, heads, tokens, keys - 1],
                [batch * heads, tokens, keys],
                [1, batch, heads, tokens, keys],
            ],
        )
        boolean = torch.ones(batch, tokens, keys, dtype=torch.bool)
        table.refuse_tensor(
            name,
            "bool",
            f"has dtype bool, {SUPPORTED}",
            lambda maker, boolean=boolean: boolean.to(maker.device),
        )


def _second_attention(table: _Table, given: Callable[[Maker], Arguments]) -> None:
    parts = [
        "context",
        "mask",
        "key_value",
        "q_bias",
        "k_weight",
        "k_bias",
        "v_weight",
        "v_bias",
        "out_weight",
        "out_bias",
    ]
    names = [*(f"attn2_{part}" for part in parts), "norm2_weight", "norm2_bias"]
    for name in names:
        absent = dict.fromkeys([*names, "attn2_q_weight"])
        table.refuse(
            f"{name}_alone",
            f"{name} is given, must be None where attn2_q_weight is None",
            lambda maker, name=name, absent=absent: absent | {name: (given(maker) | table.base(maker))[name]},
        )
    for part in ("k_weight", "v_weight", "out_weight"):
        table.refuse_tensor(f"attn2_{part}", "none", "is None, must be a tensor", lambda maker: None)


def _key_value(table: _Table, given: Callable[[Maker], Arguments]) -> None:
    """Keys and values of the second attention, in the place of what they come from."""
    name = "attn2_key_value"
    replaced = [f"attn2_{part}" for part in ("context", "k_weight", "k_bias", "v_weight", "v_bias")]
    absent = dict.fromkeys(replaced)
    own = _Table(lambda maker: absent | given(maker))
    batch, tokens, width = own.sample[name].shape
    own.refuse_kinds(name)
    own.refuse_shapes(
        name,
        f"[{batch}, T, {width}], with hidden_states' first dimension and twice the rows of q_weight",
        [
            [1, tokens, width],
            [batch + 1, tokens, width],
            [batch, tokens, width // 2],
            [batch, tokens, width + 1],
            [batch, tokens, 0],
            [tokens, width],
            [],
            [batch, tokens, 2, width // 2],
        ],
    )
    for other in replaced:
        own.refuse(
            f"{other}_beside_{name}",
            f"{other} is given, must be None where {name} is given",
            lambda maker, other=other: {other: table.base(maker)[other]},
        )
    table.found += own.found


def _quantized(table: _Table) -> None:
    """Weights of the feed-forward as int8: each with its scale, its scale with it."""
    for name in ("ff_in", "ff_out"):
        weight, scale = f"{name}_weight", f"{name}_scale"
        rows, columns = table.sample[weight].shape

        def refuse(
            case_id: str,
            text: str,
            bytes_of: Callable[[Maker], torch.Tensor | None],
            scale_of: Callable[[Maker], torch.Tensor | None],
            weight: str = weight,
            scale: str = scale,
            **others,
        ) -> None:
            table.refuse(
                f"{weight}_{case_id}",
                text,
                lambda maker: {weight: bytes_of(maker), scale: scale_of(maker)},
                **others,
            )

        def int8(maker: Maker, rows: int = rows, columns: int = columns) -> torch.Tensor:
            return torch.ones(rows, columns, dtype=torch.int8, device=maker.device)

        def float32(*sizes: int) -> Callable[[Maker], torch.Tensor]:
            return lambda maker: maker.like(torch.float32).normal(*sizes)

        refuse(
            "int8_alone",
            f"{scale} is None, must be a tensor where {weight} is int8",
            int8,
            lambda maker: None,
        )
        for dtype in ("float32", "float16", "uint8"):
            refuse(
                f"{dtype}_with_scale",
                f"{weight} has dtype {dtype}, must be int8 where {scale} is given",
                lambda maker, dtype=dtype, int8=int8: int8(maker).to(getattr(torch, dtype)),
                float32(rows),
            )
        for dtype in ("float16", "float64", "int8"):
            refuse(
                f"scale_{dtype}",
                f"{scale} has dtype {dtype}, must be float32",
                int8,
                lambda maker, dtype=dtype, rows=rows: torch.ones(
                    rows, dtype=getattr(torch, dtype), device=maker.device
                ),
            )
        must = f"[{rows}] or [{rows}, G], the rows of {weight} and a divisor of its {columns} columns"
        for sizes in ([], [1], [rows + 1], [1, rows], [rows, 0], [rows, 7], [rows, 2 * columns], [rows] * 3):
            refuse(
                f"scale_{_size(sizes)}", f"{scale} has shape {sizes}, must be {must}", int8, float32(*sizes)
            )
        refuse(
            "scale_on_cpu",
            f"{scale} is on cpu, must be on cuda:0, the device of hidden_states",
            int8,
            lambda maker, rows=rows: torch.ones(rows),
            only_on="cuda",
        )
        refuse(
            "int8_on_cpu",
            f"{weight} is on cpu, must be on cuda:0, the device of hidden_states",
            lambda maker, int8=int8: int8(maker).cpu(),
            float32(rows),
            only_on="cuda",
        )


def _scalars(table: _Table) -> None:
    for heads in (0, -1, 3, 5, 32):
        table.refuse(
            f"heads_{heads}",
            f"heads is {heads}, must be a divisor of 16, the number of rows of attn1_q_weight",
            lambda maker, heads=heads: {"heads": heads},
        )
    for number in (-1, 0, 1, 2, 5, 2**32 + 3):
        table.refuse(
            f"activation_type_{number}",
            f"activation_type is {number}, must be 3 (GATED_GELU) or 4 (GATED_SILU)",
            lambda maker, number=number: {"activation_type": number},
        )
    for epsilon in ("-1e-05", "inf", "-inf", "nan"):
        table.refuse(
            f"norm_epsilon_{epsilon}",
            f"norm_epsilon is {epsilon}, must be finite and not negative",
            lambda maker, epsilon=epsilon: {"norm_epsilon": float(epsilon)},
        )


def wrong(base: Callable[[Maker], Arguments], given: Callable[[Maker], Arguments]) -> list[Wrong]:
    """Variations of `base`: two attentions of 16 rows, a context in the second, masks and all biases; and of
    `given`: the same with keys and values in the second."""
    table = _Table(base)
    for add in (_inputs, _matrices, _vectors, _masks, _quantized, _scalars):
        add(table)
    _second_attention(table, given)
    _key_value(table, given)
    return table.found
