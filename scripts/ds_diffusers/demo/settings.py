"""The command line of the demo, checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..architectures import ARCHITECTURES
from ..command_line import Parser, UserError
from ..models import CPU_SIZE, add_model_options, check_file, complete_model_options
from .drawing.settings import add_drawing_options, complete_drawing_options

CPU_STEPS = 4
CUDA_STEPS = 20


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ds_diffusers.demo",
        description="Runs a denoising loop as diffusers does and once more patched by ds_diffusers, and "
        "compares time and result. Without --model: draws with a small text-to-image model that comes along, "
        "then takes a Stable Diffusion UNet with random weights.",
    )
    add_model_options(parser)
    add_drawing_options(parser)
    parser.add_argument("--prompt", help="with --model (default: a photo of a lighthouse at dawn)")
    parser.add_argument("--negative-prompt", help="with --model")
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="NUMBER",
        help="0 to 100; with --model, 0 and 1 are without guidance (default: the model's own)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="default: 20; without --model on the cpu 4")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="default: the model's own; without --model on the cpu 256"
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE.pt",
        help="write the patched UNet as TorchScript, load it and compare",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="for the drawing and the images of --model (default: output), and the latents",
    )
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The settings, with defaults filled in; UserError for what cannot be run."""
    settings = _parser().parse_args(arguments)
    complete_drawing_options(settings)
    complete_model_options(settings)
    on_cpu = settings.device.type == "cpu"
    if settings.model is None:
        _choose_random_model(settings, on_cpu)
    else:
        settings.prompt = settings.prompt or "a photo of a lighthouse at dawn"
        settings.output = settings.output or Path("output")
        settings.steps = CUDA_STEPS if settings.steps is None else settings.steps
    _check_numbers(settings)
    _check_paths(settings)
    return settings


def _choose_random_model(settings: argparse.Namespace, on_cpu: bool) -> None:
    for name in ("prompt", "negative_prompt"):
        if getattr(settings, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} needs --model: random weights understand no words")
    architecture = ARCHITECTURES[settings.architecture]
    if settings.guidance_scale is None:
        settings.guidance_scale = architecture.guidance_scale
    if settings.steps is None:
        settings.steps = CPU_STEPS if on_cpu else CUDA_STEPS
    if settings.size is None:
        settings.size = CPU_SIZE if on_cpu else architecture.size


def _check_numbers(settings: argparse.Namespace) -> None:
    least = 1 if settings.model is None else 2
    if not least <= settings.steps <= 1000:
        raise UserError(f"--steps is {settings.steps}, must be {least} to 1000")
    if settings.guidance_scale is not None and not 0 <= settings.guidance_scale <= 100:
        raise UserError(f"--guidance-scale is {settings.guidance_scale:g}, must be 0 to 100")


def _check_paths(settings: argparse.Namespace) -> None:
    if settings.export is not None:
        check_file("--export", settings.export)
    if settings.output is not None:
        try:
            settings.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output is {settings.output}, which cannot be made: {error.strerror}"
            ) from error
