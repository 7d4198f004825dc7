# shellcheck shell=bash
# Sourced by the other scripts: the folder of the clone in `root`, its virtual environment in front of PATH, and the
# machine's CUDA compiler behind it where the machine keeps it outside PATH.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH="$root/.venv/bin:$PATH"
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  PATH="$PATH:/usr/local/cuda/bin"
fi
export PATH

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}
