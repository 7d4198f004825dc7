"""python -m ds_diffusers bench|demo|export|info|report"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from .command_line import missing_package

USAGE = """usage: python -m ds_diffusers COMMAND ...

commands:
  bench   measures the operators, the block and whole UNets beside PyTorch's own ways (bench --help)
  demo    runs a denoising loop as diffusers does and patched, and compares them (demo --help)
  export  writes a patched UNet as TorchScript, torch.export's or AOTInductor's file (export --help)
  info    prints versions, libraries and devices, what is used, and what is not and why
  report  runs a patched UNet once and prints how each of its blocks ran (report --help)"""


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
    """Measures; see its --help. Returns the exit code."""
    return bench_package().main(arguments)


def demo(arguments: Sequence[str]) -> int:
    """Compares a model as diffusers runs it with the patched one; see its --help. Returns the exit code."""
    from .demo import main as demo_main

    return demo_main(arguments)


def export(arguments: Sequence[str]) -> int:
    """Writes a patched UNet for other programs; see its --help. Returns the exit code."""
    try:
        from .export_command import run
    except ModuleNotFoundError as error:
        return missing_package("export", error)
    return run(arguments)


def info(arguments: Sequence[str]) -> int:
    """Prints versions, libraries and devices. Returns the exit code."""
    from .information import main as info_main

    return info_main(arguments)


def report(arguments: Sequence[str]) -> int:
    """Prints how the blocks of a patched UNet run; see its --help. Returns the exit code."""
    try:
        from .report_command import run
    except ModuleNotFoundError as error:
        return missing_package("report", error)
    return run(arguments)


def bench_package() -> ModuleType:
    """ds_diffusers.bench, which lies inside the installed package, and in the source tree beside it."""
    name = f"{__package__}.bench"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return importlib.import_module(name)
    folder = Path(__file__).resolve().parent.parent / "bench"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    try:
        spec.loader.exec_module(package)
    except BaseException:
        del sys.modules[name]
        raise
    return package


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "bench": bench,
    "demo": demo,
    "export": export,
    "info": info,
    "report": report,
}

if __name__ == "__main__":
    sys.exit(main())
