"""Steps of a random tree of contexts, and what tells two lots of them apart."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import Node, Step, StepRequest


def steps_of(generator: TorchGenerator, waves: int = 12, most: int = 5) -> list[Step]:
    """Waves of asks, up to so many in each, at the prompt and behind steps that were told before."""
    random_ = random.Random(3)
    nodes, told = [Node(None, "the fox ran over the hill ")], []
    for _ in range(waves):
        picked = [random_.choice(nodes) for _ in range(random_.randrange(1, most + 1))]
        requests = [StepRequest(node, random_.getrandbits(60)) for node in picked]
        limits = [random_.randrange(2, 9) for _ in picked]
        for node, row in zip(picked, generator.propose(requests, [1] * len(picked), limits), strict=True):
            assert isinstance(row, list), f"no steps: {row!r}"
            told += row
            nodes += [Node(None, None, node, step) for step in row if not step.is_cut]
    return told


def difference(found: Sequence[Step], expected: Sequence[Step], tolerance: float = 1e-3) -> str:
    """The first thing in which steps differ, in words; "" for none."""
    for number, (one, other) in enumerate(zip(found, expected, strict=False)):
        where = f"step {number} of {len(expected)}"
        if one.token_ids != other.token_ids:
            at = next(
                (i for i, (a, b) in enumerate(zip(one.token_ids, other.token_ids, strict=False)) if a != b),
                min(len(one.token_ids), len(other.token_ids)),
            )
            return f"{where}: tokens differ from number {at} on: {one.token_ids}, expected {other.token_ids}"
        if one.finish_reason != other.finish_reason:
            return f"{where}: it ended by {one.finish_reason!r}, expected {other.finish_reason!r}"
        apart = _distance(one.hidden, other.hidden)
        if not apart <= tolerance:
            return f"{where}, {len(one.token_ids)} tokens: hidden states are {apart:.2e} apart (of the largest number)"
        for a, b in zip(one.token_probabilities, other.token_probabilities, strict=True):
            if not abs(a - b) <= tolerance:
                return f"{where}: a token has probability {a:.6f}, expected {b:.6f}"
    return "" if len(found) == len(expected) else f"{len(found)} steps, expected {len(expected)}"


def _distance(found: Any, expected: Any) -> float:
    a, b = (torch.as_tensor(state).float().cpu() for state in (found, expected))
    return float((a - b).abs().max() / (1e-6 + b.abs().max()))
