"""Runs a benchmark, prints its tables and writes its file."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils import logging

import ds_diffusers
from ds_diffusers.command_line import UserError

from . import block, operators, overhead, results, tables, unet
from .block_tables import block_tables
from .compiling import empty_caches
from .environment import device_facts, environment
from .operator_tables import operator_table
from .overhead_tables import overhead_table
from .settings import parse
from .unet_tables import unet_table


def run(arguments: Sequence[str] | None) -> int:
    """As bench.main, with all packages there."""
    try:
        settings = parse(arguments)
        tables.table("", [], [])  # says now, not after minutes, that rich is missing
        if settings.device.type == "cuda":
            torch.cuda.set_device(settings.device)
        ds_diffusers.load()
        logging.set_verbosity_error()  # otherwise each change of dtype is commented on
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._dynamo")
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
    tables.show([each for of_dtype in found.values() for each in block_tables(of_dtype, on_gpu)])
    all_results = [result for of_dtype in found.values() for result in of_dtype]
    return int(any(noted.failure for result in all_results for noted in result.variants.values()))


def run_unet(settings: argparse.Namespace) -> int:
    found: list[unet.UNetResult] = []
    for result in unet.run(settings):
        found.append(result)
        write(settings, [unet.as_json(each) for each in found])
    print_heading(settings)
    tables.show([unet_table(found)])
    return int(any(step.failure for result in found for step in result.steps.values()))


def run_operators(settings: argparse.Namespace) -> int:
    bandwidth = operators.copy_bandwidth(settings.device)
    found: dict[torch.dtype, list[operators.OperatorResult]] = {}
    written: list[Any] = []
    for result in operators.run(settings):
        found.setdefault(result.dtype, []).append(result)
        written.append(operators.as_json(result))
        write(settings, written, copy_bytes_per_second=bandwidth)
    print_heading(settings)
    on_gpu = settings.device.type == "cuda"
    tables.show([operator_table(of_dtype, bandwidth, on_gpu) for of_dtype in found.values()])
    all_results = [result for of_dtype in found.values() for result in of_dtype]
    return int(any(noted.failure for result in all_results for noted in result.variants.values()))


def run_overhead(settings: argparse.Namespace) -> int:
    found = list(overhead.run(settings))
    write(settings, [overhead.as_json(result) for result in found])
    print_heading(settings)
    tables.show([overhead_table(found)])
    return 0


BENCHMARKS = {"block": run_block, "unet": run_unet, "ops": run_operators, "overhead": run_overhead}


def write(settings: argparse.Namespace, written: list[Any], **measured: float) -> None:
    if settings.json is not None:
        facts = environment(settings.device, settings.commit) | measured
        results.write(settings.json, settings.benchmark, facts, plain(settings), written)


def plain(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings as JSON can hold them."""

    def converted(value: Any) -> Any:
        if isinstance(value, list):
            return [converted(each) for each in value]
        return value if isinstance(value, int) else str(value)

    named = {name: value for name, value in vars(settings).items() if name not in ("json", "commit")}
    return {name: converted(value) for name, value in named.items()}


def print_heading(settings: argparse.Namespace) -> None:
    facts = environment(settings.device, settings.commit)
    shown = ("torch", "diffusers", "cuda", "cudnn")
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in shown)
    print(f"{device_facts(settings.device)['name']}; {versions}; commit {facts['commit'] or 'unknown'}")
