"""The transformer blocks of Stable Diffusion 1.5, 2.1 and XL at a batch of two (classifier-free guidance)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ds_diffusers.command_line import UserError

CONTEXT_TOKENS = 77  # of a prompt, as CLIP's tokenizers pad it


@dataclass(frozen=True)
class BlockShape:
    name: str
    batch: int
    tokens: int
    channels: int
    heads: int
    context_channels: int

    @property
    def head_size(self) -> int:
        return self.channels // self.heads

    @property
    def rows(self) -> int:
        return self.batch * self.tokens

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}x{self.channels}x{self.heads}x{self.context_channels}"


# 3952 and 988 tokens: 832 x 1216 pixels, one of SDXL's training resolutions.
BLOCK_SHAPES = {
    shape.name: shape
    for shape in (
        BlockShape("sdxl-4096", 2, 4096, 640, 10, 2048),
        BlockShape("sdxl-1024", 2, 1024, 1280, 20, 2048),
        BlockShape("sdxl-3952", 2, 3952, 640, 10, 2048),
        BlockShape("sdxl-988", 2, 988, 1280, 20, 2048),
        BlockShape("sd15-4096", 2, 4096, 320, 8, 768),
        BlockShape("sd15-1024", 2, 1024, 640, 8, 768),
        BlockShape("sd15-256", 2, 256, 1280, 8, 768),
        BlockShape("sd15-64", 2, 64, 1280, 8, 768),
        BlockShape("sd21-9216", 2, 9216, 320, 5, 1024),
        BlockShape("sd21-2304", 2, 2304, 640, 10, 1024),
    )
}


def block_shape(text: str) -> BlockShape:
    """A shape by its name, or by its numbers: batch x tokens x channels x heads x channels of the context."""
    if text in BLOCK_SHAPES:
        return BLOCK_SHAPES[text]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){4}", text):
        raise UserError(
            f"a shape is {text}, must be one of {', '.join(BLOCK_SHAPES)}, "
            "or BATCHxTOKENSxCHANNELSxHEADSxCONTEXT_CHANNELS such as 2x4096x640x10x2048"
        )
    shape = BlockShape(text, *map(int, text.split("x")))
    if shape.channels % shape.heads != 0:
        raise UserError(f"a shape is {text}, its channels must be a multiple of its heads")
    return shape
