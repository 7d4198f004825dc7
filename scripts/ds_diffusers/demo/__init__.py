"""The main job: one denoising loop as diffusers runs it and once more patched, timed and compared.

python -m ds_diffusers.demo --help
"""

from .main import main

__all__ = ["main"]
