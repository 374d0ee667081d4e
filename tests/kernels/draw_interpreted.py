"""The kernel that draws tokens on CPU tensors. `test_kernels_interpreter` runs this file with TRITON_INTERPRET=1.

Not collected by itself: the variable must be set before triton is imported, so it needs a process of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sampling_pairs import (
    CPU,
    ENDS,
    HIDDEN,
    INF,
    NAN,
    Pair,
    assert_alike,
    check_draws,
    check_end,
    check_ended_row,
    check_rounding,
    check_texts_end,
    random_rules,
)

from bavt_fast.generators.device_sampling import DeviceSampler
from bavt_fast.generators.sampling import (
    BROKEN,
    EXHAUSTED,
    LIMIT,
    Sampler,
    SamplingRules,
)


class Small(DeviceSampler):
    """With small blocks, and without torch's draws at first."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.block = 256
        self._checked = {False, True}

    def _check(self, *arguments: Any) -> None:
        raise AssertionError("it was checked")


def plain_rules(random: np.random.Generator, size: int, named: np.ndarray) -> SamplingRules:
    """Such as the kernel draws by."""
    rules = random_rules(random, size, named)
    return replace(rules, temperature=rules.temperature or 0.5, top_p=1.0, top_k=0, min_p=0.0)


@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 15))])
def test_rows_are_drawn_as_torch_draws_them(seed: int) -> None:
    check_draws(Small, seed, plain_rules)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_every_kind_side_by_side(seed: int) -> None:
    """Also those that torch draws, between others."""
    check_draws(Small, seed)


@pytest.mark.parametrize("rows", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_rounding_seldom_tells_them_apart(rows: int) -> None:
    check_rounding(Small, rows)


@pytest.mark.parametrize(
    ("logits", "rule", "reason"),
    [
        *ENDS,
        ([0.0] * 700 + [NAN], {}, BROKEN),
        ([1.0, 0.0], {"temperature": 1e-40}, BROKEN),
        ([-INF] * 600 + [0.0], {}, LIMIT),
        ([0.0, np.log(1e-5)], {"tried": [([0], [1.0])]}, LIMIT),
        ([0.0, np.log(1e-7)], {"tried": [([0], [1.0])]}, EXHAUSTED),
    ],
)
def test_how_a_row_ends(logits: list[float], rule: dict[str, Any], reason: int) -> None:
    check_end(Small, logits, rule, reason)


def test_ends_of_the_text_and_stop_strings() -> None:
    check_texts_end(Small)


def test_a_row_that_has_ended_stays_as_it_is() -> None:
    check_ended_row(Small)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_every_type_and_layout(dtype: Any) -> None:
    """Rows apart from each other, columns apart, and one tensor for each row."""
    wide = torch.randn(6, 2, 300).to(dtype)
    for logits in (wide[:, -1], wide[:, 0].T.contiguous().T, list(wide[:, 1])):
        pair = Pair(Small, 300, [], np.ones(300, dtype=bool))
        numbers = pair.open([SamplingRules(seed, 0, 1) for seed in range(6)])
        pair.draw(numbers, logits)
        for expected, found in zip(*pair.drawn(numbers), strict=True):
            assert_alike(expected, found)


def test_the_first_draws_are_torchs_and_are_compared() -> None:
    tried = [([1], [0.2])]
    sampler = DeviceSampler(np.zeros((2, 9), dtype=np.int32), 1, [], np.ones(9, dtype=bool), CPU)
    plain = Sampler(np.zeros((2, 9), dtype=np.int32), 1, [], np.ones(9, dtype=bool), CPU)
    rules = [SamplingRules(seed, 0, 3, temperature=0.7, tried=tried if seed > 2 else ()) for seed in range(6)]
    for kind in (sampler, plain):
        numbers = np.asarray(kind.open(rules, [-1] * 6))
        torch.manual_seed(0)
        for some in (numbers[:3], numbers, numbers):
            kind.draw(torch.as_tensor(some), some, torch.randn(len(some), 9), torch.zeros(len(some), HIDDEN))
    assert sampler.is_on
    assert sampler._checked == {False, True}
    for expected, found in zip(plain.drawn(numbers.tolist()), sampler.drawn(numbers.tolist()), strict=True):
        assert_alike(expected, found)
