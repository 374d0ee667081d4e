"""Muon (Jordan et al., 2024) for a model whose layers are all alike: matrices of one shape take each step together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bavt_fast.training.precision import matrix_dtype

__all__ = ["StackedMuon"]


class StackedMuon(torch.optim.Muon):
    """What `torch.optim.Muon` computes, with some hundred launches an update for all layers instead of thirty a matrix.

    On a GPU the matrices of a small model are so small that launching is what takes the time. All parameters need a
    gradient whenever it steps, and keep the device and the type they had at the first step.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        assert closure is None, "the trainer computes its gradients before"
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = torch.stack([parameter.grad for parameter in parameters if parameter.grad is not None])
        state = self.state[parameters[0]]
        momentum = state.setdefault("momentum_buffer", torch.zeros_like(gradients))
        momentum.lerp_(gradients, 1 - group["momentum"])
        update = gradients.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
        update = orthogonalized(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameters[0].shape
        rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(update.to(parameters[0].dtype)), alpha=-rate)


def orthogonalized(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """(count, rows, columns), in `matrix_dtype`: each matrix with singular values near 1 (Newton-Schulz iterations)."""
    a, b, c = coefficients
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(matrix_dtype(matrices.device))
    x = x.mT if is_tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
