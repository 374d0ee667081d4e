"""The latest sequences of each kind, where the model is."""

from __future__ import annotations

import torch

from bavt_fast.training.course import Batch, combined

__all__ = ["Ring", "moved", "packed", "unpacked"]

_ENOUGH = 4
"""Batches that there must be before one is drawn: else it would hold the same sequences again and again."""

_ALIGNED = 16
"""Bytes: where a tensor of any type may begin."""


class Ring:
    """Keeps sequences until others take their places.

    Args:
        capacity: sequences of a kind.
        device: where they are kept.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._capacity, self._device = capacity, device
        self._kept: dict[int, Batch] = {}
        self._added: dict[int, int] = {}

    def add(self, batch: Batch) -> None:
        batch = moved(batch.rows(slice(-self._capacity, None)), self._device)
        kept = self._kept.get(batch.kind)
        if kept is None:
            kept = self._kept[batch.kind] = batch.mapped(lambda part: part.new_empty((self._capacity, *part.shape[1:])))
        added = self._added.get(batch.kind, 0)
        places = (torch.arange(len(batch), device=self._device) + added) % self._capacity
        combined([kept, batch], lambda parts: parts[0].index_copy_(0, places, parts[1]))
        self._added[batch.kind] = added + len(batch)

    def draw(self, kind: int, count: int) -> Batch | None:
        """So many of one kind at random, by the generator of the device; None for none, or while there are too few."""
        there = min(self._added.get(kind, 0), self._capacity)
        if there < _ENOUGH * count or not count:
            return None
        return self._kept[kind].rows(torch.randint(there, (count,), device=self._device))


def moved(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device. From here to a GPU all of it goes in one copy, which nothing waits for."""
    if device.type != "cuda" or batch.ids.device.type != "cpu":
        return batch.mapped(lambda part: part.to(device))
    return unpacked(packed(batch, pin=True).to(device, non_blocking=True), batch)


def packed(batch: Batch, pin: bool = False) -> torch.Tensor:
    """The bytes of all tensors of a batch, one after the other, uint8."""
    parts: list[torch.Tensor] = []
    batch.mapped(parts.append)
    sizes = [_room(part) for part in parts]
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=pin)
    for part, place in zip(parts, buffer.split(sizes), strict=True):
        place[: part.nbytes] = part.reshape(-1).view(torch.uint8)
    return buffer


def unpacked(buffer: torch.Tensor, like: Batch) -> Batch:
    """The batch that `packed` made bytes of, as views of them."""
    sizes: list[int] = []
    like.mapped(lambda part: sizes.append(_room(part)))
    places = iter(buffer.split(sizes))
    return like.mapped(lambda part: next(places)[: part.nbytes].view(part.dtype).view(part.shape))


def _room(part: torch.Tensor) -> int:
    return -(-part.nbytes // _ALIGNED) * _ALIGNED
