"""What all Python tests share: the loaded library, the devices, a fixed seed."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
if importlib.util.find_spec("ds_diffusers") is None:
    sys.path.insert(0, str(TESTS.parent / "scripts"))

import ds_diffusers  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: runs on a CUDA device; skipped where there is none")
    config.addinivalue_line("markers", "diffusers: needs the package diffusers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notes in the JUnit file which tests need a GPU, so that they can be counted by label."""
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.user_properties.append(("label", "gpu"))


def pytest_sessionstart() -> None:
    try:
        ds_diffusers.load()
    except RuntimeError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; the tests on "cuda" are skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)
