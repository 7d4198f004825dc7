"""How much memory the process holds, for tests that nothing leaks."""

import ctypes
from collections.abc import Callable

import torch


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def heap_bytes() -> int | None:
    """Bytes that C and C++ hold, in all arenas; None where the C library cannot tell."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    mallinfo2.restype = _Mallinfo2
    found = mallinfo2()
    return found.uordblks + found.hblkhd


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def measure(device: torch.device) -> dict[str, int]:
    """Bytes in use, by who counts them."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    measured = {"resident": resident_bytes()}
    heap = heap_bytes()
    if heap is not None:
        measured["heap"] = heap
    if device.type == "cuda":
        measured["cuda"] = torch.cuda.memory_allocated(device)
    return measured


def growth(call: Callable[[], None], calls: int, device: torch.device) -> dict[str, int]:
    """By how many bytes memory grows in `calls` calls, after half as many to warm up."""
    for _ in range(calls // 2):
        call()
    # What the first measurement allocates for itself is not the calls'.
    measure(device)
    before = measure(device)
    for _ in range(calls):
        call()
    after = measure(device)
    return {name: after[name] - before[name] for name in before}
