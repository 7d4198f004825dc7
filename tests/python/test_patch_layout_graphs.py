"""Weights stay where a graph, a recording or another thread has them, and are placed once it cannot."""

# labels: torch diffusers gpu
import threading
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers import layout
from helpers.unets import block_arguments, make_block
from helpers.weights import (
    check_close,
    check_unmoved,
    expected,
    moved_block,
    patched_block,
    placed,
    run,
    scattered,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.diffusers


def traced(block: nn.Module) -> None:
    with torch.no_grad():
        torch.jit.trace(block, example_kwarg_inputs=block_arguments(block), check_trace=False)


def compiled(block: nn.Module) -> None:
    torch._dynamo.reset()
    run(torch.compile(block, fullgraph=True, backend="eager"), **{})


def exported(block: nn.Module, strict: bool) -> None:
    with torch.no_grad():
        torch.export.export(block, (), block_arguments(block), strict=strict)


def faked(block: nn.Module) -> None:
    values = block_arguments(block)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        block(**{name: mode.from_tensor(value) for name, value in values.items()})


def under_a_dispatch_mode(block: nn.Module) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        run(block)


def with_other_parameters(block: nn.Module) -> None:
    others = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    with torch.no_grad():
        torch.func.functional_call(block, others, kwargs=block_arguments(block))


RECORDINGS: dict[str, Callable[[nn.Module], object]] = {
    "trace": traced,
    "compile": compiled,
    "export": lambda block: exported(block, strict=False),
    "strict_export": lambda block: exported(block, strict=True),
    "fake_tensors": faked,
    "dispatch_mode": under_a_dispatch_mode,
    "functional_call": with_other_parameters,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore:.*lru_cache", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("recording", RECORDINGS)
def test_what_records_calls_moves_nothing(recording: str) -> None:
    block = moved_block()
    check_unmoved(block, lambda: RECORDINGS[recording](block))
    run(block)
    assert placed(block)


def test_weights_that_a_graph_reads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    block = patched_block()
    run(block)
    with monkeypatch.context() as capturing:
        capturing.setattr(layout, "is_captured", lambda: True)
        run(block)
    query = block.attn1.to_q.weight
    query.data = query.data.clone()
    addresses = [parameter.data_ptr() for parameter in block.parameters()]
    check_close(run(block), expected(block))
    assert [parameter.data_ptr() for parameter in block.parameters()] == addresses


@pytest.mark.gpu
def test_cuda_graphs() -> None:
    """A graph reads the weights where they were when it was captured."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    other = ds_diffusers.patch(make_block().cuda())
    block = scattered(ds_diffusers.patch(make_block()).cuda())
    values = block_arguments(block)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            other(**values)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    addresses = [parameter.data_ptr() for parameter in block.parameters()]
    with torch.no_grad(), torch.cuda.graph(graph):
        result = block(**values)
    assert not placed(block)
    run(block)
    run(block)
    assert [parameter.data_ptr() for parameter in block.parameters()] == addresses
    graph.replay()
    check_close(result, expected(block))
    ds_diffusers.patch(ds_diffusers.unpatch(block))
    assert placed(block)


@pytest.mark.gpu
def test_side_streams() -> None:
    """Weights that were placed on one stream are complete for the others."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    block = moved_block().cuda()
    result = expected(block)
    with torch.cuda.stream(torch.cuda.Stream()):
        run(block)
    check_close(run(block), result)
    assert placed(block)


def test_threads_that_call_first_together() -> None:
    for _ in range(20):
        block = moved_block()
        values = block_arguments(block)
        result = expected(block)
        barrier = threading.Barrier(4)
        results = []

        def call() -> None:
            barrier.wait()
            with torch.no_grad():
                results.append(block(**values))

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 4
        for found in results:
            check_close(found, result)
        run(block)
        assert placed(block)


def test_nothing_moves_while_another_thread_uses_it() -> None:
    """A call in grad mode runs as diffusers' own and reads the weights where they are."""
    block = moved_block()
    inside, done = threading.Event(), threading.Event()
    original = block.ff.net[1].forward

    def wait(states: torch.Tensor) -> torch.Tensor:
        inside.set()
        assert done.wait(60)
        return original(states)

    block.ff.net[1].forward = wait
    thread = threading.Thread(target=lambda: block(**block_arguments(block)))
    thread.start()
    assert inside.wait(60)
    del block.ff.net[1].forward
    check_unmoved(block)
    assert ds_diffusers.report(block)[0].fused_calls == 1
    done.set()
    thread.join()
    run(block)
    assert placed(block)
