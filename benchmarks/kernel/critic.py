"""The critic MLP at every batch size a search meets: eager torch, torch.compile, CUDA graphs, and ours.

    python -m benchmarks.kernel [--device cuda|cpu] [--quick] [--compile all|some|none] [--limit-s S] [--out
    FOLDER]

Prints a Markdown table and writes ``<machine>-<date>.json``, ``.md`` and ``.svg`` into the folder. Each
implementation is checked against float64 before it is timed. On the CPU every path is plain torch: that mode
only checks that the benchmark works, and says so in its output.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bavt_fast.kernels import critic_mlp
from benchmarks.harness import ROOT, describe_machine
from benchmarks.kernel.critic_report import markdown, plot
from benchmarks.kernel.critic_timing import (
    CriticFunction,
    Floors,
    Samples,
    call_bytes,
    call_flops,
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
COMPILED_SOME = {(1, 2048), (32, 2048), (32, 8192), (2048, 4096)}
CPU_NOTE = "CPU mode: plain torch on every path. It checks the benchmark and says nothing about the kernel."
MAX_ERROR = {torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float32: 1e-3}


@dataclass(frozen=True)
class Shape:
    rows: int
    hidden_size: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Row:
    """One implementation at one shape."""

    implementation: str
    rows: int
    hidden_size: int
    dtype: str
    median_us: float
    p20_us: float
    p80_us: float
    terabytes_per_s: float
    teraflops_per_s: float
    floor_us: float
    fraction_of_floor: float


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


def measure(shape: Shape, device: torch.device, floors: Floors, compiled: bool, samples: int) -> Iterator[Row]:
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
        yield _row(name, shape, sample(run, len(sets), device, samples), floors)


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


def _row(name: str, shape: Shape, samples: Samples, floors: Floors) -> Row:
    floor_us = floors.time_us(shape.rows, shape.hidden_size, shape.dtype)
    return Row(
        implementation=name,
        rows=shape.rows,
        hidden_size=shape.hidden_size,
        dtype=str(shape.dtype).removeprefix("torch."),
        **asdict(samples),
        terabytes_per_s=call_bytes(shape.rows, shape.hidden_size, shape.dtype) / samples.median_us * 1e-6,
        teraflops_per_s=call_flops(shape.rows, shape.hidden_size) / samples.median_us * 1e-6,
        floor_us=floor_us,
        fraction_of_floor=floor_us / samples.median_us,
    )


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """JSON, Markdown and SVG into `folder`, named after the machine and the day."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^a-z0-9]+", "-", report["device"].lower()).strip("-") + "-" + report["date"]
    contents = {".json": json.dumps(report, indent=1) + "\n", ".md": markdown(report), ".svg": plot(report)}
    paths = []
    for suffix, text in contents.items():
        paths.append(folder / f"critic-{stem}{suffix}")
        paths[-1].write_text(text)
    return paths


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="a handful of shapes, 5 samples instead of 25")
    parser.add_argument("--compile", default="some", choices=("all", "some", "none"), help="where to run torch.compile")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no new shape after this long")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder for the results")
    return parser.parse_args(arguments)


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = torch.device(options.device)
    wanted = shapes(device, options.quick)
    samples = 5 if options.quick else 25
    floors = measure_floors(device, list(dict.fromkeys(shape.dtype for shape in wanted)), samples)
    deadline = time.monotonic() + options.limit_s
    rows: list[Row] = []
    skipped = 0
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine("torch", "triton"),
        "command": "python -m benchmarks.kernel " + " ".join(arguments if arguments is not None else sys.argv[1:]),
        "floors": asdict(floors),
    }
    for measurements in passes(wanted, device, options.compile):
        for shape, compiled in measurements:
            if time.monotonic() > deadline:
                skipped += 1
                continue
            for row in measure(shape, device, floors, compiled, samples):
                rows.append(row)
                print(f"{row.dtype} {row.rows} x {row.hidden_size} {row.implementation}: {row.median_us:.2f} us")
        left_out = f"{skipped} measurements left out by --limit-s" if skipped else ""
        report["note"] = CPU_NOTE if device.type == "cpu" else left_out
        report["rows"] = [asdict(row) for row in rows]
        paths = write(report, options.out)  # after each pass, so that a run cut short keeps what it has
    print(markdown(report))
    print("wrote " + ", ".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
