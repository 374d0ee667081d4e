"""How a call of the critic kernel is tiled: the configuration, and its look-up in the table of
`critic_table`.

Configurations are looked up and never searched for at run time, so that no call pays for autotuning. The
table is regenerated on a GPU by ``python -m tools.critic_kernel.tune``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ANY", "Config", "Entry", "Kind"]

ANY = 2**31 - 1
"""No upper bound, as `max_rows` or `max_hidden` of an entry."""

Kernel = Literal["vector", "few", "many"]

Kind = Literal["half", "fp32", "tf32", "int8"]
"""What is multiplied: fp16 or bf16; fp32 exactly; fp32 through tf32; int8 weights with any hidden states."""


@dataclass(frozen=True)
class Config:
    """One tiling of stage 1.

    Attributes:
        kernel: which of the three kernels of `critic_triton`.
        block_rows: rows per program (1 for "vector").
        block_units: units per program.
        block_k: elements of H per step of the inner loop.
        num_warps: warps per program.
        num_stages: steps of the inner loop in flight.
        descriptors: load aligned operands by the tensor memory accelerator ("many" only, capability 9.0 and
            up).
        overlap: launch stage 2 while stage 1 runs (programmatic dependent launch, capability 9.0 and up).
    """

    kernel: Kernel
    block_rows: int
    block_units: int
    block_k: int
    num_warps: int
    num_stages: int
    descriptors: bool = False
    overlap: bool = False


@dataclass(frozen=True)
class Entry:
    """A row of the table: the configuration for calls of at most `max_rows` rows and `max_hidden` elements.

    Attributes:
        capability: 80 for Ampere and Ada, 90 for Hopper and up.
        kind: see `Kind`.
        max_rows: the largest number of rows it serves.
        max_hidden: the largest H it serves.
        use_torch: with ``impl="auto"`` plain torch is faster here; the configuration serves
            ``impl="triton"``.
        config: the tiling.
        source: "predicted", or the GPU and date of the measurement.
    """

    capability: int
    kind: Kind
    max_rows: int
    max_hidden: int
    use_torch: bool
    config: Config
    source: str
