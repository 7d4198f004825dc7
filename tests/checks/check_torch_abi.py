"""Checks with torch-abi-audit that the built libraries use nothing of libtorch outside its stable ABI.

usage: check_torch_abi.py LIBRARY...
"""

import shutil
import subprocess
import sys
import sysconfig

SKIPPED = 77  # SKIP_RETURN_CODE of its CTest entry


def main(libraries: list[str]) -> int:
    program = shutil.which("torch-abi-audit", path=sysconfig.get_path("scripts"))
    if program is None and sys.version_info < (3, 11):
        print("check_torch_abi.py: Skipped\ntorch-abi-audit needs Python 3.11 or newer")
        return SKIPPED
    if program is None:
        print("torch-abi-audit is not installed in this Python: install tests/requirements.txt")
        return 1
    codes = [
        subprocess.run([program, "--check", "torch", "--verbose", library]).returncode
        for library in libraries
    ]
    return max(codes, default=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
