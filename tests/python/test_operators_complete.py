"""Every operator that the library registers is tested, documented and safe to train through: what adding one
takes beside its C code, so that nothing of it can be forgotten."""

# labels: torch
import re
from pathlib import Path

import ds_diffusers
import pytest
import torch
from helpers.operators import OPERATORS

NAMESPACE = "ds_diffusers::"
README = (Path(__file__).resolve().parents[2] / "README.md").read_text()

ds_diffusers.load()
REGISTERED = sorted(
    name.removeprefix(NAMESPACE)
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith(NAMESPACE)
)
every_registered = pytest.mark.parametrize("name", REGISTERED)


def test_there_are_operators() -> None:
    assert "layer_norm" in REGISTERED


@every_registered
def test_has_a_case_table(name: str) -> None:
    """tests/cases/<name>.py, which the tests run on."""
    assert name in [operator.name for operator in OPERATORS]


@every_registered
def test_has_a_documented_function(name: str) -> None:
    function = getattr(ds_diffusers.ops, name, None)
    assert function is not None and function.__doc__, f"ds_diffusers.ops lacks {name}"


@every_registered
def test_has_a_row_in_the_readme(name: str) -> None:
    assert re.search(rf"^\| `{name}\(", README, flags=re.MULTILINE), f"README.md has no row of {name}"


@every_registered
def test_has_a_gradient_or_refuses_one(name: str) -> None:
    """PyTorch lets a backward pass through an operator without either, with a warning and a missing
    gradient."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(NAMESPACE + name, "Autograd"), (
        f"ds_diffusers.gradients registers nothing for {name}"
    )
