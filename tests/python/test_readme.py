"""README's Python examples run as they stand."""

# labels: torch diffusers
import re
import zipfile
from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import ds_diffusers
from helpers.pipelines import write_pipeline

pytestmark = pytest.mark.diffusers

README = Path(__file__).resolve().parents[2] / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.fixture
def without_network_or_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any pipeline's name gives a small one, which stays in float32 on the CPU, and each takes two steps.
    Nothing is compiled, which takes half a minute: test_export_hosts does it."""
    folder = write_pipeline(tmp_path)
    load = diffusers.DiffusionPipeline.from_pretrained
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", lambda *_, **__: load(folder))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "to", lambda pipeline, *_: pipeline)
    call = diffusers.StableDiffusionPipeline.__call__
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline,
        "__call__",
        lambda pipeline, prompt: call(pipeline, prompt, num_inference_steps=2),
    )
    programs = {}

    def package_without_code(program: torch.export.ExportedProgram, package_path: str) -> str:
        programs[package_path] = program.module()
        with zipfile.ZipFile(package_path, "w") as archive:
            archive.writestr(f"{Path(package_path).stem}/data/aotinductor/model/model.so", "")
        return package_path

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", package_without_code)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path, **_: programs[path])
    monkeypatch.chdir(tmp_path)


def test_readme_has_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(number: int, without_network_or_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    variables: dict = {}
    with torch.inference_mode(False):
        exec(compile(EXAMPLES[number], f"README.md, Python example {number + 1}", "exec"), variables)
    if "image" in variables:
        assert variables["image"].size == (64, 64)
        printed = capsys.readouterr().out
        assert re.search(r"^(\d+) of \1 blocks run as block_forward$", printed, flags=re.MULTILINE), printed
    if "picture" in variables:
        assert variables["picture"].size == (64, 64)
        assert ds_diffusers.report(variables["pipeline"])[0].fused_calls == 2
    if "sample" in variables:
        expected = variables["unet"](**variables["inputs"]).sample
        torch.testing.assert_close(variables["sample"], expected)
    if "drawing" in variables:
        assert variables["drawing"].size == (64, 64)
        kinds = [type(module).__name__ for module in variables["pipeline"].unet.modules()]
        assert "DeepSpeedDiffusersTransformerBlock" in kinds and "BasicTransformerBlock" not in kinds
    if "compiled_library" in variables:
        assert variables["compiled_library"].is_file()
    if "normalised" in variables:
        expected = torch.nn.functional.layer_norm(variables["hidden_states"], (320,))
        torch.testing.assert_close(variables["normalised"], expected)
