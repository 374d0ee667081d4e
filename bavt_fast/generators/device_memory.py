"""A device's memory: how much there is, what it raises where there is no more, and how it is given back."""

from __future__ import annotations

import gc
import os
from functools import cache

import torch

__all__ = ["LEAST_RECORDS", "give_back_memory", "is_out_of_memory", "limit_error", "too_many_tokens"]

LEAST_RECORDS = 8  # of rows that are drawn, for which a sampler makes room at once
_TOKEN_BYTES = 36  # of a record, for each token that its row may draw


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def give_back_memory(error: BaseException, device: torch.device) -> None:
    """What was computed by the time that an error came is nobody's any more."""
    error.__traceback__ = None  # it holds that
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def limit_error(limit: int, device: torch.device) -> MemoryError | None:
    """What is wrong where a device has no memory for steps of so many tokens."""
    fits = LEAST_RECORDS * limit * _TOKEN_BYTES <= _total_bytes(device) // 2
    return None if fits else too_many_tokens(limit)


def too_many_tokens(limit: int) -> MemoryError:
    return MemoryError(
        f"limits: expected steps that there is memory to draw, got one of {limit} tokens; lower max_step_tokens"
    )


@cache
def _total_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
