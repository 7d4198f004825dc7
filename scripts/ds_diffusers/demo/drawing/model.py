"""The text-to-image model: a table of words as its text encoder, and a UNet2DConditionModel."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .digits import SIZE

FOLDER = Path(__file__).resolve().parent
NAME = "digits"

# The UNet sees squares of this many pixels as one position with the squares' pixels as its channels, which
# loses nothing and costs a quarter.
SQUARE = 2

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class WordEncoder(nn.Module):
    """The text encoder: the vector of each word plus the vector of its position, both from tables. Words do
    not look at each other; the UNet's cross-attention is what reads them together.

    Token 0 fills a prompt up to `length`; a prompt of nothing else is the empty one, for guidance.
    """

    def __init__(self, words: Sequence[str], length: int, width: int) -> None:
        super().__init__()
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words, start=1)}
        self.word = nn.Embedding(len(self.words) + 1, width)
        self.position = nn.Embedding(length, width)

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """int64 [B, length]; ValueError for a word that the table lacks, and for too many words."""
        length = self.position.num_embeddings
        tokens = torch.zeros(len(prompts), length, dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            found = words_of(prompt)
            if len(found) > length:
                raise ValueError(f"the prompt {prompt!r} has {len(found)} words, must have at most {length}")
            for column, word in enumerate(found):
                if word not in self._numbers:
                    known = ", ".join(self.words)
                    raise ValueError(f"the prompt {prompt!r} has the word {word}, must be of: {known}")
                row[column] = self._numbers[word]
        return tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, length] to [B, length, width]."""
        return self.word(tokens) + self.position.weight


def words_of(prompt: str) -> list[str]:
    """The words and numbers of a prompt, in small letters."""
    return re.findall(r"[^\W_]+", prompt.lower())


def digit_of(prompt: str) -> int | None:
    """The digit that a prompt names last, as a word or as a number; None where it names none."""
    for word in reversed(words_of(prompt)):
        if word in NUMBER_WORDS:
            return NUMBER_WORDS.index(word)
        if re.fullmatch(r"[0-9]", word):
            return int(word)
    return None


class DrawingModel(nn.Module):
    """`config` has "unet", the arguments of UNet2DConditionModel; "text_encoder", those of WordEncoder;
    "scheduler", those of DDIMScheduler; and "training", which says how the weights were made."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.text_encoder = WordEncoder(**config["text_encoder"])
        self.unet = UNet2DConditionModel.from_config(config["unet"])

    def scheduler(self) -> DDIMScheduler:
        """A new one, with the noise schedule that the UNet was trained with."""
        return DDIMScheduler(**self.config["scheduler"])

    def save(self, folder: Path) -> None:
        """Writes digits.json, and digits.safetensors in float16."""
        tensors = {name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, folder / f"{NAME}.safetensors")
        (folder / f"{NAME}.json").write_text(json.dumps(self.config, indent=1) + "\n")


def load_model(folder: Path = FOLDER) -> DrawingModel:
    """The model in evaluation mode, in float32 on the CPU."""
    model = DrawingModel(json.loads((folder / f"{NAME}.json").read_text()))
    model.load_state_dict(load_file(folder / f"{NAME}.safetensors"))
    return model.eval().requires_grad_(False)


def to_squares(drawings: Tensor) -> Tensor:
    """Drawings [N, 3, 32, 32], 0 to 1, as the UNet sees them: [N, 12, 16, 16], -1 to 1."""
    return nn.functional.pixel_unshuffle(2 * drawings - 1, SQUARE)


def from_squares(samples: Tensor) -> Tensor:
    """The reverse of to_squares, in float32, on the CPU and without what is darker or lighter than ink and
    paper can be."""
    return (nn.functional.pixel_shuffle(samples.float().cpu(), SQUARE) / 2 + 0.5).clamp(0, 1)


def start_noise(many: int, seed: int) -> Tensor:
    """Noise to draw from, float32 [many, 12, 16, 16] on the CPU: the same for each dtype and device."""
    shape = (many, 3 * SQUARE**2, SIZE // SQUARE, SIZE // SQUARE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
