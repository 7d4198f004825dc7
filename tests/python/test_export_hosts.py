"""Exported UNets in programs without Python: in C++ with TorchScript, in C with AOTInductor's library."""

# labels: torch diffusers gpu
import os
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


@pytest.mark.gpu
def test_aotinductor_on_cuda(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loop = Loop(TINY, torch.device("cuda"))
    package = export.aotinductor(loop.unet, tmp_path / "unet.pt2", loop.example())
    model = export.unpack(package, tmp_path / "unpacked")
    loop.check("ds_aotinductor_host", model, tmp_path)
