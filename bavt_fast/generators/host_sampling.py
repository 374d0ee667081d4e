"""`Sampler` on a CPU: its columns are read and written as arrays, and drawing is native.

A row of a small model costs torch some thirty small calls a token, which take longer than the numbers in them. Here a
pass is one call. `Sampler` itself draws the same tokens from the same logits, and is the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bavt_fast._core import TokenDrawer
from bavt_fast.generators.sampling import COLUMNS, MASKS, Drawn, Sampler

__all__ = ["HostSampler", "sampler_on"]


class HostSampler(Sampler):
    """The records of all rows that are under way, in the memory of the host."""

    def __init__(
        self, next_state: np.ndarray, found: int, ends: Sequence[int], named: np.ndarray, device: torch.device
    ) -> None:
        super().__init__(next_state, found, ends, named, device)
        self._table = np.ascontiguousarray(next_state, dtype=np.int32)
        self._view()

    def _make_room(self, rows: int, tokens: int, tries: int) -> None:
        before = self._tokens
        super()._make_room(rows, tokens, tries)
        if self._tokens is not before:
            self._view()

    def _view(self) -> None:
        """The columns as arrays, which share their memory."""
        arrays = {name.lstrip("_"): getattr(self, name).numpy() for name in COLUMNS}
        masks = {name.lstrip("_"): getattr(self, name) for name in MASKS}
        nameless = None if self._nameless is None else self._nameless.numpy()
        self._arrays: dict[str, np.ndarray[Any, Any]] = arrays | masks
        self._drawer = TokenDrawer(self._arrays, self._table, self._found, self._ends.numpy(), nameless)

    def _begin(
        self,
        numbers: Sequence[int],
        uniforms: np.ndarray,
        settings: np.ndarray,
        limits: Sequence[int],
        next_tokens: Sequence[int],
    ) -> None:
        arrays = self._arrays
        arrays["uniforms"][numbers] = uniforms
        arrays["settings"][numbers] = settings
        arrays["limit"][numbers] = limits
        arrays["next_token"][numbers] = next_tokens
        for name in ("count", "state", "reason", "log_probability", "alive"):
            arrays[name][numbers] = 0

    def _keep_tried(self, numbers: Sequence[int], counts: Sequence[int], tokens: np.ndarray, rest: np.ndarray) -> None:
        arrays = self._arrays
        for row, (number, count) in enumerate(zip(numbers, counts, strict=True)):
            arrays["tried"][number, :count] = tokens[row, :count]
            arrays["rest"][number, :count] = rest[row, :count]
            arrays["alive"][number, :count] = True

    def tokens(self, records: Tensor) -> list[list[int]]:
        counts, tokens = self._arrays["count"], self._arrays["tokens"]
        return [tokens[number, : counts[number]].tolist() for number in records.tolist()]

    def drawn(self, numbers: Sequence[int], beside: bool = False) -> list[Drawn]:
        arrays = self._arrays
        at = list(numbers)
        counts, reasons = arrays["count"][at].tolist(), arrays["reason"][at].tolist()
        log_probabilities = arrays["log_probability"][at].tolist()
        states = torch.empty(len(at), 0) if self._hidden is None else self._hidden[at]
        rows = []
        for i, number in enumerate(at):
            tokens = tuple(arrays["tokens"][number, : counts[i]].tolist())
            probabilities = tuple(arrays["probabilities"][number, : counts[i]].tolist())
            rows.append(Drawn(tokens, probabilities, log_probabilities[i], reasons[i], states[i]))
        return rows

    def draw(self, records: Tensor, numbers: np.ndarray, logits: Tensor | Sequence[Tensor], hidden: Tensor) -> None:
        if isinstance(logits, Tensor):
            self._drawer.draw(numbers, _as_array(logits))
        else:  # a copy of all would take longer than a call for each
            for i, row in enumerate(logits):
                self._drawer.draw(numbers[i : i + 1], _as_array(row[None]))
        self._keep_hidden(records, hidden)


def _as_array(logits: Tensor) -> np.ndarray[Any, Any]:
    return logits.detach().float().contiguous().numpy()


def sampler_on(
    device: torch.device, next_state: np.ndarray, found: int, ends: Sequence[int], named: np.ndarray
) -> Sampler:
    """The sampler for logits on a device; see `Sampler` for the arguments."""
    kind = HostSampler if device.type == "cpu" else Sampler
    if device.type == "cuda" and find_spec("triton") is not None:
        from bavt_fast.generators.device_sampling import DeviceSampler

        kind = DeviceSampler
    return kind(next_state, found, ends, named, device)
