"""The command line, checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ds_diffusers.command_line import Parser, UserError, named_device
from ds_diffusers.architectures import LATENT_SCALE

from . import block_variants, compare, operators, overhead, unet
from .block_shapes import BLOCK_SHAPES, block_shape
from .operator_cases import OPERATOR_CASES, operator_shape

# Of models, such that two cores take minutes for all.
CPU_SHAPES = ("2x1024x640", "2x64x1280")
CPU_BLOCKS = ("sd15-1024", "sd15-64")

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The settings; UserError for what cannot be run."""
    settings = _parser().parse_args(arguments)
    if settings.benchmark == "plot":
        _check_file("--output", settings.output, ".png")
        if settings.output is not None and len(settings.files) > 1:
            raise UserError("--output names one picture, must be left out where several files are drawn")
    if settings.benchmark in ("compare", "plot"):
        return settings
    settings.devices = _devices(settings.device, settings.benchmark)
    settings.device = settings.devices[-1]
    if settings.rounds < 1:
        raise UserError(f"--rounds is {settings.rounds}, must be at least 1")
    size = getattr(settings, "size", None)
    if size is not None and (size < 64 or size % LATENT_SCALE != 0):
        raise UserError(f"--size is {size}, must be a multiple of {LATENT_SCALE} from 64 on")
    _check_file("--json", settings.json)
    _check_file("--plot", getattr(settings, "plot", None), ".png")
    return settings


def _check_file(option: str, file: Path | None, suffix: str = "") -> None:
    if file is not None and not file.absolute().parent.is_dir():
        raise UserError(f"{option} is {file}, but its folder does not exist")
    if file is not None and not file.name.endswith(suffix):
        raise UserError(f"{option} is {file}, must end in {suffix}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ds_diffusers bench",
        description="Measures, in one run and in turns, ds_diffusers, PyTorch's own ways to compute the "
        "same, and the floor that the hardware sets.",
    )
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    _add_block(benchmarks)
    _add_unet(benchmarks)
    _add_operators(benchmarks)
    _add_cpu(benchmarks)
    _add_overhead(benchmarks)
    _add_compare(benchmarks)
    _add_plot(benchmarks)
    return parser


KNOWN_BLOCKS = f"of {', '.join(BLOCK_SHAPES)}, or BATCHxTOKENSxCHANNELSxHEADSxCONTEXT_CHANNELS"
KNOWN_SHAPES = "BATCHxTOKENSxCHANNELS of the hidden states"


def _add_block(benchmarks: Any) -> None:
    block = _benchmark(benchmarks, "block", "the whole transformer block", rounds=15, plot="time by node")
    _add_list(block, "--shapes", block_shape, list(BLOCK_SHAPES), KNOWN_BLOCKS)
    _add_dtypes(block, ["float16", "bfloat16"])
    _add_peers(block, block_variants.PEERS, block_variants.DEFAULT_PEERS)


def _add_unet(benchmarks: Any) -> None:
    parser = _benchmark(benchmarks, "unet", "one step of a whole UNet", rounds=10, plot="speed-ups")
    check = _choice("--models", dict(zip(unet.MODELS, unet.MODELS, strict=True)))
    _add_list(parser, "--models", check, unet.DEFAULT_MODELS, f"of {', '.join(unet.MODELS)}")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="default: the model's own")
    _add_dtypes(parser, ["float16"])
    _add_peers(parser, unet.PEERS, unet.DEFAULT_PEERS)


def _add_operators(benchmarks: Any) -> None:
    parser = _benchmark(benchmarks, "ops", "the single operators", rounds=11, plot="bandwidths")
    _add_cases(parser, list(OPERATOR_CASES), operators.DEFAULT_CASES)
    shapes = list(map(str, operators.OPERATOR_SHAPES))
    _add_list(parser, "--shapes", operator_shape, shapes, KNOWN_SHAPES)
    _add_dtypes(parser, ["float16", "bfloat16"])
    _add_peers(parser, operators.PEERS, operators.DEFAULT_PEERS)


def _add_cpu(benchmarks: Any) -> None:
    what = "the single operators and the block on the CPU, by the clock"
    parser = _benchmark(benchmarks, "cpu", what, rounds=5, plot="speed-ups", device="cpu")
    _add_cases(parser, list(OPERATOR_CASES), list(OPERATOR_CASES))
    _add_list(parser, "--shapes", operator_shape, CPU_SHAPES, KNOWN_SHAPES)
    _add_list(parser, "--blocks", block_shape, CPU_BLOCKS, KNOWN_BLOCKS)
    _add_dtypes(parser, ["float32", "bfloat16"])
    _add_peers(parser, operators.PEERS, [operators.EAGER])


def _add_overhead(benchmarks: Any) -> None:
    parser = _benchmark(benchmarks, "overhead", "a call from Python on small tensors", rounds=15)
    _add_cases(parser, overhead.CASES, overhead.CASES)
    _add_dtypes(parser, ["float32", "float16"])


def _add_cases(parser: argparse.ArgumentParser, cases: Sequence[str], default: Sequence[str]) -> None:
    check = _choice("--ops", dict(zip(cases, cases, strict=True)))
    _add_list(parser, "--ops", check, default, f"of {', '.join(cases)}", dest="cases")


def _add_compare(benchmarks: Any) -> None:
    help = "what became slower or faster from one JSON file to another"
    parser = benchmarks.add_parser("compare", help=help, description=compare.RULE)
    parser.add_argument("files", nargs=2, type=Path, metavar="FILE", help="the earlier, then the later")


def _add_plot(benchmarks: Any) -> None:
    help = "draws a JSON file of ops, block, unet or cpu"
    parser = benchmarks.add_parser("plot", help=help, description=f"{help.capitalize()}.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.png", help="of one file (default: beside each, with its name)"
    )


def _benchmark(
    benchmarks: Any, name: str, help: str, rounds: int, plot: str | None = None, device: str | None = None
) -> argparse.ArgumentParser:
    """`plot`: what its plot shows, if it has one; `device`: the only one that it measures."""
    parser = benchmarks.add_parser(name, help=help, description=f"Measures {help}.")
    parser.set_defaults(device=device)
    if device is None:
        parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda; overhead: cpu and cuda)")
    parser.add_argument("--rounds", type=int, default=rounds, metavar="N", help=f"default: {rounds}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    if plot is not None:
        parser.add_argument("--plot", type=Path, metavar="FILE.png", help=f"draw {plot} there")
    parser.add_argument("--commit", help="to note in the JSON file (default: the clone's)")
    return parser


def _add_dtypes(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    check = _choice("--dtype", DTYPES)
    _add_list(parser, "--dtype", check, default, f"of {', '.join(DTYPES)}", dest="dtypes")


def _add_peers(parser: argparse.ArgumentParser, peers: Sequence[str], default: Sequence[str]) -> None:
    check = _choice("--peers", dict(zip(peers, peers, strict=True)))
    _add_list(parser, "--peers", check, default, f"what to measure beside ours, of {', '.join(peers)}")


def _add_list(
    parser: argparse.ArgumentParser,
    option: str,
    convert: Callable[[str], Any],
    default: Sequence[str],
    help: str = "",
    dest: str | None = None,
) -> None:
    """An option that takes several values with commas between them."""

    def convert_all(text: str) -> list[Any]:
        return [convert(each) for each in dict.fromkeys(text.split(","))]

    names = ",".join(default)
    parser.add_argument(
        option,
        dest=dest or option.removeprefix("--"),
        type=convert_all,
        default=names,
        metavar="LIST",
        help=f"{help} (default: {names})".strip(),
    )


def _choice(option: str, values: dict[str, Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        if text not in values:
            raise UserError(f"{option} has {text or 'an empty name'}, must be of {', '.join(values)}")
        return values[text]

    return convert


def _devices(name: str | None, benchmark: str) -> list[torch.device]:
    """The one that is named, else the GPU; for the overhead of a call both the CPU and, if any, the GPU."""
    if name is not None:
        return [_device(name)]
    on_cpu = [torch.device("cpu")] if benchmark == "overhead" else []
    if torch.cuda.is_available():
        return [*on_cpu, torch.device("cuda", torch.cuda.current_device())]
    if not on_cpu:
        raise UserError("PyTorch finds no GPU here; --device cpu measures on the CPU, by the clock")
    return on_cpu


def _device(name: str) -> torch.device:
    device = named_device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device is {name}, but PyTorch finds {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device
