"""Checks, in an environment whose PyTorch is too old, that the installed package and its library say so.

Neither a crash nor a success will do: each attempt runs in a process of its own and has to raise.
"""

import subprocess
import sys

ATTEMPTS = {
    "the package": ("import ds_diffusers; ds_diffusers.load()", "RuntimeError", "must be 2.10 or newer"),
    "the library alone": (
        "import torch; from ds_diffusers import library; torch.ops.load_library(library.library_path()); "
        "torch.ops.ds_diffusers.layer_norm(torch.ones(2, 3), torch.ones(3))",
        "RuntimeError",
        "torch is too old, must be 2.10 or newer",
    ),
}


def main() -> int:
    failed = False
    for what, (code, error, message) in ATTEMPTS.items():
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        last = (run.stderr.strip().splitlines() or ["no output"])[-1]
        right = run.returncode == 1 and last.startswith(error) and message in last
        print(f"{what}: exit code {run.returncode}: {last}: {'right' if right else 'wrong'}")
        failed = failed or not right
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
