"""Where the weights of transformer blocks lie in memory."""

import copy
from collections.abc import Callable, Iterator

import ds_diffusers
import torch
from diffusers.models.attention import BasicTransformerBlock
from helpers.unets import block_arguments, make_block
from torch import nn


def groups(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The weights, and the biases, that one product could compute."""
    for block in model.modules():
        if isinstance(block, BasicTransformerBlock):
            for attention in filter(None, (block.attn1, block.attn2)):
                projections = [attention.to_q, attention.to_k, attention.to_v]
                yield [linear.weight for linear in projections]
                if projections[0].bias is not None:
                    yield [linear.bias for linear in projections]


def is_together(group: list[nn.Parameter]) -> bool:
    return all(a.data_ptr() + a.nbytes == b.data_ptr() for a, b in zip(group, group[1:]))


def placed(model: nn.Module) -> bool:
    """Whether all groups lie together; an error where some do and some do not."""
    found = {is_together(group) for group in groups(model)}
    assert len(found) == 1
    return found.pop()


def own_storages(model: nn.Module) -> bool:
    """Whether each parameter has a storage of its own size to itself."""
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    sizes = [parameter.nbytes for parameter in model.parameters()]
    distinct = {storage.data_ptr() for storage in storages}
    return [storage.nbytes() for storage in storages] == sizes and len(distinct) == len(sizes)


def scattered(model: nn.Module) -> nn.Module:
    """Gives each parameter memory that is next to no other's."""
    kept: list[torch.Tensor] = []  # all at once, so that none takes the place of another
    ends: set[int] = set()
    starts: set[int] = set()
    for parameter in model.parameters():
        own = parameter.data.clone()
        while own.data_ptr() in ends or own.data_ptr() + own.nbytes in starts:
            kept.append(own)
            own = parameter.data.clone()
        kept += [parameter.data, torch.empty_like(parameter)]
        starts.add(own.data_ptr())
        ends.add(own.data_ptr() + own.nbytes)
        parameter.data = own
    return model


def patched_block(**config) -> BasicTransformerBlock:
    return ds_diffusers.patch(scattered(make_block(**config)))


def moved_block() -> BasicTransformerBlock:
    """A patched block that was moved since, so that its weights are to be placed."""
    return scattered(patched_block())


def run(block: nn.Module, **others) -> torch.Tensor:
    with torch.no_grad():
        return block(**block_arguments(block), **others)


def expected(block: nn.Module) -> torch.Tensor:
    """What an unpatched copy computes."""
    return run(ds_diffusers.unpatch(copy.deepcopy(block)))


def check_close(found: torch.Tensor, result: torch.Tensor) -> None:
    """Other weights, or weights in another order, would be no rounding error."""
    tolerance = {torch.float32: 1e-5, torch.float16: 0.005, torch.bfloat16: 0.02}[result.dtype]
    difference = (found.double() - result.double()).norm()
    assert difference <= tolerance * result.double().norm()


def check_unmoved(block: BasicTransformerBlock, call: Callable[[], object] | None = None) -> None:
    """A call, run() if none is given, leaves the weights where they are, though they are not together."""
    addresses = [parameter.data_ptr() for parameter in block.parameters()]
    assert not placed(block)
    run(block) if call is None else call()
    assert [parameter.data_ptr() for parameter in block.parameters()] == addresses
