# shellcheck shell=bash
# Sourced by the other scripts: the folder of the clone in `root`, its virtual
# environment in front of PATH, and the machine's CUDA compiler behind it where the machine keeps it outside
# PATH.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH="$root/.venv/bin:$PATH"
if ! command -v nvcc >/dev/null && [ -x /usr/local/cuda/bin/nvcc ]; then
  PATH="$PATH:/usr/local/cuda/bin"
fi
export PATH

# Whether there is a CUDA compiler that knows all the architectures that the library is built for.
has_cuda_compiler() {
  local release
  command -v nvcc >/dev/null || return 1
  release=$(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\).*/\1/p')
  [ "${release:-0}" -ge 13 ]
}

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# Prints the architecture to compile for to run on this machine's first GPU, e.g. 90a-real; fails where there
# is none.
gpu_architecture() {
  local capability
  command -v nvidia-smi >/dev/null || return 1
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  case $capability in
    '' | *[!0-9]*) return 1 ;;
    90) echo 90a-real ;;
    *) echo "$capability-real" ;;
  esac
}
