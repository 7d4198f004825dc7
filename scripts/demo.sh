#!/usr/bin/env bash
# Sets this machine up, builds and installs ds_diffusers into .venv, and runs the main job: a denoising loop
# of Stable Diffusion as diffusers runs it and patched.
#
#   scripts/demo.sh [--cpu] [the options of python -m ds_diffusers.demo: --help lists them]
#
#   --cpu  build and use the CPU library alone
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

setup=()
build=(-C cmake.define.DS_CUDA=AUTO)
run=()
for argument in "$@"; do
  case $argument in
    --cpu)
      setup=(--cpu)
      build=(-C cmake.define.DS_CUDA=OFF)
      run+=(--device cpu)
      ;;
    *) run+=("$argument") ;;
  esac
done

"$root/scripts/setup.sh" "${setup[@]}"

if [ ${#setup[@]} -eq 0 ]; then
  if ! command -v nvcc >/dev/null; then
    say "no nvcc: building the CPU library alone"
  elif architecture=$(gpu_architecture); then
    # One is built in a fraction of the time that all take.
    build+=(-C "cmake.define.DS_CUDA_ARCHITECTURES=$architecture")
  fi
fi
say "building and installing ds_diffusers into .venv"
"$root/.venv/bin/python" -m pip install --quiet --no-build-isolation --no-deps --force-reinstall \
  "${build[@]}" "$root"

say "running the main job"
exec "$root/.venv/bin/python" -m ds_diffusers.demo "${run[@]}"
