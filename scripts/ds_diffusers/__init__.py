"""DeepSpeed's diffusers operators for PyTorch, and a patch that makes diffusers' models use them.

    import ds_diffusers
    ds_diffusers.patch(pipeline)           # the transformer blocks run as one operator each
    print(ds_diffusers.report(pipeline))   # which blocks do, and why any does not
    ds_diffusers.quantize(pipeline.unet)   # int8 weights for the feed-forward of the blocks
    with ds_diffusers.keep_prompt(pipeline):   # computes a prompt's keys and values once
        image = pipeline(prompt).images[0]
    ds_diffusers.unpatch(pipeline)

`ds_diffusers.load()` alone gives `torch.ops.ds_diffusers.*`; `ds_diffusers.ops` has the same operators as
documented functions; `ds_diffusers.quantization` has the int8 layer; `ds_diffusers.export` writes
TorchScript, programs of torch.export and packages of AOTInductor; `ds_diffusers.deepspeed` has the names of
DeepSpeed's diffusers block. Importing the package loads no library and does not import diffusers.
"""

from . import deepspeed, export, ops, quantization
from .library import load
from .patching import patch, unpatch
from .prompts import keep_prompt
from .quantization import dequantize, quantize
from .reporting import BlockReport, Report, report

__version__ = "0.1.0"

__all__ = [
    "BlockReport",
    "Report",
    "__version__",
    "deepspeed",
    "dequantize",
    "export",
    "keep_prompt",
    "load",
    "ops",
    "patch",
    "quantization",
    "quantize",
    "report",
    "unpatch",
]
