#!/usr/bin/env bash
# Builds one wheel and runs the Python tests with that same wheel in the oldest supported PyTorch and in the
# newest, each in an environment of its own, then checks that a PyTorch which is too old refuses it with an
# error that says so.
#
#   scripts/test_wheel.sh [--cpu] [--keep]
#
#   --cpu   a wheel of the CPU library alone
#   --keep  leave the environments in build/wheel_test (6 gigabytes each) for the next time
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$root"

# The lower bounds of pyproject.toml, the newest releases, and one release too old.
oldest=('torch==2.10.*' 'diffusers==0.35.*' 'transformers==4.56.*' 'peft==0.17.*')
newest=('torch>=2.10')
too_old=('torch==2.9.*')

cpu=no keep=no
for argument in "$@"; do
  case $argument in
    --cpu) cpu=yes ;;
    --keep) keep=yes ;;
    *) fail "unknown argument $argument; known: --cpu, --keep" ;;
  esac
done

work="$root/build/wheel_test"
mkdir -p "$work"
failed=0

make_environment() {
  local python="$1/bin/python"
  shift
  [ -x "$python" ] || "$root/.venv/bin/python" -m venv "${python%/bin/python}"
  "$python" -m pip install --quiet "$@"
}

forget_environment() {
  [ $keep = yes ] || rm -rf "$1"
}

test_in() {
  local venv="$work/$1"
  shift
  say "the wheel in an environment with $*"
  make_environment "$venv" "${wheel}[test]" "$@"
  "$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps "$wheel"
  (
    unset DS_DIFFUSERS_LIBRARY PYTHONPATH
    cd "$work"
    "$venv/bin/python" -c 'import ds_diffusers, torch; print("torch", torch.__version__, "with", ds_diffusers.__file__)'
    "$venv/bin/python" -m pytest -q -ra --rootdir "$root" "$root/tests/python"
  ) || failed=1
  forget_environment "$venv"
}

test_too_old() {
  local venv="$work/too_old"
  say "the wheel's library in an environment with ${too_old[*]}"
  make_environment "$venv" "${too_old[@]}" numpy
  "$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps "$wheel"
  (cd "$work" && "$venv/bin/python" "$root/tests/checks/check_old_torch.py") || failed=1
  forget_environment "$venv"
}

arguments=()
[ $cpu = no ] || arguments+=(--cpu)
"$root/scripts/setup.sh" "${arguments[@]}"

say "building the wheel"
define=AUTO
[ $cpu = no ] || define=OFF
rm -rf "$work/dist"
"$root/.venv/bin/python" -m pip wheel --quiet --no-build-isolation --no-deps -C "cmake.define.DS_CUDA=$define" \
  --wheel-dir "$work/dist" "$root"
wheel=$(echo "$work"/dist/*.whl)
"$root/.venv/bin/python" -m zipfile -l "$wheel" | grep -E '\.so ' || fail "the wheel holds no library"

test_in oldest "${oldest[@]}"
test_in newest "${newest[@]}"
test_too_old
if [ $failed = 0 ]; then say "the wheel passed"; else say "the wheel failed"; fi
exit $failed
