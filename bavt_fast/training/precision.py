"""In what type numbers are multiplied: bfloat16 where the processor has instructions for it, float32 elsewhere.

A CPU without them computes in bfloat16 all the same, several times slower than in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["matrix_dtype", "mixed_precision"]

_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def matrix_dtype(device: torch.device) -> torch.dtype:
    """The type in which a device multiplies matrices fastest, of these two."""
    if device.type != "cpu":
        return torch.bfloat16
    told: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if any(told.get(name) for name in _CPU_INSTRUCTIONS) else torch.float32


def mixed_precision(device: torch.device) -> Any:
    """A context in which matrices are multiplied in `matrix_dtype`."""
    dtype = matrix_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
