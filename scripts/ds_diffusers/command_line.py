"""What the commands share: errors in one sentence, devices by name, and a sign of life."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .library import load


class UserError(Exception):
    """Something that the user can change, said in one sentence."""


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of ending the process."""

    def error(self, message: str) -> None:
        """Called by argparse for a wrong argument."""
        raise UserError(message)


def first_line(error: BaseException) -> str:
    """Of its message; the name of its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def exit_code(command: Callable[[], int]) -> int:
    """What the command returns; 2 where it raises UserError or memory runs out, which is said on stderr."""
    try:
        return command()
    except UserError as error:
        message = str(error)
    except (MemoryError, RuntimeError) as error:
        message = lack_of_memory(error)
        if message is None:
            raise
    print(f"error: {message}", file=sys.stderr)
    return 2


def missing_package(command: str, error: ModuleNotFoundError, extra: str = "diffusers") -> int:
    """Says which package a command lacks, and the extra that brings it, and returns the exit code."""
    print(
        f"error: {command} needs the package {error.name}: pip install 'ds_diffusers[{extra}]'",
        file=sys.stderr,
    )
    return 2


def load_library() -> None:
    """As ds_diffusers.load; UserError where it cannot be loaded."""
    try:
        load()
    except RuntimeError as error:
        raise UserError(str(error)) from error


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows on stderr, while it lasts, what takes long and for how long already."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(what, file=sys.stderr, flush=True)
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield


def lack_of_memory(error: Exception) -> str | None:
    """What to tell the user where the error is about memory."""
    # For the CPU, and for what an operator allocates, PyTorch has no class of its own.
    if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in str(error):
        return "the GPU has too little free memory; use a smaller --size or a 16-bit --dtype"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return "this machine has too little free memory; use a smaller --size or --dtype bfloat16"
    return None


def named_device(name: str) -> torch.device:
    """The device of --device; UserError for any but a CPU or a CUDA device, which need not be there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {name}, must be cpu, cuda or cuda:N")
    return device


def present_device(name: str | None) -> torch.device:
    """The device of --device, None for cuda where there is a GPU; UserError where it is not there."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    device = named_device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            raise UserError(f"--device is {name}, but PyTorch finds no GPU here; use --device cpu")
        if (device.index or 0) >= count:
            raise UserError(f"--device is {name}, must be one of cuda:0 to cuda:{count - 1}")
    return device
