"""Trains the text-to-image model that the demo draws with, and writes its two files.

    python scripts/tools/train_digits.py [--output FOLDER] [--help]

The data are scikit-learn's digits, three quarters of them, turned, enlarged and moved a little and painted in
a colour, with prompts made from their labels: "seven", "a red 7", "a drawing of the digit seven in red". A
prompt without a colour is for black ink. One prompt in ten is left empty, so that the model can be guided.
The loss is the mean squared error of the velocity that the UNet predicts (v-prediction: T. Salimans, J. Ho,
Progressive Distillation for Fast Sampling of Diffusion Models, 2022); the weights that are kept are a moving
average.

The same seed gives the same weights on the same machine but for sums whose order a GPU does not fix.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch import Tensor, nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ds_diffusers.demo.drawing.digits import COLOURS, SIZE, Classifier, Digits, digits, ink, paint
from ds_diffusers.demo.drawing.drawing import GUIDANCE_SCALE, STEPS, draw
from ds_diffusers.demo.drawing.model import (
    NUMBER_WORDS,
    SQUARE,
    DrawingModel,
    WordEncoder,
    start_noise,
    to_squares,
)

PLAIN_PROMPTS = (
    "{digit}",
    "a {digit}",
    "the digit {digit}",
    "the number {digit}",
    "a drawing of the digit {digit}",
    "a drawing of a {digit}",
)
COLOURED_PROMPTS = (
    "{colour} {digit}",
    "a {colour} {digit}",
    "{digit} in {colour}",
    "the digit {digit} in {colour}",
    "the number {digit} in {colour}",
    "a drawing of a {colour} {digit}",
    "a drawing of the digit {digit} in {colour}",
)
ARTICLES = {" a orange": " an orange", " a eight": " an eight", " a 8": " an 8"}
LONGEST_PROMPT = 8
TEXT_WIDTH = 64

EMPTY_SHARE = 0.1
LARGEST_ANGLE, LARGEST_ENLARGEMENT, LARGEST_SHIFT = math.radians(8), 0.06, 0.04

WARM_UP_STEPS = 100
AVERAGE_DECAY = 0.998
GRADIENT_NORM = 1.0

SAMPLES_OF_DIGIT = 20
LOSS_POINTS = 10  # of the summary


def prompts_for(digit: int, colour: str) -> list[str]:
    """Every way to ask for a digit in a colour; a prompt that names no colour means black."""
    templates = COLOURED_PROMPTS if colour != "black" else COLOURED_PROMPTS + 2 * PLAIN_PROMPTS
    prompts = []
    for template in templates:
        for name in (NUMBER_WORDS[digit], str(digit)):
            prompt = " " + template.format(digit=name, colour=colour)
            for wrong, right in ARTICLES.items():
                prompt = prompt.replace(wrong, right)
            prompts.append(prompt.strip())
    return prompts


def vocabulary() -> list[str]:
    """The words of all prompts, in order of the alphabet."""
    prompts = [prompt for digit in range(10) for colour in COLOURS for prompt in prompts_for(digit, colour)]
    return sorted({word for prompt in prompts for word in prompt.split()})


def configuration(channels: list[int], heads: list[int], layers: int) -> dict[str, Any]:
    levels = len(channels)
    return {
        "unet": {
            "sample_size": SIZE // SQUARE,
            "in_channels": 3 * SQUARE**2,
            "out_channels": 3 * SQUARE**2,
            "block_out_channels": channels,
            "layers_per_block": layers,
            "down_block_types": levels * ["CrossAttnDownBlock2D"],
            "up_block_types": levels * ["CrossAttnUpBlock2D"],
            "attention_head_dim": heads,  # their number, in spite of its name
            "cross_attention_dim": TEXT_WIDTH,
            "norm_num_groups": 8,
        },
        "text_encoder": {"words": vocabulary(), "length": LONGEST_PROMPT, "width": TEXT_WIDTH},
        "scheduler": {
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": True,
        },
    }


class Batches:
    """Drawings as the UNet sees them, and their prompts' tokens, from a generator."""

    def __init__(self, data: Digits, encoder: WordEncoder, seed: int, device: torch.device) -> None:
        self.counts, self.labels = data.counts.to(device), data.labels.to(device)
        self.colours = torch.tensor(list(COLOURS.values()), device=device)
        self.generator = torch.Generator(device).manual_seed(seed)
        prompts = [[prompts_for(digit, colour) for colour in COLOURS] for digit in range(10)]
        self.variants = math.lcm(*(len(variants) for variants in prompts[0]))
        # Repeated, so that each digit and colour has as many: [10, colours, variants, length]
        tokens = [
            [encoder.tokens(variants).repeat(self.variants // len(variants), 1) for variants in row]
            for row in prompts
        ]
        self.tokens = torch.stack([torch.stack(row) for row in tokens]).to(device)

    def _chosen(self, choices: int, size: int) -> Tensor:
        return torch.randint(choices, (size,), generator=self.generator, device=self.counts.device)

    def uniform(self, largest: float, *shape: int) -> Tensor:
        """Between -largest and largest."""
        values = torch.rand(shape, generator=self.generator, device=self.counts.device)
        return (2 * values - 1) * largest

    def next(self, size: int) -> tuple[Tensor, Tensor]:
        """float32 [size, 12, 16, 16], int64 [size, length]."""
        which, colour = self._chosen(len(self.labels), size), self._chosen(len(self.colours), size)
        covered = ink(
            self.counts[which],
            angle=self.uniform(LARGEST_ANGLE, size),
            scale=1 + self.uniform(LARGEST_ENLARGEMENT, size),
            shift=self.uniform(LARGEST_SHIFT, size, 2),
        )
        tokens = self.tokens[self.labels[which], colour, self._chosen(self.variants, size)]
        is_empty = self.uniform(1.0, size, 1) < 2 * EMPTY_SHARE - 1
        return to_squares(paint(covered, self.colours[colour])), tokens.masked_fill(is_empty, 0)


@dataclass
class Trained:
    model: DrawingModel
    losses: list[float]  # means of equal parts of the run
    seconds: float


def train(settings: argparse.Namespace, device: torch.device) -> Trained:
    torch.manual_seed(settings.seed)
    model = DrawingModel(configuration(settings.channels, settings.heads, settings.layers)).to(device)
    average = [parameter.detach().clone() for parameter in model.parameters()]
    batches = Batches(digits()[0], model.text_encoder, settings.seed, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, settings.steps))
    scheduler = model.scheduler()
    losses: list[Tensor] = []
    start = time.perf_counter()
    with tqdm(total=settings.steps, unit="step", mininterval=5) as progress:
        for step in range(settings.steps):
            loss = velocity_loss(model, scheduler, batches, settings.batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            # Early on the average follows faster, so as not to keep the weights of the start.
            decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [parameter.detach() for parameter in model.parameters()], 1 - decay)
            losses.append(loss.detach())
            progress.update()
    with torch.no_grad():
        for parameter, kept in zip(model.parameters(), average, strict=True):
            parameter.copy_(kept)
    means = [part.mean().item() for part in torch.stack(losses).tensor_split(LOSS_POINTS) if len(part)]
    rounded = model.half().float()  # as they are kept
    return Trained(rounded.eval().requires_grad_(False), means, time.perf_counter() - start)


def learning_rate(step: int, steps: int) -> float:
    """The share of the largest one: a straight rise, then half a cosine down to nothing."""
    return min((step + 1) / WARM_UP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def velocity_loss(model: DrawingModel, scheduler: DDIMScheduler, batches: Batches, size: int) -> Tensor:
    clean, tokens = batches.next(size)
    generator, device = batches.generator, clean.device
    noise = torch.randn(clean.shape, generator=generator, device=device)
    steps = scheduler.config.num_train_timesteps
    timesteps = torch.randint(steps, (size,), generator=generator, device=device)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    wanted = scheduler.get_velocity(clean, noise, timesteps)
    # Around the UNet alone: the places in a drawing that a batch is made of need more than bfloat16's digits.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        predicted = model.unet(noisy, timesteps, model.text_encoder(tokens), return_dict=False)[0]
    return F.mse_loss(predicted.float(), wanted)


def sample_prompts() -> tuple[list[str], Tensor]:
    """Prompts for each digit in turn, in each colour in turn and each wording; and the digits, int64 [N]."""
    prompts, wanted = [], []
    for number in range(SAMPLES_OF_DIGIT):
        for digit in range(10):
            variants = prompts_for(digit, list(COLOURS)[number % len(COLOURS)])
            prompts.append(variants[number % len(variants)])
            wanted.append(digit)
    return prompts, torch.tensor(wanted)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, threads: {torch.get_num_threads()}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains the model that the demo draws with.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default="output", metavar="FOLDER", help="for the files")
    parser.add_argument("--steps", type=int, default=5000, metavar="N", help="of training")
    parser.add_argument("--batch", type=int, default=512, metavar="N", help="drawings in a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="NUMBER", help="the largest")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=[48, 96], metavar="N", help="of each level"
    )
    parser.add_argument(
        "--heads", type=int, nargs="+", default=[3, 6], metavar="N", help="of attention, in each level"
    )
    parser.add_argument("--layers", type=int, default=1, metavar="N", help="of each level")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    return parser.parse_args()


def main() -> None:
    settings = parse()
    settings.output.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained = train(settings, device)
    model, losses = trained.model, [round(loss, 4) for loss in trained.losses]
    print(f"{trained.seconds:.0f} s on {describe(device)}; loss of each tenth: {losses}")

    prompts, wanted = sample_prompts()
    noise = start_noise(len(prompts), settings.seed)
    drawings, _ = draw(model, prompts, noise, STEPS, GUIDANCE_SCALE, "drawing")
    recognised = (Classifier().classify(drawings) == wanted).double().mean().item()
    print(f"{recognised:.1%} of {len(prompts)} drawings are recognised")

    model.config["training"] = {
        "command": training_command(settings),
        "device": describe(device),
        "seconds": round(trained.seconds),
        "loss": losses,
        "recognised": recognised,
        "samples": len(prompts),
    }
    model.save(settings.output)
    for file in sorted(settings.output.glob("digits.*")):
        print(f"{file}: {file.stat().st_size / 1e6:.2f} MB")


def training_command(settings: argparse.Namespace) -> str:
    channels, heads = (" ".join(map(str, numbers)) for numbers in (settings.channels, settings.heads))
    return (
        f"python scripts/tools/train_digits.py --steps {settings.steps} --batch {settings.batch} "
        f"--learning-rate {settings.learning_rate:g} --channels {channels} --heads {heads} "
        f"--layers {settings.layers} --seed {settings.seed}"
    )


if __name__ == "__main__":
    main()
