#!/usr/bin/env bash
# Makes a Debian or Ubuntu machine ready to build and run ds_diffusers: the system packages that are missing,
# a virtual environment in .venv, Python packages, and the CUDA compiler where the machine has none. Quick
# when nothing has changed since the last time.
#
#   scripts/setup.sh [--cpu] [--tests]
#
#   --cpu    no CUDA compiler: the CPU library alone will be built
#   --tests  also what the tests and checks need
#   PYTHON   (environment) the interpreter to make .venv with; default: the first of python3, python3.13 … python3.10
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

venv="$root/.venv"
cpu=no
tests=no
for argument in "$@"; do
  case $argument in
    --cpu) cpu=yes ;;
    --tests) tests=yes ;;
    *) fail "unknown argument $argument; known: --cpu, --tests" ;;
  esac
done

install_system_packages() {
  [ $# -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "this machine lacks $*, and has no apt-get to install them with"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "this machine lacks $*: install them as root, then run this again"
    as_root=(sudo)
  fi
  say "installing system packages: $*"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "$@" >/dev/null
}

is_suitable_python() {
  command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
    # The environment's own interpreter would make it depend on itself.
    candidate=$(PATH=${PATH#"$venv/bin:"} command -v "$candidate") || continue
    if is_suitable_python "$candidate"; then
      echo "$candidate"
      return 0
    fi
  done
  return 1
}

missing_system_packages() {
  command -v gcc >/dev/null || echo gcc
  command -v g++ >/dev/null || echo g++
  [ -e /usr/include/stdio.h ] || echo libc6-dev
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  if [ $tests = yes ]; then
    command -v git >/dev/null || echo git
    [ -e /usr/include/gtest/gtest.h ] || [ -e /usr/local/include/gtest/gtest.h ] || echo libgtest-dev
    [ -e /usr/include/cjson/cJSON.h ] || [ -e /usr/local/include/cjson/cJSON.h ] || echo libcjson-dev
  fi
}

# Debian splits ensurepip and the headers from its interpreters; torch.compile includes Python.h.
missing_python_packages() {
  local python=$1 version
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$version-venv"
  [ $tests = no ] || "$python" -c '
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo "python$version-dev"
}

make_environment() {
  # Programs in an environment hold its path: one that was moved with its clone is made anew.
  if [ -e "$venv/ds_location" ] && [ "$(cat "$venv/ds_location")" != "$venv" ]; then
    rm -rf "$venv"
  fi
  local python
  if is_suitable_python "$venv/bin/python"; then
    python=$("$venv/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    # shellcheck disable=SC2046
    install_system_packages $(missing_python_packages "$python")
    return
  fi
  if ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || fail "PYTHON is $PYTHON, must be an interpreter of Python 3.10 or newer"
    install_system_packages python3
    python=$(find_python) || fail "Python 3.10 or newer is needed, and this machine's packages have none"
  fi
  # shellcheck disable=SC2046
  install_system_packages $(missing_python_packages "$python")
  say "making a virtual environment in .venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
  echo "$venv" >"$venv/ds_location"
}

install_python_packages() {
  local files=("$root/scripts/requirements.txt") stamp="$venv/ds_requirements" file wanted arguments=()
  [ $tests = no ] || files+=("$root/tests/requirements.txt")
  wanted=$(sha256sum "${files[@]}")
  # An environment with the tests' packages has the others as well.
  if [ -e "$stamp" ] && ! printf '%s\n' "$wanted" | grep -v -x -F -q -f "$stamp"; then
    return
  fi
  say "installing Python packages into .venv (PyTorch alone is a few gigabytes)"
  for file in "${files[@]}"; do arguments+=(-r "$file"); done
  "$venv/bin/python" -m pip install --quiet --upgrade 'pip>=23.1'
  "$venv/bin/python" -m pip install --quiet "${arguments[@]}"
  printf '%s\n' "$wanted" >"$stamp"
}

# The wheels of the CUDA toolkit that PyTorch brought, completed with its compiler: same versions, so that
# PyTorch's requirements stay fulfilled. A PyTorch without such wheels gets the newest CUDA 13.
install_cuda_compiler() {
  local version toolkit
  version=$("$venv/bin/python" -c '
from importlib.metadata import PackageNotFoundError, version
try:
    found = version("cuda-toolkit")
except PackageNotFoundError:
    found = ""
print("==" + found if found.startswith("13.") else ">=13,<14")')
  say "no nvcc of CUDA 13 or newer found: installing the CUDA compiler (cuda-toolkit$version) into .venv"
  if ! "$venv/bin/python" -m pip install --quiet torch "cuda-toolkit[nvcc]$version" nvidia-cuda-cccl; then
    say "the CUDA compiler could not be installed; the CPU library alone will be built"
    return
  fi
  toolkit=$(echo "$venv"/lib/python3*/site-packages/nvidia/cu13)
  # Names that the wheels leave out: the folder where some releases of nvcc look for libraries, and the runtime's
  # name without a version, by which CMake knows a toolkit.
  [ -e "$toolkit/lib64" ] || ln -s lib "$toolkit/lib64"
  [ -e "$toolkit/lib/libcudart.so" ] || ln -s libcudart.so.13 "$toolkit/lib/libcudart.so"
  if ! echo 'int main(void) { return 0; }' | "$toolkit/bin/nvcc" -x cu -o "$toolkit/works" -; then
    say "the CUDA compiler in $toolkit does not work; the CPU library alone will be built"
    return
  fi
  rm "$toolkit/works"
  # nvcc finds its toolkit from its own path, which a symbolic link would hide.
  printf '#!/bin/sh\nexec "%s" "$@"\n' "$toolkit/bin/nvcc" >"$venv/bin/nvcc"
  chmod +x "$venv/bin/nvcc"
}

# shellcheck disable=SC2046
install_system_packages $(missing_system_packages)
make_environment
install_python_packages
if [ $cpu = no ] && ! has_cuda_compiler; then
  install_cuda_compiler
fi
