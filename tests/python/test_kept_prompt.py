"""Inside `keep_prompt`, a prompt's keys and values are computed once, and go with it."""

# labels: torch diffusers gpu
import copy
import pickle
import threading
import warnings
import weakref
from contextlib import nullcontext

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers import prompts
from ds_diffusers.calls import calls_of
from helpers.kept_prompts import Seen, call, check, expected, nothing_stays, patched, seen
from helpers.memory import growth
from helpers.unets import (
    BLOCKS,
    CONTEXT,
    UNETS,
    additive_mask,
    block_arguments,
    make_block,
    needs_context,
    run_unet,
    unet_arguments,
)
from helpers.weights import check_close
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["nothing_stays", "seen"]  # fixtures

pytestmark = pytest.mark.diffusers

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)


# ---- that it is used ----


@every_dtype
@pytest.mark.parametrize("form", BLOCKS)
def test_every_form(form: str, dtype: torch.dtype, device: torch.device, seen: Seen) -> None:
    block = patched(**BLOCKS[form]).to(device, dtype)
    values = block_arguments(block)
    unkept = call(block, values)
    seen.take()
    with ds_diffusers.keep_prompt(block):
        for _ in range(3):
            check_close(call(block, values), unkept)
        used = needs_context(block)
        assert seen.take() == ([used] * 3, int(used))
    check_close(call(block, values), unkept)
    assert seen.take() == ([False], 0)


@pytest.mark.parametrize("unet", UNETS)
def test_steps_of_a_unet(unet: str, device: torch.device, seen: Seen) -> None:
    model = ds_diffusers.patch(UNETS[unet]().to(device))
    prompt = unet_arguments(model)["encoder_hidden_states"]
    steps = [unet_arguments(model, seed) | {"encoder_hidden_states": prompt} for seed in range(4)]
    with torch.no_grad():
        unkept = [run_unet(model, step) for step in steps]
        count = len(seen.take()[0]) // len(steps)
        with ds_diffusers.keep_prompt(model):
            for step, result in zip(steps, unkept, strict=True):
                check_close(run_unet(model, step), result)
    assert count >= 7
    assert seen.take() == ([True] * count * len(steps), count)


def test_masks_take_the_full_look(device: torch.device, seen: Seen) -> None:
    block = patched().to(device)
    values = block_arguments(block)
    mask = additive_mask(torch.arange(7, device=device).expand(2, 7) < 4, torch.float32)
    masked = values | {"encoder_attention_mask": mask}
    unkept, masked_unkept = call(block, values), call(block, masked)
    seen.take()
    with ds_diffusers.keep_prompt(block):
        check_close(call(block, masked), masked_unkept)
        check_close(call(block, values), unkept)
        check_close(call(block, masked), masked_unkept)
    assert seen.take() == ([True] * 3, 1)


def test_prompts_that_are_not_contiguous(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    views = {
        "expanded": values["encoder_hidden_states"][:1].expand(2, -1, -1),
        "transposed": values["encoder_hidden_states"].mT.contiguous().mT,
    }
    for view in views.values():
        changed = values | {"encoder_hidden_states": view}
        unkept = call(block, changed)
        seen.take()
        with ds_diffusers.keep_prompt(block):
            for _ in range(2):
                check_close(call(block, changed), unkept)
        assert seen.take() == ([True] * 2, 1)


def test_another_view_of_the_prompt_is_the_same_prompt(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    both = torch.cat([values["encoder_hidden_states"]] * 2)
    with ds_diffusers.keep_prompt(block):
        for _ in range(3):
            check(block, values | {"encoder_hidden_states": both[:2]})
    assert seen.take() == ([True] * 3, 1)


def test_prompts_in_turn(seen: Seen) -> None:
    block = patched()
    sets = [block_arguments(block, seed) for seed in range(3)]
    with ds_diffusers.keep_prompt(block):
        for _ in range(3):
            for values in sets[:2]:
                check(block, values)
        assert seen.take() == ([True] * 6, 2)
        for _ in range(2):
            for values in sets:
                check(block, values)
        kept, computed = seen.take()
        assert kept == [True] * 6 and computed > 2
        assert len(calls_of(block).prompts._entries) == prompts.PROMPTS


def test_the_prompt_that_was_used_least_recently_makes_place(seen: Seen) -> None:
    """A constant negative prompt stays, while the others change."""
    block = patched()
    sets = [block_arguments(block, seed) for seed in range(4)]
    with ds_diffusers.keep_prompt(block):
        for changing in sets[1:]:
            check(block, changing)
            check(block, sets[0])
        assert seen.take() == ([True] * 6, 4)


def test_inference_mode(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        with torch.inference_mode():
            unkept = expected(block, values)
            for _ in range(2):
                check_close(block(**values), unkept)
            values["encoder_hidden_states"].mul_(2)
            check_close(block(**values), expected(block, values))
        check(block, values)
        assert seen.take() == ([True] * 4, 2)
        with torch.inference_mode():
            uncounted = {name: value.clone() for name, value in values.items()}
            check_close(block(**uncounted), expected(block, values))
    assert seen.take() == ([False], 0)


# ---- recordings ----


def check_nothing_kept(block: nn.Module, seen: Seen) -> None:
    assert calls_of(block).prompts._entries == ()
    assert not any(seen.take()[0])


def test_compiled(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    torch._dynamo.reset()
    with ds_diffusers.keep_prompt(block), torch.no_grad():
        run = torch.compile(lambda **given: block(**given), fullgraph=True, backend="eager")
        run(**values)
        check_nothing_kept(block, seen)
        values["encoder_hidden_states"] = torch.randn(2, 7, CONTEXT)
        check_close(run(**values), expected(block, values))


def test_traced(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(block, values)
        seen.take()
        traced = torch.jit.trace(block, example_kwarg_inputs=values, check_trace=False)
        assert not any(seen.take()[0])
        values["encoder_hidden_states"] = torch.randn(2, 7, CONTEXT)
        check_close(traced(**values), expected(block, values))


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict: bool, seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block), torch.no_grad():
        program = torch.export.export(block, (), values, strict=strict).module()
        check_nothing_kept(block, seen)
        values["encoder_hidden_states"] = torch.randn(2, 7, CONTEXT)
        check_close(program(**values), expected(block, values))


def test_under_a_dispatch_mode(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        with FlopCounterMode(display=False):
            check(block, values)
        check_nothing_kept(block, seen)


def test_captured(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        with monkeypatch.context() as capturing:
            capturing.setattr(prompts, "is_captured", lambda: True)
            check(block, values)
            check_nothing_kept(block, seen)
        check(block, values)
        assert seen.take() == ([True], 1)
        monkeypatch.setattr(prompts, "is_captured", lambda: True)
        check(block, values)
        assert seen.take() == ([False], 0)


@pytest.mark.gpu
def test_a_graph_of_the_block() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    block = patched().to("cuda", torch.float16)
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block), torch.no_grad():
        for _ in range(4):
            check(block, values)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = block(**values)
    values["encoder_hidden_states"].normal_()
    graph.replay()
    check_close(result, expected(block, values))


@pytest.mark.gpu
def test_each_stream_has_its_own(seen: Seen) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    block = patched().to("cuda")
    values = block_arguments(block)
    other = torch.cuda.Stream()
    with ds_diffusers.keep_prompt(block):
        unkept = expected(block, values)
        for _ in range(2):
            check_close(call(block, values), unkept)
            other.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(other):
                result = call(block, values)
            torch.cuda.current_stream().wait_stream(other)
            check_close(result, unkept)
    assert seen.take() == ([True] * 4, 2)


# ---- handles ----


def test_nested(seen: Seen) -> None:
    block, other = patched(), patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        with ds_diffusers.keep_prompt(nn.ModuleList([block, other, nn.ModuleList([block])])):
            check(block, values)
            check(other, values)
        check(block, values)
        check(other, values)
        assert seen.take() == ([True, True, True, False], 2)
    check(block, values)
    assert seen.take() == ([False], 0)


def test_one_handle_again(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    handle = ds_diffusers.keep_prompt(block)
    for _ in range(2):
        with handle:
            with handle:
                check(block, values)
            check(block, values)
    assert seen.take() == ([True] * 4, 2)


def test_a_handle_that_is_left_without_being_entered() -> None:
    with pytest.raises(IndexError):
        ds_diffusers.keep_prompt(patched()).__exit__(None, None, None)


def test_an_exception_drops_everything(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with pytest.raises(KeyError), ds_diffusers.keep_prompt(block):
        check(block, values)
        entry = weakref.ref(calls_of(block).prompts._entries[0].key_value)
        raise KeyError
    assert calls_of(block).prompts is None and entry() is None


def test_wrong_calls_say_what_is_wrong() -> None:
    block = patched()
    values = block_arguments(block)
    wrong = values | {"encoder_hidden_states": torch.randn(2, 7, CONTEXT + 1)}
    with pytest.raises(RuntimeError) as unkept:
        call(block, wrong)
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        with pytest.raises(RuntimeError) as error:
            call(block, wrong)
        check(block, values)
    assert str(error.value) == str(unkept.value)


def test_a_prompt_of_another_dtype_in_the_same_memory() -> None:
    block = patched().half()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        with pytest.raises(RuntimeError):
            call(
                block,
                values | {"encoder_hidden_states": values["encoder_hidden_states"].view(torch.bfloat16)},
            )


def test_copies_are_not_kept(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    keys = list(block.state_dict())
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        assert list(block.state_dict()) == keys
        seen.take()
        for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
            assert vars(other).keys() == vars(block).keys()
            with torch.no_grad():
                other.attn2.to_v.weight.mul_(2)
            check(other, values)
        assert seen.take() == ([False] * 2, 0)


def test_unpatch_inside(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        entry = weakref.ref(calls_of(block).prompts._entries[0].key_value)
        seen.take()
        ds_diffusers.unpatch(block)
        assert entry() is None
        call(block, values)
        assert seen.take() == ([], 0)
        ds_diffusers.patch(block)
        check(block, values)
        assert seen.take() == ([False], 0)
        with ds_diffusers.keep_prompt(block):
            check(block, values)
        assert seen.take() == ([True], 1)


def test_a_model_that_goes_takes_everything_along() -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(nn.ModuleList([block])) as handle:
        call(block, values)
        entry = weakref.ref(calls_of(block).prompts._entries[0].key_value)
        assert handle is None
    assert entry() is None


def test_pipelines(seen: Seen) -> None:
    class Pipeline:
        def __init__(self) -> None:
            self.components = {"unet": make_block(), "controlnet": [make_block()], "scheduler": object()}

    pipeline = ds_diffusers.patch(Pipeline())
    first, (second,) = pipeline.components["unet"], pipeline.components["controlnet"]
    values = block_arguments(first)
    with ds_diffusers.keep_prompt(pipeline):
        for _ in range(2):
            check(first, values)
            check(second, values)
    assert seen.take() == ([True] * 4, 2)


def test_nothing_to_keep() -> None:
    with pytest.warns(UserWarning, match="ds_diffusers.keep_prompt: Linear has no patched block"):
        with ds_diffusers.keep_prompt(nn.Linear(2, 2)):
            pass
    with pytest.warns(UserWarning, match="BasicTransformerBlock has no patched block"):
        with ds_diffusers.keep_prompt(make_block()):
            pass


@pytest.mark.parametrize("model", [None, "unet", [make_block]], ids=str)
def test_something_that_is_no_model(model: object) -> None:
    with pytest.raises(TypeError, match="must be a torch.nn.Module or a diffusers pipeline"):
        ds_diffusers.keep_prompt(model)


def test_threads(seen: Seen) -> None:
    block = patched()
    sets = [block_arguments(block, seed) for seed in range(4)]
    results = [call(block, values) for values in sets]
    failures = []

    def work(number: int) -> None:
        try:
            for step in range(60):
                handle = ds_diffusers.keep_prompt(block) if step % 7 == 0 else nullcontext()
                with handle:
                    check_close(call(block, sets[number]), results[number])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(sets))]
    with ds_diffusers.keep_prompt(block):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert calls_of(block).prompts is None


def test_nothing_leaks(device: torch.device) -> None:
    block = patched().to(device)
    values = block_arguments(block)

    def cycle() -> None:
        with ds_diffusers.keep_prompt(block):
            call(block, values)
            values["encoder_hidden_states"].mul_(2)
            call(block, values)
            values["encoder_hidden_states"].normal_()

    grown = growth(cycle, 400, device)
    assert grown.get("cuda", 0) == 0
    assert grown.get("heap", 0) < 20_000
