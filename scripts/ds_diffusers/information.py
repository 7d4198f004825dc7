"""What `python -m ds_diffusers info` prints: versions, the libraries that are loaded, the devices."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__
from .library import CUDA_MODULE_NAME, has_cuda_module, library_path, load


def main(arguments: Sequence[str]) -> int:
    """Prints it and returns the exit code: 0, 1 where the library cannot be loaded, 2 for an argument."""
    if arguments:
        print(f"error: info takes no arguments, got {' '.join(arguments)}", file=sys.stderr)
        return 2
    failure = None
    try:
        load()
    except RuntimeError as error:
        failure = str(error)
    for name, value in facts(loaded=failure is None):
        print(f"{name:<14} {value}")
    if failure is not None:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


def facts(loaded: bool) -> list[tuple[str, str]]:
    """Names and values in the order to print them."""
    found = [("ds_diffusers", __version__), ("library", str(library_path()) if loaded else "not loaded")]
    if loaded:
        missing = f"{CUDA_MODULE_NAME} is missing: operators run on CPU tensors alone"
        found.append(("CUDA module", "present" if has_cuda_module() else missing))
    found += [
        ("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"),
        ("diffusers", _package_version("diffusers")),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
    ]
    return found + [(f"cuda:{index}", _gpu(index)) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> str:
    properties = torch.cuda.get_device_properties(index)
    return (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.total_memory / 2**30:.0f} GiB"
    )


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
