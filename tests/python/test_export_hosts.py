"""Exported UNets in programs without Python: in C++ with TorchScript, in C with AOTInductor's library."""

# labels: torch diffusers gpu
import json
import os
import re
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")

import ds_diffusers
from ds_diffusers import export, library
from ds_diffusers.architectures import Architecture, random_inputs, random_unet, scheduler
from ds_diffusers.demo.denoising import Denoising, denoise
from torch import Tensor

HOSTS_VARIABLE = "DS_DIFFUSERS_HOSTS"
STEPS, GUIDANCE_SCALE = 3, 4.0

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning"),
    pytest.mark.skipif(HOSTS_VARIABLE not in os.environ, reason=f"{HOSTS_VARIABLE} names no folder of hosts"),
]

# As few layers as a UNet with a cross-attention can have: AOTInductor compiles each of them.
TINY = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "mid_block_type": None,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
TINY_SDXL = TINY | {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 8,
}


class Loop:
    """A tiny patched UNet, the noise and conditions of one loop, and what Python makes of them."""

    def __init__(
        self, config: dict[str, Any], device: torch.device, prediction_type: str = "epsilon"
    ) -> None:
        self.unet = ds_diffusers.patch(random_unet(config, 0, device, torch.float32))
        self.noise, self.conditions = random_inputs(config, (64, 96), 0, device, torch.float32)
        self.architecture = Architecture(config, 64, prediction_type, GUIDANCE_SCALE)

    def example(self) -> dict[str, Tensor]:
        conditions = dict(self.conditions)
        added = conditions.pop("added_cond_kwargs", {})
        timestep = torch.tensor(500, device=self.noise.device)
        return {"sample": torch.cat([self.noise, self.noise]), "timestep": timestep, **conditions, **added}

    def expected(self) -> Tensor:
        start = Denoising(scheduler(self.architecture), self.noise, STEPS, GUIDANCE_SCALE)
        return denoise(self.unet, start, self.conditions, "expected").cpu()

    def write_inputs(self, file: Path) -> None:
        tensors = {"latents": self.noise, **self.example()}
        del tensors["sample"], tensors["timestep"]
        safetensors.save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)

    def check(self, host: str, model: Path, folder: Path, *options: str) -> None:
        self.write_inputs(folder / "inputs.safetensors")
        files = (str(model), str(folder / "inputs.safetensors"), str(folder / "latents.safetensors"))
        done = run(host, *options, "--device", self.noise.device.type, *files)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{STEPS} steps in ")
        result = safetensors.load_file(folder / "latents.safetensors")
        expected = self.expected()
        assert set(result) == {"latents"}
        # On a GPU, convolutions round to TF32, in ways that differ between the two.
        tolerance = 1e-4 if self.noise.device.type == "cpu" else 2e-2
        error = (result["latents"] - expected).abs().max() / expected.abs().max()
        assert error < tolerance


def run(host: str, *arguments: str, plugin: str | None = None) -> subprocess.CompletedProcess:
    program = Path(os.environ[HOSTS_VARIABLE]) / host
    plugin = plugin or str(library.library_path().resolve())
    loop = ["--steps", str(STEPS), "--guidance-scale", str(GUIDANCE_SCALE)]
    command = [str(program), "--plugin", plugin, *loop, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_torchscript(device: torch.device, tmp_path: Path) -> None:
    loop = Loop(TINY, device)
    export.torchscript(loop.unet, tmp_path / "unet.pt", loop.example())
    loop.check("ds_torchscript_host", tmp_path / "unet.pt", tmp_path)


def test_torchscript_with_added_conditions_and_velocity(tmp_path: Path) -> None:
    """The example's size is another one than the loop's."""
    loop = Loop(TINY_SDXL, torch.device("cpu"), "v_prediction")
    example = loop.example() | {"sample": torch.randn(2, 4, 6, 6)}
    export.torchscript(loop.unet, tmp_path / "unet.pt", example)
    loop.check("ds_torchscript_host", tmp_path / "unet.pt", tmp_path, "--v-prediction")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny UNet on the CPU, compiled for any size, as seldom and as quickly as can be."""
    torch.manual_seed(0)
    loop = Loop(TINY, torch.device("cpu"))
    example = loop.example() | {"sample": torch.randn(2, 4, 6, 8)}
    path = tmp_path_factory.mktemp("package") / "unet.pt2"
    configs = {"aot_inductor.compile_wrapper_opt_level": "O0"}
    try:
        return export.aotinductor(loop.unet, path, example, inductor_configs=configs)
    except torch._inductor.exc.InvalidCxxCompiler:
        pytest.skip("AOTInductor needs a C++ compiler, and finds none")


def test_package_in_python(package: Path) -> None:
    loop = Loop(TINY, torch.device("cpu"))
    compiled = torch._inductor.aoti_load_package(str(package))
    with torch.no_grad():
        torch.testing.assert_close(compiled(**loop.example()), loop.unet(**loop.example()).sample)


def test_package_needs_no_proxy_executor(package: Path) -> None:
    """For which AOTInductor writes a list of calls beside the library."""
    with zipfile.ZipFile(package) as archive:
        names = archive.namelist()
    (compiled,) = (name for name in names if name.endswith(".so"))
    assert compiled.removesuffix(".so") + ".json" not in names


def test_aotinductor(package: Path, tmp_path: Path) -> None:
    model = export.unpack(package, tmp_path / "unpacked")
    Loop(TINY, torch.device("cpu")).check("ds_aotinductor_host", model, tmp_path)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A file of inputs that the tiny UNet takes."""
    file = tmp_path / "inputs.safetensors"
    Loop(TINY, torch.device("cpu")).write_inputs(file)
    return file


def changed(file: Path, **tensors: Tensor | None) -> Path:
    """The file with tensors replaced, or taken out where they are None."""
    kept = {
        name: tensor for name, tensor in (safetensors.load_file(file) | tensors).items() if tensor is not None
    }
    safetensors.save_file(kept, file)
    return file


def check_refused(done: subprocess.CompletedProcess, message: str, code: int = 1) -> None:
    assert done.returncode == code
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(f"error: {message}", last), done.stderr


def test_wrong_inputs_are_refused(package: Path, inputs: Path, tmp_path: Path) -> None:
    """In one sentence, at whatever step it shows."""
    model, output = str(export.unpack(package, tmp_path / "unpacked")), str(tmp_path / "latents.safetensors")

    def check(message: str, model: str = model, output: str = output, **named: str) -> None:
        check_refused(run("ds_aotinductor_host", model, str(inputs), output, **named), message)

    check("the plugin /no/file cannot be loaded: .*", plugin="/no/file")
    check("MODEL is .*, must be the library of a package, ….so", model=str(inputs))
    check("/no/unet_metadata.json cannot be opened: No such file or directory; .*", model="/no/unet.so")
    check("/no/latents cannot be written: No such file or directory", output="/no/latents")
    # Which of the two it is, newer releases of LibTorch put into the sentence; all print it.
    changed(inputs, encoder_hidden_states=torch.randn(2, 7, 5))
    check(".* cannot run(: .*unmatched dim value.*)?")
    changed(inputs, encoder_hidden_states=torch.randn(2, 7, 16, dtype=torch.bfloat16))
    check(".* cannot run(: .*unmatched dtype.*)?")
    changed(inputs, encoder_hidden_states=torch.randn(3, 7, 16))
    check("encoder_hidden_states of .* has 3 rows, must have 2, two for each image of the latents")
    changed(inputs, encoder_hidden_states=None)
    check(".* has no tensor encoder_hidden_states")


def test_what_a_package_says_is_respected(package: Path, inputs: Path, tmp_path: Path) -> None:
    model = export.unpack(package, tmp_path / "unpacked")
    metadata_file = model.with_name(f"{model.stem}_metadata.json")
    metadata = json.loads(metadata_file.read_text())
    assert metadata["DS_SIZE_MULTIPLE"] == "1"

    def check(message: str, *options: str) -> None:
        files = (str(model), str(inputs), str(tmp_path / "latents.safetensors"))
        check_refused(run("ds_aotinductor_host", *options, *files), message)

    check("--device is cuda, but .* was compiled for cpu", "--device", "cuda")
    metadata_file.write_text(json.dumps(metadata | {"DS_SIZE_MULTIPLE": "8"}))
    check("the latents' height and width are 8 and 12, must be multiples of 8")
    metadata_file.write_text(json.dumps(metadata | {"DS_SIZE_MULTIPLE": "no"}))
    check(".* is no UNet that ds_diffusers.export wrote")
    model.with_suffix(".json").write_text("{}")
    check(".* needs a proxy executor, which C cannot make: see .*")


def test_wrong_inputs_are_refused_by_the_torchscript_host(inputs: Path, tmp_path: Path) -> None:
    loop, host, output = Loop(TINY, torch.device("cpu")), "ds_torchscript_host", str(tmp_path / "latents")
    model = tmp_path / "unet.pt"
    check_refused(run(host, str(model), str(inputs), output), ".*unet.pt: .*")
    export.torchscript(loop.unet, model, loop.example())
    changed(inputs, encoder_hidden_states=torch.randn(2, 7, 5))
    check_refused(run(host, str(model), str(inputs), output), "the UNet failed: .*")
    changed(inputs, encoder_hidden_states=torch.ones(2, 7, 16, dtype=torch.int8))
    message = "encoder_hidden_states has dtype I8, must have F32, F16, BF16 or I64"
    check_refused(run(host, str(model), str(inputs), output), message)
    changed(inputs, latents=torch.randn(1, 4, 8, 12, dtype=torch.float64))
    check_refused(
        run(host, str(model), str(inputs), output), "latents of .* has dtype F64 and 4 dimensions, .*"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "1 files are named, must be MODEL INPUTS OUTPUT, see --help"),
        (["--steps", "1.5", "a", "b", "c"], "--steps is 1.5, must be a whole number"),
        (["--steps", "1000", "a", "b", "c"], "--steps is 1000, must be 1 to 999"),
        (["--guidance-scale", "many", "a", "b", "c"], "--guidance-scale is many, must be 0 to 100"),
        (["--device", "tpu", "a", "b", "c"], "--device is tpu, must be cpu or cuda"),
        (["--what", "a", "b", "c"], "--what is no option, see --help"),
        (["a", "b", "c", "--device"], "--device needs a value, see --help"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str) -> None:
    check_refused(run("ds_aotinductor_host", *arguments), message, code=2)


@pytest.mark.parametrize("host", ["ds_torchscript_host", "ds_aotinductor_host"])
def test_help(host: str) -> None:
    done = run(host, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: {host} ")


@pytest.mark.gpu
def test_aotinductor_on_cuda(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loop = Loop(TINY, torch.device("cuda"))
    package = export.aotinductor(loop.unet, tmp_path / "unet.pt2", loop.example())
    model = export.unpack(package, tmp_path / "unpacked")
    loop.check("ds_aotinductor_host", model, tmp_path)
