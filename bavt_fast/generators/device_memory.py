"""A device's memory: how much there is, what it raises where there is no more, and how it is given back."""

from __future__ import annotations

import gc
import os

import torch

__all__ = ["give_back_memory", "is_out_of_memory", "total_bytes"]


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def give_back_memory(error: BaseException, device: torch.device) -> None:
    """What was computed by the time that an error came is nobody's any more."""
    error.__traceback__ = None  # it holds that
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def total_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
