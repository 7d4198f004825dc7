"""python -m ds_diffusers report: how each block of a patched UNet runs, and why not a wider way."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from diffusers.utils import logging
from rich.console import Console

from .command_line import Parser, UserError, exit_code, first_line, lack_of_memory, load_library, working
from .export.functions import tensor_function
from .models import add_model_options, complete_model_options, load_unet, step_inputs, step_size
from .patching import patch
from .reporting import report

WIDTH = 160  # of the table in characters, where it goes to a file


def run(arguments: Sequence[str]) -> int:
    """Runs the command and returns the exit code: 0, or 2 for what the user can change."""
    return exit_code(lambda: _report(_parse(arguments)))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m ds_diffusers report",
        description="Patches a UNet, runs one step, and prints how each of its transformer blocks ran.",
    )
    add_model_options(parser)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="default: the model's own; on the cpu 256")
    settings = parser.parse_args(arguments)
    complete_model_options(settings)
    return settings


@torch.inference_mode()
def _report(settings: argparse.Namespace) -> int:
    load_library()
    logging.set_verbosity_error()
    with working(f"loading the UNet of {settings.model or settings.architecture}"):
        unet = patch(load_unet(settings))
    inputs = step_inputs(settings, unet, step_size(settings, unet))
    with working("running one step"):
        try:
            tensor_function(unet, tuple(inputs))(**inputs)
        except (RuntimeError, TypeError, ValueError) as error:
            if settings.model is None or lack_of_memory(error) is not None:
                raise
            raise UserError(
                f"the UNet of {settings.model} does not run with a text's embeddings: {first_line(error)}"
            ) from error
    console = Console()
    Console(width=console.width if console.is_terminal else WIDTH).print(report(unet))
    return 0
