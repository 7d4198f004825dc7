"""python -m ds_diffusers bench|demo|info"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

USAGE = """usage: python -m ds_diffusers COMMAND ...

commands:
  bench   measures the operators, the block and whole UNets beside PyTorch's own ways (bench --help)
  demo    runs a denoising loop as diffusers does and patched, and compares them (demo --help)
  info    prints versions, libraries and devices"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command with its arguments (None: the process's own) and returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if not given or given[0] not in COMMANDS:
        what = f"{given[0]} is no command" if given else "a command is missing"
        print(f"error: {what}, must be one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[given[0]](given[1:])


def bench(arguments: Sequence[str]) -> int:
    return bench_package().main(arguments)


def demo(arguments: Sequence[str]) -> int:
    from .demo import main as demo_main

    return demo_main(arguments)


def info(arguments: Sequence[str]) -> int:
    from .information import main as info_main

    return info_main(arguments)


def bench_package() -> ModuleType:
    """The benchmarks: part of the installed package; in the source tree a folder beside this one."""
    inside = f"{__package__}.bench"
    try:
        return importlib.import_module(inside)
    except ModuleNotFoundError as error:
        if error.name != inside:
            raise
        return importlib.import_module("bench")


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"bench": bench, "demo": demo, "info": info}

if __name__ == "__main__":
    sys.exit(main())
