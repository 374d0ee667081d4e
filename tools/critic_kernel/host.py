"""Host time of a call of the critic kernel: all that happens before the GPU gets its two launches.

``python -m tools.critic_kernel.host`` prints microseconds per call; no GPU is needed. A driver that records instead of
launching stands where triton's CUDA driver stands, so the C code of the two launches is not in the figures.
"""

from __future__ import annotations

import argparse
import sys
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from bavt_fast.kernels import critic, critic_mlp
from benchmarks.kernel.critic_timing import input_sets

__all__ = ["RecordingDriver", "pretend_gpu"]

LaunchRecord = tuple[str, tuple[int, int, int], tuple[Any, ...]]
"""Kernel, grid, arguments."""


class RecordingDriver:
    """What triton asks of a driver, for a GPU that is not there."""

    def __init__(self, record: Callable[[LaunchRecord], None], capability: int = 90) -> None:
        self.record = record
        self.capability = capability
        self.utils = self

    def launcher_cls(self, source: Any, metadata: Any) -> Callable[..., None]:
        name = metadata.name

        def launch(x: int, y: int, z: int, stream: int, function: Any, *rest: Any) -> None:
            self.record((name, (x, y, z), rest[4:]))  # after the kernel's and the launch's metadata and two hooks

        return launch

    def load_binary(self, name: str, *_: Any) -> tuple[int, int, int, int, int]:
        return 1, 1, 64, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, *_: Any) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024, "max_num_regs": 65536, "multiprocessor_count": 132, "warpSize": 32}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def pretend_gpu(record: Callable[[LaunchRecord], None], capability: int = 90) -> None:
    """Makes ``impl="triton"`` compile for `capability` / 10 and hand its launches to `record`, for the rest of the
    process."""
    triton.runtime.driver.set_active(RecordingDriver(record, capability))
    critic._capability = lambda hidden, impl: capability  # type: ignore[assignment]


def microseconds(function: Callable[[], object], repeats: int = 1000) -> float:
    """The fastest of seven runs of `repeats` calls."""
    function()
    return min(timeit.repeat(function, number=repeats, repeat=7)) / repeats * 1e6


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.critic_kernel.host", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 2048], help="rows of a call")
    parser.add_argument("--hidden", type=int, default=768, help="H")
    options = parser.parse_args(arguments)
    pretend_gpu(lambda launched: None)
    print("| rows | H | layout known, us | layout new, us |\n|---|---|---|---|")
    for rows in options.rows:
        inputs = input_sets(rows, options.hidden, torch.bfloat16, torch.device("cpu"))[0]

        def call(inputs: Any = inputs) -> object:
            return critic_mlp(*inputs, impl="triton")

        def call_anew(call: Callable[[], object] = call) -> None:
            critic._plans.clear()
            call()

        print(f"| {rows} | {options.hidden} | {microseconds(call):.1f} | {microseconds(call_anew):.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
