"""The decision of block_modules and conditions for the plainest of eager calls, in less than half the time.

A UNet has up to 140 block calls in a step, and on a fast GPU the time that Python takes for them is the time
of the step. So each call is looked at here first. The quick look accepts a part of what the full look
accepts, and leaves the rest, and every explanation, to that. Like it, it remembers nothing between calls.

One thing it leaves to the operator, which refuses it before it computes anything: tensors of another dtype,
device, layout or number of dimensions.
"""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from .block_modules import (
    ACTIVATION_TYPES,
    ONE_ATTENTION,
    PARAMETER_ARGUMENTS,
    QUANTIZED_ARGUMENTS,
    REPLACEABLE_FUNCTIONS,
    TWO_ATTENTIONS,
    WEIGHT_ARGUMENTS,
)
from .lora import Adapters, is_lora_linear, quick_adapters
from .quantization import Int8Linear

_OWNERS, _NAMES, _FUNCTIONS = zip(*REPLACEABLE_FUNCTIONS)

# Modules that a block need not have: blocks with them get the full look.
_LEFT_OUT = ("ff.net.0.activation", "ff.net.3")
_FEED_FORWARD_MODULES, _GEGLU_MODULES = 3, 1

_attention_settings = itemgetter(
    "spatial_norm",
    "group_norm",
    "norm_cross",
    "norm_q",
    "norm_k",
    "residual_connection",
    "rescale_output_factor",
)
_NO_SETTINGS = (None, None, None, None, None, False, 1.0)


class _Form(NamedTuple):
    """What a block with one or with two attentions consists of. Modules are numbered: 0 is the block."""

    # number of the parent, name in it, class, argument of the operator for a weight
    modules: tuple[tuple[int, str, type, str], ...]
    parameters: tuple[tuple[int, str, str], ...]  # number of the module, name in it, argument of the operator
    attentions: tuple[int, ...]
    norms: tuple[int, ...]
    dropouts: tuple[int, ...]
    feed_forward: int
    geglu: int


def _form(table: tuple[tuple[str, str, str, tuple[type, ...]], ...], quantized: bool) -> _Form:
    """`quantized`: both linears of the feed-forward are."""
    rows = [row for row in table if row[0] not in _LEFT_OUT]
    numbers = {"": 0} | {row[0]: number for number, row in enumerate(rows, start=1)}
    kinds = {path: classes[0] for path, _, _, classes in rows}
    scales = QUANTIZED_ARGUMENTS if quantized else ()
    kinds |= {path: Int8Linear for path, _, _ in scales}
    return _Form(
        modules=tuple(
            (numbers[parent], name, kinds[path], WEIGHT_ARGUMENTS.get(path, ""))
            for path, parent, name, _ in rows
        ),
        parameters=tuple(
            (numbers[path], name, argument)
            for path, weight_argument, bias_argument in PARAMETER_ARGUMENTS
            if path in numbers
            for name, argument in (("weight", weight_argument), ("bias", bias_argument))
        )
        + tuple((numbers[path], "scale", argument) for path, _, argument in scales),
        attentions=tuple(numbers[path] for path in ("attn1", "attn2") if path in numbers),
        norms=tuple(numbers[path] for path in kinds if kinds[path] is nn.LayerNorm),
        dropouts=tuple(numbers[path] for path in kinds if kinds[path] is nn.Dropout),
        feed_forward=numbers["ff.net"],
        geglu=numbers["ff.net.0"],
    )


_WITH_ONE_ATTENTION, _WITH_TWO_ATTENTIONS = (
    {kind: _form(table, kind is Int8Linear) for kind in (nn.Linear, Int8Linear)}
    for table in (ONE_ATTENTION, TWO_ATTENTIONS)
)


def quick_arguments(
    block: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor | None
) -> tuple[dict[str, Tensor | int | float], Adapters] | None:
    """The arguments of block_forward by name, without hidden_states, for a call with no arguments but these,
    and the LoRA adapters of the weights among them by the same names; None: ask the full look."""
    if type(hidden_states) is not Tensor or not _is_plain_inference(hidden_states):
        return None
    try:
        form, attributes, adapters = _attributes(block)
        if form is None or not _has_plain_settings(form, attributes):
            return None
        arguments = _parameters(form, attributes)
        tensors = arguments.values()
        if not all(map(Tensor.is_contiguous, tensors)) or set(map(type, tensors)) != {nn.Parameter}:
            return None
        if encoder_hidden_states is not None and not _add_context(
            arguments, encoder_hidden_states, form, attributes[0]
        ):
            return None
    except (KeyError, RuntimeError):
        # An attribute is missing or kept elsewhere, or a tensor is sparse.
        return None
    arguments["heads"] = attributes[form.attentions[0]]["heads"]
    arguments["activation_type"] = ACTIVATION_TYPES[GEGLU]
    arguments["norm_epsilon"] = attributes[form.norms[0]]["eps"]
    return arguments, adapters


def _is_plain_inference(hidden_states: Tensor) -> bool:
    """Whether PyTorch's state lets the operator stand for the block's own code."""
    if hidden_states.is_cuda:
        device_type = "cuda"
    elif hidden_states.is_cpu:
        device_type = "cpu"
    else:
        return False
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled(device_type)
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_function_stack() > 0
        or _has_any_global_hook()
        or tuple(map(getattr, _OWNERS, _NAMES)) != _FUNCTIONS
    )


def _attributes(block: nn.Module) -> tuple[_Form | None, list[dict], Adapters]:
    """The form of the block, None without one, the __dict__s of its modules by their numbers, and the
    adapters of its weights."""
    own = block.__dict__
    modules = own["_modules"]
    # The most frequent obstacle, found before the whole block is looked through.
    if type(modules["attn1"].__dict__["processor"]) is not AttnProcessor2_0:
        return None, [], {}
    forms = _WITH_ONE_ATTENTION if modules.get("attn2") is None else _WITH_TWO_ATTENTIONS
    last = modules["ff"].__dict__["_modules"]["net"].__dict__["_modules"]["2"]
    form = forms[Int8Linear if type(last) is Int8Linear else nn.Linear]
    found = [own]
    adapters = {}
    for parent, name, kind, weight in form.modules:
        module = found[parent]["_modules"][name]
        if kind is nn.Linear and type(module) is not kind:
            of_weight = quick_adapters(module) if is_lora_linear(module) else None
            if of_weight is None:
                return None, found, adapters
            if of_weight:
                adapters[weight] = of_weight
            module = module.__dict__["_modules"]["base_layer"]
        attributes = module.__dict__
        if (
            type(module) is not kind
            or attributes["_forward_hooks"]
            or attributes["_forward_pre_hooks"]
            or attributes["_backward_hooks"]
            or attributes["_backward_pre_hooks"]
            or "forward" in attributes
        ):
            return None, found, adapters
        found.append(attributes)
    return form, found, adapters


def _has_plain_settings(form: _Form, attributes: list[dict]) -> bool:
    block = attributes[0]
    if (
        block["norm_type"] != "layer_norm"
        or block["pos_embed"] is not None
        or block["_chunk_size"] is not None
    ):
        return False
    heads = attributes[form.attentions[0]]["heads"]
    for number in form.attentions:
        attention = attributes[number]
        if (
            type(attention["processor"]) is not AttnProcessor2_0
            or _attention_settings(attention) != _NO_SETTINGS
            or attention["heads"] != heads
        ):
            return False
    epsilon = attributes[form.norms[0]]["eps"]
    for number in form.norms:
        norm = attributes[number]
        if norm["eps"] != epsilon or len(norm["normalized_shape"]) != 1:
            return False
    for number in form.dropouts:
        dropout = attributes[number]
        if dropout["training"] and dropout["p"] > 0:
            return False
    return (
        len(attributes[form.feed_forward]["_modules"]) == _FEED_FORWARD_MODULES
        and len(attributes[form.geglu]["_modules"]) == _GEGLU_MODULES
    )


def _parameters(form: _Form, attributes: list[dict]) -> dict[str, Tensor]:
    found = {}
    for number, name, argument in form.parameters:
        parameter = attributes[number]["_parameters"][name]
        if parameter is not None:
            found[argument] = parameter
    return found


def _add_context(arguments: dict[str, Tensor], context: Tensor, form: _Form, block: dict) -> bool:
    """Adds the encoder's hidden states to the arguments that take them; False: they are not plain."""
    names = []
    if block["only_cross_attention"]:
        names.append("attn1_context")
    if len(form.attentions) == 2:
        names.append("attn2_context")
    if names and type(context) is not Tensor:
        return False
    for name in names:
        # The operator wants its rows at one stride, which e.g. an expanded batch does not have.
        arguments[name] = context.contiguous()
    return True
