"""The demo: what it prints and writes, with random weights and with a pipeline, and how it refuses."""

# labels: torch diffusers gpu
import json
import re
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from diffusers import UNet2DConditionModel
from ds_diffusers.architectures import ARCHITECTURES
from ds_diffusers.demo import main
from ds_diffusers.demo.comparison import difference
from helpers.architectures import make_architectures_small
from helpers.pipelines import write_pipeline
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.diffusers

# The drawing has a file of its own: test_demo_drawing.py.
WITHOUT_DRAWING = ["--drawing", "no"]


@pytest.fixture
def small_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    make_architectures_small(monkeypatch)


def parameters_of(name: str) -> int:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**ARCHITECTURES[name].unet)
    return sum(parameter.numel() for parameter in unet.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)]
)
def test_architecture_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert parameters_of(name) == parameters


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_random_weights(
    architecture: str,
    device: torch.device,
    small_architectures: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exported = tmp_path / "unet.pt"
    arguments = ["--architecture", architecture, "--device", str(device), "--size", "64", "--steps", "3"]
    arguments += ["--dtype", "float32", "--export", str(exported), "--output", str(tmp_path)]
    assert main([*arguments, *WITHOUT_DRAWING]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^blocks +(\d+) of \1 blocks run as block_forward$", printed, flags=re.MULTILINE)
    assert re.search(
        r"^seconds a step .* times as fast \(median step of 3 each\)$", printed, flags=re.MULTILINE
    )
    assert f"TorchScript in {exported}: " in printed
    latents = load_file(tmp_path / "latents.safetensors")
    assert set(latents) == {"plain", "patched", "bfloat16"}
    patched = difference(latents["plain"], latents["patched"])
    between_dtypes = difference(latents["plain"], latents["bfloat16"])
    assert 0 < between_dtypes.mean < 1
    # Not the largest: convolutions in float32 round to TF32 on CUDA, where a last bit's difference grows.
    assert patched.mean < between_dtypes.mean / 10
    torch.jit.load(exported)


def test_seed_decides_the_result(small_architectures: None, tmp_path: Path) -> None:
    results = []
    for name, seed in (("first", "1"), ("again", "1"), ("other", "2")):
        folder = tmp_path / name
        arguments = [
            "--device",
            "cpu",
            "--size",
            "64",
            "--steps",
            "1",
            "--seed",
            seed,
            "--output",
            str(folder),
        ]
        assert main([*arguments, *WITHOUT_DRAWING]) == 0
        results.append(load_file(folder / "latents.safetensors")["plain"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_pipeline(device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, exported = tmp_path / "output", tmp_path / "unet.pt"
    arguments = ["--model", str(write_pipeline(tmp_path)), "--device", str(device), "--dtype", "float32"]
    arguments += [
        "--prompt",
        "a house",
        "--negative-prompt",
        "a tree",
        "--guidance-scale",
        "4",
        "--steps",
        "3",
    ]
    assert main([*arguments, "--output", str(output), "--export", str(exported)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^blocks +(\d+) of \1 blocks run as block_forward$", printed, flags=re.MULTILINE)
    assert f"TorchScript in {exported}: " in printed
    plain, patched, both = (
        Image.open(output / f"{name}.png") for name in ("plain", "patched", "side_by_side")
    )
    assert plain.size == patched.size == (64, 64)
    assert both.size == (128, 64)
    assert both.crop((64, 0, 128, 64)).tobytes() == patched.tobytes()


@pytest.mark.parametrize("scale", ["0", "1"])
def test_pipeline_without_guidance(
    scale: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As distilled models want it, which take one prompt at a time. The model's own size need not be
    square."""
    folder = write_pipeline(tmp_path)
    file = folder / "unet" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"sample_size": [32, 48]}))
    output = tmp_path / "output"
    arguments = ["--model", str(folder), "--device", "cpu", "--guidance-scale", scale, "--steps", "2"]
    assert main([*arguments, "--output", str(output)]) == 0
    assert "image            96 x 64 pixels" in capsys.readouterr().out
    assert Image.open(output / "patched.png").size == (96, 64)


def test_random_weights_without_guidance(small_architectures: None) -> None:
    arguments = ["--device", "cpu", "--size", "64", "--steps", "1", "--guidance-scale", "0"]
    assert main([*arguments, *WITHOUT_DRAWING]) == 0


def test_too_little_memory_is_said(
    small_architectures: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhaust(*arguments: object, **named: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("ds_diffusers.demo.command.compare", exhaust)
    assert main(["--device", "cpu", "--size", "64", *WITHOUT_DRAWING]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: this machine has too little free memory; use a smaller --size or --dtype bfloat16"


def test_other_errors_are_not_hidden(small_architectures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("another")

    monkeypatch.setattr("ds_diffusers.demo.command.compare", fail)
    with pytest.raises(RuntimeError, match="another"):
        main(["--device", "cpu", "--size", "64", *WITHOUT_DRAWING])


WRONG = [
    (["--device", "tpu"], "--device is tpu, must be cpu, cuda or cuda:N"),
    (["--device", "meta"], "--device is meta, must be cpu, cuda or cuda:N"),
    (["--device", "cpu", "--size", "100"], "--size is 100, must be a multiple of 8 from 64 on"),
    (["--device", "cpu", "--size", "32"], "--size is 32, must be a multiple of 8 from 64 on"),
    (["--device", "cpu", "--steps", "0"], "--steps is 0, must be 1 to 1000"),
    (["--device", "cpu", "--seed", "-1"], "--seed is -1, must be 0 to 2^63 - 1"),
    (["--device", "cpu", "--guidance-scale", "-1"], "--guidance-scale is -1, must be 0 to 100"),
    (
        ["--device", "cpu", "--guidance-scale", "nan"],
        "--guidance-scale is nan, must be 0 to 100",
    ),
    (["--device", "cpu", "--prompt", "x"], "--prompt needs --model: random weights understand no words"),
    (
        ["--device", "cpu", "--export", "missing/unet.pt"],
        "--export is missing/unet.pt, but its folder does not exist",
    ),
    (["--device", "cpu", "--export", "."], "--export is ., which is a folder, must be a file"),
    (["--device", "cpu", "--model", "missing"], "--model missing could not be loaded: .+"),
    (
        ["--drawing", "no", "--prompts", "seven"],
        "--prompts is for the drawing, which --model and --drawing no leave out",
    ),
    (
        ["--drawing", "only", "--model", "x"],
        "--drawing is of the model that comes along, must be no with --model",
    ),
    (
        ["--drawing", "only", "--guidance-scale", "2"],
        "--guidance-scale has no effect on the drawing: leave out one of both",
    ),
    (
        ["--device", "cpu", "--prompts", "seven", "a lighthouse"],
        "--prompts: the prompt 'a lighthouse' has the word lighthouse, must be of: 0, 1, .+",
    ),
    (["--architecture", "sd99"], "argument --architecture: invalid choice: .+"),
    (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
    (
        ["--model", "x", "--architecture", "sd15"],
        "argument --architecture: not allowed with argument --model",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_argument_is_refused_in_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    exact = message if message.endswith(".+") else re.escape(message)
    assert re.fullmatch(f"error: {exact}", errors.strip()), errors


def test_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ds_diffusers.demo.command", raising=False)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert main([]) == 2
    printed = capsys.readouterr().err
    assert printed == (
        "error: the demo needs the package safetensors.torch: pip install 'ds_diffusers[demo]'\n"
    )


def test_missing_gpu_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert main(["--device", "cuda"]) == 2
    assert "PyTorch finds no GPU here; use --device cpu" in capsys.readouterr().err
