"""Calls of block_forward that come again, which are launched as recorded: with the results of the call itself,
whatever the tensors hold by then."""

# labels: torch diffusers gpu
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

import ds_diffusers
from cases import Arguments, Case, Maker
from cases.block_forward import OPERATOR as BLOCK
from cases.block_forward import Attention, Block
from cases.block_forward import arguments as block_arguments
from helpers.operators import bits, call, every_dtype, tensors
from helpers.unets import make_unet, unet_arguments
from torch.profiler import ProfilerActivity, profile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

every_block = pytest.mark.parametrize("case", BLOCK.cases, ids=lambda case: case.id)
every_recorded_dtype = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"]
)
CALLS = 5  # two that are counted, one that is recorded, and two that are launched as it was


@pytest.fixture(autouse=True)
def recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_DIFFUSERS_RECORDING", "1")


@contextmanager
def unrecorded() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_DIFFUSERS_RECORDING", "0")
        yield


def plain_block(dtype: torch.dtype, seed: int = 0) -> Arguments:
    """Arguments with heads of a size that all steps have kernels of this library for."""
    block = Block(
        tokens=40, channels=80, heads=2, head_size=40, ff_inner=320, attn2=Attention(context=(7, 24))
    )
    return block_arguments(Maker.seeded(dtype, "cuda", seed), block)


def result_bits(arguments: Arguments) -> torch.Tensor:
    """A copy: the result's own memory is free for the next call's."""
    return bits(call(BLOCK, arguments)).clone()


def graph_launches(work: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    return sum(event.count for event in found.key_averages() if event.key == "cudaGraphLaunch")


@every_block
@every_dtype
def test_calls_that_come_again(case: Case, dtype: torch.dtype) -> None:
    arguments = case.make(Maker.seeded(dtype, "cuda"))
    with unrecorded():
        expected = result_bits(arguments)
    for _ in range(CALLS):
        assert torch.equal(result_bits(arguments), expected)


@every_recorded_dtype
def test_values_change_in_place(dtype: torch.dtype) -> None:
    arguments = plain_block(dtype)
    for seed in range(CALLS + 2):
        changed = plain_block(dtype, seed)
        for name, value in tensors(arguments).items():
            value.copy_(changed[name])
        with unrecorded():
            expected = result_bits(arguments)
        assert torch.equal(result_bits(arguments), expected)


def test_numbers_that_are_no_tensors_count() -> None:
    arguments = plain_block(torch.float16)
    changes = ({"norm_epsilon": 0.5}, {"activation_type": 4}, {"heads": 1})
    for changed in [arguments] + [arguments | change for change in changes]:
        with unrecorded():
            expected = result_bits(changed)
        for _ in range(CALLS):
            assert torch.equal(result_bits(changed), expected)


def test_a_recorded_call_is_one_launch() -> None:
    arguments = plain_block(torch.float16)
    with unrecorded():
        assert graph_launches(lambda: result_bits(arguments)) == 0
    for _ in range(CALLS):
        result_bits(arguments)
    assert graph_launches(lambda: result_bits(arguments)) == 1


def test_nothing_is_recorded_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_DIFFUSERS_RECORDING")
    arguments = plain_block(torch.float16)
    for _ in range(CALLS):
        result_bits(arguments)
    assert graph_launches(lambda: result_bits(arguments)) == 0


def test_float32_follows_the_precision_of_torch() -> None:
    """TF32 may be switched between two calls."""
    arguments = plain_block(torch.float32)
    for _ in range(CALLS):
        assert graph_launches(lambda: result_bits(arguments)) == 0


def test_results_that_are_kept_are_not_written_to() -> None:
    arguments = plain_block(torch.float16)
    kept = []
    for seed in range(3 * CALLS):
        arguments["hidden_states"].copy_(plain_block(torch.float16, seed)["hidden_states"])
        result = call(BLOCK, arguments)
        if seed % 3 == 0:
            kept.append((result, bits(result).clone()))
    for result, expected in kept:
        assert torch.equal(bits(result), expected)


def test_other_streams() -> None:
    arguments = plain_block(torch.float16)
    with unrecorded():
        expected = result_bits(arguments)
    torch.cuda.synchronize()
    for stream in [torch.cuda.Stream(), torch.cuda.Stream(), torch.cuda.current_stream()]:
        with torch.cuda.stream(stream):
            for _ in range(CALLS):
                assert torch.equal(result_bits(arguments), expected)
        stream.synchronize()


def test_a_denoising_loop() -> None:
    """Steps of a patched UNet, with a prompt of the same shape and weights that change on the way."""
    unet = make_unet(block_out_channels=(80, 160), attention_head_dim=2).to("cuda", torch.float16)
    ds_diffusers.patch(unet)
    weights = {name: value.clone() for name, value in unet.state_dict().items()}

    def steps() -> list[torch.Tensor]:
        unet.load_state_dict(weights)
        results = []
        arguments = unet_arguments(unet)
        for step in range(3 * CALLS):
            if step == CALLS:
                arguments = unet_arguments(unet, seed=1)
            if step == 2 * CALLS:
                for parameter in unet.parameters():
                    parameter.mul_(0.5)
            results.append(unet(**arguments).sample.clone())
        return results

    with torch.no_grad():
        with unrecorded():
            expected = steps()
        for result, wanted in zip(steps(), expected, strict=True):
            assert torch.equal(bits(result), bits(wanted))
        arguments = unet_arguments(unet)
        for _ in range(CALLS):
            unet(**arguments)
        assert graph_launches(lambda: unet(**arguments)) == len(ds_diffusers.report(unet))
