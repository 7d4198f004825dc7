#!/usr/bin/env bash
# Builds ds_diffusers with its tests, runs all of them, and prints how many ran, were skipped and failed.
#
#   scripts/test.sh [--no-setup] [--cpu] [--gpu-only] [--sanitize]
#
#   --no-setup  take the machine and its python3 as they are, installing nothing
#   --cpu       the CPU library alone
#   --gpu-only  the tests that need a GPU alone
#   --sanitize  run these under compute-sanitizer's memcheck (implies --gpu-only)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

setup=yes cpu=no gpu_only=no sanitize=no
for argument in "$@"; do
  case $argument in
    --no-setup) setup=no ;;
    --cpu) cpu=yes ;;
    --gpu-only) gpu_only=yes ;;
    --sanitize) gpu_only=yes sanitize=yes ;;
    *) fail "unknown argument $argument; known: --no-setup, --cpu, --gpu-only, --sanitize" ;;
  esac
done

jobs=$(nproc)
failed=0
summaries=()

build() {
  local preset=$1
  shift
  say "building (preset $preset)"
  cmake --preset "$preset" "$@"
  cmake --build --preset "$preset" --parallel "$jobs"
}

run_tests() {
  local folder=$1 summary=$2
  shift 2
  say "testing in $folder"
  rm -f "$folder/ctest.json" "$folder/ctest.xml"
  find "$folder/tests" -name '*.xml' -delete
  ctest --test-dir "$folder" --show-only=json-v1 "$@" >"$folder/ctest.json"
  ctest --test-dir "$folder" --output-junit "$root/$folder/ctest.xml" --output-on-failure --no-tests=error \
    --parallel "$jobs" "$@" || failed=1
  summaries+=("$summary")
}

if [ $setup = yes ]; then
  arguments=(--tests)
  [ $cpu = no ] || arguments+=(--cpu)
  "$root/scripts/setup.sh" "${arguments[@]}"
fi

preset=release
arguments=(-D "DS_PYTHON=$(command -v python3)" -D DS_TEST_TORCH=ON -D "DS_TEST_SHARDS=$jobs")
if [ $cpu = yes ]; then
  arguments+=(-D DS_CUDA=OFF)
elif has_cuda_compiler; then
  preset=cuda
  # One architecture: all of them would take several times as long.
  arguments+=(-D "DS_CUDA_ARCHITECTURES=$(gpu_architecture || echo 90a-real)")
elif [ $gpu_only = yes ]; then
  fail "the GPU tests need nvcc on PATH or in /usr/local/cuda/bin"
else
  say "no nvcc: testing the CPU library alone"
fi
build $preset "${arguments[@]}"

if [ $gpu_only = yes ]; then
  export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -m gpu"
  if [ $sanitize = yes ]; then
    exec python3 scripts/memcheck.py "build/$preset"
  fi
  run_tests build/$preset build/$preset -L '^gpu$'
else
  run_tests build/$preset build/$preset
  build asan -D "DS_TEST_SHARDS=$jobs"
  run_tests build/asan build/asan=sanitize -L '^unit$'
fi

python3 scripts/test_summary.py "${summaries[@]}" || failed=1
exit $failed
