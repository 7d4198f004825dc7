"""Runs a benchmark, prints its tables, writes its file and draws its plot."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.utils import logging

import ds_diffusers
from ds_diffusers.command_line import UserError

from . import block, compare, operators, overhead, plots, results, tables, unet
from .block_tables import block_tables
from .compare_tables import comparison_table
from .compiling import empty_caches
from .environment import device_facts, environment
from .operator_tables import operator_tables
from .overhead_tables import overhead_table
from .rates import Rates, measured_rates
from .settings import parse
from .unet_tables import unet_table


def run(arguments: Sequence[str] | None) -> int:
    """As bench.main, with all packages there."""
    try:
        settings = parse(arguments)
        if settings.benchmark == "plot":
            return run_plot(settings)
        tables.table("", [], [])  # says now, not after minutes, that rich is missing
        if settings.benchmark == "compare":
            return run_compare(settings)
        return _measure(settings)
    except UserError as error:
        message = str(error)
    except torch.OutOfMemoryError:
        message = "the GPU has too little free memory; measure smaller shapes"
    print(f"error: {message}", file=sys.stderr)
    return 2


def run_plot(settings: argparse.Namespace) -> int:
    for file in settings.files:
        plots.draw(results.read(file), settings.output or file.with_suffix(".png"))
    return 0


def run_compare(settings: argparse.Namespace) -> int:
    """Returns 1 where something of ours became slower."""
    contents = [results.read(file) for file in settings.files]
    both = zip(settings.files, contents, strict=True)
    found = compare.compare(*(compare.times_in(file, content) for file, content in both))
    if not found.changes:
        raise UserError(f"{settings.files[0]} and {settings.files[1]} have no time in common")
    for difference in compare.differences(*(content["environment"] for content in contents)):
        print(f"warning: {difference}", file=sys.stderr)
    tables.show([comparison_table(found, settings.files)])
    return int(any(each.key.ours for each in found.slower))


def _measure(settings: argparse.Namespace) -> int:
    if getattr(settings, "plot", None) is not None:
        plots.pyplot()  # says now that matplotlib is missing
    if settings.device.type == "cuda":
        torch.cuda.set_device(settings.device)
    ds_diffusers.load()
    logging.set_verbosity_error()  # otherwise each change of dtype is commented on
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\._dynamo")
    with empty_caches():
        return BENCHMARKS[settings.benchmark](settings)


def run_block(settings: argparse.Namespace) -> int:
    rates = measured_rates(settings.device, settings.dtypes)
    return finish(settings, {"block": block.run(settings, rates)}, rates)


def run_unet(settings: argparse.Namespace) -> int:
    return finish(settings, {"unet": unet.run(settings)})


def run_operators(settings: argparse.Namespace) -> int:
    rates = measured_rates(settings.device, settings.dtypes)
    return finish(settings, {"ops": operators.run(settings, rates)}, rates)


def run_cpu(settings: argparse.Namespace) -> int:
    rates = measured_rates(settings.device, settings.dtypes)
    of_blocks = argparse.Namespace(**vars(settings) | {"shapes": settings.blocks})
    runs = {"ops": operators.run(settings, rates), "block": block.run(of_blocks, rates)}
    return finish(settings, runs, rates)


def run_overhead(settings: argparse.Namespace) -> int:
    return finish(settings, {"overhead": overhead.run(settings)})


BENCHMARKS: dict[str, Callable[[argparse.Namespace], int]] = {
    "block": run_block,
    "unet": run_unet,
    "ops": run_operators,
    "cpu": run_cpu,
    "overhead": run_overhead,
}
AS_JSON: dict[str, Callable[[Any], dict[str, Any]]] = {
    "block": block.as_json,
    "unet": unet.as_json,
    "ops": operators.as_json,
    "overhead": overhead.as_json,
}


def finish(settings: argparse.Namespace, runs: dict[str, Iterator[Any]], rates: Rates | None = None) -> int:
    """Takes the results of each benchmark in `runs`, and returns 1 where a way to compute failed, else 0."""
    found: dict[str, list[Any]] = {name: [] for name in runs}
    written: list[dict[str, Any]] = []
    for name, run_results in runs.items():
        for result in run_results:
            found[name].append(result)
            written.append({"benchmark": name} | AS_JSON[name](result))
            if settings.json is not None:
                results.write(settings.json, content(settings, written, rates))
    print_heading(settings)
    tables.show([table for name in runs for table in tables_of(name, found[name], settings, rates)])
    if getattr(settings, "plot", None) is not None:
        plots.draw(content(settings, written, rates), settings.plot)
    variants = [noted for each in written for noted in each.get("variants", {}).values()]
    return int(any(noted["failure"] for noted in variants))


def tables_of(
    name: str, found: Sequence[Any], settings: argparse.Namespace, rates: Rates | None
) -> list[Any]:
    """Of the operators and the block, one group of tables for each dtype."""
    if name == "unet":
        return [unet_table(found)]
    if name == "overhead":
        return [overhead_table(found)]
    make = block_tables if name == "block" else operator_tables
    on_gpu = settings.device.type == "cuda"
    of_dtypes = ([result for result in found if result.dtype == dtype] for dtype in settings.dtypes)
    return [table for of_dtype in of_dtypes for table in make(of_dtype, rates, on_gpu)]


def content(
    settings: argparse.Namespace, written: list[dict[str, Any]], rates: Rates | None
) -> dict[str, Any]:
    """Of the JSON file."""
    facts = environment(settings.device, settings.commit) | (rates.as_json() if rates else {})
    return results.content(settings.benchmark, facts, plain(settings), written)


def plain(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings as JSON can hold them."""

    def converted(value: Any) -> Any:
        if isinstance(value, list):
            return [converted(each) for each in value]
        return value if isinstance(value, int) else str(value)

    left_out = ("json", "plot", "commit")
    named = {name: value for name, value in vars(settings).items() if name not in left_out}
    return {name: converted(value) for name, value in named.items()}


def print_heading(settings: argparse.Namespace) -> None:
    facts = environment(settings.device, settings.commit)
    shown = ("torch", "diffusers", "cuda", "cudnn")
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in shown)
    print(f"{device_facts(settings.device)['name']}; {versions}; commit {facts['commit'] or 'unknown'}")
