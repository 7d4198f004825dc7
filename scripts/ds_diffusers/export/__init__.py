"""Writes diffusers models, patched or not, for other programs: TorchScript, programs of torch.export, and
packages that AOTInductor compiled.

Whoever runs a file has to load libds_diffusers.so before (`ds_diffusers.load`, or a dlopen): the blocks of a
patched model are calls of its operators. Each function runs the model once and compares the exported form
with it, on the example and on all other inputs that the caller names.
"""

from .functions import ExportError
from .packages import aotinductor, unpack
from .programs import program
from .script import torchscript

__all__ = ["ExportError", "aotinductor", "program", "torchscript", "unpack"]
