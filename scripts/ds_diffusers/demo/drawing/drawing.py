"""Draws with the model: prompts in, drawings out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..denoising import Denoising, denoise
from .model import DrawingModel, from_squares

STEPS, GUIDANCE_SCALE = 20, 2.0


@torch.inference_mode()
def draw(
    model: DrawingModel,
    prompts: Sequence[str],
    noise: Tensor,
    steps: int,
    guidance_scale: float,
    description: str,
) -> tuple[Tensor, list[float]]:
    """One drawing for each prompt, all at once: float32 [N, 3, 32, 32] on the CPU, 0 to 1, and the seconds of
    each step. Computed in the model's dtype on its device, from `noise`, which `start_noise` makes.

    Raises ValueError for a prompt with a word that the model does not know.
    """
    tokens = model.text_encoder.tokens([*("" for _ in prompts), *prompts])
    text = model.text_encoder(tokens.to(model.unet.device))
    start = noise.to(model.unet.device, model.unet.dtype)
    run = Denoising(model.scheduler(), start, steps, guidance_scale)
    samples = denoise(model.unet, run, {"encoder_hidden_states": text}, description)
    return from_squares(samples), run.step_seconds
