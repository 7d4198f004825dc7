"""What the commands share: errors in one sentence, and devices by name."""

from __future__ import annotations

import argparse

import torch


class UserError(Exception):
    """Something that the user can change, said in one sentence."""


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of ending the process."""

    def error(self, message: str) -> None:
        raise UserError(message)


def named_device(name: str) -> torch.device:
    """The device of --device; UserError for any but a CPU or a CUDA device, which need not be there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device is {name}, must be cpu, cuda or cuda:N")
    return device
