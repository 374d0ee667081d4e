"""The critic MLP at every batch size a search meets: eager torch, torch.compile, CUDA graphs, and ours.

    python -m benchmarks.kernel [--device cuda|cpu] [--quick] [--compile all|some|none] [--limit-s S] [--out
    FOLDER]

Prints a Markdown table and writes ``critic-<machine>-<date>.json``, ``.md`` and ``.svg`` into the folder. Each
implementation is checked against float64 before it is timed; a shape at which one is wrong or fails is left out. On
the CPU every path is plain torch: that mode only checks that the benchmark works, and says so in its output.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bavt_fast.kernels import critic_mlp
from bavt_fast.kernels.critic import _allow_tf32 as allow_tf32
from bavt_fast.kernels.critic_lookup import find_entry
from benchmarks.harness import (
    RESULTS,
    Case,
    Results,
    Row,
    describe_machine,
    line_of,
    plot,
    report_of,
    row_of,
    stem_of,
    write,
)
from benchmarks.kernel.critic_report import CALL, FLOOR, markdown, panels, targets_of
from benchmarks.kernel.critic_timing import (
    CriticFunction,
    Floors,
    captured,
    eager,
    input_sets,
    measure_floors,
    relative_error,
    sample,
)

ROWS = (1, 3, 8, 32, 128, 512, 2048, 8192)
HIDDEN_SIZES = (768, 2048, 4096, 8192)
DTYPES = (torch.bfloat16, torch.float32)
COMPILING_S = 60.0  # after so long, what is not yet compiled is compiled where it is measured
COMPILED_SOME = {(1, 2048), (32, 2048), (32, 8192), (2048, 4096)}
CPU_NOTE = "CPU mode: plain torch on every path. It checks the benchmark and says nothing about the kernel."
MAX_ERROR = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}


@dataclass(frozen=True)
class Shape:
    rows: int
    hidden_size: int
    dtype: torch.dtype

    @property
    def at(self) -> dict[str, int | str]:
        return {"dtype": str(self.dtype).removeprefix("torch."), "rows": self.rows, "H": self.hidden_size}


def shapes(device: torch.device, quick: bool) -> list[Shape]:
    """The table of shapes; a handful with --quick, and tiny ones on the CPU."""
    if device.type == "cpu":
        tiny = (64, 128) if quick else (768,)
        return [Shape(rows, size, torch.float32) for size in tiny for rows in (1, 8)]
    rows_list = (1, 32, 512, 8192) if quick else ROWS
    sizes = (768, 4096) if quick else HIDDEN_SIZES
    return [Shape(rows, size, dtype) for dtype in DTYPES for size in sizes for rows in rows_list]


def implementations(device: torch.device, compiled: bool) -> dict[str, tuple[CriticFunction, bool]]:
    """Name -> (function, whether to time it inside a CUDA graph); those of torch.compile, or all others."""
    if compiled:
        torch.compiler.reset()
        # Without its own graphs, which would copy the rotating weights before every call; we capture it.
        function = torch.compile(eager, mode="max-autotune-no-cudagraphs", dynamic=False)
        return {"compile": (function, False), "compile, graph": (function, True)}
    found: dict[str, tuple[CriticFunction, bool]] = {"eager": (eager, False), "ours": (critic_mlp, False)}
    if device.type == "cuda":
        found |= {"eager, graph": (eager, True), "ours, graph": (critic_mlp, True)}
    return found


def floor_of(shape: Shape, floors: Floors) -> Row:
    floor_us = floors.time_us(shape.rows, shape.hidden_size, shape.dtype)
    return row_of(CALL, FLOOR, "us", [floor_us], shape.at)


def measure(shape: Shape, device: torch.device, compiled: bool, samples: int) -> Iterator[Row]:
    """Checks and times every implementation at one shape.

    Raises:
        RuntimeError: a result is wrong.
    """
    sets = input_sets(shape.rows, shape.hidden_size, shape.dtype, device)
    for name, (function, in_graph) in implementations(device, compiled).items():
        error = relative_error(function, sets[0])
        if not error < MAX_ERROR[shape.dtype]:
            raise RuntimeError(f"{name} is wrong at {shape}: relative error {error:.2e}")
        run = captured(function, sets) if in_graph else _each(function, sets)
        yield Case(CALL, name, items=1, at=shape.at).row(sample(run, len(sets), device, samples))


def passes(wanted: Sequence[Shape], device: torch.device, compile_mode: str) -> list[list[tuple[Shape, bool]]]:
    """(shape, whether with torch.compile) in the order to measure: compiling is slow, so it comes last."""
    compiled = [
        (shape, True)
        for shape in wanted
        if device.type == "cuda"
        and (compile_mode == "all" or (compile_mode == "some" and (shape.rows, shape.hidden_size) in COMPILED_SOME))
    ]
    return [[(shape, False) for shape in wanted], compiled]


def _each(function: CriticFunction, sets: Sequence[Any]) -> Callable[[], None]:
    def run() -> None:
        for inputs in sets:
            function(*inputs)

    return run


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="a handful of shapes, 5 samples instead of 25")
    parser.add_argument("--compile", default="some", choices=("all", "some", "none"), help="where to run torch.compile")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no new shape after this long")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    return parser.parse_args(arguments)


def compile_ahead(wanted: Sequence[Shape], device: torch.device) -> None:
    """Compiles our kernels of all shapes on all cores: no measurement waits for a compiler or runs beside one."""
    # Imported here because the CPU needs no triton.
    from bavt_fast.kernels.critic_launch import kind_of
    from tools.critic_kernel.ahead import Ahead, Job

    major, minor = torch.cuda.get_device_capability(device)
    capability = 10 * major + minor
    jobs = []
    for shape in wanted:
        kind = kind_of(shape.dtype, False, shape.dtype == torch.float32 and allow_tf32())
        entry = find_entry(capability, kind, shape.rows, shape.hidden_size)
        if not entry.use_torch:
            # One kernel serves all rows of an entry, so they are one job.
            jobs.append(Job(kind, min(entry.max_rows, ROWS[-1]), shape.hidden_size, entry.config))
    deadline = time.monotonic() + COMPILING_S
    with Ahead(capability) as ahead:
        ahead.submit(jobs)
        for job in jobs:
            ahead.failure(job, max(0.0, deadline - time.monotonic()))


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    started = time.monotonic()
    device = torch.device(options.device)
    wanted = shapes(device, options.quick)
    samples = 5 if options.quick else 25
    if device.type == "cuda":
        compile_ahead(wanted, device)
        print(f"compiled ahead ({time.monotonic() - started:.0f} s)", flush=True)
    floors = measure_floors(device, list(dict.fromkeys(shape.dtype for shape in wanted)), samples)
    command = "python -m benchmarks.kernel " + " ".join(arguments if arguments is not None else sys.argv[1:])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    machine = {"device": name, **describe_machine("torch", "triton")}
    rows = [floor_of(shape, floors) for shape in wanted]
    failed: list[str] = []
    skipped = 0

    def save() -> tuple[str, Path]:
        left_out = failed + ([f"{skipped} measurements by --limit-s"] if skipped else [])
        report = report_of(
            title="Critic MLP: microseconds per call",
            command=command.rstrip(),
            machine=machine,
            rows=rows,
            targets=targets_of(Results(rows)),
            left_out=left_out,
            floors=asdict(floors),
            note=CPU_NOTE if device.type == "cpu" else "",
        )
        text = markdown(report)
        return text, write(report, text, options.out, stem_of("critic", report, device=name))

    for measurements in passes(wanted, device, options.compile):
        for shape, compiled in measurements:
            if time.monotonic() - started > options.limit_s:
                skipped += 1
                continue
            try:
                for row in measure(shape, device, compiled, samples):
                    rows.append(row)
                    print(line_of(row), flush=True)
            except Exception as failure:  # the other shapes are worth having
                failed.append(f"{shape}: {type(failure).__name__}: {str(failure).strip()[:200]}")
                print(failed[-1], flush=True)
            save()  # each time, so that a run cut short keeps what it has
    text, path = save()
    drawn = plot(panels(Results(rows)), path.with_suffix(".svg"))
    print(text)
    print(f"wrote {path}, and beside it .md{' and .svg' if drawn else '; no plot, for matplotlib is not installed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
