"""What only a GPU has: streams, graphs, several devices."""

# labels: torch gpu
import pytest
import torch

from cases import Arguments, Maker, Operator
from helpers.operators import as_tuple, bits, call, convert, every_operator, small, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
needs_two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def values(operator: Operator, arguments: Arguments) -> list[torch.Tensor]:
    return [bits(result).clone() for result in as_tuple(call(operator, arguments))]


def check_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first.cpu(), second.cpu())


@every_operator
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_captured_graph_follows_its_inputs(operator: Operator, dtype: torch.dtype) -> None:
    arguments = operator.growing.make(Maker.seeded(dtype, "cuda"), 3)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(operator, arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = as_tuple(call(operator, arguments))
    for seed in (1, 2, 3):
        changed = operator.growing.make(Maker.seeded(dtype, "cuda", seed), 3)
        for name, value in tensors(arguments).items():
            value.copy_(changed[name])
        for result in results:
            result.fill_(float("nan"))
        graph.replay()
        check_same([bits(result) for result in results], values(operator, changed))


@every_operator
def test_work_is_ordered_on_the_current_stream(operator: Operator) -> None:
    """The operator waits for what was put on its stream before it, and the caller does not wait for it."""
    arguments = small(operator, device="cuda")
    expected = values(operator, arguments)
    name, value = next(iter(tensors(arguments).items()))
    late = value.clone()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call(operator, arguments)
        torch.cuda.synchronize()
        value.fill_(float("nan"))
        torch.cuda._sleep(200_000_000)
        value.copy_(late)
        results = as_tuple(call(operator, arguments))
        assert not stream.query(), f"{operator.name} waited for the GPU"
        found = [bits(result).clone() for result in results]
    stream.synchronize()
    check_same(found, expected)


@every_operator
@needs_two_devices
def test_second_device(operator: Operator) -> None:
    expected = values(operator, small(operator, device="cuda:0"))
    for current, where in ((0, 1), (1, 0), (1, 1)):
        with torch.cuda.device(current):
            arguments = small(operator, device=f"cuda:{where}")
            results = as_tuple(call(operator, arguments))
            assert torch.cuda.current_device() == current
        assert all(result.device == torch.device("cuda", where) for result in results)
        check_same([bits(result) for result in results], expected)


@every_operator
@needs_two_devices
def test_tensors_on_two_devices_are_refused(operator: Operator) -> None:
    arguments = small(operator, device="cuda:1")
    first, second, *_ = tensors(arguments)
    moved = arguments | {second: arguments[second].to("cuda:0")}
    message = f"{second} is on cuda:0, must be on cuda:1, the device of {first}"
    with pytest.raises(RuntimeError, match=message):
        call(operator, moved)


@every_operator
def test_first_tensor_on_the_cpu_is_refused(operator: Operator) -> None:
    arguments = small(operator, device="cuda")
    first = next(iter(tensors(arguments)))
    with pytest.raises(RuntimeError, match="is on c"):
        call(operator, arguments | {first: arguments[first].cpu()})


@every_operator
def test_cpu_and_cuda_agree(operator: Operator) -> None:
    arguments = small(operator)
    on_cuda = convert(arguments, lambda value: value.cuda())
    for one, other in zip(
        as_tuple(call(operator, arguments)), as_tuple(call(operator, on_cuda)), strict=True
    ):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-4, atol=1e-4)
