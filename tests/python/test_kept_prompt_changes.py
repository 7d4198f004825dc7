"""Inside `keep_prompt`, no block ever uses the keys and values of another prompt or of other weights."""

# labels: torch diffusers
import copy
import weakref
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from ds_diffusers.calls import calls_of
from helpers.kept_prompts import Seen, call, check, nothing_stays, patched, seen
from helpers.unets import CONTEXT, UNETS, Arguments, block_arguments, make_block, run_unet, unet_arguments
from helpers.weights import check_close
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["nothing_stays", "seen"]  # fixtures

pytestmark = pytest.mark.diffusers


# ---- that it is never stale ----


def other_prompt(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"] = torch.randn_like(values["encoder_hidden_states"])


def prompt_in_place(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"].mul_(2)


def prompt_through_a_view(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"][0].view(-1)[3:9].fill_(2)


def prompt_through_an_alias(block: nn.Module, values: Arguments) -> None:
    """Of which PyTorch counts the changes apart."""
    values["encoder_hidden_states"].mul_(2)
    values["encoder_hidden_states"] = values["encoder_hidden_states"].data


def alias_of_the_prompt(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"] = values["encoder_hidden_states"].data
    values["encoder_hidden_states"].mul_(2)


def prompt_with_other_memory(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"].data = torch.randn_like(values["encoder_hidden_states"])


def prompt_set_to_another(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"].set_(torch.randn_like(values["encoder_hidden_states"]))


def fewer_tokens(block: nn.Module, values: Arguments) -> None:
    values["encoder_hidden_states"] = values["encoder_hidden_states"][:, :4]


def other_strides(block: nn.Module, values: Arguments) -> None:
    context = values["encoder_hidden_states"]
    values["encoder_hidden_states"] = context.as_strided(context.shape, (CONTEXT, 2 * CONTEXT, 1))


def other_batch(block: nn.Module, values: Arguments) -> None:
    for name, value in values.items():
        values[name] = value[:1]


def weight_in_place(block: nn.Module, values: Arguments) -> None:
    with torch.no_grad():
        block.attn2.to_v.weight.mul_(2)


def bias_in_place(block: nn.Module, values: Arguments) -> None:
    with torch.no_grad():
        block.attn2.to_k.bias.add_(1)


def weight_in_inference_mode(block: nn.Module, values: Arguments) -> None:
    with torch.inference_mode():
        block.attn2.to_k.weight.mul_(2)


def other_parameter(block: nn.Module, values: Arguments) -> None:
    block.attn2.to_v.weight = nn.Parameter(torch.randn_like(block.attn2.to_v.weight))


def parameter_with_other_memory(block: nn.Module, values: Arguments) -> None:
    block.attn2.to_k.weight.data = torch.randn_like(block.attn2.to_k.weight)


def other_parameter_of_the_same_memory(block: nn.Module, values: Arguments) -> None:
    """In the version that the other one had."""
    weight = block.attn2.to_v.weight
    version = weight._version
    with torch.no_grad():
        weight.mul_(2)
        other = nn.Parameter(weight.data)
        while other._version < version:
            other.add_(0)
    block.attn2.to_v.weight = other


def parameter_further_on_in_its_memory(block: nn.Module, values: Arguments) -> None:
    weight = block.attn2.to_k.weight
    twice = weight.data.repeat(2, 1)
    twice[len(weight) :].mul_(2)
    weight.data = twice[: len(weight)]
    call(block, values)
    weight.data = twice[len(weight) :]


def parameter_in_other_memory_at_the_same_address(block: nn.Module, values: Arguments) -> None:
    bias = block.attn2.to_k.bias
    memory = bytearray(bias.nbytes)
    bias.data = torch.frombuffer(memory, dtype=bias.dtype)
    call(block, values)
    memory[:] = torch.ones_like(bias).numpy().tobytes()
    bias.data = torch.frombuffer(memory, dtype=bias.dtype)


def no_bias(block: nn.Module, values: Arguments) -> None:
    block.attn2.to_v.bias = None


def other_layer(block: nn.Module, values: Arguments) -> None:
    block.attn2.to_k = nn.Linear(CONTEXT, block.attn2.inner_dim)


def other_state(block: nn.Module, values: Arguments) -> None:
    state = {name: torch.randn_like(value) for name, value in block.state_dict().items()}
    block.load_state_dict(state)


def other_state_assigned(block: nn.Module, values: Arguments) -> None:
    state = {name: torch.randn_like(value) for name, value in block.state_dict().items()}
    block.load_state_dict(state, assign=True)


def rounded(block: nn.Module, values: Arguments) -> None:
    """There and back: the same parameters of the same dtype, with other values."""
    block.bfloat16().float()


def other_dtype(block: nn.Module, values: Arguments) -> None:
    block.bfloat16()
    for name, value in values.items():
        values[name] = value.bfloat16()


def swapped(block: nn.Module, values: Arguments) -> None:
    weight = block.attn2.to_k.weight
    torch.utils.swap_tensors(weight, nn.Parameter(torch.randn_like(weight)))


CHANGES: list[Callable[[nn.Module, Arguments], None]] = [
    other_prompt,
    prompt_in_place,
    prompt_through_a_view,
    prompt_through_an_alias,
    alias_of_the_prompt,
    prompt_with_other_memory,
    prompt_set_to_another,
    fewer_tokens,
    other_strides,
    other_batch,
    weight_in_place,
    bias_in_place,
    weight_in_inference_mode,
    other_parameter,
    parameter_with_other_memory,
    other_parameter_of_the_same_memory,
    parameter_further_on_in_its_memory,
    parameter_in_other_memory_at_the_same_address,
    no_bias,
    other_layer,
    other_state,
    other_state_assigned,
    rounded,
    other_dtype,
    swapped,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_act_at_the_next_call(change: Callable, seen: Seen) -> None:
    block = make_block()
    for layer in (block.attn2.to_k, block.attn2.to_v):
        layer.bias = nn.Parameter(torch.randn(block.attn2.inner_dim))
    ds_diffusers.patch(block)
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        first = call(block, values)
        assert seen.take() == ([True, True], 1)
        change(block, values)
        seen.take()
        check(block, values)
        check(block, values)
        again = call(block, values)
        assert again.shape != first.shape or not torch.equal(again.float(), first)
        kept, computed = seen.take()
        assert kept == [True] * 3 and computed == 1


def test_memory_of_a_prompt_is_not_given_away() -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        call(block, values)
        address = values["encoder_hidden_states"].data_ptr()
        shape = values.pop("encoder_hidden_states").shape
        others = [torch.randn(shape) for _ in range(100)]
        assert all(other.data_ptr() != address for other in others)


def test_memory_of_a_weight_is_freed() -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        call(block, values)
        storage = StorageWeakRef(block.attn2.to_k.weight.untyped_storage())
        block.attn2.to_k.weight.data = torch.randn_like(block.attn2.to_k.weight)
        assert storage.expired()
        check(block, values)


def test_what_is_out_of_date_is_freed_at_the_next_call() -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        call(block, values)
        first = weakref.ref(calls_of(block).prompts._entries[0].key_value)
        prompt_in_place(block, values)
        call(block, values)
        assert first() is None


def test_gradients_are_diffusers_own(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        call(block, values)
        seen.take()
        block(**values).sum().backward()
    assert seen.take() == ([], 0)
    assert all(parameter.grad is not None for parameter in block.parameters())


# ---- LoRA ----


def add_adapters(block: nn.Module, *targets: str) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False)
    peft.inject_adapter_in_model(config, block)


def lora_layers(block: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Each with the module that has it and the name there."""
    return [
        (attention, name, layer)
        for attention in (block.attn1, block.attn2)
        for name, layer in attention.named_children()
        if type(layer).__module__.startswith("peft")
    ]


@pytest.mark.parametrize("target", ["attn2.to_k", "attn2.to_v"])
def test_adapters_of_keys_or_values(target: str, seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        assert seen.take() == ([True], 1)
        add_adapters(block, target)
        check(block, values)
        assert calls_of(block).prompts._entries == ()
        (_, _, layer) = lora_layers(block)[0]
        for change in (layer.merge, layer.unmerge, lambda: layer.enable_adapters(False)):
            change()
            check(block, values)
        assert seen.take() == ([False] * 4, 0)


def test_adapters_of_queries_alone(seen: Seen) -> None:
    block = patched()
    add_adapters(block, "to_q", "to_out.0")
    values = block_arguments(block)
    with ds_diffusers.keep_prompt(block):
        for _ in range(2):
            check(block, values)
    assert seen.take() == ([True] * 2, 1)


def test_adapters_that_were_fused_and_taken_away_between_two_calls(seen: Seen) -> None:
    block = patched()
    values = block_arguments(block)
    weight = block.attn2.to_k.weight
    state = weight.data_ptr(), weight._version
    with ds_diffusers.keep_prompt(block):
        check(block, values)
        add_adapters(block, "to_k", "to_v")
        for attention, name, layer in lora_layers(block):
            layer.merge()
            setattr(attention, name, layer.get_base_layer())
        # Nothing else shows that its values are others.
        assert block.attn2.to_k.weight is weight and (weight.data_ptr(), weight._version) == state
        check(block, values)
        check(block, values)
    assert seen.take() == ([True] * 3, 2)


def test_loading_fusing_and_unloading_in_a_unet() -> None:
    pytest.importorskip("peft")
    from peft import LoraConfig

    unet = ds_diffusers.patch(UNETS["sd15"]())
    values = unet_arguments(unet)

    def check_unet() -> None:
        with torch.no_grad():
            result = run_unet(unet, values)
            check_close(result, run_unet(ds_diffusers.unpatch(copy.deepcopy(unet)), values))

    with ds_diffusers.keep_prompt(unet):
        check_unet()
        unet.add_adapter(
            LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False), "first"
        )
        check_unet()
        unet.fuse_lora()
        check_unet()
        unet.unfuse_lora()
        check_unet()
        unet.fuse_lora()
        unet.unload_lora()
        check_unet()
