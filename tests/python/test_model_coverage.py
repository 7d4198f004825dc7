"""Each model class of diffusers that can hold a BasicTransformerBlock, patched, computes what it does
unpatched, and its blocks run as README's table says."""

# labels: torch diffusers
import copy
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "tools"))

import ds_diffusers
import model_coverage
from model_cases import CASES, WITHOUT_BLOCKS
from torch import nn

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:.*copy keyword", "ignore:.*float32"),
]

CLASSES = model_coverage.model_classes()


def test_every_class_has_a_case() -> None:
    unknown = set(CLASSES) - set(CASES) - WITHOUT_BLOCKS
    assert not unknown, (
        f"{', '.join(sorted(unknown))}: may hold a BasicTransformerBlock, and scripts/tools/model_cases.py "
        "has no small instance"
    )


def test_search_finds_blocks_at_any_depth() -> None:
    assert {"UNet2DConditionModel", "ControlNetModel", "PriorTransformer", "MotionAdapter"} <= set(CLASSES)
    assert not {"FluxTransformer2DModel", "UNet1DModel", "T2IAdapter"} & set(CLASSES)


@pytest.mark.parametrize("name", [name for name in CLASSES if name in CASES])
def test_model(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.make().eval()
    if case.arguments is not None:
        check_results(model, name, torch.bfloat16)
        check_results(model, name, torch.float32)
    else:
        ds_diffusers.patch(model)
    check_readme(name, model)


def check_results(model: nn.Module, name: str, dtype: torch.dtype) -> None:
    """Leaves the model patched, in float32."""
    case = CASES[name]
    original = copy.deepcopy(ds_diffusers.unpatch(model)).to(dtype)
    patched = ds_diffusers.patch(copy.deepcopy(original))
    reference = model_coverage.run(copy.deepcopy(original).float(), case, torch.float32)
    unpatched_error = (model_coverage.run(original, case, dtype) - reference).norm()
    error = (model_coverage.run(patched, case, dtype) - reference).norm()
    rounding = torch.finfo(dtype).eps * (8 if dtype == torch.float32 else 0.5) * reference.norm()
    assert error <= 2 * unpatched_error + rounding
    for block in ds_diffusers.report(patched):
        counts = {
            "block_forward": block.fused_calls,
            "segments": block.segmented_calls,
            "original": block.original_calls,
        }
        assert sum(counts.values()) == counts[block.path]
    ds_diffusers.patch(model)


def check_readme(name: str, model: nn.Module) -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| {name} |")]
    found = model_coverage.row(model_coverage.coverage_of(name, model))
    assert rows == [found], "README's table is not true: python scripts/tools/model_coverage.py --readme"
