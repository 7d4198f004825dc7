"""Places the weights of a patched block's query, key and value projections one behind the other in memory.

block_forward computes projections whose weights follow each other as one matrix product. Only the memory
changes: the Parameter objects, their names, values and requires_grad stay, and each keeps a storage of its
own size, a window on a common allocation. One storage for all three would do for the operator, but what
writes checkpoints looks at storages, and drops or refuses the tensors of a shared one.

Weights that are replaced (to, half, load_state_dict(assign=True), .data = …) are placed again at the next
call. Left where they are, which costs speed alone, are weights

- in memory that PyTorch did not allocate for this one parameter: part of a larger buffer, a file mapped into
  memory, memory of another library, pinned or shared between processes;
- to whose memory another tensor refers, as long as it does: it would no longer see changes;
- of a block that a CUDA graph was captured with: the graph reads them where they were;
- that are replaced so often that placing them would take longer than it saves.

The caching allocator knows the common allocation but not the windows, so torch.multiprocessing cannot share
the patched model on a GPU with another process. `unpatch` gives each parameter an allocation of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

# Arguments of block_forward that, one behind the other in memory, are one matrix or vector.
GROUPS = tuple(
    tuple(f"{attention}_{projection}_{kind}" for projection in "qkv")
    for attention in ("attn1", "attn2")
    for kind in ("weight", "bias")
)
_GROUPED_ARGUMENTS = tuple(name for group in GROUPS for name in group)

# The operator's attention reads the keys of a row in vectors, which a common product must leave aligned.
_VECTOR_BYTES = 16

# Placing the weights of a block takes about as long as a call of it, and saves a part of that at each call.
_FREE_PLACEMENTS, _CALLS_PER_PLACEMENT = 4, 16

# References to a storage, where only the parameter and the Python object that asks refer to it.
_OWN_REFERENCES = 2
_count_references = getattr(torch._C, "_storage_Use_Count", None)

_lock = threading.Lock()


class Layout:
    """Where the weights of one block lie. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._settled: list[int] | None = None  # addresses of weights that are to stay where they are
        # By the storage's number. A weak reference keeps the number, and not an address, from being given to
        # another storage.
        self._windows: dict[int, StorageWeakRef] = {}
        self._placements = 0
        self._users = 0
        self._captured = False

    def is_settled(self, arguments: Mapping[str, Tensor]) -> bool:
        """Whether the weights among these arguments of block_forward, plain tensors, are where they are to
        stay."""
        return self._settled == _addresses(arguments)

    def place(self, arguments: Mapping[str, Tensor], calls: int = 0) -> None:
        """Places the weights among the arguments of block_forward, if they may be moved now.

        `calls`: number of the block's fused calls up to now.
        """
        with _lock:
            self._place(arguments, calls)

    @contextmanager
    def in_use(self, arguments: Mapping[str, Tensor] | None, calls: int) -> Iterator[None]:
        """Lasts as long as a call that may find weights which are not settled: none is moved meanwhile.
        Places them before; arguments None: the call is not block_forward's."""
        with _lock:
            if arguments is not None:
                self._place(arguments, calls)
            self._captured = self._captured or is_captured()
            self._users += 1
        try:
            yield
        finally:
            with _lock:
                self._users -= 1

    def note_capture(self) -> None:
        """To be called in each call that in_use does not cover: a CUDA graph that is being captured will read
        the weights where they are."""
        if is_captured():
            with _lock:
                self._captured = True

    def separate(self, block: nn.Module) -> None:
        """Gives each parameter of the block that was placed an allocation of its own."""
        with _lock:
            for parameter in block.parameters():
                if type(parameter) is nn.Parameter and self._is_window(parameter):
                    _move([parameter], [_allocate(parameter.numel(), parameter).view_as(parameter)])
            self._windows.clear()
            self._settled = None

    def _place(self, arguments: Mapping[str, Tensor], calls: int) -> None:
        if self._users > 0 or is_recorded() or is_captured():
            return
        weights = [arguments[name] for name in _GROUPED_ARGUMENTS if name in arguments]
        if not all(type(weight) is nn.Parameter and weight.layout == torch.strided for weight in weights):
            return
        groups = [[arguments[name] for name in group] for group in GROUPS if arguments.keys() >= set(group)]
        scattered = [group for group in groups if self._is_movable(group)]
        if scattered and self._placements >= _FREE_PLACEMENTS + calls // _CALLS_PER_PLACEMENT:
            return
        unaliased = [group for group in scattered if not _is_aliased(group)]
        for group in unaliased:
            self._place_together(group)
        self._placements += bool(unaliased)
        if len(unaliased) == len(scattered):
            self._settled = _addresses(arguments)

    def _is_movable(self, group: Sequence[Tensor]) -> bool:
        """Whether the tensors lie apart, and may be moved."""
        return (
            not self._captured
            and group[0].device.type in ("cpu", "cuda")
            and _count_references is not None
            and not _is_adjacent(group)
            and len(group[0]) * group[0].element_size() % _VECTOR_BYTES == 0
            and len({id(tensor) for tensor in group}) == len(group)
            and len({(tensor.dtype, tensor.device) for tensor in group}) == 1
            and all(self._owns_its_memory(tensor) for tensor in group)
        )

    def _owns_its_memory(self, parameter: nn.Parameter) -> bool:
        storage = parameter.untyped_storage()
        if (
            not parameter.is_leaf
            or parameter.is_inference()
            or not parameter.is_contiguous()
            or storage.nbytes() != parameter.numel() * parameter.element_size()
            or (parameter.device.type == "cpu" and (storage.is_shared() or parameter.is_pinned()))
        ):
            return False
        # PyTorch can resize what it has allocated, but not memory that it was given.
        return storage.resizable() or self._is_window(parameter)

    def _is_window(self, parameter: nn.Parameter) -> bool:
        return parameter.layout == torch.strided and parameter.untyped_storage()._cdata in self._windows

    def _place_together(self, group: Sequence[nn.Parameter]) -> None:
        try:
            buffer = _allocate(sum(parameter.numel() for parameter in group), group[0])
        except RuntimeError:
            # There is too little memory for a copy; the call itself may well have enough.
            return
        windows = []
        start = 0
        for parameter in group:
            end = start + parameter.numel() * parameter.element_size()
            storage = buffer.untyped_storage()[start:end]
            windows.append(_allocate(0, parameter).set_(storage, 0, parameter.shape, parameter.stride()))
            start = end
        _move(group, windows)
        self._windows = {number: window for number, window in self._windows.items() if not window.expired()}
        self._windows |= {window.cdata: window for window in map(_weak_reference, windows)}


def _weak_reference(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _addresses(arguments: Mapping[str, Tensor]) -> list[int]:
    return [arguments[name].data_ptr() for name in _GROUPED_ARGUMENTS if name in arguments]


def _is_adjacent(group: Sequence[Tensor]) -> bool:
    return all(
        first.data_ptr() + first.numel() * first.element_size() == second.data_ptr()
        for first, second in zip(group, group[1:])
    )


def _is_aliased(group: Sequence[Tensor]) -> bool:
    return any(
        _count_references(parameter.untyped_storage()._cdata) > _OWN_REFERENCES for parameter in group
    )


def is_recorded() -> bool:
    """Whether what is done to tensors now is traced, or done to others in their place."""
    return (
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._len_torch_dispatch_stack() > 0
    )


def is_captured() -> bool:
    """Whether a CUDA graph is being captured: memory allocated now would be the graph's."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _allocate(count: int, like: Tensor) -> Tensor:
    """A normal tensor, also in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return torch.empty(count, dtype=like.dtype, device=like.device)


def _move(parameters: Sequence[nn.Parameter], memories: Sequence[Tensor]) -> None:
    """Copies the parameters' values to `memories`, which become theirs."""
    with torch.inference_mode(False), torch.no_grad():
        for parameter, memory in zip(parameters, memories, strict=True):
            memory.copy_(parameter.detach())
        if memories[0].is_cuda:
            # Other streams may still read the old memory, and must find the new one complete.
            torch.cuda.synchronize(memories[0].device)
        for parameter, memory in zip(parameters, memories, strict=True):
            parameter.data = memory
