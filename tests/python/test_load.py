"""Importing and loading: each in a new process, as a library cannot be unloaded."""

# labels: torch
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import ds_diffusers
import pytest
import torch
from ds_diffusers import library

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(ds_diffusers.__file__).parent


def run(program: str, **variables: str | None) -> str:
    """What a program prints in a new process; a variable that is None is unset."""
    environment = {"PYTHONPATH": str(PACKAGE.parent), **os.environ, **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


MESSAGE = """
    import ds_diffusers
    try:
        ds_diffusers.load()
    except RuntimeError as error:
        print(error)
"""


def test_importing_loads_nothing() -> None:
    program = """
        import sys, torch, ds_diffusers, ds_diffusers.ops, ds_diffusers.export
        print([name for name in ("diffusers", "rich") if name in sys.modules])
        print(hasattr(torch.ops.ds_diffusers, "layer_norm"))
    """
    assert run(program, DS_DIFFUSERS_LIBRARY="/no/such/file") == "[]\nFalse"


def test_functions_load_the_library() -> None:
    program = """
        import sys, torch, ds_diffusers
        print(tuple(ds_diffusers.ops.layer_norm(torch.ones(2, 3)).shape), "diffusers" in sys.modules)
    """
    assert run(program) == "(2, 3) False"


def test_patch_loads_the_library() -> None:
    pytest.importorskip("diffusers")
    program = """
        import warnings, torch, ds_diffusers
        warnings.simplefilter("ignore")
        ds_diffusers.patch(torch.nn.Linear(1, 1))
        print(hasattr(torch.ops.ds_diffusers, "layer_norm"))
    """
    assert run(program) == "True"


def test_a_missing_file_that_the_variable_names() -> None:
    message = run(MESSAGE, DS_DIFFUSERS_LIBRARY="/no/such/libds_diffusers.so")
    assert message == (
        "ds_diffusers: DS_DIFFUSERS_LIBRARY is /no/such/libds_diffusers.so, which is no file, "
        "must be the path of libds_diffusers.so"
    )


@pytest.mark.skipif((PACKAGE / "lib" / library.LIBRARY_NAME).exists(), reason="the package has its library")
@pytest.mark.parametrize("value", [None, ""])
def test_a_package_without_a_library(value: str | None) -> None:
    message = run(MESSAGE, DS_DIFFUSERS_LIBRARY=value)
    assert message == (
        f"ds_diffusers: {PACKAGE / 'lib' / 'libds_diffusers.so'} is missing: "
        "install the package (pip install .), "
        "or build the library and set DS_DIFFUSERS_LIBRARY to the path of libds_diffusers.so"
    )


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    file = tmp_path / "libds_diffusers.so"
    file.write_text("no library")
    message = run(MESSAGE, DS_DIFFUSERS_LIBRARY=str(file))
    assert re.fullmatch(f"ds_diffusers: {file} cannot be loaded: .*", message)
    assert "file too short" in message or "invalid ELF header" in message


def test_another_library() -> None:
    program = "import _ctypes; print(_ctypes.__file__)"
    file = run(program)
    message = run(MESSAGE, DS_DIFFUSERS_LIBRARY=file)
    assert (
        message == f"ds_diffusers: {Path(file).resolve()} registers no operators, must be libds_diffusers.so"
    )


def test_loading_after_a_failure() -> None:
    program = """
        import os, torch, ds_diffusers
        right = os.environ["RIGHT"]
        try:
            ds_diffusers.load()
        except RuntimeError:
            os.environ["DS_DIFFUSERS_LIBRARY"] = right
            ds_diffusers.load()
            print(tuple(torch.ops.ds_diffusers.layer_norm(torch.ones(2, 3)).shape))
    """
    assert run(program, DS_DIFFUSERS_LIBRARY="/no/such/file", RIGHT=str(library.library_path())) == "(2, 3)"


@pytest.mark.parametrize("step", range(5))
def test_loading_after_a_failure_half_way(step: int) -> None:
    """Of an operator's registration, each in turn. The exception is kept, with all that it refers to."""
    program = f"""
        import torch, ds_diffusers
        from unittest import mock
        impl, calls = torch.library.Library.impl, []
        def fail_once(*arguments, **named):
            calls.append(arguments)
            if len(calls) == {step} + 1:
                raise RuntimeError("half-way")
            return impl(*arguments, **named)
        with mock.patch.object(torch.library.Library, "impl", fail_once):
            try:
                ds_diffusers.load()
            except RuntimeError as error:
                kept = error
            ds_diffusers.load()
        x = torch.randn(2, 6, requires_grad=True)
        torch.ops.ds_diffusers.layer_norm(x).sum().backward()
        torch.ops.ds_diffusers.gated_activation(x, None, 3).sum().backward()
        print(kept, x.grad is not None)
    """
    assert run(program) == "half-way True"


def test_unpatching_needs_no_library() -> None:
    program = """
        import torch, ds_diffusers
        model = torch.nn.Linear(1, 1)
        print(ds_diffusers.unpatch(model) is model)
    """
    assert run(program, DS_DIFFUSERS_LIBRARY="/no/such/file") == "True"


def test_loading_from_many_threads() -> None:
    program = """
        import threading, torch, ds_diffusers
        from unittest import mock
        barrier = threading.Barrier(16)
        errors = []
        def load():
            barrier.wait()
            try:
                ds_diffusers.ops.layer_norm(torch.ones(2, 3))
            except BaseException as error:
                errors.append(error)
        with mock.patch.object(torch.ops, "load_library", wraps=torch.ops.load_library) as load_library:
            threads = [threading.Thread(target=load) for _ in range(16)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            print(errors, load_library.call_count)
    """
    assert run(program) == "[] 1"


def test_loading_what_was_loaded_by_hand() -> None:
    program = """
        import torch, ds_diffusers
        from ds_diffusers.library import library_path
        torch.ops.load_library(str(library_path()))
        ds_diffusers.load()
        x = torch.randn(2, 3, requires_grad=True)
        torch.ops.ds_diffusers.layer_norm(x).sum().backward()
        torch.ops.load_library(str(library_path()))
        ds_diffusers.load()
        print(x.grad is not None)
    """
    assert run(program) == "True"


def test_an_old_pytorch_is_told_before_loading() -> None:
    program = """
        import torch, ds_diffusers
        torch.__version__ = "2.9.1+cu128"
        try:
            ds_diffusers.load()
        except RuntimeError as error:
            print(error, hasattr(torch.ops.ds_diffusers, "layer_norm"))
    """
    expected = "ds_diffusers: PyTorch is 2.9.1+cu128, must be 2.10 or newer: pip install 'torch>=2.10' False"
    assert run(program) == expected


@pytest.mark.parametrize(
    "version", ["2.10.0", "2.10.0a0+git1234567", "2.11.0.dev20260101+cpu", "3.0", "10.0.0"]
)
def test_versions_that_are_new_enough(version: str) -> None:
    library.check_torch_version(version)


@pytest.mark.parametrize("version", ["2.9.9", "1.13.1", "2.0.0+cu118"])
def test_versions_that_are_too_old(version: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(version)):
        library.check_torch_version(version)


def test_the_cuda_module_is_looked_for_beside_the_library() -> None:
    beside = library.library_path().resolve().parent / library.CUDA_MODULE_NAME
    assert library.has_cuda_module() == beside.is_file()


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not in a source tree")
def test_one_version_everywhere() -> None:
    found = {
        re.search(pattern, (ROOT / file).read_text(), re.MULTILINE).group(1)
        for file, pattern in {
            "pyproject.toml": r'^version = "(.*)"$',
            "CMakeLists.txt": r"^project\(ds_diffusers VERSION (\S+)",
        }.items()
    }
    assert found == {ds_diffusers.__version__}


def test_the_loaded_library_is_known_to_pytorch() -> None:
    assert str(library.library_path().resolve()) in torch.ops.loaded_libraries
