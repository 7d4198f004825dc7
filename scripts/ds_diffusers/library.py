"""Finds libds_diffusers.so, loads it into PyTorch, and registers the operators' gradients."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import torch

MINIMUM_TORCH = (2, 10)
LIBRARY_VARIABLE = "DS_DIFFUSERS_LIBRARY"
LIBRARY_NAME = "libds_diffusers.so"
CUDA_MODULE_NAME = "libds_diffusers_cuda.so"

_lock = threading.Lock()
_loaded = False
_cuda_module_found = False


def load() -> None:
    """Loads the library into PyTorch: afterwards `torch.ops.ds_diffusers.*` are there, with their gradients.

    The library is the file that the environment variable DS_DIFFUSERS_LIBRARY names, else the one installed
    with this package. Calling it again, from any thread, does nothing. Raises RuntimeError, which says what
    to do, where PyTorch is too old or the library is missing or cannot be loaded; a later call tries again.
    Warns, once, where there is a GPU and the library was built without its CUDA kernels.
    """
    if not _loaded:
        _load_once()


def has_cuda_module() -> bool:
    """Whether the CUDA kernels lie beside the loaded library. Without them it computes on CPU tensors
    alone."""
    return _cuda_module_found


def library_path() -> Path:
    """The file that `load` loads, which may be missing."""
    named = os.environ.get(LIBRARY_VARIABLE)
    return Path(named) if named else Path(__file__).parent / "lib" / LIBRARY_NAME


def _load_once() -> None:
    global _loaded, _cuda_module_found
    with _lock:
        if _loaded:
            return
        # The library refers to functions that an older PyTorch lacks, so this comes before loading it.
        check_torch_version(torch.__version__)
        path = existing_library_path().resolve()
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            raise RuntimeError(
                f"ds_diffusers: {path} cannot be loaded: {error.__cause__ or error}"
            ) from error
        if not hasattr(torch.ops.ds_diffusers, "block_forward"):
            raise RuntimeError(f"ds_diffusers: {path} registers no operators, must be {LIBRARY_NAME}")

        from .gradients import register_gradients

        register_gradients()
        _cuda_module_found = (path.parent / CUDA_MODULE_NAME).is_file()
        _loaded = True
    if not _cuda_module_found and torch.cuda.is_available():
        # pip does not show what the build says.
        warnings.warn(
            f"ds_diffusers: {path.parent / CUDA_MODULE_NAME} is missing (a build without nvcc makes none): "
            "operators refuse CUDA tensors, and patched blocks on a GPU run as diffusers' own. Install "
            "ds_diffusers from a build made with nvcc (pip install -C cmake.define.DS_CUDA=ON . fails "
            "without it)",
            RuntimeWarning,
            stacklevel=3,
        )


def check_torch_version(version: str) -> None:
    """Raises RuntimeError unless `version`, as torch.__version__ has it, is at least MINIMUM_TORCH."""
    major, minor = version.split(".")[:2]
    if (int(major), int(minor)) < MINIMUM_TORCH:
        needed = ".".join(map(str, MINIMUM_TORCH))
        raise RuntimeError(
            f"ds_diffusers: PyTorch is {version}, must be {needed} or newer: pip install 'torch>={needed}'"
        )


def existing_library_path() -> Path:
    """`library_path()`; raises RuntimeError where there is no such file."""
    path = library_path()
    if path.is_file():
        return path
    if os.environ.get(LIBRARY_VARIABLE):
        raise RuntimeError(
            f"ds_diffusers: {LIBRARY_VARIABLE} is {path}, which is no file, "
            f"must be the path of {LIBRARY_NAME}"
        )
    raise RuntimeError(
        f"ds_diffusers: {path} is missing: install the package (pip install .), "
        f"or build the library and set {LIBRARY_VARIABLE} to the path of {LIBRARY_NAME}"
    )
