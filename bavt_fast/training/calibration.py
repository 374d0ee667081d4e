"""Values that are chances: a slope and an offset for the logits of a head that knows the order (Platt 1999)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

__all__ = ["calibrate", "platt"]


def platt(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope and offset of the logits with the least cross-entropy; 1 and 0 where that would turn their order.

    Args:
        logits: float (states,).
        labels: float (states,), in [0, 1].
    """
    with torch.enable_grad():
        line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([line], max_iter=50, line_search_fn="strong_wolfe")
        given, wanted = logits.detach().double(), labels.double()

        def closure() -> Tensor:
            optimizer.zero_grad()
            # A little pull towards the line as it is: with few states, or one class, there is no least.
            pull = 1e-3 * ((line[0] - 1) ** 2 + line[1] ** 2)
            loss = binary_cross_entropy_with_logits(line[0] * given + line[1], wanted) + pull
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    slope, offset = line.detach().tolist()
    return (slope, offset) if slope > 0 else (1.0, 0.0)


@torch.no_grad()
def calibrate(last: nn.Linear, logits: Tensor, labels: Tensor) -> Tensor:
    """Puts slope and offset into the layer that the logits came from; the logits as they are then."""
    slope, offset = platt(logits, labels)
    last.weight.mul_(slope)
    last.bias.mul_(slope).add_(offset)
    return logits * slope + offset
