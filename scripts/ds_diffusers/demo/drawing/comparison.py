"""The same drawings as diffusers makes them, patched, and patched with int8 weights."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ...command_line import UserError
from ...patching import patch
from ...quantization import quantize
from ...reporting import Report, report
from ..comparison import Difference, difference, dtype_name, reference_dtype
from .digits import SIZE, Classifier
from .drawing import GUIDANCE_SCALE, STEPS, draw
from .model import digit_of, load_model, start_noise
from .picture import picture

PROMPTS = (
    "zero",
    "a red one",
    "the digit two in blue",
    "3",
    "a drawing of a green four",
    "an orange 5",
    "a drawing of the digit six",
    "the number seven in red",
    "a purple eight",
    "9 in blue",
)
DRAWINGS_OF_PROMPT = 2
# One drawing in so many is made in the other dtype too: many CPUs have no fast way to compute in bfloat16.
OTHER_STRIDE = 2
WHITE = 255  # of a pixel, in whose units differences are stated


@dataclass
class Way:
    """Drawings [N, 3, 32, 32], 0 to 1, made in one way; with a `stride`, every so many of them alone."""

    name: str
    drawings: Tensor
    step_seconds: list[float]
    stride: int = 1

    def recognised(self, classifier: Classifier, digits: Sequence[int | None]) -> int:
        """Number of the drawings in which the classifier sees the digit that was asked for."""
        seen = classifier.classify(self.drawings).tolist()
        return sum(found == wanted for found, wanted in zip(seen, digits, strict=True) if wanted is not None)


@dataclass
class Ways:
    """What the same prompts and noise gave in each way; `other` is plain in the other dtype."""

    plain: Way
    patched: Way
    int8: Way
    other: Way
    blocks: Report

    @property
    def shown(self) -> tuple[Way, Way, Way]:
        """Those that the picture shows, from left to right."""
        return self.plain, self.patched, self.int8

    @property
    def finite(self) -> bool:
        """Whether all drawings that the picture shows are."""
        return all(bool(way.drawings.isfinite().all()) for way in self.shown)

    def from_plain(self, way: Way) -> Difference:
        """Of pixels, 0 to 255."""
        return difference(WHITE * self.plain.drawings[:: way.stride], WHITE * way.drawings)


def draw_in_all_ways(prompts: Sequence[str], seed: int, device: torch.device, dtype: torch.dtype) -> Ways:
    """Draws once for each prompt, in each way; ValueError for a prompt with a word that the model lacks."""
    model = load_model().to(device, dtype)
    noise = start_noise(len(prompts), seed)

    def draw_as(name: str, stride: int = 1) -> Way:
        made = draw(model, prompts[::stride], noise[::stride], STEPS, GUIDANCE_SCALE, f"drawing, {name}")
        return Way(name, *made, stride)

    plain = draw_as("diffusers")
    patch(model.unet)
    patched = draw_as("patched")
    blocks = report(model.unet)
    quantize(model.unet)
    int8 = draw_as("patched int8")
    other_dtype = reference_dtype(dtype)
    model = load_model().to(device, other_dtype)
    return Ways(plain, patched, int8, draw_as(dtype_name(other_dtype), OTHER_STRIDE), blocks)


def run_drawing(settings: argparse.Namespace, file: Path) -> bool:
    """Draws the settings' prompts in all ways, writes the picture and prints how alike the drawings are;
    False, and neither of both, where a drawing is not finite."""
    check_prompts(settings.prompts)
    prompts = [prompt for prompt in settings.prompts for _ in range(DRAWINGS_OF_PROMPT)]
    ways = draw_in_all_ways(prompts, settings.seed, settings.device, settings.dtype)
    if not ways.finite:
        return False
    classifier = Classifier()
    digits = [digit_of(prompt) for prompt in prompts]
    asked = sum(digit is not None for digit in digits)
    titles = [title(ways, way, way.recognised(classifier, digits), asked) for way in ways.shown]
    groups = [way.drawings.unflatten(0, (-1, DRAWINGS_OF_PROMPT)) for way in ways.shown]
    picture([prompt or "(no words)" for prompt in settings.prompts], titles, groups).save(file)
    print_drawing(settings, ways, classifier, digits)
    print(f"picture          {file}\n", flush=True)
    return True


def check_prompts(prompts: Sequence[str]) -> None:
    """UserError for a prompt that the model does not understand."""
    try:
        load_model().text_encoder.tokens(prompts)
    except ValueError as error:
        raise UserError(f"--prompts: {error}") from error


def title(ways: Ways, way: Way, recognised: int, asked: int) -> list[str]:
    """The lines above a way's drawings in the picture."""
    lines = [way.name, f"{recognised} of {asked} recognised"]
    if way is ways.plain:
        return lines
    return [*lines, "differs by at most", f"{ways.from_plain(way).largest:.2g} of {WHITE}"]


def print_drawing(
    settings: argparse.Namespace, ways: Ways, classifier: Classifier, digits: Sequence[int | None]
) -> None:
    """Prints what was drawn, how fast, and how alike the drawings are. `digits`: those that were asked for."""
    own, other = dtype_name(settings.dtype), ways.other.name
    seconds = ", ".join(f"{median(way.step_seconds):.3g} {way.name}" for way in ways.shown)
    counts = ", ".join(f"{way.recognised(classifier, digits)} {way.name}" for way in ways.shown)
    asked = sum(digit is not None for digit in digits)

    def stated(way: Way) -> str:
        found = ways.from_plain(way)
        return f"{found.largest:.2g} largest, {found.mean:.2g} mean"

    print(
        f"\ndrawings         {len(digits)} of {SIZE} x {SIZE} pixels by a model of our own, steps: {STEPS}, "
        f"{own} on {settings.device}\n"
        f"blocks           {str(ways.blocks).replace(chr(10), chr(10) + ' ' * 17)}\n"
        f"seconds a step   {seconds}\n"
        f"pixels           their differences, where black is 0 and white {WHITE}:\n"
        f"                 {stated(ways.patched)}: patched, from plain\n"
        f"                 {stated(ways.int8)}: patched with int8 weights, from plain\n"
        f"                 {stated(ways.other)}: plain {other}, from plain {own}, one drawing in "
        f"{OTHER_STRIDE}\n"
        f"recognised       {counts}, of {asked}, by a support vector machine that is right for "
        f"{classifier.accuracy:.1%} of {classifier.held_out} held-out digits"
    )
