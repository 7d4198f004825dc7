"""The demo's options for the drawing."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...command_line import UserError
from .comparison import PROMPTS

_OF_THE_COMPARISON = ("architecture", "size", "steps", "guidance_scale", "export")


def add_drawing_options(parser: argparse.ArgumentParser) -> None:
    """--drawing and --prompts."""
    parser.add_argument(
        "--drawing",
        choices=("yes", "no", "only"),
        help="whether to draw first with the small text-to-image model that comes along (default: yes, with "
        "--model no); only: nothing else",
    )
    parser.add_argument(
        "--prompts",
        nargs="+",
        metavar="PROMPT",
        help="what to draw, e.g. seven 'a red two' (default: ten prompts)",
    )


def complete_drawing_options(settings: argparse.Namespace) -> None:
    """Fills in their defaults and that of --output; before the other options' defaults are. Raises UserError
    for options that do not go together."""
    settings.drawing = settings.drawing or ("no" if settings.model else "yes")
    if settings.drawing == "no":
        if settings.prompts is not None:
            raise UserError("--prompts is for the drawing, which --model and --drawing no leave out")
    elif settings.model is not None:
        raise UserError("--drawing is of the model that comes along, must be no with --model")
    if settings.drawing == "only":
        for name in _OF_THE_COMPARISON:
            if getattr(settings, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} has no effect on the drawing: leave out one of both"
                )
    settings.prompts = settings.prompts or list(PROMPTS)
    # Only a folder that was asked for gets the latents as well.
    settings.latents = settings.output if settings.model is None else None
    if settings.drawing != "no":
        settings.output = settings.output or Path("output")
