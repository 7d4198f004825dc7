"""Draws, runs the comparison and prints it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors.torch import save_file
from torch import Tensor, nn

from ..architectures import ARCHITECTURES, random_inputs, random_unet, scheduler
from ..command_line import exit_code
from ..export import torchscript
from ..models import load_pipeline
from ..patching import patch, unpatch
from ..reporting import Report
from .comparison import Comparison, difference, dtype_name, reference_dtype
from .denoising import Denoising, compare, denoise
from .drawing.comparison import run_drawing
from .pipelines import ImageRun, compare_images, latents_in
from .settings import parse


def run(arguments: Sequence[str] | None) -> int:
    """As ds_diffusers.demo.main, with all packages there."""
    # Otherwise each change of dtype is commented on.
    logging.set_verbosity_error()

    def run_parsed() -> int:
        settings = parse(arguments)
        return run_pipeline(settings) if settings.model else run_own_models(settings)

    return exit_code(run_parsed)


def run_own_models(settings: argparse.Namespace) -> int:
    """Draws, and compares with random weights."""
    if settings.drawing != "no" and not run_drawing(settings, settings.output / "drawing.png"):
        print("the drawings are not finite", file=sys.stderr)
        return 1
    return run_random(settings) if settings.drawing != "only" else 0


def run_random(settings: argparse.Namespace) -> int:
    """The comparison on a UNet with random weights. Returns the exit code: 1 where latents are not finite."""
    architecture = ARCHITECTURES[settings.architecture]
    print(
        f"making the UNet of {settings.architecture} with random weights (seed {settings.seed})", flush=True
    )
    unet = random_unet(architecture.unet, settings.seed, settings.device, settings.dtype)
    inputs = partial(random_inputs, architecture.unet, settings.size, settings.seed, settings.device)

    def start(noise: Tensor) -> Denoising:
        return Denoising(scheduler(architecture), noise, settings.steps, settings.guidance_scale)

    noise, conditions = inputs(settings.dtype)
    comparison, seen = compare(unet, partial(start, noise), conditions)
    if settings.export:
        print(export_result(unet, noise, conditions, settings.export))

    unpatch(unet)
    other = reference_dtype(settings.dtype)
    other_noise, other_conditions = inputs(other)
    reference = denoise(unet.to(other), start(other_noise), other_conditions, f"plain, {dtype_name(other)}")

    if settings.latents:
        file = settings.latents / "latents.safetensors"
        latents = {"plain": comparison.plain, "patched": comparison.patched, dtype_name(other): reference}
        save_file({name: tensor.contiguous() for name, tensor in latents.items()}, file)
        print(f"latents in {file}")
    print_result(settings, unet, settings.size, settings.size, comparison, seen, reference)
    return 0 if comparison.finite else 1


def run_pipeline(settings: argparse.Namespace) -> int:
    """The comparison on the pipeline of --model. Returns the exit code: 1 where latents are not finite."""
    pipeline = load_pipeline(settings)
    run = ImageRun(pipeline, settings)
    comparison, seen = compare_images(run)
    if settings.export:
        config = pipeline.unet.config
        noise, conditions = random_inputs(
            config, (run.height, run.width), settings.seed, settings.device, settings.dtype
        )
        print(export_result(pipeline.unet, noise, conditions, settings.export))
    reference = latents_in(run, reference_dtype(settings.dtype))
    print(f"images in {settings.output}: plain.png, patched.png, side_by_side.png")
    print_result(settings, pipeline.unet, run.height, run.width, comparison, seen, reference)
    return 0 if comparison.finite else 1


@torch.no_grad()
def export_result(unet: nn.Module, noise: Tensor, conditions: dict[str, Any], file: Path) -> str:
    """Writes the patched UNet as TorchScript, loads it, and says how far its result is from the UNet's."""
    patch(unet)
    inputs = {
        "sample": torch.cat([noise, noise]),
        "timestep": torch.tensor(500, device=noise.device),
        **conditions,
    }
    expected = unet(**inputs, return_dict=False)[0]
    inputs |= inputs.pop("added_cond_kwargs", {})
    print(f"writing {file}", flush=True)
    with warnings.catch_warnings():
        # TorchScript is deprecated, and the UNet computes some sizes in Python: known, and no concern of the
        # user's.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torchscript(unet, file, inputs)
        loaded = torch.jit.load(file, map_location=noise.device)
    return f"TorchScript in {file}: {difference(expected, loaded(*inputs.values()))}, from the patched UNet"


def print_result(
    settings: argparse.Namespace,
    unet: nn.Module,
    height: int,
    width: int,
    comparison: Comparison,
    seen: Report,
    reference: Tensor,
) -> None:
    """Prints the comparison in pixels, blocks, seconds and differences.

    seen: the report of the patched loop. reference: the final latents of the plain loop in another dtype.
    """
    own, other = dtype_name(settings.dtype), dtype_name(reference_dtype(settings.dtype))
    millions = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    spread = comparison.plain.float().std().item()
    print(
        f"\nmodel            {settings.model or settings.architecture}, a UNet of {millions:.1f} million "
        f"parameters\n"
        f"image            {width} x {height} pixels, steps: {settings.steps}, {own} on {settings.device}"
        f"{f', {torch.get_num_threads()} threads' if settings.device.type == 'cpu' else ''}\n"
        f"blocks           {str(seen).replace(chr(10), chr(10) + ' ' * 17)}\n"
        f"seconds a step   {comparison.speed()}\n"
        f"final latents    standard deviation {spread:.3g}; their differences:\n"
        f"                 {comparison.difference}: patched, from plain\n"
        f"                 {difference(comparison.plain, reference)}: plain {other}, from plain {own}"
    )
    if not comparison.finite:
        print("the latents are not finite", file=sys.stderr)
