"""The same image from a real pipeline, as diffusers makes it and patched."""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from ..patching import patch, unpatch
from ..reporting import Report, report
from .comparison import Comparison
from .denoising import synchronize

WARM_UP_STEPS = 2


def size_of(pipeline: DiffusionPipeline, size: int | None) -> tuple[int, int]:
    """Height and width in pixels: `size` for both, or None for the model's own."""
    if size is not None:
        return size, size
    own = pipeline.unet.config.sample_size
    rows, columns = (own, own) if isinstance(own, int) else own
    return rows * pipeline.vae_scale_factor, columns * pipeline.vae_scale_factor


class ImageRun:
    """Makes one image again and again from the same noise, and notes when each step ended."""

    def __init__(self, pipeline: DiffusionPipeline, settings: argparse.Namespace) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.height, self.width = size_of(pipeline, settings.size)
        rows, columns = self.height // pipeline.vae_scale_factor, self.width // pipeline.vae_scale_factor
        # Drawn here, as a pipeline would draw other noise for another dtype.
        generator = torch.Generator().manual_seed(settings.seed)
        self.noise = torch.randn((1, pipeline.unet.config.in_channels, rows, columns), generator=generator)
        self.latents = self.noise
        self.step_seconds: list[float] = []

    def make(self, steps: int) -> Image.Image:
        """The image after `steps` steps. Notes its latents, and the seconds of each step but the first."""
        settings, optional = self.settings, {}
        if settings.guidance_scale is not None:
            optional["guidance_scale"] = settings.guidance_scale
        ends: list[float] = []

        def note_step(
            pipeline: Any, step: int, timestep: Any, tensors: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            synchronize(settings.device)
            ends.append(time.perf_counter())
            self.latents = tensors["latents"]
            return tensors

        image = self.pipeline(
            prompt=settings.prompt,
            negative_prompt=settings.negative_prompt,
            num_inference_steps=steps,
            height=self.height,
            width=self.width,
            latents=self.noise.to(settings.device, self.pipeline.unet.dtype),
            generator=torch.Generator().manual_seed(settings.seed),
            callback_on_step_end=note_step,
            **optional,
        ).images[0]
        self.step_seconds = [end - start for start, end in pairwise(ends)]
        return image


def compare_images(run: ImageRun) -> tuple[Comparison, Report]:
    """Writes plain.png, patched.png and side_by_side.png; leaves the pipeline patched."""
    pipeline, steps = run.pipeline, run.settings.steps
    for prepare in (unpatch, patch):
        prepare(pipeline.unet)
        run.make(WARM_UP_STEPS)
    unpatch(pipeline.unet)
    plain_image = run.make(steps)
    plain_latents, plain_seconds = run.latents, run.step_seconds
    patch(pipeline.unet)
    patched_image = run.make(steps)
    write_images(run.settings.output, plain_image, patched_image)
    comparison = Comparison(plain_latents, run.latents, plain_seconds, run.step_seconds)
    return comparison, report(pipeline.unet)


def latents_in(run: ImageRun, dtype: torch.dtype) -> Tensor:
    """The final latents of the unpatched pipeline in another dtype, which it keeps."""
    unpatch(run.pipeline.unet)
    run.pipeline.to(dtype=dtype)
    run.make(run.settings.steps)
    return run.latents


def write_images(folder: Path, plain: Image.Image, patched: Image.Image) -> None:
    """plain.png, patched.png, and side_by_side.png, which has both next to each other."""
    both = Image.new("RGB", (plain.width + patched.width, plain.height))
    both.paste(plain, (0, 0))
    both.paste(patched, (plain.width, 0))
    for name, image in (("plain", plain), ("patched", patched), ("side_by_side", both)):
        image.save(folder / f"{name}.png")
