"""The main job: drawings of a small text-to-image model, and a denoising loop of Stable Diffusion, as
diffusers runs them and once more patched, timed and compared.

python -m ds_diffusers.demo --help
"""

from __future__ import annotations

from collections.abc import Sequence

from ..command_line import missing_package


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo with command-line arguments (None: the process's own) and returns the exit code: 0, 1
    where the result is not finite, 2 for what the user can change, which is said in one sentence."""
    try:
        from .command import run
    except ModuleNotFoundError as error:
        return missing_package("the demo", error, extra="demo")
    return run(arguments)
