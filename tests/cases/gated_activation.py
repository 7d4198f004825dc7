"""Cases of gated_activation: (value + bias) · act(gate + bias), values in the first half of a row."""

import math
from collections.abc import Callable
from random import Random

import torch
import torch.nn.functional as F

from . import layouts
from .case import Arguments, Case, Growing, Huge, Maker, Operator, Wrong, says

NAME = "gated_activation"
GATED_GELU, GATED_SILU = 3, 4
ACTIVATIONS = {"gelu": GATED_GELU, "silu": GATED_SILU}

# Of the result: half of the activation's.
COLUMNS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255, 509, 1280, 4099)


def _gate(values: torch.Tensor, gates: torch.Tensor, activation_type: int) -> torch.Tensor:
    if activation_type == GATED_GELU:
        return values * (gates * 0.5 * torch.special.erfc(gates * -math.sqrt(0.5)))
    return values * (gates / (1 + torch.exp(-gates)))


def reference(activation: torch.Tensor, bias: torch.Tensor | None, activation_type: int) -> torch.Tensor:
    half = activation.shape[-1] // 2
    total = activation if bias is None else activation + bias
    return _gate(total[..., :half], total[..., half:], activation_type)


def eager(activation: torch.Tensor, bias: torch.Tensor | None, activation_type: int) -> torch.Tensor:
    values, gates = (activation if bias is None else activation + bias).chunk(2, dim=-1)
    return values * (F.gelu(gates) if activation_type == GATED_GELU else F.silu(gates))


def arguments(maker: Maker, *sizes: int, activation_type: int = GATED_GELU) -> Arguments:
    """`sizes` are the result's."""
    return {
        "activation": maker.normal(*sizes[:-1], 2 * sizes[-1], scale=2.0),
        "bias": maker.normal(2 * sizes[-1]),
        "activation_type": activation_type,
    }


def sized(case_id: str, *sizes: int, activation_type: int = GATED_GELU) -> Case:
    return Case(case_id, lambda maker: arguments(maker, *sizes, activation_type=activation_type))


def viewed(name: str, layout: layouts.Layout, *sizes: int) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, *sizes)
        return made | {"activation": layout(made["activation"])}

    return Case(f"{name}_{sizes[-1]}", make)


def vectors(name: str, layout: layouts.Layout) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, 5, 33)
        return made | {"bias": layout(made["bias"])}

    return Case(f"vectors_{name}", make)


def gates(case_id: str, activation_type: int, *special: float) -> Case:
    """Special values as values against ordinary gates, and as gates against ordinary values."""

    def make(maker: Maker) -> Arguments:
        count = len(special)
        special_values = torch.tensor(special, dtype=torch.float32).to(maker.dtype).to(maker.device)
        ordinary = maker.normal(2, count)
        rows = torch.stack(
            (torch.cat((special_values, ordinary[0])), torch.cat((ordinary[1], special_values)))
        )
        return {"activation": rows, "bias": None, "activation_type": activation_type}

    return Case(case_id, make)


def _cases() -> list[Case]:
    infinity, nan = float("inf"), float("nan")
    return [
        *(
            sized(f"{name}_columns_{columns}", 3, columns, activation_type=activation_type)
            for name, activation_type in ACTIVATIONS.items()
            for columns in COLUMNS
        ),
        *(sized(f"rows_{rows}", rows, 40) for rows in (0, 1, 2, 17, 127, 1009)),
        sized("no_rows_inside", 2, 0, 8),
        sized("no_columns", 3, 0),
        *(
            sized(f"rank_{len(sizes)}", *sizes, activation_type=GATED_SILU)
            for sizes in ((24,), (3, 24), (2, 3, 24), (2, 3, 5, 24), (2, 1, 3, 2, 24))
        ),
        *(
            sized(f"model_{tokens}x{columns}", 2, tokens, columns)
            for tokens, columns in ((256, 1280), (64, 2560), (64, 5120))
        ),
        *(
            viewed(name, layout, 2, 7, columns)
            for name, layout in layouts.ROWS.items()
            for columns in (17, 32)
        ),
        *(
            viewed(f"rank_5_{name}", layouts.ROWS[name], 2, 3, 2, 5, 16)
            for name in ("reversed_rows", "rotated")
        ),
        viewed("rank_10_reversed_rows", layouts.reversed_rows, *[2] * 9, 8),
        *(vectors(name, layout) for name, layout in layouts.VECTORS.items()),
        *(
            Case(
                f"{name}_without_bias",
                lambda maker, activation_type=activation_type: (
                    arguments(maker, 3, 37, activation_type=activation_type) | {"bias": None}
                ),
            )
            for name, activation_type in ACTIVATIONS.items()
        ),
        *(
            gates(f"{name}_not_finite", activation_type, nan, infinity, -infinity)
            for name, activation_type in ACTIVATIONS.items()
        ),
        *(
            gates(
                f"{name}_tails",
                activation_type,
                0.0,
                -0.0,
                1e-4,
                -1e-4,
                3.0,
                -3.0,
                5.0,
                -5.0,
                5.5,
                -5.5,
                6.0,
                -6.0,
                9.0,
                -9.0,
                13.0,
                -13.0,
                14.5,
                -14.5,
                20.0,
                -20.0,
            )
            for name, activation_type in ACTIVATIONS.items()
        ),
        *(
            gates(
                f"{name}_large",
                activation_type,
                60.0,
                -60.0,
                88.0,
                -88.0,
                89.5,
                -89.5,
                104.0,
                -104.0,
                1e4,
                -1e4,
                6e4,
                -6e4,
            )
            for name, activation_type in ACTIVATIONS.items()
        ),
    ]


def _wrong() -> list[Wrong]:
    def refuse(case_id: str, text: str, change: Callable[[Maker], Arguments], **others) -> Wrong:
        return Wrong(
            case_id, lambda maker: arguments(maker, 3, 4) | change(maker), says(NAME, text), **others
        )

    def refuse_activation(case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor]) -> Wrong:
        return refuse(
            f"activation_{case_id}", f"activation {text}", lambda maker: {"activation": tensor(maker)}
        )

    def refuse_bias(case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor], **others) -> Wrong:
        return refuse(f"bias_{case_id}", f"bias {text}", lambda maker: {"bias": tensor(maker)}, **others)

    even = "must be of rank 1 or more with an even last dimension"
    size = "must be [8], the size of activation's last dimension"
    return [
        *(
            refuse_activation(
                name,
                f"has dtype {name}, must be float32, float16 or bfloat16",
                lambda maker, name=name: torch.zeros(3, 8, dtype=getattr(torch, name), device=maker.device),
            )
            for name in ("float64", "int64", "int8", "bool", "complex128")
        ),
        refuse_activation("rank_0", f"has shape [], {even}", lambda maker: maker.normal()),
        refuse_activation("odd", f"has shape [3, 7], {even}", lambda maker: maker.normal(3, 7)),
        refuse_activation("odd_without_rows", f"has shape [0, 7], {even}", lambda maker: maker.normal(0, 7)),
        refuse_bias(
            "float16",
            "has dtype float16, must be float32, the dtype of activation",
            lambda maker: maker.like(torch.float16).normal(8),
        ),
        refuse_bias(
            "float32",
            "has dtype float32, must be float16, the dtype of activation",
            lambda maker: maker.like(torch.float32).normal(8),
            dtype=torch.float16,
        ),
        refuse_bias(
            "int64",
            "has dtype int64, must be float32, float16 or bfloat16",
            lambda maker: torch.zeros(8, dtype=torch.int64, device=maker.device),
        ),
        refuse_bias("half", f"has shape [4], {size}", lambda maker: maker.normal(4)),
        refuse_bias("long", f"has shape [9], {size}", lambda maker: maker.normal(9)),
        refuse_bias("empty", f"has shape [0], {size}", lambda maker: maker.normal(0)),
        refuse_bias("rank_0", f"has shape [], {size}", lambda maker: maker.normal()),
        refuse_bias("rank_2", f"has shape [3, 8], {size}", lambda maker: maker.normal(3, 8)),
        refuse_bias(
            "on_cpu",
            "is on cpu, must be on cuda:0, the device of activation",
            lambda maker: maker.normal(8).cpu(),
            only_on="cuda",
        ),
        *(
            refuse(
                f"activation_type_{number}",
                f"activation_type is {number}, must be 3 (GATED_GELU) or 4 (GATED_SILU)",
                lambda maker, number=number: {"activation_type": number},
            )
            for number in (-1, 0, 1, 2, 5, 2**32 + 3)
        ),
    ]


def _random(maker: Maker, random: Random) -> Arguments:
    sizes = layouts.random_sizes(random, 5)
    made = arguments(
        maker,
        *sizes[:-1],
        layouts.random_size(random, 40),
        activation_type=random.choice((GATED_GELU, GATED_SILU)),
    )
    bias = None if random.randrange(4) == 0 else layouts.random_view(made["bias"], random)
    return made | {"activation": layouts.random_view(made["activation"], random), "bias": bias}


def _far_apart(maker: Maker) -> Arguments:
    made = arguments(maker, 3, 64)
    return made | {"activation": layouts.far_apart(made["activation"])}


def _many(maker: Maker) -> Arguments:
    """More than 2³¹ results from one row in memory."""
    columns = 4096
    made = arguments(maker, 1, columns, activation_type=GATED_SILU)
    return made | {"activation": made["activation"].expand(2**31 // columns + 3, 2 * columns)}


OPERATOR = Operator(
    name=NAME,
    reference=reference,
    eager=eager,
    cases=tuple(_cases()),
    wrong=tuple(_wrong()),
    growing=Growing(
        lambda maker, size: arguments(maker, size, 3 * size, 20), {"activation": {0: "batch", 1: "tokens"}}
    ),
    random=_random,
    huge=(
        Huge("far_apart", _far_apart, ("activation",), 2**20),
        Huge("many", _many, ("activation",), 2 * 2**31),
    ),
)
