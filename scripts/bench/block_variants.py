"""The ways to run a block that are held against each other, each as a list of calls, one for each set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import ds_diffusers

from .block_sets import BlockSet, kept_arguments, operator_arguments, require_fused
from .block_shapes import BlockShape
from .compiling import MODES, compiled
from .hand_composed import compiled_pieces, hand_composed
from .products import block_weights, chained
from .timing import Call

OURS, OPERATOR, EAGER, HAND, CHAIN = "ours", "ours, operator alone", "eager", "hand-composed", "chain"
INT8 = "int8"  # ours with the feed-forward's weights quantised; its error is that of the quantisation
KEPT_PROMPT = "kept-prompt"  # our operator, given the keys and values of cross-attention
PEERS = (EAGER, *MODES, HAND, INT8, KEPT_PROMPT)
DEFAULT_PEERS = (EAGER, "compile", HAND)


@dataclass(frozen=True)
class Variant:
    """`calls` take no argument and return the block's result. `in_graph`: its GPU time can be measured by
    capture; `from_python`: its wall and CPU time are of interest; `computes_block`: the result is the
    block's."""

    name: str
    calls: Sequence[Call]
    in_graph: bool = True
    from_python: bool = True
    computes_block: bool = True


def run_block(block: nn.Module, hidden_states: Tensor, context: Tensor) -> Tensor:
    return block(hidden_states, encoder_hidden_states=context)


def variant_makers(
    shape: BlockShape, sets: Sequence[BlockSet], backends: dict[str, str], peers: Sequence[str]
) -> dict[str, Callable[[], Variant]]:
    """Functions that make the variants, by their names: making one may fail where others work."""
    makers = {OURS: partial(_modules, OURS, run_block, sets, patched=True)}
    if sets[0].hidden_states.is_cuda:  # both show what lies between kernels, and a CPU has none
        makers |= {OPERATOR: partial(_operator, sets), CHAIN: partial(_chain, shape, sets, backends)}
    for name in peers:
        if name == EAGER:
            makers[name] = partial(_modules, name, run_block, sets)
        elif name == HAND:
            makers[name] = partial(_hand_composed, shape, sets, backends)
        elif name == INT8:
            makers[name] = partial(_quantized, sets)
        elif name == KEPT_PROMPT:
            makers[name] = partial(_with_kept_prompt, sets)
        else:
            makers[name] = partial(_compiled, name, sets)
    return makers


def _modules(
    name: str, run: Callable, sets: Sequence[BlockSet], patched: bool = False, **settings: bool
) -> Variant:
    calls = [
        partial(run, each.patched if patched else each.original, each.hidden_states, each.context)
        for each in sets
    ]
    return Variant(name, calls, **settings)


def _operator(sets: Sequence[BlockSet]) -> Variant:
    operator = torch.ops.ds_diffusers.block_forward
    calls = [
        partial(operator, each.hidden_states, **operator_arguments(each.patched, each.context))
        for each in sets
    ]
    return Variant(OPERATOR, calls, in_graph=False)


def _quantized(sets: Sequence[BlockSet]) -> Variant:
    calls = []
    for each in sets:
        block = ds_diffusers.quantize(copy.deepcopy(each.patched))
        require_fused(block)
        calls.append(partial(run_block, block, each.hidden_states, each.context))
    return Variant(INT8, calls)


def _with_kept_prompt(sets: Sequence[BlockSet]) -> Variant:
    operator = torch.ops.ds_diffusers.block_forward
    calls = [
        partial(operator, each.hidden_states, **kept_arguments(each.patched, each.context)) for each in sets
    ]
    return Variant(KEPT_PROMPT, calls)


def _compiled(name: str, sets: Sequence[BlockSet]) -> Variant:
    run = compiled(run_block, MODES[name])
    if name != "reduce-overhead":
        return _modules(name, run, sets)

    def in_new_step(*arguments: object) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return run(*arguments)

    # It records graphs of its own, one for each address of the weights, and replays them: so a single set,
    # and no capture from outside.
    return _modules(name, in_new_step, sets[:1], in_graph=False)


def _hand_composed(shape: BlockShape, sets: Sequence[BlockSet], backends: dict[str, str]) -> Variant:
    pieces = compiled_pieces()
    calls = [
        partial(hand_composed(shape, each.original, pieces, backends), each.hidden_states, each.context)
        for each in sets
    ]
    return Variant(HAND, calls, from_python=False)


def _chain(shape: BlockShape, sets: Sequence[BlockSet], backends: dict[str, str]) -> Variant:
    calls = [
        partial(chained(shape, block_weights(each.original), backends), each.hidden_states, each.context)
        for each in sets
    ]
    return Variant(CHAIN, calls, from_python=False, computes_block=False)
