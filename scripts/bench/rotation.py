"""How many sets of inputs and weights it takes that a call finds none of its own in the last-level cache."""

from __future__ import annotations

import torch

CACHES = 4  # times the cache's size that all sets together have at least
CPU_CACHE_BYTES = 32 << 20  # a usual size; PyTorch does not tell the CPU's


def cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    return CPU_CACHE_BYTES


def set_count(bytes_per_set: int, device: torch.device, least: int = 2, most: int = 128) -> int:
    needed = -(-CACHES * cache_bytes(device) // max(bytes_per_set, 1))
    return min(max(needed, least), most)
