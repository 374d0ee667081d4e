"""Regenerates `bavt_fast/kernels/critic_table.py` on the GPU at hand.

    python -m tools.critic_kernel.tune [--kinds half ...] [--limit-s S] [--dry-run]

For every entry of this GPU's capability, the tiling there and its neighbours (half and twice each block size and the
warps, one stage more or fewer, stage 2 overlapped or not; for many rows on 9.0 also one of which a multiprocessor takes
two programs) are checked against float64 and timed in a CUDA graph at the largest shape that the entry serves. The
fastest is kept; `use_torch` is set where graphed torch beats it. An entry that the time limit leaves out, or at which
every tiling fails, keeps its old one. A second run starts from the first one's table and climbs on. All cores compile
the tilings ahead of the timing, and the table is written after each entry.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bavt_fast.kernels import critic, quantize_w1
from bavt_fast.kernels.critic_config import ANY, Config, Entry
from bavt_fast.kernels.critic_launch import CriticCall, run_fused
from bavt_fast.kernels.critic_lookup import find_entry
from bavt_fast.kernels.critic_table import ENTRIES
from benchmarks.kernel.critic_timing import captured, eager, input_sets, sample
from tools.critic_kernel.ahead import Ahead, Job
from tools.critic_kernel.table import TABLE_PATH, render

KINDS = ("half", "tf32", "int8", "fp32")
LARGEST_ROWS, LARGEST_HIDDEN = 4096, 8192
TUNED_HIDDEN = {1024: 768}  # the width that entries up to 1,024 mostly serve
COMPILING_S = 60.0  # after so long nobody waits for one tiling
MAX_ERROR = {"half": 1e-2, "tf32": 2e-3, "fp32": 1e-5, "int8": 1e-2}


@dataclass(frozen=True)
class Timed:
    """A tiling that works, and what a call takes with it."""

    config: Config
    median_us: float


def neighbours(config: Config, capability: int) -> list[Config]:
    """`config` first, then tilings that differ from it in one way each."""
    found = [config]
    for factor in (0.5, 2.0):
        found.append(replace(config, block_units=int(config.block_units * factor)))
        found.append(replace(config, block_k=int(config.block_k * factor)))
        found.append(replace(config, num_warps=int(config.num_warps * factor)))
        if config.kernel == "many":
            found.append(replace(config, block_rows=int(config.block_rows * factor)))
    found += [replace(config, num_stages=config.num_stages + step) for step in (-1, 1)]
    if capability >= 90:
        found.append(replace(config, overlap=not config.overlap))
        if config.kernel == "many":
            found.append(replace(config, descriptors=not config.descriptors))
            # Small enough for two programs on a multiprocessor: the sum of one hides behind the products of the other.
            small = replace(config, block_rows=128, block_units=128, num_warps=4, num_stages=3, descriptors=True)
            found.append(small)
    return [tile for tile in dict.fromkeys(found) if _is_sensible(tile)]


def _is_sensible(config: Config) -> bool:
    """Whether the kernel's instructions exist for it."""
    least_units = 1 if config.kernel == "vector" else 16
    least_rows = 1 if config.kernel == "vector" else 8
    return (
        config.block_units >= least_units
        and config.block_rows >= least_rows
        and config.block_k >= 16
        and 1 <= config.num_warps <= 16
        and config.num_stages >= 1
    )


def tune_entry(entry: Entry, device: torch.device, source: str, ahead: Ahead | None = None) -> Entry:
    """`entry` with the fastest of its neighbouring tilings, which `ahead` may be compiling.

    Raises:
        RuntimeError: no tiling works.
    """
    calls = _calls(entry, device)
    expected = _exact(calls[0][0])
    timed = []
    for config, job in zip(neighbours(entry.config, entry.capability), jobs(entry), strict=True):
        failure = ahead.failure(job, COMPILING_S) if ahead else ""
        if failure:
            print(f"  {config}: {failure}", flush=True)
            continue
        median_us = _time_config(config, entry, calls, expected)
        if median_us is not None:
            timed.append(Timed(config, median_us))
    if not timed:
        raise RuntimeError(f"no tiling works for {entry}; run the tests on this GPU first")
    best = min(timed, key=lambda candidate: candidate.median_us)
    # Whether stage 2 overlaps says little about the tile, so the best tile gets both chances.
    flipped = replace(best.config, overlap=not best.config.overlap)
    if entry.capability >= 90 and flipped not in [candidate.config for candidate in timed]:
        median_us = _time_config(flipped, entry, calls, expected)
        if median_us is not None and median_us < best.median_us:
            best = Timed(flipped, median_us)
    torch_us = _time_torch(entry, calls)
    print(
        f"{entry.kind} {tuned_shape(entry)}: {best.median_us:.2f} us, torch {torch_us:.2f}: {best.config}", flush=True
    )
    return replace(entry, config=best.config, use_torch=torch_us < best.median_us, source=source)


def jobs(entry: Entry) -> list[Job]:
    """What is to compile for an entry, in the order of its neighbours."""
    rows, hidden_size = tuned_shape(entry)
    return [Job(entry.kind, rows, hidden_size, config) for config in neighbours(entry.config, entry.capability)]


def tuned_shape(entry: Entry) -> tuple[int, int]:
    """The (rows, H) at which an entry is tuned."""
    rows = LARGEST_ROWS if entry.max_rows == ANY else entry.max_rows
    hidden_size = LARGEST_HIDDEN if entry.max_hidden == ANY else entry.max_hidden
    return rows, TUNED_HIDDEN.get(hidden_size, hidden_size)


def _calls(entry: Entry, device: torch.device) -> list[tuple[CriticCall]]:
    """Calls at the tuned shape on rotating inputs, with int8 weights where the entry is for them."""
    rows, hidden_size = tuned_shape(entry)
    dtype = torch.float32 if entry.kind in ("fp32", "tf32") else torch.bfloat16
    calls = []
    for hidden, w1, b1, w2, b2 in input_sets(rows, hidden_size, dtype, device):
        weight, scale = quantize_w1(w1) if entry.kind == "int8" else (w1, None)
        calls.append((CriticCall(hidden, weight, b1, w2, b2, w1_scale=scale),))
    return calls


def _exact(call: CriticCall) -> Tensor:
    """The result in float64, from the weights as they are stored."""
    weight = call.w1.to(torch.float64)
    if call.w1_scale is not None:
        weight = weight * call.w1_scale.to(torch.float64)[:, None]
    return eager(call.hidden.double(), weight, call.b1.double(), call.w2.double(), call.b2.double())


def _time_config(config: Config, entry: Entry, calls: Sequence[tuple[CriticCall]], expected: Tensor) -> float | None:
    """Microseconds per call inside a graph; None where the tiling does not fit the GPU or is wrong."""

    def run(call: CriticCall) -> Tensor:
        out = call.hidden.new_empty((call.rows, 1))
        run_fused(call, config, out, (critic.MIN_VALUE, critic.MAX_VALUE), entry.kind == "tf32")
        return out

    try:
        out = run(*calls[0])
        error = float((out.to(torch.float64) - expected).norm() / expected.norm())
        if not error < MAX_ERROR[entry.kind]:
            print(f"  {config}: wrong, relative error {error:.2e}", flush=True)
            return None
        return 1e6 * statistics.median(sample(captured(run, calls), len(calls), out.device, samples=9))
    except Exception as failure:  # too large for the GPU, or refused by the compiler or the driver: of many types
        print(f"  {config}: {type(failure).__name__}: {str(failure).strip()[:200]}", flush=True)
        if expected.is_cuda:
            torch.cuda.synchronize(expected.device)  # raises where the GPU takes no more work from this process
        return None


def _time_torch(entry: Entry, calls: Sequence[tuple[CriticCall]]) -> float:
    """Microseconds per call of graphed torch; infinite for int8, which torch can only widen first."""
    if entry.kind == "int8":
        return float("inf")
    plain = [(call.hidden, call.w1, call.b1, call.w2, call.b2) for (call,) in calls]
    device = calls[0][0].hidden.device
    return 1e6 * statistics.median(sample(captured(eager, plain), len(plain), device, samples=9))


def in_order(entries: Sequence[Entry], kinds: Sequence[str], capability: int) -> list[Entry]:
    """The entries of `capability` and `kinds`: by kind, and each kind's largest shape first, as much hangs on it."""
    wanted = [entry for kind in kinds for entry in entries if (entry.capability, entry.kind) == (capability, kind)]
    return sorted(wanted, key=lambda entry: (kinds.index(entry.kind), entry.max_rows != ANY))


def tune(wanted: Iterable[Entry], limit_s: float, tune_one: Callable[[Entry], Entry]) -> Iterator[Entry | None]:
    """Each of the entries tuned, until the time is up; None for one that cannot be tuned."""
    deadline = time.monotonic() + limit_s
    for entry in wanted:
        if time.monotonic() >= deadline:
            return
        try:
            yield tune_one(entry)
        except Exception as failure:
            print(f"{entry.kind} {tuned_shape(entry)}: kept, {type(failure).__name__}: {failure}", flush=True)
            yield None


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.critic_kernel.tune", description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="what to tune, in this order")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no new entry after this long")
    parser.add_argument("--dry-run", action="store_true", help="print the table, write nothing")
    return parser.parse_args(arguments)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if not torch.cuda.is_available():
        print("the tuner needs an NVIDIA GPU of capability 8.0 or higher; none is here", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    capability = find_entry(capability_of(device), "half", 1, 1).capability
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    source = f"{torch.cuda.get_device_name(device)} {today}"
    wanted = in_order(ENTRIES, options.kinds, capability)
    table = list(ENTRIES)
    failed = 0
    with Ahead(capability_of(device)) as ahead:
        for entry in wanted:
            ahead.submit(jobs(entry))
        tuned = tune(wanted, options.limit_s, lambda entry: tune_entry(entry, device, source, ahead))
        for entry, best in zip(wanted, tuned, strict=False):
            failed += best is None
            table[ENTRIES.index(entry)] = best or entry
            if not options.dry_run:
                _write(render(table))  # each time, so that a run cut short keeps what it has
    done = sum(entry.source == source for entry in table)
    print(f"tuned {done} of {len(wanted)} entries; {failed} failed", flush=True)
    if options.dry_run:
        print(render(table))
    else:
        print(f"wrote {TABLE_PATH}", flush=True)
    return 1 if failed else 0


def capability_of(device: torch.device) -> int:
    """Compute capability times ten."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _write(text: str) -> None:
    """Writes the table at once: half a table is no module."""
    half = TABLE_PATH.with_suffix(".tmp")
    half.write_text(text)
    os.replace(half, TABLE_PATH)


if __name__ == "__main__":
    sys.exit(main())
