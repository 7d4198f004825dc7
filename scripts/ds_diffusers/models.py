"""The model that a command works on: its options on the command line, checked, its weights and its inputs."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from .architectures import ARCHITECTURES, LATENT_SCALE, random_inputs, random_unet
from .command_line import UserError, first_line, present_device

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

CPU_SIZE = 256  # pixels, where the model's own size would take minutes


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--architecture or --model, --device, --dtype and --seed."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--architecture", choices=ARCHITECTURES, help="UNet with random weights (default: sd15)"
    )
    model.add_argument(
        "--model", metavar="PATH_OR_ID", help="a real pipeline: a folder, or a name on the hub"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where there is a GPU)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float16 on cuda, float32 on cpu")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and noise (default: 0)")


def complete_model_options(settings: argparse.Namespace) -> None:
    """Fills in the defaults, makes device and dtype PyTorch's own; UserError for wrong values, of --size
    too."""
    settings.device = present_device(settings.device)
    if settings.dtype is None:
        settings.dtype = "float32" if settings.device.type == "cpu" else "float16"
    settings.dtype = DTYPES[settings.dtype]
    if settings.model is None:
        settings.architecture = settings.architecture or "sd15"
    if settings.size is not None:
        check_size("--size", settings.size)
    if not 0 <= settings.seed < 2**63:
        raise UserError(f"--seed is {settings.seed}, must be 0 to 2^63 - 1")


def check_size(option: str, size: int) -> None:
    """UserError where a UNet of Stable Diffusion makes no images of that size in pixels."""
    if size < 64 or size % LATENT_SCALE != 0:
        raise UserError(f"{option} is {size}, must be a multiple of {LATENT_SCALE} from 64 on")


def check_file(option: str, path: Path) -> None:
    """UserError where a file cannot be written at the path of an option."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"{option} is {path}, but its folder does not exist")
    if path.is_dir():
        raise UserError(f"{option} is {path}, which is a folder, must be a file")


def load_pipeline(settings: argparse.Namespace) -> DiffusionPipeline:
    """The pipeline of --model on its device; UserError where there is none, or none with a UNet."""
    try:
        with warnings.catch_warnings():
            # The argument has a new name in newer releases, which older ones do not know.
            warnings.simplefilter("ignore", FutureWarning)
            pipeline = DiffusionPipeline.from_pretrained(settings.model, torch_dtype=settings.dtype)
    except Exception as error:  # whatever a hub client, a parser or a missing package may raise
        raise UserError(f"--model {settings.model} could not be loaded: {first_line(error)}") from error
    if getattr(pipeline, "unet", None) is None:
        raise UserError(
            f"--model {settings.model} is a {type(pipeline).__name__}, which has no UNet to patch"
        )
    return pipeline.to(settings.device)


def load_unet(settings: argparse.Namespace) -> nn.Module:
    """The UNet of --model, or of --architecture with random weights; in evaluation mode."""
    if settings.model is not None:
        return load_pipeline(settings).unet
    architecture = ARCHITECTURES[settings.architecture]
    return random_unet(architecture.unet, settings.seed, settings.device, settings.dtype)


def step_size(settings: argparse.Namespace, unet: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of --size; by default the model's own, and 256 on the CPU."""
    if settings.size is not None:
        return settings.size, settings.size
    if settings.device.type == "cpu":
        return CPU_SIZE, CPU_SIZE
    own = unet.config.sample_size
    rows, columns = (own, own) if isinstance(own, int) else own
    return rows * LATENT_SCALE, columns * LATENT_SCALE


def step_inputs(
    settings: argparse.Namespace, unet: nn.Module, size: tuple[int, int], rows: int = 2
) -> dict[str, Tensor]:
    """What a UNet of Stable Diffusion takes in one step, by name, as `ds_diffusers.export` wants it: `rows`
    samples with random conditions, without and with a prompt in turn; UserError for another kind of UNet."""
    try:
        noise, conditions = random_inputs(unet.config, size, settings.seed, settings.device, settings.dtype)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"the UNet of {settings.model} takes other inputs than Stable Diffusion's: see ds_diffusers.export"
        ) from error
    conditions |= conditions.pop("added_cond_kwargs", {})
    turns = torch.arange(rows, device=settings.device) % 2
    timestep = torch.tensor(500, device=settings.device)
    inputs = {"sample": noise.repeat(rows, 1, 1, 1), "timestep": timestep}
    return inputs | {name: value[turns] for name, value in conditions.items()}
