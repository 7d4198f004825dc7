"""The benchmarks: ours beside PyTorch's other ways to compute the same, and beside the hardware's floor.

python -m ds_diffusers bench ops|block|unet|cpu|overhead   measures; tables on the terminal, --json, --plot
python -m ds_diffusers bench compare A.json B.json         what became slower or faster
python -m ds_diffusers bench plot FILE.json ...            draws what --json wrote
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a benchmark with command-line arguments (None: the process's own) and returns the exit code: 0, 1
    where a way to compute failed or `compare` finds that something of ours became slower, 2 for what the user
    can change, which is said in one sentence."""
    try:
        from .command import run
    except ModuleNotFoundError as error:
        print(
            f"error: the benchmarks need the package {error.name}: pip install 'ds_diffusers[bench]'",
            file=sys.stderr,
        )
        return 2
    return run(arguments)
