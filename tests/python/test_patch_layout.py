"""Patched blocks have the weights of q, k and v one behind the other in memory, and nothing else notices."""

# labels: torch diffusers gpu
import copy
import ctypes
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from diffusers.models.attention import BasicTransformerBlock
from ds_diffusers import layout
from ds_diffusers.calls import calls_of
from helpers.memory import growth
from helpers.unets import BLOCKS, CHANNELS, block_arguments, make_block, run_unet, sd15_unet, unet_arguments
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef

pytestmark = pytest.mark.diffusers

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


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


def test_fused_lora() -> None:
    peft = pytest.importorskip("peft")
    unet = ds_diffusers.patch(scattered(sd15_unet()))
    values = unet_arguments(unet)
    with torch.no_grad():
        plain = run_unet(unet, values)
        unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
        unet.fuse_lora()
        unet.unload_lora()
        changed = run_unet(unet, values)
        check_close(changed, run_unet(ds_diffusers.unpatch(copy.deepcopy(unet)), values))
    assert not torch.allclose(changed, plain)
    assert placed(unet)


@every_dtype
def test_state_dict(dtype: torch.dtype) -> None:
    block = patched_block().to(dtype)
    run(block)
    other = ds_diffusers.patch(make_block().to(dtype))
    run(other)
    addresses = [parameter.data_ptr() for parameter in other.parameters()]
    other.load_state_dict(block.state_dict())
    assert [parameter.data_ptr() for parameter in other.parameters()] == addresses
    assert torch.equal(run(other), run(block))
    other.load_state_dict(copy.deepcopy(make_block().to(dtype).state_dict()), assign=True)
    check_close(run(other), expected(other))
    assert placed(other)


@every_dtype
def test_saved_files(dtype: torch.dtype, tmp_path) -> None:
    """What writes checkpoints looks at storages, as tensors that share one are taken for duplicates."""
    safetensors = pytest.importorskip("safetensors.torch")
    unet = scattered(sd15_unet().to(dtype))
    before = copy.deepcopy(unet.state_dict())
    ds_diffusers.patch(unet)
    assert placed(unet)

    def check(found: dict[str, torch.Tensor]) -> None:
        assert found.keys() == before.keys()
        assert all(torch.equal(found[name], before[name]) for name in before)

    safetensors.save_file(unet.state_dict(), tmp_path / "dict.safetensors")
    check(safetensors.load_file(tmp_path / "dict.safetensors"))
    safetensors.save_model(unet, str(tmp_path / "model.safetensors"))
    check(safetensors.load_file(tmp_path / "model.safetensors"))
    unet.save_pretrained(tmp_path / "pretrained")
    check(type(unet).from_pretrained(tmp_path / "pretrained", torch_dtype=dtype).state_dict())
    unet.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    check(type(unet).from_pretrained(tmp_path / "shards", torch_dtype=dtype).state_dict())
    torch.save(unet.state_dict(), tmp_path / "dict.pt")
    check(torch.load(tmp_path / "dict.pt"))


def test_checkpoints_of_accelerate() -> None:
    other = pytest.importorskip("accelerate.utils.other")
    unet = ds_diffusers.patch(sd15_unet())
    kept = other.clean_state_dict_for_safetensors(unet.state_dict())
    assert kept.keys() == unet.state_dict().keys()


def test_size_of_saved_tensors() -> None:
    def size(value: object) -> int:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return len(buffer.getvalue())

    block = scattered(make_block())
    whole, part = size(block.state_dict()), size(block.attn1.to_k.weight)
    ds_diffusers.patch(block)
    assert placed(block)
    assert size(block.state_dict()) == whole
    assert size(block.attn1.to_k.weight) == part


def test_share_memory() -> None:
    block = patched_block()
    block.share_memory()
    assert all(parameter.is_shared() for parameter in block.parameters())
    check_unmoved(block)
    check_close(run(block), expected(block))


def test_from_the_memory_of_files(tmp_path) -> None:
    """from_pretrained maps the file into memory on the CPU: placing would read all of it."""
    sd15_unet().save_pretrained(tmp_path)
    unet = ds_diffusers.patch(type(sd15_unet()).from_pretrained(tmp_path))
    values = unet_arguments(unet)
    with torch.no_grad():
        run_unet(unet, values)
        result = run_unet(copy.deepcopy(unet), values)
        check_close(run_unet(unet, values), result)


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


def moved_block() -> BasicTransformerBlock:
    """A patched block that was moved since, so that its weights are to be placed."""
    return scattered(patched_block())


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


def test_group_offloading_of_blocks() -> None:
    unet = ds_diffusers.patch(sd15_unet())
    values = unet_arguments(unet)
    with torch.no_grad():
        result = run_unet(unet, values)
        unet.enable_group_offload(
            torch.device("cpu"), torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
        )
        for _ in range(3):
            check_close(run_unet(unet, values), result)


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


def test_unpatch_below_lora() -> None:
    peft = pytest.importorskip("peft")
    unet = ds_diffusers.patch(sd15_unet())
    unet.add_adapter(peft.LoraConfig(r=4, target_modules=["to_q", "to_v"]))
    ds_diffusers.unpatch(unet)
    assert all(parameter.untyped_storage().resizable() for parameter in unet.parameters())


def test_weights_that_a_graph_reads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    block = patched_block()
    run(block)
    with monkeypatch.context() as capturing:
        capturing.setattr(layout, "_is_captured", lambda: True)
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
