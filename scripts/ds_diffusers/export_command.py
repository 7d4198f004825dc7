"""python -m ds_diffusers export: writes a patched UNet for other programs."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging

from . import export
from .command_line import Parser, UserError, exit_code, first_line, lack_of_memory, load_library, working
from .export.functions import Inputs
from .models import (
    add_model_options,
    check_file,
    check_size,
    complete_model_options,
    load_unet,
    step_inputs,
    step_size,
)
from .patching import patch
from .reporting import report

FORMATS = {
    "torchscript": "TorchScript",
    "program": "a program of torch.export",
    "aotinductor": "a package of AOTInductor",
}
PROGRAM_SUFFIX = ".pt2"  # which PyTorch asks for


def run(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit code: 0, or 2 for what the user can change."""
    return exit_code(lambda: _export(_parse(arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m ds_diffusers export",
        description="Patches a Stable Diffusion UNet, writes it for other programs, and compares what was "
        "written with it.",
    )
    add_model_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="torchscript", help="default: torchscript")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=f"….pt, or {PROGRAM_SUFFIX} for the others"
    )
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="of the example (default: the model's own; on the cpu 256)"
    )
    parser.add_argument(
        "--other-sizes",
        type=int,
        nargs="+",
        default=[],
        metavar="PIXELS",
        help="sizes that the file must work with, tried as well",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=2,
        metavar="N",
        help="of the example (default: 2); a program or package made with 1 takes no other",
    )
    settings = parser.parse_args(arguments)
    complete_model_options(settings)
    for size in settings.other_sizes:
        check_size("--other-sizes", size)
    if settings.batch < 1:
        raise UserError(f"--batch is {settings.batch}, must be at least 1")
    check_file("--output", settings.output)
    if settings.format != "torchscript" and settings.output.suffix != PROGRAM_SUFFIX:
        raise UserError(
            f"--output is {settings.output}, must end in {PROGRAM_SUFFIX} for --format {settings.format}"
        )
    return settings


def _export(settings: argparse.Namespace) -> int:
    load_library()
    diffusers_logging.set_verbosity_error()
    logging.getLogger("torch").setLevel(logging.ERROR)  # which comments on what it compiles
    source = settings.model or settings.architecture
    with working(f"loading the UNet of {source}"):
        unet = patch(load_unet(settings))
    size = step_size(settings, unet)
    example = step_inputs(settings, unet, size, settings.batch)
    sizes = [size, *((other, other) for other in settings.other_sizes)]
    others = [step_inputs(settings, unet, other, settings.batch) for other in sizes[1:]]
    with working(f"exporting it as {FORMATS[settings.format]}"):
        _write(settings, unet, example, others)
    megabytes = settings.output.stat().st_size / 1e6
    print(f"{FORMATS[settings.format]} of {source} in {settings.output}, {megabytes:.4g} MB")
    print(report(unet))
    tried = ", ".join(f"{width} x {height}" for height, width in sizes)
    print(f"compared with the patched UNet at {tried} pixels")
    return 0


def _write(
    settings: argparse.Namespace, unet: torch.nn.Module, example: Inputs, others: list[Inputs]
) -> None:
    # A batch of one is a constant for torch.export.
    dynamic = True if settings.batch > 1 else {"sample": (2, 3), "encoder_hidden_states": (1,)}
    try:
        with warnings.catch_warnings():
            # PyTorch's own, about what it deprecates or how it compiles: no concern of the user's.
            warnings.simplefilter("ignore")
            if settings.format == "torchscript":
                export.torchscript(unet, settings.output, example, others)
            elif settings.format == "program":
                export.program(unet, example, settings.output, dynamic=dynamic, other_inputs=others)
            else:
                export.aotinductor(unet, settings.output, example, dynamic=dynamic, other_inputs=others)
    except export.ExportError as error:
        raise UserError(str(error)) from error
    except RuntimeError as error:
        if lack_of_memory(error) is None and settings.format == "aotinductor":
            raise UserError(f"AOTInductor could not compile the UNet: {first_line(error)}") from error
        raise
