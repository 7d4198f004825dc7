"""Cases of layer_norm_residual_store_pre_ln_res: the residual sum and its normalisation."""

from collections.abc import Callable
from random import Random

import torch

from . import layer_norm, layouts
from .case import Arguments, Case, Growing, Huge, Maker, Operator, Wrong
from .layer_norm import refused, scale_and_shift, wrong_epsilons, wrong_inputs, wrong_vectors

NAME = "layer_norm_residual_store_pre_ln_res"


def reference(
    input: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    epsilon: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    total = input + residual if bias is None else input + bias + residual
    return layer_norm.reference(total, gamma, beta, epsilon), total


def eager(
    input: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    epsilon: float = 1e-5,
) -> tuple[torch.Tensor, torch.Tensor]:
    total = input + residual if bias is None else input + bias + residual
    return layer_norm.eager(total, gamma, beta, epsilon), total


def arguments(maker: Maker, *sizes: int, **others: object) -> Arguments:
    return {
        "input": maker.normal(*sizes),
        "bias": maker.normal(sizes[-1]),
        "residual": maker.normal(*sizes),
        **scale_and_shift(maker, sizes[-1]),
    } | others


def sized(case_id: str, *sizes: int, **others: object) -> Case:
    return Case(case_id, lambda maker: arguments(maker, *sizes, **others))


def viewed(case_id: str, input_layout: layouts.Layout, residual_layout: layouts.Layout, *sizes: int) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, *sizes)
        return made | {"input": input_layout(made["input"]), "residual": residual_layout(made["residual"])}

    return Case(f"{case_id}_{sizes[-1]}", make)


def vectors(name: str, layout: layouts.Layout) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, 5, 33)
        return made | {name: layout(made[name]) for name in ("bias", "gamma", "beta")}

    return Case(f"vectors_{name}", make)


def without(*absent: str) -> Case:
    return Case("without_" + "_".join(absent), lambda maker: arguments(maker, 3, 37) | dict.fromkeys(absent))


def values(case_id: str, fill: Callable[[Maker], Arguments], **others: object) -> Case:
    return Case(case_id, lambda maker: arguments(maker, 5, 64, **others) | fill(maker))


def _not_finite(maker: Maker) -> Arguments:
    infinity, nan = float("inf"), float("nan")
    fill = layer_norm.put((0, 3, nan), (1, 0, infinity), (2, 5, infinity))
    fill_residual = layer_norm.put((2, 5, -infinity), (3, 63, -infinity))
    return {"input": fill(maker, maker.normal(5, 64)), "residual": fill_residual(maker, maker.normal(5, 64))}


def _overflow(maker: Maker) -> Arguments:
    """Sums past float16's range, which the norm, taken before rounding, must not see as infinite."""
    return {
        "input": maker.normal(5, 64, shift=4e4, scale=1e3),
        "residual": maker.normal(5, 64, shift=4e4, scale=1e3),
    }


def _cancelling(maker: Maker) -> Arguments:
    """Input and residual that leave the bias alone."""
    rows = maker.normal(5, 64, scale=100.0, shift=100.0)
    return {"input": rows, "residual": -rows}


def _cases() -> list[Case]:
    plain = layouts.contiguous
    return [
        *(sized(f"columns_{columns}", 3, columns) for columns in layer_norm.COLUMNS),
        *(sized(f"rows_{rows}", rows, 40) for rows in (0, 1, 2, 17, 127, 1009)),
        sized("no_rows_inside", 2, 0, 8),
        *(
            sized(f"rank_{len(sizes)}", *sizes)
            for sizes in ((24,), (3, 24), (2, 3, 24), (2, 3, 5, 24), (2, 1, 3, 2, 24))
        ),
        *(
            sized(f"model_{tokens}x{channels}", 2, tokens, channels)
            for tokens, channels in ((1024, 320), (256, 640), (64, 1280))
        ),
        *(viewed(f"input_{name}", layout, plain, 2, 7, 33) for name, layout in layouts.ROWS.items()),
        *(viewed(f"residual_{name}", plain, layout, 2, 7, 64) for name, layout in layouts.ROWS.items()),
        *(viewed(f"both_{name}", layout, layout, 2, 7, 40) for name, layout in layouts.ROWS.items()),
        viewed("reversed_rows_and_rotated", layouts.reversed_rows, layouts.rotated, 2, 3, 2, 5, 16),
        viewed("rank_10_residual_reversed_rows", plain, layouts.reversed_rows, *[2] * 9, 8),
        viewed("model_residual_view_of_nchw", plain, layouts.transposed, 2, 1024, 320),
        *(vectors(name, layout) for name, layout in layouts.VECTORS.items()),
        *(without(name) for name in ("bias", "gamma", "beta")),
        without("bias", "gamma", "beta"),
        *(sized(f"epsilon_{epsilon:g}", 3, 48, epsilon=epsilon) for epsilon in (0.0, 1e-12, 1e-3, 10.0)),
        Case(
            "same_tensor_twice", lambda maker: (made := arguments(maker, 4, 24)) | {"residual": made["input"]}
        ),
        values("not_finite", _not_finite),
        values("overflow", _overflow),
        values("far_from_zero", lambda maker: {"residual": layer_norm.far_from_zero(maker, 5, 64)}),
        values("cancelling", _cancelling),
    ]


def _wrong() -> list[Wrong]:
    shape = "must be [3, 8], the shape of input"

    def refuse(case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor], **others) -> Wrong:
        return refused(
            f"residual_{case_id}",
            f"residual {text}",
            lambda maker: {"residual": tensor(maker)},
            NAME,
            base=arguments,
            **others,
        )

    return [
        *wrong_inputs(NAME, arguments),
        *wrong_vectors(NAME, ("bias", "gamma", "beta"), arguments),
        *wrong_epsilons(NAME, arguments),
        refuse(
            "float16",
            "has dtype float16, must be float32, the dtype of input",
            lambda maker: maker.like(torch.float16).normal(3, 8),
        ),
        refuse(
            "int32",
            "has dtype int32, must be float32, float16 or bfloat16",
            lambda maker: torch.zeros(3, 8, dtype=torch.int32, device=maker.device),
        ),
        refuse("fewer_rows", f"has shape [2, 8], {shape}", lambda maker: maker.normal(2, 8)),
        refuse("one_row", f"has shape [1, 8], {shape}", lambda maker: maker.normal(1, 8)),
        refuse("fewer_columns", f"has shape [3, 7], {shape}", lambda maker: maker.normal(3, 7)),
        refuse("rank_1", f"has shape [8], {shape}", lambda maker: maker.normal(8)),
        refuse("rank_3", f"has shape [1, 3, 8], {shape}", lambda maker: maker.normal(1, 3, 8)),
        refuse("rows_and_columns_swapped", f"has shape [8, 3], {shape}", lambda maker: maker.normal(8, 3)),
        refuse(
            "on_cpu",
            "is on cpu, must be on cuda:0, the device of input",
            lambda maker: maker.normal(3, 8).cpu(),
            only_on="cuda",
        ),
    ]


def _random(maker: Maker, random: Random) -> Arguments:
    sizes = layouts.random_sizes(random, 4)
    made = arguments(maker, *sizes, random.randint(1, 70))
    made = {name: layouts.random_view(value, random) for name, value in made.items()}
    absent = {name for name in ("bias", "gamma", "beta") if random.randrange(4) == 0}
    return made | {name: None for name in absent} | {"epsilon": random.choice((1e-5, 1e-3, 1e-6))}


def _far_apart(maker: Maker) -> Arguments:
    made = arguments(maker, 3, 64)
    return made | {"residual": layouts.far_apart(made["residual"])}


OPERATOR = Operator(
    name=NAME,
    reference=reference,
    eager=eager,
    cases=tuple(_cases()),
    wrong=tuple(_wrong()),
    growing=Growing(
        lambda maker, size: arguments(maker, size, 3 * size, 40),
        {"input": {0: "batch", 1: "tokens"}, "residual": {0: "batch", 1: "tokens"}},
    ),
    random=_random,
    huge=(Huge("far_apart", _far_apart, ("input", "residual"), 2**20),),
)
