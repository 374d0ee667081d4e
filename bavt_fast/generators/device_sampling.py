"""`Sampler` on a GPU: the next tokens of all rows in one launch.

torch takes some fifty launches for it, each of which costs the host as much as all of ours. `Sampler` itself draws the
same tokens from the same logits, but for a number that falls next to the border of two; it is the oracle of the first
draws, and does those that the kernel does not know: greedy ones, and those of a top-p, top-k or min-p.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bavt_fast.device_queue import PendingRead
from bavt_fast.generators.sampling import NEW_MASS, SPENT_SHARE, Sampler, SamplingRules
from bavt_fast.kernels.draw_triton import draw_kernel

__all__ = ["DeviceSampler"]

_WRITTEN = ("_count", "_state", "_reason", "next_token", "_log_probability", "_tokens", "_probabilities", "_alive")
_BLOCK, _WARPS = 4096, 16  # compiled for 8.0 and 9.0 nothing of it spills


class DeviceSampler(Sampler):
    """The records of all rows that are under way, in the memory of a GPU.

    Attributes:
        is_on: whether the kernel is used. Where it cannot be compiled, or draws other tokens than torch, it is not,
            which is said once.
        block: logits that a program looks at together, a power of two.
    """

    def __init__(
        self, next_state: np.ndarray, found: int, ends: Sequence[int], named: np.ndarray, device: torch.device
    ) -> None:
        super().__init__(np.ascontiguousarray(next_state), found, ends, named, device)
        self.is_on = True
        self.block = _BLOCK
        self._checked: set[bool] = set()  # of draws with tried steps, and without
        self._num_tried: dict[int, int] = {}  # of each record
        self._standing: tuple[Tensor, Tensor] | None = None  # the records of the last draw, and why they stand

    def open(self, rules: Sequence[SamplingRules], next_tokens: Sequence[int]) -> list[int]:
        numbers = super().open(rules, next_tokens)
        self._num_tried.update(zip(numbers, [len(rule.tried) for rule in rules], strict=True))
        return numbers

    def draw(self, records: Tensor, numbers: np.ndarray, logits: Tensor | Sequence[Tensor], hidden: Tensor) -> None:
        self._standing = None
        if not self.is_on or self._is_greedy[numbers].any() or self._is_cut[numbers].any():
            super().draw(records, numbers, logits, hidden)
            return
        logits = logits if isinstance(logits, Tensor) else torch.stack(list(logits))
        if self._hidden is None:
            self._hidden = hidden.new_zeros(self._tokens.shape[0], hidden.shape[1])
        most_tried = max(map(self._num_tried.__getitem__, numbers.tolist()))
        if (most_tried > 0) in self._checked:
            self._launch(records, logits, hidden, most_tried)
        else:
            self._check(records, numbers, logits, hidden, most_tried)

    def standing(self, records: Tensor) -> PendingRead:
        if self._standing is not None and self._standing[0] is records:
            return PendingRead(self._standing[1])
        return super().standing(records)

    def _launch(self, records: Tensor, logits: Tensor, hidden: Tensor, most_tried: int) -> None:
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        hidden = hidden.to(self._kept.dtype).contiguous()
        standing = torch.empty_like(records)
        on_device = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with on_device:
            draw_kernel[(len(records),)](
                logits,
                hidden,
                records,
                standing,
                self._count,
                self._limit,
                self._state,
                self._reason,
                self.next_token,
                self._settings,
                self._log_probability,
                self._tokens,
                self._uniforms,
                self._probabilities,
                self._tried,
                self._rest,
                self._alive,
                self._kept,
                self._next_state,
                self._ends,
                self._nameless,
                logits.stride(0),
                hidden.stride(0),
                self._tokens.shape[1],
                self._tried.shape[1],
                most_tried,
                NEW_MASS,
                SPENT_SHARE,
                FOUND=self._found,
                VOCAB=logits.shape[1],
                HIDDEN=hidden.shape[1],
                BLOCK=self.block,
                HAS_TRIED=most_tried > 0,
                num_warps=_WARPS,
                enable_fp_fusion=True,
            )
        self._standing = records, standing

    @property
    def _kept(self) -> Tensor:
        assert self._hidden is not None, "the first draw makes room"
        return self._hidden

    # ---- the first draws

    def _check(self, records: Tensor, numbers: np.ndarray, logits: Tensor, hidden: Tensor, most_tried: int) -> None:
        """Draws with the kernel and with torch, which is the result."""
        before = self._columns()
        problem = None
        try:
            self._launch(records, logits, hidden, most_tried)
        except Exception as error:  # whatever a compiler raises
            problem = f"does not run ({type(error).__name__}: {error})"
        found = self._columns()
        for name, column in before.items():
            getattr(self, name).copy_(column)
        super().draw(records, numbers, logits, hidden)
        self._standing = None
        if problem is None and not _are_alike(records, before, found, self._columns()):
            problem = "drew other tokens than torch"
        if problem is None:
            self._checked.add(most_tried > 0)
            return
        self.is_on = False
        warnings.warn(f"model: the kernel that draws tokens {problem:.300}; drawing with torch", stacklevel=2)

    def _columns(self) -> dict[str, Tensor]:
        return {name: getattr(self, name).clone() for name in (*_WRITTEN, "_hidden")}


def _are_alike(records: Tensor, before: dict[str, Tensor], found: dict[str, Tensor], expected: dict[str, Any]) -> bool:
    """Whether two draws are the same in what counts. One row may differ: a number may fall next to a border."""
    went_on = before["_reason"][records] == 0
    rows, place = records[went_on], before["_count"][records[went_on]]
    same = torch.ones_like(rows, dtype=torch.bool)
    for name in ("_count", "_reason", "next_token", "_state"):
        same &= found[name][rows] == expected[name][rows]
    if int((~same).sum()) > 1:
        return False
    rows, place = rows[same], place[same]
    drawn = expected["_count"][rows] > before["_count"][rows]
    rows, place = rows[drawn], place[drawn]
    pairs = [(side["_probabilities"][rows, place], side["_log_probability"][rows]) for side in (found, expected)]
    close = all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*pairs, strict=True))
    return close and torch.equal(found["_alive"][rows], expected["_alive"][rows])
