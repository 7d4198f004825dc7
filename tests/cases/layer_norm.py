"""Cases of layer_norm: normalisation over the last dimension."""

from collections.abc import Callable
from random import Random

import torch
import torch.nn.functional as F

from . import layouts
from .case import Arguments, Case, Growing, Huge, Maker, Operator, Wrong, says

NAME = "layer_norm"

# Around the vector widths, primes, what a block of threads handles in one step, and the models' channels.
COLUMNS = (
    1,
    2,
    3,
    5,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    257,
    320,
    640,
    1023,
    1280,
    2049,
    4099,
    16411,
)


def reference(
    input: torch.Tensor,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    deviation = input - input.mean(-1, keepdim=True)
    result = deviation * (deviation.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    if gamma is not None:
        result = result * gamma
    return result if beta is None else result + beta


def eager(
    input: torch.Tensor,
    gamma: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    epsilon: float = 1e-5,
) -> torch.Tensor:
    return F.layer_norm(input, input.shape[-1:], gamma, beta, epsilon)


def scale_and_shift(maker: Maker, columns: int) -> Arguments:
    return {"gamma": maker.normal(columns, scale=0.5, shift=1.0), "beta": maker.normal(columns)}


def arguments(maker: Maker, *sizes: int, **others: object) -> Arguments:
    return {"input": maker.normal(*sizes), **scale_and_shift(maker, sizes[-1])} | others


def sized(case_id: str, *sizes: int, **others: object) -> Case:
    return Case(case_id, lambda maker: arguments(maker, *sizes, **others))


def viewed(name: str, layout: layouts.Layout, *sizes: int) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, *sizes)
        return made | {"input": layout(made["input"])}

    return Case(f"{name}_{sizes[-1]}", make)


def vectors(name: str, layout: layouts.Layout) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, 5, 33)
        return made | {"gamma": layout(made["gamma"]), "beta": layout(made["beta"])}

    return Case(f"vectors_{name}", make)


def without(*absent: str) -> Case:
    def make(maker: Maker) -> Arguments:
        return {name: value for name, value in arguments(maker, 3, 37).items() if name not in absent}

    return Case("without_" + "_".join(absent), make)


def values(case_id: str, fill: Callable[[Maker, torch.Tensor], torch.Tensor], **others: object) -> Case:
    """Rows of 64 columns with special values in them."""

    def make(maker: Maker) -> Arguments:
        made = arguments(maker, 5, 64, **others)
        return made | {"input": fill(maker, made["input"])}

    return Case(case_id, make)


def put(*places: tuple[int, int, float]) -> Callable[[Maker, torch.Tensor], torch.Tensor]:
    def fill(maker: Maker, rows: torch.Tensor) -> torch.Tensor:
        for row, column, value in places:
            rows[row, column] = value
        return rows

    return fill


def far_from_zero(maker: Maker, *sizes: int) -> torch.Tensor:
    """A mean of 10⁴ and a deviation that is small beside it, though not below the dtype's resolution."""
    return maker.normal(*sizes, shift=1e4, scale=max(1.0, 1e4 * 4 * torch.finfo(maker.dtype).eps))


def _cases() -> list[Case]:
    infinity, nan = float("inf"), float("nan")
    return [
        *(sized(f"columns_{columns}", 3, columns) for columns in COLUMNS),
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
        *(
            viewed(name, layout, 2, 7, columns)
            for name, layout in layouts.ROWS.items()
            for columns in (33, 64)
        ),
        *(
            viewed(f"rank_5_{name}", layouts.ROWS[name], 2, 3, 2, 5, 16)
            for name in ("reversed_rows", "rotated")
        ),
        viewed("rank_10_reversed_rows", layouts.reversed_rows, *[2] * 9, 8),
        viewed("model_view_of_nchw", layouts.transposed, 2, 1024, 320),
        *(vectors(name, layout) for name, layout in layouts.VECTORS.items()),
        without("gamma"),
        without("beta"),
        without("gamma", "beta"),
        *(sized(f"epsilon_{epsilon:g}", 3, 48, epsilon=epsilon) for epsilon in (0.0, 1e-12, 1e-3, 10.0)),
        values(
            "not_finite",
            put((0, 3, nan), (1, 0, infinity), (2, 63, -infinity), (4, 0, infinity), (4, 1, -infinity)),
        ),
        values("constant_rows", lambda maker, rows: maker.normal(5, 1).expand(5, 64).contiguous()),
        values("zeros", lambda maker, rows: maker.full(5, 64, value=0.0)),
        values("far_from_zero", lambda maker, rows: far_from_zero(maker, 5, 64)),
        values("large", lambda maker, rows: maker.normal(5, 64, scale=5e3)),
        values("small", lambda maker, rows: maker.normal(5, 64, scale=1e-3), epsilon=1e-6),
    ]


def refused(
    case_id: str,
    text: str,
    change: Callable[[Maker], Arguments],
    operator: str = NAME,
    *,
    dtype: torch.dtype = torch.float32,
    only_on: str = "",
    base: Callable[..., Arguments] = arguments,
) -> Wrong:
    """Right arguments for rows of 8 columns but for those that `change` makes."""
    return Wrong(
        case_id, lambda maker: base(maker, 3, 8) | change(maker), says(operator, text), dtype, only_on
    )


def wrong_inputs(operator: str, base: Callable[..., Arguments]) -> list[Wrong]:
    def refuse(case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor], **others) -> Wrong:
        return refused(
            case_id, "input " + text, lambda maker: {"input": tensor(maker)}, operator, base=base, **others
        )

    return [
        *(
            refuse(
                f"input_{str(dtype).removeprefix('torch.')}",
                f"has dtype {str(dtype).removeprefix('torch.')}, must be float32, float16 or bfloat16",
                lambda maker, dtype=dtype: torch.zeros(3, 8, dtype=dtype, device=maker.device),
            )
            for dtype in (torch.float64, torch.int64, torch.uint8, torch.bool, torch.complex64)
        ),
        refuse(
            "input_rank_0",
            "has shape [], must be of rank 1 or more with a last dimension of 1 or more",
            lambda maker: maker.normal(),
        ),
        refuse(
            "input_no_columns",
            "has shape [3, 0], must be of rank 1 or more with a last dimension of 1 or more",
            lambda maker: maker.normal(3, 0),
        ),
    ]


def wrong_vectors(operator: str, names: tuple[str, ...], base: Callable[..., Arguments]) -> list[Wrong]:
    last = "must be [8], the size of input's last dimension"
    found = []
    for name in names:

        def refuse(
            case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor], name: str = name, **others
        ) -> Wrong:
            return refused(
                f"{name}_{case_id}",
                f"{name} {text}",
                lambda maker: {name: tensor(maker)},
                operator,
                base=base,
                **others,
            )

        found += [
            refuse(
                "float16",
                "has dtype float16, must be float32, the dtype of input",
                lambda maker: maker.like(torch.float16).normal(8),
            ),
            refuse(
                "float32",
                "has dtype float32, must be bfloat16, the dtype of input",
                lambda maker: maker.like(torch.float32).normal(8),
                dtype=torch.bfloat16,
            ),
            refuse(
                "float64",
                "has dtype float64, must be float32, float16 or bfloat16",
                lambda maker: maker.like(torch.float64).normal(8),
            ),
            refuse("short", f"has shape [7], {last}", lambda maker: maker.normal(7)),
            refuse("long", f"has shape [9], {last}", lambda maker: maker.normal(9)),
            refuse("one", f"has shape [1], {last}", lambda maker: maker.normal(1)),
            refuse("empty", f"has shape [0], {last}", lambda maker: maker.normal(0)),
            refuse("rank_0", f"has shape [], {last}", lambda maker: maker.normal()),
            refuse("rank_2", f"has shape [1, 8], {last}", lambda maker: maker.normal(1, 8)),
            refuse(
                "on_cpu",
                "is on cpu, must be on cuda:0, the device of input",
                lambda maker: maker.normal(8).cpu(),
                only_on="cuda",
            ),
        ]
    return found


def wrong_epsilons(operator: str, base: Callable[..., Arguments]) -> list[Wrong]:
    return [
        refused(
            f"epsilon_{text}",
            f"epsilon is {text}, must be finite and not negative",
            lambda maker, text=text: {"epsilon": float(text)},
            operator,
            base=base,
        )
        for text in ("-1e-05", "inf", "-inf", "nan")
    ]


def _random(maker: Maker, random: Random) -> Arguments:
    sizes = layouts.random_sizes(random, 4)
    made = arguments(maker, *sizes, random.randint(1, 70))
    made = {name: layouts.random_view(value, random) for name, value in made.items()}
    absent = {name for name in ("gamma", "beta") if random.randrange(4) == 0}
    return {name: value for name, value in made.items() if name not in absent} | {
        "epsilon": random.choice((1e-5, 1e-3, 1e-6))
    }


def _far_apart(maker: Maker) -> Arguments:
    made = arguments(maker, 3, 64)
    return made | {"input": layouts.far_apart(made["input"])}


def _many(maker: Maker) -> Arguments:
    """More than 2³¹ results from one row in memory."""
    columns = 4096
    return {
        "input": maker.normal(1, columns).expand(2**31 // columns + 3, columns),
        **scale_and_shift(maker, columns),
    }


OPERATOR = Operator(
    name=NAME,
    reference=reference,
    eager=eager,
    cases=tuple(_cases()),
    wrong=(
        *wrong_inputs(NAME, arguments),
        *wrong_vectors(NAME, ("gamma", "beta"), arguments),
        *wrong_epsilons(NAME, arguments),
    ),
    growing=Growing(
        lambda maker, size: arguments(maker, size, 3 * size, 40), {"input": {0: "batch", 1: "tokens"}}
    ),
    random=_random,
    huge=(Huge("far_apart", _far_apart, ("input",), 2**20), Huge("many", _many, ("input",), 2 * 2**31)),
)
