"""What a generator says of itself, and how much memory a round took."""

from __future__ import annotations

from pathlib import Path

import torch

from bavt_fast.protocols import GenerationStatistics


def since(now: GenerationStatistics, then: GenerationStatistics) -> GenerationStatistics:
    """What a generator did between two moments."""
    return GenerationStatistics(*[a - b for a, b in zip(now, then, strict=True)])


class PeakMemory:
    """The most memory in use since it was made, in bytes: of the device, or on the CPU of this process."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the high-water mark; proc(5)

    def read(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        raise RuntimeError("/proc/self/status has no VmHWM")


def synchronize(device: torch.device) -> None:
    """Waits for what the device was given: a round begins when the one before has ended."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
