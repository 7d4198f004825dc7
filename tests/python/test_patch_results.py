"""Patched models run fused and compute what diffusers computes: the error against the same model in float64
is at most twice that of diffusers in the same dtype."""

# labels: torch diffusers gpu
import copy
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("diffusers")

import ds_diffusers
from helpers.accuracy import Errors
from helpers.operators import every_dtype
from helpers.unets import (
    BLOCKS,
    CHANNELS,
    CONTEXT,
    HEADS,
    UNETS,
    Arguments,
    additive_mask,
    block_arguments,
    in_double,
    make_block,
    run_unet,
    unet_arguments,
)
from torch import nn

pytestmark = pytest.mark.diffusers


def check(
    model: nn.Module,
    run: Callable[[nn.Module, Arguments], torch.Tensor],
    make_arguments: Callable[[int], Arguments],
    draws: int,
) -> None:
    """Compares the patched model with the original one, and both with the original in float64."""
    original, reference = copy.deepcopy(model), copy.deepcopy(model).double()
    ds_diffusers.patch(model)
    errors = Errors()
    with torch.no_grad():
        for seed in range(draws):
            arguments = make_arguments(seed)
            errors.add(run(model, arguments), run(original, arguments), run(reference, in_double(arguments)))
    errors.check(next(model.parameters()).dtype, "result")
    blocks = ds_diffusers.report(model)
    assert [block.fused_calls for block in blocks] == [draws] * len(blocks)
    assert blocks.fused == len(blocks) > 0


def check_block(block: nn.Module, make_arguments: Callable[[int], Arguments]) -> None:
    check(block, lambda model, arguments: model(**arguments), make_arguments, draws=4)


@every_dtype
@pytest.mark.parametrize("form", UNETS)
def test_unet(form: str, dtype: torch.dtype, device: torch.device) -> None:
    unet = UNETS[form]().to(device, dtype)
    check(unet, run_unet, lambda seed: unet_arguments(unet, seed), draws=4)


@every_dtype
@pytest.mark.parametrize("form", BLOCKS)
def test_block(form: str, dtype: torch.dtype, device: torch.device) -> None:
    block = make_block(**BLOCKS[form]).to(device, dtype)
    check_block(block, lambda seed: block_arguments(block, seed))


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 127])
def test_numbers_of_tokens(tokens: int, device: torch.device) -> None:
    block = make_block().to(device)
    check_block(block, lambda seed: block_arguments(block, seed, tokens))


@every_dtype
def test_masks_for_each_batch_entry(dtype: torch.dtype, device: torch.device) -> None:
    block = make_block().to(device, dtype)

    def arguments(seed: int) -> Arguments:
        made = block_arguments(block, seed)
        tokens, words = torch.ones(2, 10), torch.ones(2, 7)
        tokens[0, 6:], words[1, 3:] = 0, 0
        return made | {
            "attention_mask": additive_mask(tokens, dtype).to(device),
            "encoder_attention_mask": additive_mask(words, dtype).to(device),
        }

    check_block(block, arguments)


def test_masks_for_each_head_and_token(device: torch.device) -> None:
    block = make_block().to(device)

    def arguments(seed: int) -> Arguments:
        return block_arguments(block, seed) | {
            "attention_mask": torch.randn(2, 10, 10, device=device),
            "encoder_attention_mask": torch.randn(2 * HEADS, 10, 7, device=device),
        }

    check_block(block, arguments)


def test_masks_of_a_unet(device: torch.device) -> None:
    unet = UNETS["sd15"]().to(device)
    kept = torch.ones(2, 7, dtype=torch.bool, device=device)
    kept[0, 4:] = False
    check(unet, run_unet, lambda seed: unet_arguments(unet, seed) | {"encoder_attention_mask": kept}, draws=2)


def test_views(device: torch.device) -> None:
    """Hidden states as of a convolution, an expanded and a strided context."""
    block = make_block().to(device)

    def arguments(seed: int) -> Arguments:
        states = torch.randn(2, CHANNELS, 3, 5, device=device).flatten(2).transpose(1, 2)
        context = torch.randn(1, 7, CONTEXT, device=device)
        if seed % 2 == 0:
            context = torch.randn(1, CONTEXT, 14, device=device).transpose(1, 2)[:, ::2]
        return {"hidden_states": states, "encoder_hidden_states": context.expand(2, -1, -1)}

    check_block(block, arguments)


def test_context_that_the_block_has_no_use_for(device: torch.device) -> None:
    block = make_block(cross_attention_dim=None).to(device)
    context = torch.randn(2, 7, CONTEXT, device=device)
    unused = {"encoder_hidden_states": context, "encoder_attention_mask": torch.zeros(2, 1, 7, device=device)}
    check_block(block, lambda seed: block_arguments(block, seed) | unused)


def test_self_attention_where_the_context_is_left_out(device: torch.device) -> None:
    block = make_block(cross_attention_dim=CHANNELS).to(device)
    check_block(block, lambda seed: {"hidden_states": block_arguments(block, seed)["hidden_states"]})


def test_arguments_without_effect(device: torch.device) -> None:
    block = make_block().to(device)
    idle = {
        "timestep": torch.tensor(3),
        "cross_attention_kwargs": {},
        "class_labels": torch.tensor([1, 2]),
        "added_cond_kwargs": {"text_embeds": torch.randn(2, 3)},
    }
    check_block(block, lambda seed: block_arguments(block, seed) | idle)


def test_arguments_by_position(device: torch.device) -> None:
    block = make_block().to(device)
    values = block_arguments(block)
    mask = torch.randn(2, 1, 7, device=device)
    with torch.no_grad():
        expected = block(**values, encoder_attention_mask=mask)
        ds_diffusers.patch(block)
        positional = (
            values["hidden_states"],
            None,
            values["encoder_hidden_states"],
            mask,
            None,
            None,
            None,
            None,
        )
        torch.testing.assert_close(block(*positional), expected)


def test_evaluation_mode_is_not_needed_without_dropout(device: torch.device) -> None:
    block = make_block().to(device).train()
    check_block(block, lambda seed: block_arguments(block, seed))


def test_inference_mode(device: torch.device) -> None:
    block = ds_diffusers.patch(make_block().to(device))
    values = block_arguments(block)
    with torch.inference_mode():
        block(**values)
    assert ds_diffusers.report(block)[0].fused_calls == 1


def test_frozen_parameters_in_grad_mode(device: torch.device) -> None:
    block = ds_diffusers.patch(make_block().to(device).requires_grad_(False))
    values = block_arguments(block)
    assert not block(**values).requires_grad
    assert ds_diffusers.report(block)[0].fused_calls == 1
