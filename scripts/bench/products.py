"""The matrix products and attentions of a block: what remains when everything else costs nothing. Their sum
is the floor that a block is held against."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .block_shapes import CONTEXT_TOKENS, BlockShape
from .rotation import set_count
from .timing import Call, Timer, device_timer

# Asked for in turn, as the best differs with the shape. None: the one that PyTorch takes by itself.
BACKENDS = {"default": None, "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


@dataclass(frozen=True)
class Product:
    """[rows, outer] = [rows, inner] x [outer, inner]ᵀ"""

    rows: int
    outer: int
    inner: int

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.outer * self.inner

    @property
    def elements(self) -> int:
        """Read once and written once each."""
        return self.rows * self.inner + self.outer * self.inner + self.rows * self.outer

    def call(self, dtype: torch.dtype, device: torch.device) -> Call:
        """One product on matrices of its own."""
        input = torch.randn(self.rows, self.inner, device=device).to(dtype)
        bound = 1 / math.sqrt(self.inner)
        weight = torch.empty(self.outer, self.inner, device=device).uniform_(-bound, bound).to(dtype)
        result = torch.empty(self.rows, self.outer, device=device, dtype=dtype)
        return lambda: torch.mm(input, weight.t(), out=result)


@dataclass(frozen=True)
class AttentionProduct:
    """softmax(Q Kᵀ) V on views of the projections' results, as a block has them: [batch, tokens, ...]"""

    batch: int
    tokens: int
    keys: int
    heads: int
    head_size: int
    shared: bool  # q, k and v are parts of one tensor, else k and v alone

    @property
    def operations(self) -> int:
        return 4 * self.batch * self.heads * self.tokens * self.keys * self.head_size

    @property
    def elements(self) -> int:
        return 2 * self.batch * self.heads * (self.tokens + self.keys) * self.head_size

    def call(self, dtype: torch.dtype, device: torch.device, backend: str = "default") -> Call:
        def parts(count: int, tokens: int) -> Sequence[Tensor]:
            values = torch.randn(self.batch, tokens, count * self.heads * self.head_size, device=device)
            return split_heads(values.to(dtype), count, self.heads)

        if self.shared:
            query, key, value = parts(3, self.tokens)
        else:
            (query,), (key, value) = parts(1, self.tokens), parts(2, self.keys)
        return lambda: attention(query, key, value, backend)


Part = Product | AttentionProduct


def split_heads(projected: Tensor, count: int, heads: int) -> Sequence[Tensor]:
    """Views [batch, heads, tokens, head size] of the `count` tensors in [batch, tokens, count · inner]."""
    return projected.unflatten(-1, (count, heads, -1)).transpose(1, 3).unbind(2)


def attention(query: Tensor, key: Tensor, value: Tensor, backend: str = "default") -> Tensor:
    if BACKENDS[backend] is None:
        return F.scaled_dot_product_attention(query, key, value)
    with sdpa_kernel(BACKENDS[backend]):
        return F.scaled_dot_product_attention(query, key, value)


def block_parts(shape: BlockShape) -> dict[str, Part]:
    """By the names of the block's steps, in its order; q, k, v in one product each where they can be."""
    rows, channels = shape.rows, shape.channels
    sizes = (shape.heads, shape.head_size)
    square = Product(rows, channels, channels)
    return {
        "attn1_qkv": Product(rows, 3 * channels, channels),
        "attn1": AttentionProduct(shape.batch, shape.tokens, shape.tokens, *sizes, shared=True),
        "attn1_out": square,
        "attn2_q": square,
        "attn2_kv": Product(shape.batch * CONTEXT_TOKENS, 2 * channels, shape.context_channels),
        "attn2": AttentionProduct(shape.batch, shape.tokens, CONTEXT_TOKENS, *sizes, shared=False),
        "attn2_out": square,
        "ff_in": Product(rows, 8 * channels, channels),
        "ff_out": Product(rows, channels, 4 * channels),
    }


def part_timer(part: Part, dtype: torch.dtype, device: torch.device, backend: str = "default") -> Timer:
    """Rotates over inputs, weights and results past the cache."""
    count = set_count(part.elements * dtype.itemsize, device, least=4)
    if isinstance(part, Product):
        return device_timer([part.call(dtype, device) for _ in range(count)], device)
    return device_timer([part.call(dtype, device, backend) for _ in range(count)], device)


def fastest_backend(part: AttentionProduct, dtype: torch.dtype, device: torch.device) -> str:
    """Of BACKENDS, those that cannot run this shape left out; "default" unless another is 2 % faster."""
    if device.type != "cuda":
        return "default"
    seconds = {}
    for name in BACKENDS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of why a backend cannot
                timer = part_timer(part, dtype, device, name)
        except RuntimeError as error:
            if name == "default" or "No available kernel" not in str(error):
                raise
            continue
        seconds[name] = min(timer.sample() for _ in range(5))
    best = min(seconds, key=seconds.__getitem__)
    return best if seconds[best] < 0.98 * seconds["default"] else "default"


def chained(shape: BlockShape, weights: dict[str, Tensor], backends: dict[str, str]) -> Callable:
    """All products and attentions of a block in one call, in its order, on (hidden states, context); nothing
    between them. Where the block would normalise, the input is taken again, so that numbers keep their size.
    """

    def call(hidden_states: Tensor, context: Tensor) -> list[Tensor]:
        projected = F.linear(hidden_states, weights["attn1_qkv"])
        heads = attention(*split_heads(projected, 3, shape.heads), backends["attn1"])
        first = F.linear(heads.transpose(1, 2).flatten(2), weights["attn1_out"])

        (query,) = split_heads(F.linear(hidden_states, weights["attn2_q"]), 1, shape.heads)
        key, value = split_heads(F.linear(context, weights["attn2_kv"]), 2, shape.heads)
        heads = attention(query, key, value, backends["attn2"])
        second = F.linear(heads.transpose(1, 2).flatten(2), weights["attn2_out"])

        # In the place of the gated activation's result: as large, with contiguous rows.
        halves = F.linear(hidden_states, weights["ff_in"]).view(2, *hidden_states.shape[:2], -1)
        return [first, second, F.linear(halves[0], weights["ff_out"])]

    return call


def block_weights(block: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a diffusers block by the names of `block_parts`, those of one product in one tensor."""
    first, second, ff = block.attn1, block.attn2, block.ff.net
    return {
        "attn1_qkv": torch.cat([first.to_q.weight, first.to_k.weight, first.to_v.weight]),
        "attn1_out": first.to_out[0].weight,
        "attn2_q": second.to_q.weight,
        "attn2_kv": torch.cat([second.to_k.weight, second.to_v.weight]),
        "attn2_out": second.to_out[0].weight,
        "ff_in": ff[0].proj.weight,
        "ff_out": ff[2].weight,
    }
