"""A denoising loop with classifier-free guidance, run in two ways side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn
from tqdm import tqdm

from ..patching import patch, unpatch
from ..reporting import Report, report
from .comparison import Comparison


class Denoising:
    """One loop's state: its latents, its scheduler, and the seconds that each of its steps took."""

    def __init__(self, scheduler: SchedulerMixin, noise: Tensor, steps: int, guidance_scale: float) -> None:
        self.scheduler = scheduler
        self.guidance_scale = guidance_scale
        self.step_seconds: list[float] = []
        scheduler.set_timesteps(steps, device=noise.device)
        self.latents = noise * scheduler.init_noise_sigma

    def step(self, unet: nn.Module, conditions: dict[str, Any], timestep: Tensor) -> None:
        """Takes one step; `conditions` are those of a batch of two: without and with the prompt."""
        synchronize(self.latents.device)
        start = time.perf_counter()
        sample = self.scheduler.scale_model_input(torch.cat([self.latents, self.latents]), timestep)
        prediction = unet(sample, timestep, return_dict=False, **conditions)[0]
        without_prompt, with_prompt = prediction.chunk(2)
        guided = without_prompt + self.guidance_scale * (with_prompt - without_prompt)
        self.latents = self.scheduler.step(guided, timestep, self.latents, return_dict=False)[0]
        synchronize(self.latents.device)
        self.step_seconds.append(time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    """Waits for the work that a CUDA device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def compare(
    unet: nn.Module, start: Callable[[], Denoising], conditions: dict[str, Any]
) -> tuple[Comparison, Report]:
    """Runs two loops step by step in turn, with the UNet as it is and with it patched. Leaves it patched.

    Each takes one step before anything is timed, and the one that goes first changes with each step, so that
    neither gains from the other's caches or from the machine's clock.
    """
    plain, patched = start(), start()
    timesteps = plain.scheduler.timesteps
    warm_up(unet, start, conditions)
    seen = Report()
    with tqdm(total=2 * len(timesteps), desc="denoising, plain and patched", unit="step") as progress:
        for index, timestep in enumerate(timesteps):
            for run in (plain, patched) if index % 2 == 0 else (patched, plain):
                (patch if run is patched else unpatch)(unet)
                run.step(unet, conditions, timestep)
                if run is patched:
                    seen = report(unet)
                progress.update()
    patch(unet)
    return Comparison(plain.latents, patched.latents, plain.step_seconds, patched.step_seconds), seen


def warm_up(unet: nn.Module, start: Callable[[], Denoising], conditions: dict[str, Any]) -> None:
    """One step in each way, whose results are dropped."""
    for prepare in (unpatch, patch):
        run = start()
        prepare(unet)
        run.step(unet, conditions, run.scheduler.timesteps[0])


@torch.inference_mode()
def denoise(unet: nn.Module, run: Denoising, conditions: dict[str, Any], description: str) -> Tensor:
    """The final latents of one whole loop with the UNet as it is."""
    for timestep in tqdm(run.scheduler.timesteps, desc=description, unit="step"):
        run.step(unet, conditions, timestep)
    return run.latents
