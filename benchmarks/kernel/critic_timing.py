"""Inputs, timers and floors that the benchmark and the tuner of the critic kernel share.

Times are of a call among others: a sample runs many calls back to back, each on the next of several input
sets that together exceed the cache three times over, so that neither the cache nor an idle GPU is what is
timed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import elapsed_s

__all__ = [
    "CriticFunction",
    "Floors",
    "call_bytes",
    "call_flops",
    "captured",
    "eager",
    "input_sets",
    "measure_floors",
    "relative_error",
    "sample",
]

CriticFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
InputSet = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_SAMPLE_S = 0.002
_LONG_S = 0.5  # after so long five samples are enough
_MAX_SETS = 128


@dataclass(frozen=True)
class Floors:
    """What the machine reached in this run: bytes per second of a large copy (read plus written), and
    floating-point operations per second of a large matrix product in each dtype."""

    copy_bytes_per_s: float
    matmul_flops_per_s: dict[str, float]

    def time_us(self, rows: int, hidden_size: int, dtype: torch.dtype) -> float:
        """The larger of bytes over bandwidth and operations over rate."""
        bytes_s = call_bytes(rows, hidden_size, dtype) / self.copy_bytes_per_s
        flops_s = call_flops(rows, hidden_size) / self.matmul_flops_per_s[str(dtype)]
        return 1e6 * max(bytes_s, flops_s)


def call_bytes(rows: int, hidden_size: int, dtype: torch.dtype) -> int:
    """The fewest bytes a call moves: every input read once and every output written once."""
    units = 2 * hidden_size
    return (rows * hidden_size + units * hidden_size + 2 * units + 1 + rows) * dtype.itemsize


def call_flops(rows: int, hidden_size: int) -> int:
    """Multiplications and additions of both matrix products."""
    return 2 * rows * 2 * hidden_size * (hidden_size + 1)


def eager(hidden: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The layers as a module runs them: three torch kernels or more."""
    return functional.linear(functional.relu(functional.linear(hidden, w1, b1)), w2, b2)


def input_sets(rows: int, hidden_size: int, dtype: torch.dtype, device: torch.device) -> list[InputSet]:
    """Random inputs: enough sets to exceed the last cache three times, at least 2 and at most 128."""
    cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 2**22
    count = math.ceil(3 * cache_bytes / call_bytes(rows, hidden_size, dtype))
    units = 2 * hidden_size

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, device=device)).to(dtype)

    return [
        (
            normal(rows, hidden_size),
            normal(units, hidden_size, scale=hidden_size**-0.5),
            normal(units, scale=0.1),
            normal(1, units, scale=units**-0.5),
            normal(1),
        )
        for _ in range(min(max(count, 2), _MAX_SETS))
    ]


def relative_error(function: CriticFunction, inputs: InputSet) -> float:
    """||function - exact|| / ||exact||, with the exact result in float64."""
    expected = eager(*(tensor.to(torch.float64) for tensor in inputs))
    return float((function(*inputs).to(torch.float64) - expected).norm() / expected.norm())


def captured(function: Callable[..., Tensor], sets: Sequence[tuple[Any, ...]]) -> Callable[[], None]:
    """A replay of one CUDA graph that holds a call on every set."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*sets[0])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for inputs in sets:
            function(*inputs)
    return graph.replay


def sample(run: Callable[[], None], calls: int, device: torch.device, samples: int = 25) -> list[float]:
    """Seconds per call of `run`, which makes `calls` calls; each sample repeats it until about 2 ms are over.

    Where `samples` would take long, there are fewer, at least 5.
    """
    once_s = min(_elapsed_s(run, device) for _ in range(2))
    repeats = max(1, math.ceil(_SAMPLE_S / max(once_s, 1e-7)))

    def repeated() -> None:
        for _ in range(repeats):
            run()

    affordable = max(5, int(_LONG_S / max(repeats * once_s, 1e-7)))
    return [_elapsed_s(repeated, device) / (repeats * calls) for _ in range(min(samples, affordable))]


def _elapsed_s(run: Callable[[], None], device: torch.device) -> float:
    if device.type != "cuda":
        return elapsed_s(run)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def _discard(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    function(*inputs)


def measure_floors(device: torch.device, dtypes: Sequence[torch.dtype], samples: int = 25) -> Floors:
    """A copy of 1 GiB and a product of 8192-square matrices; 8 MiB and 256-square on the CPU."""
    elements, size = (2**28, 8192) if device.type == "cuda" else (2**21, 256)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    copy_s = statistics.median(sample(partial(_discard, target.copy_, source), 1, device, samples))
    rates = {}
    for dtype in dtypes:
        left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        product_s = statistics.median(sample(partial(_discard, torch.mm, left, right), 1, device, samples))
        rates[str(dtype)] = 2 * size**3 / product_s
    return Floors(2 * source.numel() * source.element_size() / copy_s, rates)
