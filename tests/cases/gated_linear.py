"""Cases of gated_linear: the gated activation of input · weightᵀ + bias."""

import math
from collections.abc import Callable
from random import Random

import torch
import torch.nn.functional as F

from . import gated_activation, layouts
from .case import Arguments, Case, Growing, Huge, Maker, Operator, Wrong, says
from .gated_activation import ACTIVATIONS, GATED_GELU, GATED_SILU

NAME = "gated_linear"

# (rows, in_features, columns of the result): about vectors, matrix instructions and tiles, and primes.
SIZES = (
    (1, 1, 1),
    (3, 1, 5),
    (2, 8, 8),
    (5, 7, 3),
    (17, 16, 24),
    (63, 64, 40),
    (64, 72, 64),
    (65, 63, 65),
    (127, 40, 80),
    (128, 64, 128),
    (129, 136, 136),
    (257, 61, 131),
    (33, 320, 1280),
)


def reference(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation_type: int = GATED_GELU,
) -> torch.Tensor:
    return gated_activation.reference(input @ weight.T, bias, activation_type)


def eager(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation_type: int = GATED_GELU,
) -> torch.Tensor:
    return gated_activation.eager(F.linear(input, weight, bias), None, activation_type)


def arguments(
    maker: Maker, *sizes: int, in_features: int = 16, activation_type: int = GATED_GELU
) -> Arguments:
    """`sizes` are the result's."""
    width = 2 * sizes[-1]
    return {
        "input": maker.normal(*sizes[:-1], in_features),
        "weight": maker.normal(width, in_features, scale=1.5 / math.sqrt(in_features)),
        "bias": maker.normal(width),
        "activation_type": activation_type,
    }


def sized(case_id: str, *sizes: int, heavy: bool = False, **others: int) -> Case:
    return Case(case_id, lambda maker: arguments(maker, *sizes, **others), heavy=heavy)


def changed(case_id: str, change: Callable[[Maker, Arguments], Arguments], *sizes: int, **others: int) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, *sizes, **others)
        return made | change(maker, made)

    return Case(case_id, make)


def viewed(name: str, argument: str, layout: layouts.Layout, *sizes: int) -> Case:
    case_id = f"{argument}_{name}_{sizes[-1]}"
    return changed(case_id, lambda maker, made: {argument: layout(made[argument])}, *sizes, in_features=24)


def without_bias(maker: Maker, made: Arguments) -> Arguments:
    return {"bias": None}


def defaults(maker: Maker) -> Arguments:
    made = arguments(maker, 3, 24)
    return {name: made[name] for name in ("input", "weight")}


def not_finite(maker: Maker, made: Arguments) -> Arguments:
    special = made["input"].clone()
    for row, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        special[row, row] = value
    return {"input": special}


def _cases() -> list[Case]:
    return [
        *(
            sized(
                f"{name}_{rows}x{in_features}x{columns}",
                rows,
                columns,
                in_features=in_features,
                activation_type=activation_type,
            )
            for name, activation_type in ACTIVATIONS.items()
            for rows, in_features, columns in SIZES
        ),
        *(sized(f"rows_{rows}", rows, 40, in_features=24) for rows in (0, 1, 2, 1009)),
        sized("no_rows_inside", 2, 0, 8),
        sized("no_columns", 3, 0),
        *(
            sized(f"rank_{len(sizes)}", *sizes, activation_type=GATED_SILU)
            for sizes in ((24,), (3, 24), (2, 3, 24), (2, 3, 5, 24), (2, 1, 3, 2, 24))
        ),
        sized("model_256x320", 2, 128, 1280, in_features=320, heavy=True),
        sized("model_64x1280", 1, 64, 5120, in_features=1280, heavy=True),
        *(
            viewed(name, "input", layout, 2, 7, columns)
            for name, layout in layouts.ROWS.items()
            for columns in (17, 32)
        ),
        *(
            viewed(name, "weight", layout, 5, columns)
            for name, layout in layouts.ROWS.items()
            for columns in (17, 32)
        ),
        *(viewed(name, "bias", layout, 5, 33) for name, layout in layouts.VECTORS.items()),
        *(
            changed(
                f"{name}_without_bias", without_bias, 9, 40, in_features=72, activation_type=activation_type
            )
            for name, activation_type in ACTIVATIONS.items()
        ),
        Case("defaults", defaults),
        changed("not_finite", not_finite, 4, 40),
    ]


def _wrong() -> list[Wrong]:
    def refuse(case_id: str, text: str, change: Callable[[Maker], Arguments], **others) -> Wrong:
        return Wrong(
            case_id,
            lambda maker: arguments(maker, 3, 4, in_features=5) | change(maker),
            says(NAME, text),
            **others,
        )

    def refuse_tensor(
        name: str, case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor], **others
    ) -> Wrong:
        return refuse(f"{name}_{case_id}", f"{name} {text}", lambda maker: {name: tensor(maker)}, **others)

    some = "must be of rank 1 or more with a last dimension of 1 or more"
    matrix = "must be [N, 5], N even, with the size of input's last dimension"
    size = "must be [8], the number of weight's rows"
    sizes = {"input": (3, 5), "weight": (8, 5), "bias": (8,)}
    return [
        *(
            refuse_tensor(
                name,
                dtype,
                f"has dtype {dtype}, must be float32, float16 or bfloat16",
                lambda maker, name=name, dtype=dtype: torch.zeros(
                    *sizes[name], dtype=getattr(torch, dtype), device=maker.device
                ),
            )
            for name in sizes
            for dtype in ("float64", "int8", "bool", "complex64")
        ),
        *(
            refuse_tensor(
                name,
                "float16",
                "has dtype float16, must be float32, the dtype of input",
                lambda maker, name=name: maker.like(torch.float16).normal(*sizes[name]),
            )
            for name in ("weight", "bias")
        ),
        *(
            refuse_tensor(
                name,
                "on_cpu",
                "is on cpu, must be on cuda:0, the device of input",
                lambda maker, name=name: maker.normal(*sizes[name]).cpu(),
                only_on="cuda",
            )
            for name in ("weight", "bias")
        ),
        refuse_tensor("input", "rank_0", f"has shape [], {some}", lambda maker: maker.normal()),
        refuse_tensor("input", "no_features", f"has shape [3, 0], {some}", lambda maker: maker.normal(3, 0)),
        refuse_tensor("weight", "odd", f"has shape [7, 5], {matrix}", lambda maker: maker.normal(7, 5)),
        refuse_tensor("weight", "wide", f"has shape [8, 6], {matrix}", lambda maker: maker.normal(8, 6)),
        refuse_tensor("weight", "turned", f"has shape [5, 8], {matrix}", lambda maker: maker.normal(5, 8)),
        refuse_tensor("weight", "rank_1", f"has shape [5], {matrix}", lambda maker: maker.normal(5)),
        refuse_tensor("weight", "rank_3", f"has shape [1, 8, 5], {matrix}", lambda maker: maker.normal(1, 8, 5)),
        refuse_tensor("bias", "half", f"has shape [4], {size}", lambda maker: maker.normal(4)),
        refuse_tensor("bias", "empty", f"has shape [0], {size}", lambda maker: maker.normal(0)),
        refuse_tensor("bias", "rank_0", f"has shape [], {size}", lambda maker: maker.normal()),
        refuse_tensor("bias", "rank_2", f"has shape [1, 8], {size}", lambda maker: maker.normal(1, 8)),
        *(
            refuse(
                f"activation_type_{number}",
                f"activation_type is {number}, must be 3 (GATED_GELU) or 4 (GATED_SILU)",
                lambda maker, number=number: {"activation_type": number},
            )
            for number in (-1, 0, 1, 2, 5, 2**32 + 3)
        ),
    ]


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return (values * 8).round() / 8


def _random(maker: Maker, random: Random) -> Arguments:
    """With products whose float32 sums are exact in any order: errors of a few sums say little about those
    that add them up."""
    sizes = layouts.random_sizes(random, 4)
    made = arguments(
        maker,
        *sizes,
        layouts.random_size(random, 40),
        in_features=random.randint(1, 80),
        activation_type=random.choice((GATED_GELU, GATED_SILU)),
    )
    bias = None if random.randrange(4) == 0 else layouts.random_view(made["bias"], random)
    return made | {
        "input": layouts.random_view(_rounded(made["input"]), random),
        "weight": layouts.random_view(_rounded(made["weight"]), random),
        "bias": bias,
    }


def _far_apart(maker: Maker) -> Arguments:
    made = arguments(maker, 3, 40, in_features=64)
    return made | {"input": layouts.far_apart(made["input"])}


OPERATOR = Operator(
    name=NAME,
    reference=reference,
    eager=eager,
    cases=tuple(_cases()),
    wrong=tuple(_wrong()),
    growing=Growing(
        lambda maker, size: arguments(maker, size, 3 * size, 20, in_features=12),
        {"input": {0: "batch", 1: "tokens"}},
    ),
    random=_random,
    huge=(Huge("far_apart", _far_apart, ("input",), 2**20),),
)
