"""The JSON file of a run: written, and read again to be compared and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ds_diffusers.command_line import UserError

FORMAT = 2
KEYS = {"benchmark": str, "environment": dict, "settings": dict, "results": list}


def content(
    benchmark: str, environment: dict[str, Any], settings: dict[str, Any], results: list[dict[str, Any]]
) -> dict[str, Any]:
    """Each of `results` has the benchmark that it is of under "benchmark"."""
    return {
        "format": FORMAT,
        "benchmark": benchmark,
        "environment": environment,
        "settings": settings,
        "results": results,
    }


def write(file: Path, content: dict[str, Any]) -> None:
    """Written anew after each result, so that a run that is stopped leaves what it has."""
    written = file.with_name(file.name + ".part")
    written.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    written.replace(file)


def read(file: Path) -> dict[str, Any]:
    """The content of a file; UserError where it cannot be read, or is no file of the benchmarks."""
    try:
        found = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file} is no JSON file: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), KEYS[key]) for key in KEYS):
        raise UserError(f"{file} must be a file that a benchmark wrote with --json")
    if found.get("format") != FORMAT:
        raise UserError(f"{file} has format {found.get('format')}, must be {FORMAT}: measure anew")
    if not found["results"]:
        raise UserError(f"{file} holds no results")
    return found
