"""The JSON file of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FORMAT = 1


def write(
    file: Path, benchmark: str, environment: dict[str, Any], settings: dict[str, Any], results: list[Any]
) -> None:
    """Written anew after each result, so that a run that is stopped leaves what it has."""
    content = {
        "format": FORMAT,
        "benchmark": benchmark,
        "environment": environment,
        "settings": settings,
        "results": results,
    }
    written = file.with_name(file.name + ".part")
    written.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    written.replace(file)
