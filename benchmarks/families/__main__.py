"""A family that the package was not made for: a small model and its critic from nothing, and what they gain.

    python -m benchmarks.families [--train] [--minutes N] [--quick] [--folder FOLDER] [--out FOLDER]
    python -m benchmarks.families --again benchmarks/results/families.json

Three steps: a model learns n queens by imitation (`imitation.py`); `bavt-fast train critic` makes its critic, as it is
called from a shell; both are measured on problems of their own (`measure.py`). The first two are done where the folder
has no model, or no critic, or with --train.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bavt_fast.threads import usable_cores
from benchmarks.budget.__main__ import workers
from benchmarks.families import measure, queens, report
from benchmarks.families.boards import Teacher, all_solutions
from benchmarks.families.imitation import Sizes, Student
from benchmarks.harness import BUILD, RESULTS, ROOT

FOLDER = ROOT / "runs" / "n_queens"
"""The model and the critic that the report is about."""
MINUTES = 20.0
HELD_OUT = (60, 200)
"""Validation and test problems that training keeps away from; a plan measures no others."""
QUICK = measure.Plan(
    problems=12,
    validation=6,
    temperatures=(1.0,),
    budgets=(60, 250),
    baseline_tokens=1000,
    parts=1,
)
CRITIC_OPTIONS: dict[str, Any] = {
    "task": "reasoning_gym",
    "temperature": 0.7,
    "budget-tokens": 100,
    "rounds": 2,
    "completions": 4,
    "max-step-tokens": 4,
    "reads": "context",
}
CRITIC_PROBLEMS = 400


def train_model(folder: Path, minutes: float) -> float:
    """Trains the model that a folder is to hold; it goes on where it was interrupted. Returns the minutes it took."""
    start_s = time.monotonic()
    held_out = queens.boards_of([queens.validation_set(HELD_OUT[0]), queens.fresh_set(HELD_OUT[1])])
    teacher = Teacher(all_solutions(queens.SIZE), held_out, seed=0)
    print(f"{len(teacher.solutions)} solutions to imitate; {len(held_out)} puzzles held out", flush=True)
    Student(teacher, folder / measure.MODEL, minutes, Sizes()).train()
    return (time.monotonic() - start_s) / 60


def critic_command(folder: Path, problems: int) -> list[str]:
    """The call of `bavt-fast train critic`, behind the name of the program."""
    options = {**CRITIC_OPTIONS, "model": folder / measure.MODEL, "out": folder / measure.CRITIC}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for name, value in {**queens.FAMILY, "size": problems, "seed": queens.CRITIC_SEED}.items():
        words += ["--task-option", f"{name}={value}"]
    return ["train", "critic", *words]


def train_critic(folder: Path, problems: int = CRITIC_PROBLEMS) -> float:
    """Trains the critic as from a shell. Returns the minutes it took."""
    start_s = time.monotonic()
    subprocess.run([sys.executable, "-m", "bavt_fast", *critic_command(folder, problems)], check=True)
    return (time.monotonic() - start_s) / 60


def run(folder: Path, plan: measure.Plan, training: dict[str, float], processes: int) -> dict[str, Any]:
    """Measures what is in a folder; the report."""
    start_s = time.monotonic()
    with workers(processes) as pool:
        temperatures = plan.temperatures
        found = list(pool.map(measure.tuned, *zip(*[(folder, plan, at) for at in temperatures], strict=True)))
        choices = measure.best(found)
        parts = [(folder, plan, choices, part) for part in range(plan.parts)]
        whole = measure.joined(list(pool.map(measure.measured, *zip(*parts, strict=True))))
    return report.made_of(
        plan,
        command=" ".join(["python -m benchmarks.families", *sys.argv[1:]]),
        critic_command="bavt-fast " + " ".join(critic_command(Path(), CRITIC_PROBLEMS)),
        rows=list(measure.rows_of(whole, plan)),
        curves=whole.curves,
        choices=choices,
        folder=folder,
        training=training,
        wall_s=time.monotonic() - start_s,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.families", description=__doc__.splitlines()[0])
    parser.add_argument("--train", action="store_true", help="train anew")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of a core, for the model")
    parser.add_argument("--quick", action="store_true", help="a few problems, for trying things, into build/bench")
    parser.add_argument("--folder", type=Path, help="where model and critic lie, or go (default: runs/n_queens)")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="side by side (default: the cores)")
    parser.add_argument("--again", type=Path, metavar="JSON", help="only write the report of an earlier run again")
    parser.add_argument("--out", type=Path, help="folder of the report (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    if options.again:
        write(json.loads(options.again.read_text(encoding="utf-8")), options.out)
        return
    if options.processes < 1:
        parser.error(f"--processes: expected at least 1, got {options.processes}")
    if not options.minutes > 0:
        parser.error(f"--minutes: expected more than 0, got {options.minutes}")
    torch.set_num_threads(1)
    plan = QUICK if options.quick else measure.Plan()
    folder = options.folder or FOLDER
    whole = not options.quick and folder == FOLDER
    training = trained_here(folder, options)
    write(run(folder, plan, training, options.processes), options.out or (None if whole else BUILD))


def trained_here(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Trains what is missing, or all; the minutes that each part took, as the folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "training.json"
    minutes: dict[str, float] = json.loads(notes.read_text()) if notes.is_file() else {}
    if options.train or not (folder / measure.MODEL / "config.json").is_file():
        minutes["model"] = round(train_model(folder, options.minutes), 1)
        (folder / measure.CRITIC).unlink(missing_ok=True)
        notes.write_text(json.dumps(minutes) + "\n")
    if not (folder / measure.CRITIC).is_file():
        minutes["critic"] = round(train_critic(folder), 1)
        notes.write_text(json.dumps(minutes) + "\n")
    return minutes


def write(found: dict[str, Any], folder: Path | None) -> None:
    """All files of a report; without a folder benchmarks/results, and the page of the documentation."""
    written = report.write_all(found, folder or RESULTS)
    if folder is None:
        written += report.write_page(found, ROOT / "docs")
    print(f"\n{report.markdown(found)}\nwritten: {', '.join(str(path) for path in written)}")


if __name__ == "__main__":
    main()
