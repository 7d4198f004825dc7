"""Checks that the libraries export what they are meant to and nothing else, lest they clash with others.

usage: check_exported_symbols.py LIBRARY...
"""

import subprocess
import sys
from pathlib import Path

# The plugin registers its operators when it is loaded; nobody looks up a symbol in it.
EXPORTS: dict[str, set[str]] = {
    "libds_diffusers.so": set(),
    "libds_diffusers_cuda.so": {"ds_diffusers_cuda_module"},
}


def exported(library: Path) -> set[str]:
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", str(library)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True)
    return {line.split()[0] for line in listing.stdout.splitlines() if line.strip()}


def main(libraries: list[Path]) -> int:
    failed = not libraries
    for library in libraries:
        found, wanted = exported(library), EXPORTS[library.name]
        print(f"{library.name}: exports {len(found)} symbols, must export {len(wanted)}")
        for name in sorted(found - wanted):
            print(f"  exported, must be hidden: {name}")
        for name in sorted(wanted - found):
            print(f"  missing: {name}")
        failed = failed or found != wanted
    return int(failed)


if __name__ == "__main__":
    sys.exit(main([Path(argument) for argument in sys.argv[1:]]))
