"""The commands `export`, `report` and `info`: what they write and print, and how they refuse."""

# labels: torch diffusers
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("rich")

from ds_diffusers import export, library
from ds_diffusers.__main__ import main
from helpers.architectures import make_architectures_small
from helpers.pipelines import write_pipeline

pytestmark = pytest.mark.diffusers


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_architectures_small(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_export_as_torchscript(capsys: pytest.CaptureFixture[str]) -> None:
    """With --size, --batch and --other-sizes, the added conditions of SDXL, and all of its blocks fused."""
    arguments = ["--architecture", "sdxl", "--device", "cpu", "--dtype", "bfloat16", "--output", "unet.pt"]
    assert main(["export", *arguments, "--size", "64", "--other-sizes", "72", "--batch", "3"]) == 0
    printed = capsys.readouterr().out
    assert re.match(r"TorchScript of sdxl in unet.pt, [\d.]+ MB\n", printed)
    assert re.search(r"^(\d+) of \1 blocks run as block_forward$", printed, flags=re.MULTILINE)
    assert printed.endswith("compared with the patched UNet at 64 x 64, 72 x 72 pixels\n")
    (_, *names) = (argument.name for argument in torch.jit.load("unet.pt").forward.schema.arguments)
    assert names == ["sample", "timestep", "encoder_hidden_states", "text_embeds", "time_ids"]


def test_export_of_a_pipeline_as_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a batch of one, which is the only one then. Real programs: test_export."""
    given = {}

    def note(unet: torch.nn.Module, example: dict, path: Path, **named: object) -> None:
        given.update(named, example=example)
        path.write_bytes(b"")

    monkeypatch.setattr(export, "program", note)
    arguments = ["--model", str(write_pipeline(tmp_path)), "--device", "cpu", "--format", "program"]
    assert main(["export", *arguments, "--size", "64", "--batch", "1", "--output", "unet.pt2"]) == 0
    assert "a program of torch.export of " in capsys.readouterr().out
    assert given["example"]["sample"].shape == (1, 4, 8, 8)
    assert given["dynamic"] == {"sample": (2, 3), "encoder_hidden_states": (1,)}


def test_export_that_the_model_does_not_allow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the model does not allow: test_export."""

    def refuse(*arguments: object) -> None:
        raise export.ExportError("the exported model does not work with other_inputs[0]")

    monkeypatch.setattr(export, "torchscript", refuse)
    assert main(["export", "--device", "cpu", "--size", "64", "--output", "unet.pt"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: the exported model does not work with other_inputs[0]"


def test_export_as_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Compiling is test_export_hosts'."""
    given = {}

    def compile_nothing(unet: torch.nn.Module, path: Path, example: dict, **named: object) -> Path:
        given.update(named, example=example)
        if given.get("fails"):
            raise RuntimeError("no compiler\nand more")
        path.write_bytes(b"")
        return path

    monkeypatch.setattr(export, "aotinductor", compile_nothing)
    arguments = ["--device", "cpu", "--format", "aotinductor", "--size", "64", "--output", "unet.pt2"]
    assert main(["export", *arguments]) == 0
    assert given["dynamic"] is True and given["example"]["sample"].shape == (2, 4, 8, 8)
    assert "a package of AOTInductor of sd15 in unet.pt2" in capsys.readouterr().out
    given["fails"] = True
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: AOTInductor could not compile the UNet: no compiler"


@pytest.mark.parametrize("kind", ["architecture", "model"])
def test_report(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = str(write_pipeline(tmp_path)) if kind == "model" else "sd21"
    assert main(["report", f"--{kind}", value, "--device", "cpu", "--size", "64"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"(\d+) of \1 blocks run as block_forward", printed)
    assert "down_blocks.0.attentions.0.transformer_blocks.0" in printed


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^cpu +\w.*: blocks run fused, in float32, float16 and bfloat16$", printed, re.MULTILINE
    )
    for index in range(torch.cuda.device_count()):
        assert re.search(rf"^cuda:{index} +.*: (blocks run fused|not used: .+)", printed, re.MULTILINE)
    if torch.cuda.device_count() == 0:
        assert re.search(
            r"^cuda +not used: PyTorch (finds no GPU here|is a build without CUDA)$", printed, re.MULTILINE
        )


WRONG = [
    ("export", [], "the following arguments are required: --output"),
    ("export", ["--output", "missing/unet.pt"], "--output is missing/unet.pt, but its folder does not exist"),
    ("export", ["--output", "."], "--output is ., which is a folder, must be a file"),
    (
        "export",
        ["--output", "unet.pt", "--format", "program"],
        "--output is unet.pt, must end in .pt2 for --format program",
    ),
    ("export", ["--output", "unet.pt", "--format", "onnx"], "argument --format: invalid choice: .+"),
    ("export", ["--output", "unet.pt", "--batch", "0"], "--batch is 0, must be at least 1"),
    (
        "export",
        ["--output", "unet.pt", "--other-sizes", "64", "70"],
        "--other-sizes is 70, must be a multiple of 8 from 64 on",
    ),
    ("report", ["--size", "32"], "--size is 32, must be a multiple of 8 from 64 on"),
    ("report", ["--model", "missing"], "--model missing could not be loaded: .+"),
    ("report", ["--steps", "3"], "unrecognized arguments: --steps 3"),
]


@pytest.mark.parametrize(("command", "arguments", "message"), WRONG)
def test_wrong_argument_is_refused_in_one_sentence(
    command: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--device", "cpu", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    exact = message if message.endswith(".+") else re.escape(message)
    assert re.fullmatch(f"error: {exact}", last)


@pytest.mark.parametrize("command", ["export", "report"])
def test_missing_package_is_named(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (f"{command}_command", "models", "architectures"):
        monkeypatch.delitem(sys.modules, f"ds_diffusers.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert main([command]) == 2
    expected = f"error: {command} needs the package diffusers: pip install 'ds_diffusers[diffusers]'\n"
    assert capsys.readouterr().err == expected


def test_missing_library_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(library, "_loaded", False)
    monkeypatch.setenv(library.LIBRARY_VARIABLE, "/no/such/file")
    assert main(["report", "--device", "cpu", "--size", "64"]) == 2
    assert "DS_DIFFUSERS_LIBRARY is /no/such/file, which is no file" in capsys.readouterr().err
