"""Runs a benchmark, prints its tables and writes its file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

import ds_diffusers

from . import block, block_tables, results, tables
from .compiling import empty_caches
from .environment import device_facts, environment
from .errors import UserError
from .settings import parse


def run(arguments: Sequence[str] | None) -> int:
    """As bench.main, with all packages there."""
    try:
        settings = parse(arguments)
        tables.table("", [], [])  # says now, not after minutes, that rich is missing
        if settings.device.type == "cuda":
            torch.cuda.set_device(settings.device)
        ds_diffusers.load()
        with empty_caches():
            return BENCHMARKS[settings.benchmark](settings)
    except UserError as error:
        message = str(error)
    except torch.OutOfMemoryError:
        message = "the GPU has too little free memory; measure smaller shapes"
    print(f"error: {message}", file=sys.stderr)
    return 2


def run_block(settings: argparse.Namespace) -> int:
    on_gpu = settings.device.type == "cuda"
    found: dict[torch.dtype, list[block.BlockResult]] = {}
    written: list[Any] = []
    for result in block.run(settings):
        found.setdefault(result.dtype, []).append(result)
        written.append(block.as_json(result))
        write(settings, written)
    print_heading(settings)
    tables.show([each for of_dtype in found.values() for each in block_tables.block_tables(of_dtype, on_gpu)])
    failed = any(
        noted.failure for of_dtype in found.values() for result in of_dtype for noted in result.variants.values()
    )
    return 1 if failed else 0


BENCHMARKS = {"block": run_block}


def write(settings: argparse.Namespace, written: list[Any]) -> None:
    if settings.json is not None:
        facts = environment(settings.device, settings.commit)
        results.write(settings.json, settings.benchmark, facts, plain(settings), written)


def plain(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings as JSON can hold them."""

    def converted(value: Any) -> Any:
        if isinstance(value, list):
            return [converted(each) for each in value]
        return value if isinstance(value, int) else str(value)

    return {name: converted(value) for name, value in vars(settings).items() if name not in ("json", "commit")}


def print_heading(settings: argparse.Namespace) -> None:
    facts = environment(settings.device, settings.commit)
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("torch", "diffusers", "cuda", "cudnn"))
    print(f"{device_facts(settings.device)['name']}; {versions}; commit {facts['commit'] or 'unknown'}")
