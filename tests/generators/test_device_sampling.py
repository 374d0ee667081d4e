"""What the sampler of a GPU does where its kernel does not run, or draws other tokens than torch.

The kernel itself is in tests/kernels/draw_interpreted.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from sampling_pairs import CPU, HIDDEN, assert_alike  # noqa: E402

from bavt_fast.generators import device_sampling  # noqa: E402
from bavt_fast.generators.device_sampling import DeviceSampler  # noqa: E402
from bavt_fast.generators.sampling import Drawn, Sampler, SamplingRules  # noqa: E402


class Kernel:
    """Stands where the kernel stands; a launch calls `run`."""

    def __init__(self, run: Any) -> None:
        self.run, self.launches = run, 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            self.launches += 1
            self.run(*arguments)

        return launch


def raises(*_: Any) -> None:
    raise RuntimeError("no compiler")


def changes(logits: Any, hidden: Any, records: Any, standing: Any, count: Any, *_: Any) -> None:
    """As if every row had drawn something, and nothing else."""
    count[records] += 1


def drawn_by(kind: type[Sampler]) -> list[Drawn]:
    random = np.random.default_rng(0)
    sampler = kind(np.zeros((2, 50), dtype=np.int32), 1, [], np.ones(50, dtype=bool), CPU)
    rules = [SamplingRules(seed, 0, 4, temperature=0.7, tried=[([1], [0.1])] * (seed % 2)) for seed in range(5)]
    numbers = np.asarray(sampler.open(rules, [-1] * 5))
    for _ in range(4):
        logits = torch.from_numpy(random.normal(0, 2, (5, 50)).astype(np.float32))
        hidden = torch.from_numpy(random.normal(0, 2, (5, HIDDEN)).astype(np.float32))
        sampler.draw(torch.as_tensor(numbers), numbers, logits, hidden)
        assert sampler.standing(torch.as_tensor(numbers)).read() == [row.reason for row in sampler.drawn(numbers)]
    return sampler.drawn(numbers.tolist())


@pytest.mark.parametrize(
    ("run", "problem"), [(raises, "does not run .RuntimeError: no compiler"), (changes, "drew other tokens than torch")]
)
def test_a_kernel_that_cannot_be_used_is_not(run: Any, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and no token is another one for it."""
    kernel = Kernel(run)
    monkeypatch.setattr(device_sampling, "draw_kernel", kernel)
    with pytest.warns(UserWarning, match=f"the kernel that draws tokens {problem}") as warned:
        found = drawn_by(DeviceSampler)
    assert len(warned) == kernel.launches == 1
    for expected, row in zip(drawn_by(Sampler), found, strict=True):
        assert_alike(expected, row)


def test_rules_that_the_kernel_does_not_know_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(raises)
    monkeypatch.setattr(device_sampling, "draw_kernel", kernel)
    for rule in ({"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}):
        sampler = DeviceSampler(np.zeros((2, 9), dtype=np.int32), 1, [], np.ones(9, dtype=bool), CPU)
        numbers = np.asarray(sampler.open([SamplingRules(0, 0, 2), SamplingRules(1, 0, 2, **rule)], [-1, -1]))
        sampler.draw(torch.as_tensor(numbers), numbers, torch.randn(2, 9), torch.zeros(2, HIDDEN))
        assert [len(row.tokens) for row in sampler.drawn(numbers.tolist())] == [1, 1]
    assert kernel.launches == 0
