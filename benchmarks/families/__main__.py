"""Families that the package was not made for: a small model and its critic from nothing, and what they gain.

    python -m benchmarks.families [FAMILY ...] [--train] [--minutes N] [--quick] [--folder FOLDER] [--out FOLDER]
    python -m benchmarks.families --again

Three steps for each family: a model learns it by imitation (`training.py`, and the family's own folder); `bavt-fast
train critic` makes its critic, as it is called from a shell; both are measured on problems of their own (`measure.py`).
The first two are done where the folder has no model, or no critic, or with --train.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bavt_fast.threads import usable_cores
from benchmarks.budget.__main__ import workers
from benchmarks.families import measure, report
from benchmarks.families.family import CRITIC, MODEL, Family
from benchmarks.families.jugs.family import ThreeJugs
from benchmarks.families.n_queens.family import Queens
from benchmarks.harness import BUILD, RESULTS, ROOT

FAMILIES: Mapping[str, Family] = {family.name: family for family in (Queens(), ThreeJugs())}
FOLDER = ROOT / "runs"
"""A family's folder in it has the model and the critic that the report is about."""
QUICK = measure.Plan(
    problems=12,
    validation=6,
    temperatures=(1.0,),
    budgets=(60, 250),
    baseline_tokens=1000,
    parts=1,
)


def train_model(family: Family, folder: Path, minutes: float) -> float:
    """Trains the model that a folder is to hold; it goes on where it was interrupted. Returns the minutes it took."""
    start_s = time.monotonic()
    family.train_model(folder / MODEL, minutes)
    return (time.monotonic() - start_s) / 60


def train_critic(family: Family, folder: Path) -> float:
    """Trains the critic as from a shell. Returns the minutes it took."""
    start_s = time.monotonic()
    family.prepare_critic(folder)
    subprocess.run([sys.executable, "-m", "bavt_fast", *family.critic_command(folder)], check=True)
    return (time.monotonic() - start_s) / 60


def run(family: Family, folder: Path, plan: measure.Plan, training: dict[str, float], processes: int) -> dict[str, Any]:
    """Measures what is in a folder; the report."""
    start_s = time.monotonic()
    with workers(processes) as pool:
        first = [(family, folder, plan, temperature) for temperature in plan.temperatures or ()]
        choices = measure.best(list(pool.map(measure.tuned, *zip(*first, strict=True))))
        parts = [(family, folder, plan, choices, part) for part in range(plan.parts)]
        whole = measure.joined(list(pool.map(measure.measured, *zip(*parts, strict=True))))
    return report.made_of(
        family,
        plan,
        command=" ".join(["python -m benchmarks.families", *sys.argv[1:]]),
        critic_command="bavt-fast " + " ".join(family.critic_command(Path())),
        rows=list(measure.rows_of(whole, plan)),
        curves=whole.curves,
        choices=choices,
        folder=folder,
        training=training,
        wall_s=time.monotonic() - start_s,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.families", description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--train", action="store_true", help="train anew")
    parser.add_argument("--minutes", type=float, help="of a core, for each model (default: what each family takes)")
    parser.add_argument("--quick", action="store_true", help="a few problems, for trying things, into build/bench")
    parser.add_argument("--folder", type=Path, help="where the families' folders lie, or go (default: runs)")
    parser.add_argument("--processes", type=int, default=usable_cores(), help="side by side (default: the cores)")
    parser.add_argument("--again", action="store_true", help="only write the reports of earlier runs again")
    parser.add_argument("--out", type=Path, help="folder of the reports (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.families) - set(FAMILIES))
    if unknown:
        parser.error(f"FAMILY: expected some of {', '.join(FAMILIES)}, got {unknown[0]!r}")
    if options.processes < 1:
        parser.error(f"--processes: expected at least 1, got {options.processes}")
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes: expected more than 0, got {options.minutes}")
    torch.set_num_threads(1)
    folder = options.folder or FOLDER
    is_whole = not options.quick and folder == FOLDER
    out = options.out or (RESULTS if is_whole or options.again else BUILD)
    for family in [] if options.again else [FAMILIES[name] for name in options.families or FAMILIES]:
        training = trained_here(family, folder / family.name, options)
        plan = (QUICK if options.quick else measure.Plan()).within(family)
        _write(run(family, folder / family.name, plan, training, options.processes), out)
    if options.again:
        for found in reports_in(out):
            _write(found, out)
    if out == RESULTS:
        pairs = [(found, FAMILIES[found["family"]].texts) for found in reports_in(out)]
        _say(report.write_page(pairs, ROOT / "docs"))


def trained_here(family: Family, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Trains what is missing, or all; the minutes that each part took, as the folder has them."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / "training.json"
    minutes: dict[str, float] = json.loads(notes.read_text()) if notes.is_file() else {}
    if options.train or not (folder / MODEL / "config.json").is_file():
        minutes["model"] = round(train_model(family, folder, options.minutes or family.minutes), 1)
        (folder / CRITIC).unlink(missing_ok=True)
        notes.write_text(json.dumps(minutes) + "\n")
    if not (folder / CRITIC).is_file():
        minutes["critic"] = round(train_critic(family, folder), 1)
        notes.write_text(json.dumps(minutes) + "\n")
    return minutes


def reports_in(folder: Path) -> list[dict[str, Any]]:
    """The families' reports that a folder has."""
    paths = [folder / f"{report.stem_of(name)}.json" for name in FAMILIES]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]


def _write(found: dict[str, Any], folder: Path) -> None:
    _say(report.write_all(found, FAMILIES[found["family"]].texts, folder))


def _say(written: Sequence[Path]) -> None:
    print(f"written: {', '.join(str(path) for path in written)}", flush=True)


if __name__ == "__main__":
    main()
