"""Checks that clang-format would leave every tracked C, C++ and CUDA file as it is; --fix rewrites them."""

import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = ["*.c", "*.h", "*.cc", "*.cu", "*.cuh"]


def pinned_version() -> str:
    for line in (ROOT / "tests" / "requirements.txt").read_text().splitlines():
        if line.startswith("clang-format=="):
            return line.removeprefix("clang-format==").strip()
    raise SystemExit("tests/requirements.txt does not pin clang-format")


def main() -> int:
    wanted = pinned_version()
    try:
        found = version("clang-format")
    except PackageNotFoundError:
        found = "none"
    if found != wanted:
        print(f"clang-format {wanted} is needed, this Python has {found}: install tests/requirements.txt")
        return 1
    program = shutil.which("clang-format", path=sysconfig.get_path("scripts"))
    tracked = subprocess.run(
        ["git", "ls-files", "-z", *SUFFIXES], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = [name for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()]
    if not files:
        print("git lists no C files: the check needs a clone, not an archive")
        return 1
    how = ["-i"] if sys.argv[1:] == ["--fix"] else ["--dry-run", "--Werror"]
    code = subprocess.run([program, *how, *files], cwd=ROOT).returncode
    print(f"{len(files)} files, clang-format {wanted}")
    if code != 0:
        print("to format them: python tests/checks/check_format.py --fix")
    return code


if __name__ == "__main__":
    sys.exit(main())
