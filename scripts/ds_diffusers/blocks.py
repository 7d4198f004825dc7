"""The class that patched blocks have. Importing this module imports diffusers and loads the library, so that
a patched model can be unpickled in a new process."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock as OriginalBlock
from torch import Tensor, nn

from .block_modules import ACTIVATION_TYPES, Modules, block_adapters, block_modules, block_parameters
from .calls import Calls, calls_of
from .conditions import (
    adapters_obstacle,
    call_obstacle,
    gradient_obstacle,
    operator_mask,
    segments_call_obstacle,
)
from .dispatch import call_without_gradient
from .layout import GROUPS
from .library import load
from .lora import Adapters, adapted_tensors
from .quick_look import quick_arguments
from .segments import Call, Segments, find_segments, run_segments

load()

Arguments = dict[str, Tensor | int | float]

block_forward = torch.ops.ds_diffusers.block_forward.default


class BasicTransformerBlock(OriginalBlock):
    """diffusers' BasicTransformerBlock, run as one call of block_forward where that computes the same, and in
    segments where some of it can be fused.

    It has the same name, as diffusers and other libraries look at the names of classes, and no state of its
    own: a block changes between the two classes by its __class__ alone. Each call decides for itself which
    path it takes and uses the tensors that the modules own at that moment.
    """

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: torch.LongTensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: torch.LongTensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """As BasicTransformerBlock.forward of diffusers."""
        arguments = (
            hidden_states,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            timestep,
            cross_attention_kwargs,
            class_labels,
            added_cond_kwargs,
        )
        if not isinstance(self, BasicTransformerBlock):
            # A hook held on to this function while unpatch gave the block its own class back.
            return type(self).forward(self, *arguments)
        if torch.compiler.is_compiling():
            _, reason, found = full_look(self, *arguments[:4], cross_attention_kwargs)
            if found is not None:
                return _call_operator(hidden_states, *found)
            obstacle_in_call, obstacle, segments = segments_look(self, Call(*arguments))
            if obstacle_in_call is None and obstacle is None:
                return run_segments(self, segments, Call(*arguments))
            return super().forward(*arguments)

        calls = calls_of(self)
        if attention_mask is None and encoder_attention_mask is None and not cross_attention_kwargs:
            result = _quick_call(self, calls, hidden_states, encoder_hidden_states)
            if result is not None:
                return result
        obstacle, reason, found = full_look(self, *arguments[:4], cross_attention_kwargs)
        if found is not None:
            calls.note_fused()
            with calls.layout.in_use(found[0], calls.fused):
                return _call_with_prompt(self, calls, hidden_states, encoder_hidden_states, *found)
        call = Call(*arguments)
        whole_call_obstacle = reason if obstacle is None else None
        obstacle_in_call, obstacle, segments = segments_look(self, call)
        in_segments = obstacle_in_call is None and obstacle is None
        calls.note_not_fused(in_segments, whole_call_obstacle, obstacle_in_call)
        with calls.layout.in_use(None, calls.fused):
            return run_segments(self, segments, call) if in_segments else super().forward(*arguments)


def place_weights(block: nn.Module) -> None:
    """Places the weights of a patched block before its first call, where it could run fused as it is now."""
    obstacle, modules = block_modules(block)
    if obstacle is None:
        calls_of(block).layout.place(block_parameters(modules))


def _require_known_signature() -> None:
    """diffusers passes the block's arguments by position, so a signature of another release must not pass
    unseen."""
    known, found = (
        list(inspect.signature(block.forward).parameters) for block in (BasicTransformerBlock, OriginalBlock)
    )
    if known != found:
        raise RuntimeError(
            f"ds_diffusers: BasicTransformerBlock.forward of this diffusers takes ({', '.join(found)}), "
            f"must be ({', '.join(known)}): use another release of diffusers or ds_diffusers"
        )


_require_known_signature()


def _quick_call(
    block: nn.Module, calls: Calls, hidden_states: Tensor, encoder_hidden_states: Tensor | None
) -> Tensor | None:
    """The result, where the quick look accepts the call; None where it takes a full one."""
    found = quick_arguments(block, hidden_states, encoder_hidden_states)
    if found is None or not calls.layout.is_settled(found[0]):
        return None
    calls.layout.note_capture()
    try:
        result = _call_with_prompt(block, calls, hidden_states, encoder_hidden_states, *found)
    except RuntimeError:
        # The full look finds out whether the call is wrong, or the block must run as diffusers' own.
        return None
    calls.note_fused()
    return result


def full_look(
    block: nn.Module,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    encoder_hidden_states: Tensor | None,
    encoder_attention_mask: Tensor | None,
    cross_attention_kwargs: dict[str, Any] | None,
) -> tuple[str | None, str | None, tuple[Arguments, Adapters] | None]:
    """The obstacle in the block's modules; the first obstacle of all; the arguments of block_forward but
    hidden_states, and the LoRA adapters of the weights among them by the same names, None where there is an
    obstacle."""
    obstacle, modules = block_modules(block)
    if obstacle is not None:
        return obstacle, obstacle, None
    inputs = _used_inputs(block, modules, attention_mask, encoder_hidden_states, encoder_attention_mask)
    parameters = block_parameters(modules)
    adapters = block_adapters(modules)
    heads = modules["attn1"].heads
    reason = call_obstacle(hidden_states, inputs, parameters, heads, cross_attention_kwargs)
    if reason is None and adapters:
        tensors = [
            tensor for of_weight in adapters.values() for adapter in of_weight for tensor in adapter[:2]
        ]
        reason = adapters_obstacle(adapters, hidden_states.device) or gradient_obstacle(tensors)
    if reason is not None:
        return None, reason, None
    arguments = _operator_arguments(block, modules, hidden_states, inputs, parameters)
    return None, None, (arguments, adapters)


def segments_look(block: nn.Module, call: Call) -> tuple[str | None, str | None, Segments]:
    """The obstacle to running the block in segments that is in the call; the one in the block's modules; the
    segments, none where there is an obstacle."""
    states = call.hidden_states
    obstacle = segments_call_obstacle(states, call[1:], block, call.cross_attention_kwargs)
    if obstacle is not None:
        return obstacle, None, Segments()
    autocast = torch.is_autocast_enabled(states.device.type)
    return None, *find_segments(block, states.dtype, states.device, autocast)


def _used_inputs(
    block: nn.Module,
    modules: Modules,
    attention_mask: Tensor | None,
    encoder_hidden_states: Tensor | None,
    encoder_attention_mask: Tensor | None,
) -> dict[str, Tensor]:
    """Those of the arguments that are given and that the block would use."""
    inputs = {}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
    if encoder_hidden_states is not None and ("attn2" in modules or block.only_cross_attention):
        inputs["encoder_hidden_states"] = encoder_hidden_states
    if encoder_attention_mask is not None and "attn2" in modules:
        inputs["encoder_attention_mask"] = encoder_attention_mask
    return inputs


def _operator_arguments(
    block: nn.Module,
    modules: Modules,
    hidden_states: Tensor,
    inputs: dict[str, Tensor],
    parameters: dict[str, Tensor],
) -> Arguments:
    heads = modules["attn1"].heads
    arguments: Arguments = dict(parameters)
    if "encoder_hidden_states" in inputs:
        # The operator wants its rows at one stride, which e.g. an expanded batch does not have.
        context = inputs["encoder_hidden_states"].contiguous()
        if block.only_cross_attention:
            arguments["attn1_context"] = context
        if "attn2" in modules:
            arguments["attn2_context"] = context
    if "attention_mask" in inputs:
        arguments["attn1_mask"] = operator_mask(inputs["attention_mask"], hidden_states, heads)
    if "encoder_attention_mask" in inputs:
        arguments["attn2_mask"] = operator_mask(inputs["encoder_attention_mask"], hidden_states, heads)
    arguments["heads"] = heads
    arguments["activation_type"] = ACTIVATION_TYPES[type(modules["ff.net.0"])]
    arguments["norm_epsilon"] = modules["norm1"].eps
    return arguments


def _call_with_prompt(
    block: nn.Module,
    calls: Calls,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor | None,
    arguments: Arguments,
    adapters: Adapters,
) -> Tensor:
    """With keys and values of the prompt that are kept, inside of `keep_prompt`."""
    prompts = calls.prompts
    if prompts is not None:
        prompts.insert(block, arguments, hidden_states, encoder_hidden_states)
    return _call_operator(hidden_states, arguments, adapters)


def _call_operator(hidden_states: Tensor, arguments: Arguments, adapters: Adapters) -> Tensor:
    if adapters:
        arguments = adapted_tensors(arguments, adapters, GROUPS)
    return call_without_gradient(block_forward, hidden_states, **arguments)
