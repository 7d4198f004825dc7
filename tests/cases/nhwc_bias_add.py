"""Cases of nhwc_bias_add: bias and residual sums of [B, S, C] and of channels-last [N, C, H, W]."""

from collections.abc import Callable
from random import Random

import torch

from . import layouts
from .case import Arguments, Case, Growing, Huge, Maker, Operator, Wrong, says

NAME = "nhwc_bias_add"

CHANNELS = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 255, 320, 1031)
FORMS = {"bias": (), "other": ("other",), "both": ("other", "other_bias")}


def _per_channel(bias: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    return bias.view(-1, 1, 1) if activation.dim() == 4 else bias


def reference(
    activation: torch.Tensor,
    bias: torch.Tensor,
    other: torch.Tensor | None = None,
    other_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    result = activation + _per_channel(bias, activation)
    if other is None:
        return result
    return result + (other if other_bias is None else other + _per_channel(other_bias, activation))


eager = reference


def channel_dimension(sizes: tuple[int, ...]) -> int:
    return 1 if len(sizes) == 4 else 2


def arguments(maker: Maker, *sizes: int, form: str = "both") -> Arguments:
    channels = sizes[channel_dimension(sizes)]
    made = {
        "activation": maker.normal(*sizes),
        "bias": maker.normal(channels),
        "other": maker.normal(*sizes),
        "other_bias": maker.normal(channels),
    }
    return {name: value for name, value in made.items() if name in ("activation", "bias", *FORMS[form])}


def sized(case_id: str, *sizes: int, form: str = "both") -> Case:
    return Case(case_id, lambda maker: arguments(maker, *sizes, form=form))


def viewed(
    case_id: str,
    activation_layout: layouts.Layout,
    other_layout: layouts.Layout,
    *sizes: int,
    form: str = "both",
) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, *sizes, form=form)
        changed = {"activation": activation_layout(made["activation"])}
        return made | changed | ({"other": other_layout(made["other"])} if "other" in made else {})

    return Case(case_id, make)


def vectors(name: str, layout: layouts.Layout) -> Case:
    def make(maker: Maker) -> Arguments:
        made = arguments(maker, 2, 5, 33)
        return made | {name: layout(made[name]) for name in ("bias", "other_bias")}

    return Case(f"vectors_{name}", make)


def _sliced_channels(values: torch.Tensor) -> torch.Tensor:
    """Channels 1 to C of C + 3, channels-last."""
    sizes = list(values.shape)
    sizes[1] += 3
    base = torch.empty(sizes, dtype=values.dtype, device=values.device, memory_format=torch.channels_last)
    return base[:, 1:-2].copy_(values)


def _not_finite(maker: Maker) -> Arguments:
    made = arguments(maker, 1, 6, 16)
    infinity, nan = float("inf"), float("nan")
    made["activation"][0, 0, 3], made["activation"][0, 1, 0], made["activation"][0, 2, 5] = (
        nan,
        infinity,
        infinity,
    )
    made["other"][0, 2, 5], made["other"][0, 4, 15], made["other_bias"][7] = -infinity, -infinity, infinity
    return made


def _cancelling(maker: Maker) -> Arguments:
    """Large terms that leave the biases alone."""
    made = arguments(maker, 2, 7, 24)
    rows = maker.normal(2, 7, 24, scale=1e3)
    return made | {"activation": rows, "other": -rows}


def _cases() -> list[Case]:
    plain, last = layouts.contiguous, layouts.channels_last
    four = {"nchw": plain, "channels_last": last, "sliced_channels": _sliced_channels}
    return [
        *(
            sized(f"{form}_channels_{channels}", 2, 3, channels, form=form)
            for form in FORMS
            for channels in CHANNELS
        ),
        *(viewed(f"channels_last_{channels}", last, last, 2, channels, 3, 5) for channels in CHANNELS),
        *(viewed(f"nchw_{channels}", plain, plain, 2, channels, 3, 5) for channels in CHANNELS[::3]),
        *(
            sized(f"tokens_{batch}x{tokens}", batch, tokens, 40)
            for batch, tokens in ((0, 3), (3, 0), (1, 1), (1, 127), (3, 337))
        ),
        sized("no_channels", 2, 3, 0),
        sized("no_channels_of_four", 2, 0, 3, 3),
        *(
            viewed(f"pixels_{height}x{width}", last, last, 2, 24, height, width)
            for height, width in ((0, 4), (1, 1), (1, 17), (17, 1), (13, 11))
        ),
        *(
            sized(f"model_{tokens}x{channels}", 2, tokens, channels)
            for tokens, channels in ((1024, 320), (256, 640), (64, 1280))
        ),
        viewed("model_channels_last_320", last, last, 2, 320, 32, 32),
        *(viewed(f"tokens_{name}", layout, plain, 2, 7, 33) for name, layout in layouts.ROWS.items()),
        *(viewed(f"tokens_other_{name}", plain, layout, 2, 7, 64) for name, layout in layouts.ROWS.items()),
        *(
            viewed(f"tokens_{name}_{form}", layout, layout, 2, 7, 40, form=form)
            for name, layout in layouts.ROWS.items()
            for form in ("bias", "other")
        ),
        *(
            viewed(f"pixels_{first}_and_{second}", four[first], four[second], 2, 24, 5, 3)
            for first in four
            for second in four
        ),
        *(viewed(f"pixels_{name}", layout, last, 2, 24, 5, 3) for name, layout in layouts.ROWS.items()),
        *(viewed(f"pixels_other_{name}", last, layout, 2, 24, 5, 3) for name, layout in layouts.ROWS.items()),
        *(vectors(name, layout) for name, layout in layouts.VECTORS.items()),
        Case(
            "same_tensor_twice",
            lambda maker: (made := arguments(maker, 2, 4, 24)) | {"other": made["activation"]},
        ),
        Case("not_finite", _not_finite),
        Case("cancelling", _cancelling),
    ]


def _wrong() -> list[Wrong]:
    def refuse(case_id: str, text: str, change: Callable[[Maker], Arguments], **others) -> Wrong:
        return Wrong(
            case_id, lambda maker: arguments(maker, 2, 3, 8) | change(maker), says(NAME, text), **others
        )

    def refuse_tensor(
        name: str, case_id: str, text: str, tensor: Callable[[Maker], torch.Tensor], **others
    ) -> Wrong:
        return refuse(f"{name}_{case_id}", f"{name} {text}", lambda maker: {name: tensor(maker)}, **others)

    ranks = "must be [B, S, C] or [N, C, H, W]"
    channels = "must be [8], the number of activation's channels"
    shape = "must be [2, 3, 8], the shape of activation"
    supported = "must be float32, float16 or bfloat16"
    found = [
        *(
            refuse_tensor(
                "activation",
                name,
                f"has dtype {name}, {supported}",
                lambda maker, name=name: torch.zeros(
                    2, 3, 8, dtype=getattr(torch, name), device=maker.device
                ),
            )
            for name in ("float64", "int32", "int16", "bool", "complex64")
        ),
        *(
            refuse_tensor(
                "activation",
                f"rank_{len(sizes)}",
                f"has shape {list(sizes)}, {ranks}",
                lambda maker, sizes=sizes: maker.normal(*sizes),
            )
            for sizes in ((), (8,), (3, 8), (1, 1, 2, 3, 8))
        ),
        refuse(
            "bias_of_the_wrong_dimension",
            "bias has shape [3], must be [8], the number of activation's channels",
            lambda maker: {"activation": maker.normal(2, 8, 4, 3), "bias": maker.normal(3)},
        ),
        refuse(
            "other_bias_alone",
            "other is None, must be a tensor where other_bias is given",
            lambda maker: {"other": None},
        ),
        refuse_tensor(
            "other",
            "float16",
            "has dtype float16, must be float32, the dtype of activation",
            lambda maker: maker.like(torch.float16).normal(2, 3, 8),
        ),
        refuse_tensor(
            "other",
            "float64",
            f"has dtype float64, {supported}",
            lambda maker: maker.like(torch.float64).normal(2, 3, 8),
        ),
        *(
            refuse_tensor(
                "other",
                "x".join(map(str, sizes)),
                f"has shape {list(sizes)}, {shape}",
                lambda maker, sizes=sizes: maker.normal(*sizes),
            )
            for sizes in ((1, 3, 8), (2, 1, 8), (2, 3, 1), (3, 8), (8,), (2, 8, 3), (2, 3, 8, 1))
        ),
    ]
    for name in ("bias", "other_bias"):
        found += [
            refuse_tensor(
                name,
                "float16",
                "has dtype float16, must be float32, the dtype of activation",
                lambda maker: maker.like(torch.float16).normal(8),
            ),
            refuse_tensor(
                name,
                "float32",
                "has dtype float32, must be bfloat16, the dtype of activation",
                lambda maker: maker.like(torch.float32).normal(8),
                dtype=torch.bfloat16,
            ),
            refuse_tensor(
                name,
                "uint8",
                f"has dtype uint8, {supported}",
                lambda maker: torch.zeros(8, dtype=torch.uint8, device=maker.device),
            ),
            *(
                refuse_tensor(
                    name,
                    "x".join(map(str, sizes)) or "rank_0",
                    f"has shape {list(sizes)}, {channels}",
                    lambda maker, sizes=sizes: maker.normal(*sizes),
                )
                for sizes in ((7,), (9,), (1,), (0,), (), (1, 8))
            ),
            refuse_tensor(
                name,
                "on_cpu",
                "is on cpu, must be on cuda:0, the device of activation",
                lambda maker: maker.normal(8).cpu(),
                only_on="cuda",
            ),
        ]
    return found


def _random(maker: Maker, random: Random) -> Arguments:
    sizes = [random.randint(0 if random.randrange(12) == 0 else 1, 9) for _ in range(random.choice((3, 4)))]
    made = arguments(maker, *sizes, form=random.choice(tuple(FORMS)))
    return {name: layouts.random_view(value, random) for name, value in made.items()}


def _far_apart(maker: Maker) -> Arguments:
    made = arguments(maker, 3, 1, 64)
    return made | {"other": layouts.far_apart(made["other"])}


OPERATOR = Operator(
    name=NAME,
    reference=reference,
    eager=eager,
    cases=tuple(_cases()),
    wrong=tuple(_wrong()),
    growing=Growing(
        lambda maker, size: arguments(maker, size, 3 * size, 20),
        {"activation": {0: "batch", 1: "tokens"}, "other": {0: "batch", 1: "tokens"}},
    ),
    random=_random,
    huge=(Huge("far_apart", _far_apart, ("activation", "other"), 2**20),),
)
