"""Patched blocks have the weights of q, k and v one behind the other in memory, and nothing else notices."""

# labels: torch diffusers gpu
import copy
import ctypes
import pickle
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers.calls import calls_of
from helpers.memory import growth
from helpers.unets import BLOCKS, CHANNELS, block_arguments, make_block, run_unet, sd15_unet, unet_arguments
from helpers.weights import (
    check_close,
    check_unmoved,
    expected,
    groups,
    moved_block,
    own_storages,
    patched_block,
    placed,
    run,
    scattered,
)
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

pytestmark = pytest.mark.diffusers

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@every_dtype
@pytest.mark.parametrize("form", BLOCKS)
def test_every_form(form: str, dtype: torch.dtype, device: torch.device) -> None:
    block = scattered(make_block(**BLOCKS[form]).to(device, dtype))
    before = {name: (parameter, parameter.clone()) for name, parameter in block.named_parameters()}
    versions = [parameter._version for parameter in block.parameters()]
    assert not placed(block)
    ds_diffusers.patch(block)
    # Rows of 5 · 4 heads of bfloat16 are no multiple of 16 bytes.
    assert placed(block) == (form != "head_size_of_5" or dtype == torch.float32)
    after = dict(block.named_parameters())
    assert list(before) == list(after)
    for name, (parameter, value) in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, value)
        assert type(parameter) is nn.Parameter and parameter.requires_grad and parameter.is_leaf
        assert parameter.stride() == value.stride() and parameter.dtype == dtype
    assert [parameter._version for parameter in block.parameters()] == versions
    assert own_storages(block)
    check_close(run(block), expected(block))


def test_frozen_parameters_stay_frozen() -> None:
    block = make_block().requires_grad_(False)
    ds_diffusers.patch(block)
    assert placed(block)
    assert not any(parameter.requires_grad for parameter in block.parameters())


def test_a_unet(device: torch.device) -> None:
    unet = scattered(sd15_unet().to(device))
    values = unet_arguments(unet)
    # cuDNN's TF32 would make a difference of its own out of the smallest one.
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        result = run_unet(unet, values)
        ds_diffusers.patch(unet)
        assert placed(unet)
        check_close(run_unet(unet, values), result)


MOVES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda block: pickle.loads(pickle.dumps(block)),
    "to": lambda block: block.to(torch.bfloat16),
    "half": lambda block: block.half(),
    "there_and_back": lambda block: block.double().float(),
    "meta": lambda block: block.to_empty(device="meta").to_empty(device="cpu"),
    "data": lambda block: scattered(block),
}


@pytest.mark.parametrize("move", MOVES)
def test_weights_that_were_replaced_are_placed_at_the_next_call(move: str) -> None:
    block = patched_block()
    run(block)
    moved = MOVES[move](block)
    run(moved)
    assert placed(moved)
    assert own_storages(moved)
    if move == "meta":
        return
    check_close(run(moved), expected(moved))


def test_deepcopies_share_nothing() -> None:
    block = patched_block()
    copied = copy.deepcopy(block)
    with torch.no_grad():
        copied.attn1.to_q.weight.fill_(0)
        copied.attn1.to_k.weight.fill_(0)
    assert block.attn1.to_q.weight.abs().sum() > 0
    assert block.attn1.to_k.weight.abs().sum() > 0
    assert own_storages(copied)


def test_one_weight_that_was_replaced() -> None:
    block = patched_block()
    run(block)
    block.attn1.to_k.weight.data = torch.randn(CHANNELS, CHANNELS)
    block.attn2.to_v.weight = nn.Parameter(torch.randn_like(block.attn2.to_v.weight))
    check_close(run(block), expected(block))
    assert placed(block)


def test_changes_in_place_act_at_the_next_call() -> None:
    block = patched_block()
    first = run(block)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.5)
    block(**block_arguments(block)).square().mean().backward()
    optimizer.step()
    second = run(block)
    assert not torch.allclose(first, second)
    check_close(second, expected(block))
    with torch.no_grad():
        block.attn1.to_q.weight.mul_(2)
        block.attn2.to_k.weight.data += 0.1
    check_close(run(block), expected(block))
    assert placed(block)


def test_gradients_through_weights_that_moved_meanwhile() -> None:
    block = scattered(make_block())
    values = block_arguments(block)
    block(**values).square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in block.parameters()]
    block.zero_grad()
    loss = block(**values).square().mean()
    ds_diffusers.patch(block)
    run(block)
    loss.backward()
    for parameter, gradient in zip(block.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def flattened(block: nn.Module) -> torch.Tensor:
    """Makes the parameters parts of one buffer, as optimizers do."""
    flat = torch.cat([parameter.detach().flatten() for parameter in block.parameters()][::-1])
    start = flat.numel()
    for parameter in block.parameters():
        start -= parameter.numel()
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
    return flat


def of_numpy(block: nn.Module) -> list:
    arrays = [parameter.detach().numpy().copy() for parameter in block.parameters()]
    for parameter, array in zip(block.parameters(), arrays, strict=True):
        parameter.data = torch.from_numpy(array)
    return arrays


def tied(block: nn.Module) -> None:
    block.attn1.to_k.weight = block.attn1.to_q.weight
    block.attn2.to_k.weight = block.attn2.to_v.weight


def with_inference_tensors(block: nn.Module) -> None:
    with torch.inference_mode():
        for linear in (block.attn1.to_q, block.attn2.to_q):
            linear.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS), requires_grad=False)


FOREIGN: dict[str, Callable[[nn.Module], object]] = {
    "part_of_a_buffer": flattened,
    "memory_of_numpy": of_numpy,
    "shared_between_processes": lambda block: block.share_memory(),
    "tied": tied,
    "inference_tensors": with_inference_tensors,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_memory_that_is_not_the_parameters_own_stays(kind: str) -> None:
    block = scattered(make_block())
    owner = FOREIGN[kind](block)
    ds_diffusers.patch(block)
    check_unmoved(block)
    assert ds_diffusers.report(block)[0].fused_calls == 1
    check_close(run(block), expected(block))
    del owner


def test_changes_of_a_flat_buffer_act() -> None:
    block = scattered(make_block())
    flat = flattened(block)
    ds_diffusers.patch(block)
    run(block)
    flat.mul_(1.5)
    check_close(run(block), expected(block))


def test_memory_to_which_another_tensor_refers_stays_as_long() -> None:
    block = scattered(make_block())
    values = block.state_dict()
    ds_diffusers.patch(block)
    check_unmoved(block)
    values["attn1.to_q.weight"].fill_(0.25)
    check_close(run(block), expected(block))
    assert torch.all(block.attn1.to_q.weight == 0.25)
    del values
    run(block)
    assert placed(block)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_parameters_stay_normal_tensors(mode: Callable[[], AbstractContextManager]) -> None:
    block = scattered(make_block())
    with mode():
        ds_diffusers.patch(block)
        block(**block_arguments(block))
        assert placed(block)
        scattered_again = block.to(torch.bfloat16) if mode is torch.no_grad else block
        scattered_again(**block_arguments(block))
    assert placed(block)
    assert not any(parameter.is_inference() for parameter in block.parameters())
    block(**block_arguments(block)).float().mean().backward()


def test_first_call_in_inference_mode() -> None:
    block = moved_block()
    with torch.inference_mode():
        block(**block_arguments(block))
    assert placed(block)
    assert not any(parameter.is_inference() for parameter in block.parameters())


def test_original_path_moves_nothing() -> None:
    block = moved_block()
    check_unmoved(block, lambda: block(**block_arguments(block)))
    handle = block.attn1.to_q.register_forward_hook(lambda module, inputs, output: output)
    check_unmoved(block)
    handle.remove()
    run(block)
    assert placed(block)


def test_patching_a_hooked_block_moves_nothing() -> None:
    block = scattered(make_block())
    block.attn1.to_q.register_forward_hook(lambda module, inputs, output: output)
    addresses = [parameter.data_ptr() for parameter in block.parameters()]
    ds_diffusers.patch(block)
    assert [parameter.data_ptr() for parameter in block.parameters()] == addresses


def test_old_memory_is_freed() -> None:
    block = scattered(make_block())
    old = [StorageWeakRef(weight.untyped_storage()) for group in groups(block) for weight in group]
    ds_diffusers.patch(block)
    assert placed(block)
    assert all(storage.expired() for storage in old)
    windows = [StorageWeakRef(weight.untyped_storage()) for group in groups(block) for weight in group]
    run(block)
    block.half()
    assert all(storage.expired() for storage in windows)


@pytest.mark.gpu
def test_memory_on_a_gpu() -> None:
    """At no time is more than one attention there twice, and at the end nothing is."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    unet = scattered(sd15_unet().cuda())
    largest = max(sum(weight.nbytes for weight in group) for group in groups(unet))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ds_diffusers.patch(unet)
    assert placed(unet)
    rounding = 512 * 3
    assert torch.cuda.max_memory_allocated() <= before + largest + rounding
    assert torch.cuda.memory_allocated() <= before
    ds_diffusers.unpatch(unet)
    assert torch.cuda.memory_allocated() == before


def test_replacing_at_every_call_does_not_place_at_every_call() -> None:
    """As offloading of whole blocks does, which no hook of a leaf gives away."""
    block = patched_block()
    calls = 200
    placements = 0
    for _ in range(calls):
        scattered(block)
        run(block)
        placements += placed(block)
    assert 0 < placements <= calls / 10
    for _ in range(20):
        run(block)
    assert placed(block)


@every_dtype
def test_unpatch_gives_own_memory_back(dtype: torch.dtype, device: torch.device) -> None:
    block = scattered(make_block(attention_bias=True).to(device, dtype))
    before = {name: (parameter, parameter.clone()) for name, parameter in block.named_parameters()}
    ds_diffusers.patch(block)
    run(block)
    windows = [StorageWeakRef(weight.untyped_storage()) for group in groups(block) for weight in group]
    with torch.inference_mode():
        ds_diffusers.unpatch(block)
    assert all(storage.expired() for storage in windows)
    for name, parameter in block.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
        assert parameter.untyped_storage().resizable() and not parameter.is_inference()
    assert own_storages(block)
    assert calls_of(block).fused == 0


def test_nothing_leaks(device: torch.device) -> None:
    block = make_block().to(device)
    values = block_arguments(block)

    def cycle() -> None:
        ds_diffusers.patch(block)
        with torch.no_grad():
            block(**values)
        scattered(block)
        with torch.no_grad():
            block(**values)
        ds_diffusers.unpatch(block)

    grown = growth(cycle, 400, device)
    assert grown.get("cuda", 0) == 0
    assert grown.get("heap", 0) < 20_000


def test_unpatch_knows_its_own_memory() -> None:
    """Also from another tensor's that begins at the same address."""
    block = patched_block()
    weight = block.attn1.to_q.weight
    placed_memory = weight.data
    buffer = (ctypes.c_char * weight.nbytes).from_address(weight.data_ptr())
    weight.data = torch.frombuffer(buffer, dtype=weight.dtype).view_as(weight)
    ds_diffusers.unpatch(block)
    assert weight.data_ptr() == placed_memory.data_ptr()
    assert block.attn1.to_k.weight.data_ptr() != weight.data_ptr() + weight.nbytes


@pytest.mark.gpu
def test_pinned_memory_stays() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    block = scattered(make_block())
    for parameter in block.parameters():
        parameter.data = parameter.data.pin_memory()
    ds_diffusers.patch(block)
    run(block)
    assert all(parameter.is_pinned() for parameter in block.parameters())
