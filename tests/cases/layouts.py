"""Tensors of the same values and another layout in memory."""

import math
from collections.abc import Callable
from random import Random

import torch

Layout = Callable[[torch.Tensor], torch.Tensor]


def strided(values: torch.Tensor, order: list[int], steps: list[int], offset: int = 0) -> torch.Tensor:
    """A copy of `values` in another order: dimension order[-1] is the innermost in memory, order[0] the
    outermost. After each entry of a dimension, steps[dimension] - 1 are left out; `offset` elements of the
    storage come before the first."""
    padded = [values.shape[dimension] * steps[dimension] for dimension in order]
    storage = torch.zeros(offset + math.prod(padded), dtype=values.dtype, device=values.device)
    memory = storage[offset:].view(padded)
    for position, dimension in enumerate(order):
        memory = memory[(slice(None),) * position + (slice(None, None, steps[dimension]),)]
    inverse = [order.index(dimension) for dimension in range(values.dim())]
    return memory.permute(inverse).copy_(values)


def _dims(values: torch.Tensor) -> list[int]:
    return list(range(values.dim()))


def _ones(values: torch.Tensor) -> list[int]:
    return [1] * values.dim()


def contiguous(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous()


def misaligned(values: torch.Tensor) -> torch.Tensor:
    """Contiguous, one element past where the storage starts."""
    return strided(values, _dims(values), _ones(values), offset=1)


def transposed(values: torch.Tensor) -> torch.Tensor:
    """The last two dimensions swapped in memory: [B, H·W, C] as a view of NCHW is one."""
    order = _dims(values)
    order[-2:] = order[-1], order[-2]
    return strided(values, order, _ones(values))


def reversed_rows(values: torch.Tensor) -> torch.Tensor:
    """Leading dimensions in reverse order in memory: contiguous rows that don't merge."""
    return strided(values, _dims(values)[-2::-1] + [values.dim() - 1], _ones(values))


def rotated(values: torch.Tensor) -> torch.Tensor:
    """The first dimension innermost in memory."""
    return strided(values, _dims(values)[1:] + [0], _ones(values))


def sliced_columns(values: torch.Tensor) -> torch.Tensor:
    """Columns 1 to C of C + 3."""
    base = torch.zeros(*values.shape[:-1], values.shape[-1] + 3, dtype=values.dtype, device=values.device)
    return base[..., 1:-2].copy_(values)


def every_other_column(values: torch.Tensor) -> torch.Tensor:
    return strided(values, _dims(values), [1] * (values.dim() - 1) + [2])


def every_other_row(values: torch.Tensor) -> torch.Tensor:
    return strided(values, _dims(values), [1] * (values.dim() - 2) + [2, 1])


def expanded_rows(values: torch.Tensor) -> torch.Tensor:
    """The first entry of the first dimension in place of all, with stride 0."""
    return values[:1].clone().expand(values.shape)


def expanded_columns(values: torch.Tensor) -> torch.Tensor:
    """The first column in place of all, with stride 0."""
    return values[..., :1].clone().expand(values.shape)


def expanded(values: torch.Tensor) -> torch.Tensor:
    """One element in place of all."""
    return values[(slice(0, 1),) * values.dim()].clone().expand(values.shape)


def channels_last(values: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] with C innermost in memory."""
    return strided(values, [0, 2, 3, 1], _ones(values))


ROWS: dict[str, Layout] = {
    layout.__name__: layout
    for layout in (
        misaligned,
        transposed,
        reversed_rows,
        rotated,
        sliced_columns,
        every_other_column,
        every_other_row,
        expanded_rows,
        expanded_columns,
        expanded,
    )
}
"""Layouts of tensors of rank 2 and more."""

VECTORS: dict[str, Layout] = {"misaligned": misaligned, "stride_2": every_other_column, "stride_0": expanded}
"""Layouts of tensors of rank 1."""


def random_view(values: torch.Tensor, random: Random) -> torch.Tensor:
    """Any of the layouts that a strided tensor without overlap can have, and now and then an expanded one."""
    dims = _dims(values)
    kind = random.randrange(5)
    if kind == 0:
        return values.contiguous()
    if kind == 1 and values.numel() > 0:
        kept = [1 if random.randrange(2) else size for size in values.shape]
        return values[tuple(slice(0, size) for size in kept)].clone().expand(values.shape)
    order = dims if kind == 2 else random.sample(dims, len(dims))
    steps = [random.choice((1, 1, 1, 2, 3)) for _ in dims]
    return strided(values, list(order), steps, offset=random.choice((0, 0, 1, 3)))


def far_apart(values: torch.Tensor) -> torch.Tensor:
    """Contiguous rows, the first and the third of which lie 2³¹ elements apart, in memory that is otherwise
    untouched."""
    memory = torch.empty(2**31 + values[0].numel(), dtype=values.dtype, device=values.device)
    return memory.as_strided(values.shape, (2**30, *values.stride()[1:])).copy_(values)


def random_size(random: Random, largest: int) -> int:
    """The size of a dimension: 0 more often than by chance."""
    return random.randint(0 if random.randrange(8) == 0 else 1, largest)


def random_sizes(random: Random, most: int) -> list[int]:
    """The sizes of `most` dimensions or fewer."""
    return [random_size(random, 7) for _ in range(random.randint(0, most))]
