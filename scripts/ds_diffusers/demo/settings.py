"""The command line of the demo, checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..command_line import Parser, UserError, named_device
from .architectures import ARCHITECTURES, LATENT_SCALE

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

CPU_SIZE = 256
CPU_STEPS = 4
CUDA_STEPS = 20


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m ds_diffusers.demo",
        description="Runs a denoising loop as diffusers does and once more patched by ds_diffusers, and "
        "compares time and result. Without --model: a Stable Diffusion UNet with random weights.",
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--architecture", choices=ARCHITECTURES, help="UNet with random weights (default: sd15)"
    )
    model.add_argument(
        "--model", metavar="PATH_OR_ID", help="a real pipeline: a folder, or a name on the hub"
    )
    parser.add_argument("--prompt", help="with --model (default: a photo of a lighthouse at dawn)")
    parser.add_argument("--negative-prompt", help="with --model")
    parser.add_argument(
        "--guidance-scale",
        type=float,
        metavar="NUMBER",
        help="0 to 100; with --model, 0 and 1 are without guidance (default: the model's own)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is a GPU)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16 on cuda, float32 on cpu")
    parser.add_argument("--steps", type=int, metavar="N", help="default: 20; without --model on the cpu 4")
    parser.add_argument(
        "--size", type=int, metavar="PIXELS", help="default: the model's own; without --model on the cpu 256"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and noise (default: 0)")
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
        help="for the images of --model (default: output), or the latents",
    )
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The settings, with defaults filled in; UserError for what cannot be run."""
    settings = _parser().parse_args(arguments)
    _choose_device(settings)
    on_cpu = settings.device.type == "cpu"
    if settings.dtype is None:
        settings.dtype = "float32" if on_cpu else "float16"
    settings.dtype = DTYPES[settings.dtype]
    if settings.model is None:
        _choose_random_model(settings, on_cpu)
    else:
        settings.prompt = settings.prompt or "a photo of a lighthouse at dawn"
        settings.output = settings.output or Path("output")
        settings.steps = CUDA_STEPS if settings.steps is None else settings.steps
    _check_numbers(settings)
    _check_paths(settings)
    return settings


def _choose_device(settings: argparse.Namespace) -> None:
    name = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UserError(f"--device is {name}, but PyTorch finds no GPU here; use --device cpu")
        if (device.index or 0) >= count:
            raise UserError(f"--device is {name}, must be one of cuda:0 to cuda:{count - 1}")
    settings.device = device


def _choose_random_model(settings: argparse.Namespace, on_cpu: bool) -> None:
    for name in ("prompt", "negative_prompt"):
        if getattr(settings, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} needs --model: random weights understand no words")
    settings.architecture = settings.architecture or "sd15"
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
    if settings.size is not None and (settings.size < 64 or settings.size % LATENT_SCALE != 0):
        raise UserError(f"--size is {settings.size}, must be a multiple of {LATENT_SCALE} from 64 on")
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"--seed is {settings.seed}, must be 0 to 2^63 - 1")
    if settings.guidance_scale is not None and not 0 <= settings.guidance_scale <= 100:
        raise UserError(f"--guidance-scale is {settings.guidance_scale:g}, must be 0 to 100")


def _check_paths(settings: argparse.Namespace) -> None:
    if settings.export is not None and not settings.export.absolute().parent.is_dir():
        raise UserError(f"--export is {settings.export}, but its folder does not exist")
    if settings.export is not None and settings.export.is_dir():
        raise UserError(f"--export is {settings.export}, which is a folder, must be a file")
    if settings.output is not None:
        try:
            settings.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--output is {settings.output}, which cannot be made: {error.strerror}"
            ) from error
