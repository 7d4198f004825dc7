"""Keys and values of cross-attention, kept across the steps that denoise with one prompt.

A patched block projects the encoder's hidden states to keys and values at each call, though they depend on
the prompt and the block's weights alone. Inside `with keep_prompt(model):` it does so once for a prompt.

What was kept is used only as long as nothing that it came from has changed, as far as PyTorch counts changes:
the prompt is at the same address, in the same layout, in the same version, and so are the weights, which are
the same parameters. The memory of a prompt cannot be given to another tensor meanwhile, as it is held, and a
weight's storage is known by a number that no other storage is given.

PEFT adds adapters to weights and takes them out again through `.data`, which PyTorch does not count. But it puts
a layer of its own in the place of a linear layer before, and may put the linear layer back afterwards. So nothing
is kept of a block whose keys or values have such a layer, and nothing that was kept before a layer was put in is
used again.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_module_registration_hook

from .calls import Calls, calls_of
from .layout import is_captured, is_recorded
from .lora import is_lora_linear
from .patching import named_modules_of

# Prompts of which each block keeps keys and values: with and without the condition, where a step calls the
# model for each.
PROMPTS = 2

_WEIGHTS = ("attn2_k_weight", "attn2_k_bias", "attn2_v_weight", "attn2_v_bias")

# Guards what follows, and the number of handles of each block.
_lock = threading.Lock()
_handles = 0
_hook: Any = None

# Another object whenever one of the layers that matter has been put into a module, while there are handles.
_layers_state = object()
_LAYERS = ("to_k", "to_v", "base_layer")  # the last one: the layer that one of PEFT's replaces, in this one


def keep_prompt(model: Any) -> PromptHandle:
    """Inside `with ds_diffusers.keep_prompt(model):`, patched blocks that run as one operator compute the keys
    and values of their cross-attention once for a prompt, and not at each step of its denoising.

        with ds_diffusers.keep_prompt(pipeline):
            image = pipeline("a photo of a lighthouse at dawn").images[0]

    The results are the same up to rounding. A prompt is known by its tensor (`encoder_hidden_states`): another tensor, a
    change in place, other weights or another device are seen at the next call, and computed with. Of each block
    the last two prompts are kept, so that guidance may call the model twice in a step. They take the memory of
    2 · tokens · channels elements for each block, prompt and batch entry, which is freed at the end of the
    `with`. Keys and values are computed at each call as ever where the prompt is an inference tensor (made
    under torch.inference_mode()), where keys or values have LoRA adapters, while torch.compile, torch.export or
    torch.jit trace, and while a CUDA graph is captured.

    What PyTorch does not count is not seen: inside the `with`, do not write to the prompt or to the weights of
    attn2.to_k and attn2.to_v through `.data` (as diffusers' EMAModel does), NumPy, DLPack, collectives of
    torch.distributed, kernels of your own, or the replay of a CUDA graph; leave the `with` before and enter it
    again. PEFT writes through `.data` where it fuses LoRA adapters and takes them out again; that is seen,
    because of the layers that it puts in and takes away.

    Args:
        model: a torch.nn.Module or a diffusers pipeline with patched blocks.

    Returns:
        A context manager; it may be entered several times, also from several threads.

    Raises TypeError for anything else, and warns on entry where no block is patched.
    """
    return PromptHandle(model)


class PromptHandle:
    """What `keep_prompt` returns."""

    def __init__(self, model: Any) -> None:
        """`model`: as for `keep_prompt`."""
        next(named_modules_of(model), None)  # refuses what has no modules
        self._model = model
        self._entered: list[list[weakref.ref[Calls]]] = []

    def __enter__(self) -> None:
        records = [calls_of(block) for block in _patched_blocks(self._model)]
        if not records:
            warnings.warn(
                f"ds_diffusers.keep_prompt: {type(self._model).__name__} has no patched block, so nothing is "
                "kept: call ds_diffusers.patch before",
                stacklevel=2,
            )
        with _lock:
            _watch_layers(+1)
            for calls in records:
                calls.prompts = calls.prompts or KeptPrompts()
                calls.prompts.handles += 1
            # A model that goes meanwhile takes along what is kept of it.
            self._entered.append([weakref.ref(calls) for calls in records])

    def __exit__(self, *exception: object) -> None:
        with _lock:
            entered = self._entered.pop()
            _watch_layers(-1)
            for reference in entered:
                calls = reference()
                if calls is not None:
                    calls.prompts.handles -= 1
                    if calls.prompts.handles == 0:
                        calls.prompts = None


class _Source(NamedTuple):
    """A weight or bias in the state in which it was used."""

    parameter: Tensor  # not a weak reference: torch.utils.swap_tensors refuses what has one
    storage: StorageWeakRef  # keeps its number from being given to another storage, and not its memory
    address: int
    version: int

    def is_unchanged(self, now: Tensor) -> bool:
        return (
            self.parameter is now
            and self.version == now._version
            and self.address == now.data_ptr()
            and self.storage.cdata == now.untyped_storage()._cdata
        )


class _Entry(NamedTuple):
    """Keys and values, and all that they came from."""

    prompt: Tensor  # shares memory and version with the one that was given, and holds its memory
    version: int
    sources: tuple[_Source | None, ...]
    stream: int  # on which they were computed: another one would have to wait
    layers_state: object
    key_value: Tensor

    def is_of_prompt(self, prompt: Tensor) -> bool:
        """Whether this one has its memory, layout and version."""
        own = self.prompt
        return own.dtype == prompt.dtype and own._version == prompt._version and own.is_set_to(prompt)

    def is_up_to_date(self, weights: Sequence[Tensor | None]) -> bool:
        """Whether its prompt and the weights are what they were."""
        if self.version != self.prompt._version or self.layers_state is not _layers_state:
            return False
        for source, weight in zip(self.sources, weights, strict=True):
            if source is None or weight is None:
                if source is not weight:
                    return False
            elif not source.is_unchanged(weight):
                return False
        return True


class KeptPrompts:
    """The keys and values that are kept of one block."""

    def __init__(self) -> None:
        self.handles = 0  # that were entered for the block and not left
        # Replaced as a whole, never changed: several threads may call the block.
        self._entries: tuple[_Entry, ...] = ()

    def insert(
        self, block: nn.Module, arguments: dict[str, Any], hidden_states: Tensor, prompt: Tensor | None
    ) -> None:
        """Puts keys and values in the place of what they come from among the arguments of block_forward for a
        call with this prompt, unless they cannot be kept, or the operator would refuse the prompt."""
        if "attn2_context" not in arguments or is_recorded() or is_captured():
            return
        if _has_lora_layers(block):
            self._entries = ()
            return
        if not _is_counted(prompt) or prompt.shape[0] != hidden_states.shape[0]:
            return
        weights = [arguments.get(name) for name in _WEIGHTS]
        key_value = self._find(prompt, weights)
        if key_value is None:
            key_value = self._compute(prompt, weights)
        if key_value is not None:
            for name in ("attn2_context", *_WEIGHTS):
                arguments.pop(name, None)
            arguments["attn2_key_value"] = key_value

    def _find(self, prompt: Tensor, weights: Sequence[Tensor | None]) -> Tensor | None:
        for entry in self._entries:
            if (
                entry.is_of_prompt(prompt)
                and entry.is_up_to_date(weights)
                and entry.stream == _stream_of(prompt)
            ):
                # The least recently used one is the last, and makes place.
                others = [other for other in self._entries if other is not entry]
                self._entries = (entry, *others[: PROMPTS - 1])
                return entry.key_value
        return None

    def _compute(self, prompt: Tensor, weights: Sequence[Tensor | None]) -> Tensor | None:
        """Keys and values, which are kept from now on; None where they cannot be: the operator says why, or
        can do without their memory."""
        # Those that are out of date are of no use any more, and free their memory now.
        current = [entry for entry in self._entries if entry.is_up_to_date(weights)]
        self._entries = tuple(current[: PROMPTS - 1])
        if not all(weight is None or _is_counted(weight) for weight in weights):
            return None
        # Whatever changes meanwhile leaves an entry that is out of date.
        state, version, sources = _layers_state, prompt._version, tuple(map(_source_of, weights))
        key_weight, key_bias, value_weight, value_bias = weights
        try:
            key = F.linear(prompt, key_weight, key_bias)
            value = F.linear(prompt, value_weight, value_bias)
            key_value = torch.cat((key, value), dim=-1)
        except RuntimeError:
            return None
        entry = _Entry(prompt.detach(), version, sources, _stream_of(prompt), state, key_value)
        self._entries = (entry, *self._entries[: PROMPTS - 1])
        return key_value


def _watch_layers(change: int) -> None:
    """Notes which layers are put into modules, as long as there are handles."""
    global _handles, _hook
    _handles += change
    if _handles > 0 and _hook is None:
        _hook = register_module_module_registration_hook(_note_layer)
    elif _handles == 0 and _hook is not None:
        _hook.remove()
        _hook = None


def _note_layer(owner: nn.Module, name: str, layer: nn.Module | None) -> None:
    global _layers_state
    if name in _LAYERS:
        _layers_state = object()


def _patched_blocks(model: Any) -> Iterator[nn.Module]:
    """Each once."""
    blocks = sys.modules.get(f"{__package__}.blocks")
    seen = set()
    for _, module in named_modules_of(model) if blocks is not None else ():
        if isinstance(module, blocks.BasicTransformerBlock) and id(module) not in seen:
            seen.add(id(module))
            yield module


def _has_lora_layers(block: nn.Module) -> bool:
    layers = block._modules["attn2"]._modules
    return is_lora_linear(layers["to_k"]) or is_lora_linear(layers["to_v"])


def _is_counted(tensor: Tensor | None) -> bool:
    """Whether it is a plain tensor of which PyTorch counts the changes."""
    return type(tensor) in (Tensor, nn.Parameter) and not tensor.is_inference() and not tensor.is_neg()


def _source_of(weight: Tensor | None) -> _Source | None:
    if weight is None:
        return None
    storage = StorageWeakRef(weight.untyped_storage())
    return _Source(weight, storage, weight.data_ptr(), weight._version)


def _stream_of(tensor: Tensor) -> int:
    """The stream that work on it is enqueued on; of the CPU there is one."""
    return torch._C._cuda_getCurrentRawStream(tensor.get_device()) if tensor.is_cuda else 0
