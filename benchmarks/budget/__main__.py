"""Success within a token budget: this search against everybody, on the same steps and values.

    python -m benchmarks.budget [--full | --quick] [--model DIR] [--seed N] [--sets game24,countdown5] [--out FOLDER]
    python -m benchmarks.budget --again benchmarks/results/budget.json

Every method has the model's steps from one pool (`pool.py`), pays for every token of them, and goes by the same critic.
What can be chosen of a method, its temperature too, is chosen on validation problems. Writes a report as JSON, Markdown
and CSV with plots, and for a whole run of the embedded model docs/claims/budget.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bavt_fast.folder_settings import read_settings
from bavt_fast.threads import usable_cores
from benchmarks.budget import bench, report
from benchmarks.budget.plan import PLANS, Plan
from benchmarks.budget.problems import SETS
from benchmarks.budget.tuning import Choice, best_of_temperatures
from benchmarks.harness import BUILD, RESULTS, ROOT


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for the parts; those that have not begun do not, after Ctrl-C or an error."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def chosen(tuned: Sequence[bench.Tuned]) -> dict[str, Choice]:
    """For each method the choice of the temperature that did best."""
    names = dict.fromkeys(name for at in tuned for name in at.choices)
    return {name: best_of_temperatures([at.choices[name] for at in tuned if name in at.choices]) for name in names}


def run(plan: Plan, processes: int) -> dict[str, Any]:
    """The whole benchmark; its report."""
    start_s = time.monotonic()
    with workers(processes) as pool:
        temperatures, names = zip(*plan.choosing, strict=True)
        tuned = list(pool.map(bench.tune, [plan] * len(names), temperatures, names))
        choices = chosen(tuned)
        hardest_first = sorted(plan.sets, key=lambda name: "24" in name)
        sets = {name: pool.submit(bench.measure, plan, name, choices) for name in hardest_first}
        waves = pool.submit(bench.in_flight, plan)
        guarantees = {name: pool.submit(bench.check_guarantee, plan, name) for name in ("countdown4", "countdown5")}
        measured = [sets[name].result() for name in plan.sets]
        in_flight = waves.result()
        bounds = {name: part.result() for name, part in guarantees.items()}
    left_out = [*dict.fromkeys(reason for at in tuned for reason in at.left_out)]
    left_out += [reason for reason in measured if isinstance(reason, str)]
    return report.made_of(
        plan,
        command=" ".join(["python -m benchmarks.budget", *sys.argv[1:]]),
        choices=choices,
        measured=[part for part in measured if isinstance(part, bench.Measured)],
        in_flight=in_flight,
        bounds=bounds,
        left_out=left_out,
        wall_s=time.monotonic() - start_s,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.budget", description=__doc__.splitlines()[0])
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--full", action="store_true", help="all methods and problems, budgets to 5,000 tokens")
    effort.add_argument("--quick", action="store_true", help="a few problems, for trying things, into build/bench")
    parser.add_argument("--model", type=Path, help="a model folder; the embedded model without it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sets", help=f"some of {','.join(SETS)}")
    parser.add_argument("--problems", type=int, help="problems a set")
    parser.add_argument("--validation", type=int, help="problems that settings are chosen on")
    parser.add_argument("--slow", action="store_true", help="with --full: methods that take seconds a step too")
    parser.add_argument("--again", type=Path, metavar="JSON", help="only write the report of an earlier run again")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="side by side (default: the cores)")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results; build/bench for a part)")
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.again:
        write(json.loads(options.again.read_text(encoding="utf-8")), options.out)
        return
    plan = PLANS["full" if options.full else "quick" if options.quick else "default"]
    plan = replace(plan, seed=options.seed, model=options.model, slow=options.slow)
    if options.sets:
        plan = replace(plan, sets=tuple(options.sets.split(",")))
    if options.problems is not None:
        plan = replace(plan, problems=options.problems)
    if options.validation is not None:
        plan = replace(plan, validation=options.validation)
    own = PLANS[plan.effort]
    fewer = plan.problems < own.problems or plan.validation < own.validation
    whole = not (options.quick or options.sets or fewer or options.model)
    write(run(plan, options.processes), options.out or (None if whole else BUILD))


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Names what is wrong before anything runs."""
    for name, least in (("seed", 0), ("problems", 1), ("validation", 4), ("processes", 1)):
        number = getattr(options, name)
        if number is not None and number < least:
            parser.error(f"--{name}: expected at least {least}, got {number}")
    unknown = set(options.sets.split(",")) - SETS.keys() if options.sets else set()
    if unknown:
        parser.error(f"--sets: expected some of {', '.join(SETS)}, got {', '.join(sorted(unknown))}")
    if options.again and not options.again.is_file():
        parser.error(f"--again: expected the JSON of an earlier run, got {options.again}, which is no file")
    try:
        if options.model is not None:
            read_settings(options.model)
    except (FileNotFoundError, ValueError) as error:
        parser.error(f"--{error}")


def write(found: dict[str, Any], folder: Path | None) -> None:
    """All files of a report; without a folder benchmarks/results, and the page of the documentation."""
    written = report.write_all(found, folder or RESULTS)
    if folder is None:
        written += report.write_page(found, ROOT / "docs")
    print(f"\n{report.markdown(found)}\nwritten: {', '.join(str(path) for path in written)}")


if __name__ == "__main__":
    main()
