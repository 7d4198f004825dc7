#!/usr/bin/env bash
# Sets this machine up, builds and installs ds_diffusers into .venv, and runs the main job: drawings of a small
# text-to-image model, and a denoising loop of Stable Diffusion, as diffusers runs them and patched.
#
#   scripts/demo.sh [--cpu] [the options of python -m ds_diffusers.demo: --help lists them]
#
#   --cpu  build and use the CPU library alone
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

print_help() {
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  if [ -x "$root/.venv/bin/python" ] && "$root/.venv/bin/python" -c 'import ds_diffusers' 2>/dev/null; then
    echo
    "$root/.venv/bin/python" -m ds_diffusers.demo --help
  fi
}

setup=()
# Kept, so that the next time compiles only what has changed.
build=(-C build-dir="$root/build/demo")
run=()
for argument in "$@"; do
  case $argument in
    -h | --help)
      print_help
      exit 0
      ;;
    --cpu)
      setup=(--cpu)
      run+=(--device cpu)
      ;;
    *) run+=("$argument") ;;
  esac
done

"$root/scripts/setup.sh" "${setup[@]}"

if [ ${#setup[@]} -ne 0 ]; then
  build+=(-C cmake.define.DS_CUDA=OFF)
elif has_cuda_compiler; then
  build+=(-C cmake.define.DS_CUDA=ON)
else
  build+=(-C cmake.define.DS_CUDA=OFF)
  say "no nvcc: building the CPU library alone"
fi
say "building and installing ds_diffusers into .venv"
"$root/.venv/bin/python" -m pip install --quiet --no-build-isolation --no-deps --force-reinstall \
  "${build[@]}" "$root"

say "running the main job"
exec "$root/.venv/bin/python" -m ds_diffusers.demo "${run[@]}"
