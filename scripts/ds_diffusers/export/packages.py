"""AOTInductor: a model compiled to a library, for programs without Python."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .functions import Export, Inputs, existing_folder, size_multiple
from .programs import Dynamic, export_program, fused_blocks
from .shims import c_shims

# In the package's metadata: what the compiled code takes the sample's height and width to be multiples of.
SIZE_MULTIPLE = "DS_SIZE_MULTIPLE"


def aotinductor(
    unet: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Inputs,
    *,
    dynamic: Dynamic = True,
    other_inputs: Sequence[Inputs] = (),
    inductor_configs: Mapping[str, Any] | None = None,
) -> Path:
    """Compiles a diffusers UNet in evaluation mode with AOTInductor for its device, cpu or cuda, and writes
    the package, which takes its inputs by name or in the order of `example_inputs`.

    Python reads it with torch._inductor.aoti_load_package, C++ with AOTIModelPackageLoader, C opens the
    library that `unpack` extracts. The compiled code reaches the plugin's operators through LibTorch's C ABI
    (see `shims`), so that no proxy executor is needed for them. It fits processors with the instruction set
    of this one, and GPUs of this one's compute capability.

    Args:
        unet, example_inputs, dynamic, other_inputs: as for `program`, which is what is compiled.
        path: file to write, "….pt2".
        inductor_configs: settings of torch._inductor.config for the compilation.

    Returns:
        The path of the package.

    Raises:
        ValueError: as `program`, and for a path that does not end in .pt2.
        RuntimeError: as `program` (ExportError), for the program and for the package; or there is no C++
            compiler, or it fails.
    """
    package = Path(existing_folder(path))
    if package.suffix != ".pt2":
        raise ValueError(f"path is {package}, must end in .pt2")
    export = Export(unet, example_inputs, other_inputs)
    made = export_program(export, dynamic)

    import torch._inductor.config

    settings: dict[str, Any] = {
        "aot_inductor.custom_ops_to_c_shims": c_shims(),
        "aot_inductor.metadata": {SIZE_MULTIPLE: str(size_multiple(unet))},
    }
    settings |= inductor_configs or {}
    with torch._inductor.config.patch(settings), torch.no_grad():
        written = Path(torch._inductor.aoti_compile_and_package(made, package_path=str(package)))
    try:
        _check_package(written, export, fused_blocks(made))
    except BaseException:
        written.unlink()
        raise
    return written


def _check_package(package: Path, export: Export, blocks: int) -> None:
    device = export.function.device
    index = device.index if device.type == "cuda" else -1
    compiled = torch._inductor.aoti_load_package(str(package), device_index=index)
    with export.inference():
        export.check(lambda inputs: compiled(**inputs), blocks)


def unpack(package: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Extracts a package, as `unzip` does, into a folder, which is made, and returns the path of the compiled
    library in it: what a C program opens. The library's other files lie beside it.

    Raises ValueError for a file that is no such package.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            libraries = [name for name in archive.namelist() if name.endswith(".so")]
            if len(libraries) != 1:
                raise ValueError(f"{os.fspath(package)} holds {len(libraries)} libraries, must hold one")
            archive.extractall(folder)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{os.fspath(package)} is no package of AOTInductor: {error}") from error
    return Path(folder) / libraries[0]
