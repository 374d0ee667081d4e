"""`StackedMuon` against the optimizer of torch that it is."""

from __future__ import annotations

import pytest
import torch

from bavt_fast.training.muon import StackedMuon

SHAPES = [(32, 32), (48, 16), (16, 48), (32, 32), (16, 48), (32, 32), (8, 8)]


def updates_of(kind: type[torch.optim.Muon], updates: int, nesterov: bool = True) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = kind(matrices, lr=0.02, weight_decay=0.05, nesterov=nesterov)
    for number in range(updates):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator) + matrix.detach()
        optimizer.param_groups[0]["lr"] = 0.02 / (1 + number)
        optimizer.step()  # type: ignore[no-untyped-call]
    return [matrix.detach() for matrix in matrices]


@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_together_move_as_they_do_one_by_one(nesterov: bool) -> None:
    start = updates_of(torch.optim.Muon, 0)
    expected = updates_of(torch.optim.Muon, 6, nesterov)
    for before, one, other in zip(start, expected, updates_of(StackedMuon, 6, nesterov), strict=True):
        moved = one - before
        assert float((one - other).norm()) < 0.03 * float(moved.norm())  # torch's iterations are in bfloat16
        assert float(moved.norm()) > 0.1


def test_a_matrix_whose_gradient_is_zero_only_decays() -> None:
    matrix = torch.nn.Parameter(torch.ones(4, 6))
    optimizer = StackedMuon([matrix], lr=0.5, weight_decay=0.1)
    matrix.grad = torch.zeros(4, 6)
    optimizer.step()
    assert torch.allclose(matrix, torch.full((4, 6), 0.95))
