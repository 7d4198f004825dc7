"""Loading the library: twice, from several copies, without its CUDA module, with errors that help."""

# labels: torch gpu
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ds_diffusers
from ds_diffusers.library import library_path

CPU_CALL = "print(torch.ops.ds_diffusers.layer_norm(torch.tensor([[1.0, 3.0]])).tolist())"


def run(script: str, *arguments: object, library: Path | None = None) -> subprocess.CompletedProcess:
    """Runs a script in a Python of its own, where nothing is loaded yet."""
    environment = os.environ | {"DS_DIFFUSERS_LIBRARY": str(library or library_path())}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(ds_diffusers.__file__).parent.parent), *sys.path])
    command = [sys.executable, "-c", "import sys, torch\n" + script, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def check_runs(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def lonely_library(tmp_path: Path) -> Path:
    """A copy of the library in a folder without the CUDA module."""
    return Path(shutil.copy(library_path(), tmp_path / "libds_diffusers.so"))


def test_loading_again_is_harmless() -> None:
    script = "for _ in range(3): torch.ops.load_library(sys.argv[1])\n" + CPU_CALL
    script += "\nimport ds_diffusers\nds_diffusers.load(); ds_diffusers.load()\n" + CPU_CALL
    lines = check_runs(run(script, library_path())).splitlines()
    assert len(lines) == 2 and lines[0] == lines[1]


def test_second_copy_is_harmless(lonely_library: Path) -> None:
    """Another file with the same operators: the first one goes on serving."""
    script = "for path in sys.argv[1:]: torch.ops.load_library(path)\n" + CPU_CALL
    check_runs(run(script, library_path(), lonely_library))


def test_library_loads_without_the_package() -> None:
    script = "torch.ops.load_library(sys.argv[1])\nassert 'ds_diffusers' not in sys.modules\n" + CPU_CALL
    check_runs(run(script, library_path()))


def test_cpu_works_without_the_cuda_module(lonely_library: Path) -> None:
    script = "import ds_diffusers\nds_diffusers.load()\n" + CPU_CALL
    check_runs(run(script, library=lonely_library))


@pytest.mark.parametrize("gpu", [True, False])
def test_missing_cuda_module_is_warned_of(gpu: bool, lonely_library: Path) -> None:
    """Once, and only where there is a GPU to use it."""
    script = f"""
import warnings, ds_diffusers
from unittest import mock
with mock.patch("torch.cuda.is_available", lambda: {gpu}), warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    for _ in range(2):
        ds_diffusers.load()
print(len(found), *(warning.message for warning in found))
"""
    printed = check_runs(run(script, library=lonely_library))
    missing = lonely_library.parent / "libds_diffusers_cuda.so"
    assert printed.startswith(f"1 ds_diffusers: {missing} is missing" if gpu else "0")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_missing_cuda_module_is_named(lonely_library: Path) -> None:
    """An error at each CUDA call; the CPU goes on working."""
    script = f"""
torch.ops.load_library(sys.argv[1])
for _ in range(2):
    try:
        torch.ops.ds_diffusers.layer_norm(torch.ones(2, 2, device="cuda"))
    except RuntimeError as error:
        print(error)
{CPU_CALL}
"""
    first, second, _ = check_runs(run(script, lonely_library)).splitlines()
    assert first == second
    assert "libds_diffusers_cuda.so" in first and "install ds_diffusers from a build made with nvcc" in first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_unsuitable_cuda_module_is_refused(lonely_library: Path) -> None:
    """Any other library in its place."""
    shutil.copy(library_path(), lonely_library.parent / "libds_diffusers_cuda.so")
    script = """
torch.ops.load_library(sys.argv[1])
try:
    torch.ops.ds_diffusers.layer_norm(torch.ones(2, 2, device="cuda"))
except RuntimeError as error:
    print(error)
"""
    assert "install both libraries from the same build" in check_runs(run(script, lonely_library))
