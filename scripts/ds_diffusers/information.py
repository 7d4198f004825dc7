"""What `python -m ds_diffusers info` prints: versions, the libraries that are loaded, the devices, and what
is used on them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__
from .command_line import first_line
from .library import CUDA_MODULE_NAME, has_cuda_module, library_path, load

PACKAGES = ("diffusers", "transformers", "accelerate", "peft", "safetensors", "rich")
CAPABILITY_VARIABLE = "DS_DIFFUSERS_CPU_CAPABILITY"


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
    """Names and values in the order to print them; `loaded`: whether the library is."""
    found = [("ds_diffusers", __version__), ("library", str(library_path()) if loaded else "not loaded")]
    if loaded:
        missing = f"{CUDA_MODULE_NAME} is missing: operators run on CPU tensors alone"
        found.append(("CUDA module", "present" if has_cuda_module() else missing))
    found.append(("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"))
    found += [(name, _package_version(name)) for name in PACKAGES]
    found.append(("Python", f"{platform.python_version()} on {platform.platform()}"))
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)
    found.append(("C++ compiler", compiler or "none found: no torch.compile, no export as aotinductor"))
    found.append(("cpu", f"{_cpu()}: {_use('cpu', loaded)}"))
    for index in range(torch.cuda.device_count()):
        found.append((f"cuda:{index}", f"{_gpu(index)}: {_use(f'cuda:{index}', loaded)}"))
    if torch.cuda.device_count() == 0:
        built = "finds no GPU here" if torch.version.cuda else "is a build without CUDA"
        found.append(("cuda", f"not used: PyTorch {built}"))
    return found


def _use(device: str, loaded: bool) -> str:
    """Whether patched blocks run fused on a device, found out by running one."""
    if not loaded:
        return "not used: the library is not loaded"
    with torch.inference_mode():
        try:
            square = torch.eye(8, device=device)
            torch.ops.ds_diffusers.block_forward(
                square.unsqueeze(0),
                **{f"attn1_{name}_weight": square for name in ("q", "k", "v", "out")},
                ff_in_weight=torch.cat([square, square]),
                ff_out_weight=square,
                heads=1,
            ).sum().item()
        except RuntimeError as error:
            return f"not used: {first_line(error)}"
    return "blocks run fused, in float32, float16 and bfloat16"


def _cpu() -> str:
    limit = os.environ.get(CAPABILITY_VARIABLE)
    limited = f", kernels kept to {limit} by {CAPABILITY_VARIABLE}" if limit else ""
    return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads{limited}"


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
