"""The type in which training multiplies matrices follows the processor."""

from __future__ import annotations

import pytest
import torch

from bavt_fast.training.precision import matrix_dtype, mixed_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("told", "dtype"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(
    told: dict[str, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert matrix_dtype(CPU) is dtype
    with mixed_precision(CPU):
        assert (torch.ones(3, 4) @ torch.ones(4, 5)).dtype is dtype
    assert (torch.ones(3, 4) @ torch.ones(4, 5)).dtype is torch.float32


def test_a_torch_that_does_not_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert matrix_dtype(CPU) is torch.float32


def test_a_gpu_computes_in_bfloat16() -> None:
    assert matrix_dtype(torch.device("cuda")) is torch.bfloat16
