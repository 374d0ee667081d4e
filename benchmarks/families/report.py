"""The report of a family: JSON, Markdown, a plot, and docs/claims/families.md. All of it is made of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.budget import rows as r
from benchmarks.budget.methods import PARALLEL, TUNED, Curve
from benchmarks.budget.report import (
    MAIN_STYLES,
    STYLES,
    by_budget,
    choices_section,
    points_cell,
    points_of,
    share_cell,
    times_cell,
)
from benchmarks.budget.tuning import Choice
from benchmarks.families.measure import CRITIC, MODEL, Plan
from benchmarks.harness import Curve as Line
from benchmarks.harness import (
    Panel,
    Results,
    Row,
    Target,
    describe_machine,
    heading,
    plot,
    report_of,
    results_in,
    sections,
    table,
    targets_table,
    write,
)

STEM = "families"
LEAST_MULTIPLIER = 2.0
TARGET_FROM = 60
"""Tokens from which on the target is meant: below, a budget holds three paths."""


def made_of(
    plan: Plan,
    *,
    command: str,
    critic_command: str,
    rows: Sequence[Row],
    curves: Mapping[str, Curve],
    choices: Mapping[str, Choice],
    folder: Path,
    training: Mapping[str, float],
    wall_s: float,
) -> dict[str, Any]:
    """The report as it is written to JSON."""
    return report_of(
        title="A family that the package was not made for",
        command=command,
        machine=describe_machine("torch", "transformers", "numpy", "reasoning-gym"),
        rows=rows,
        targets=targets(Results(rows), plan),
        wall_s=round(wall_s, 1),
        plan=asdict(plan),
        critic_command=critic_command,
        training=dict(training),
        bytes={name: _bytes_of(folder / name) for name in (MODEL, CRITIC)},
        curves={name: points_of(curve) for name, curve in curves.items()},
        choices={name: asdict(choice) for name, choice in choices.items()},
    )


def _bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*")))


def targets(results: Results, plan: Plan) -> list[Target]:
    """A multiplier of at least 2 at every budget."""
    found = []
    for budget in [b for b in plan.budgets if b >= TARGET_FROM]:
        known = [
            *results.of(r.MULTIPLIER, TUNED, budget_tokens=budget),
            *results.of(r.MULTIPLIER_LEAST, TUNED, budget_tokens=budget),
        ]
        value = known[0].median if known else None
        found.append(Target(f"n_queens: multiplier at {budget}", value, LEAST_MULTIPLIER, "x", at_least=True))
    return found


def write_all(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """JSON, Markdown and the plot; their paths."""
    path = write(report, markdown(report), folder, STEM)
    return [path, path.with_suffix(".md"), *_draw(report, folder)]


def write_page(report: Mapping[str, Any], docs: Path) -> list[Path]:
    """docs/claims/families.md and its plot."""
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    made = f"Measured by `{report['command']}` ({report['wall_s'] / 60:,.0f} minutes) on {report['date']}: {machine}."
    path = docs / "claims" / "families.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        sections("# Nothing is made for Countdown", INTRODUCTION, made, *_parts(report, "../images/")), encoding="utf-8"
    )
    (docs / "images").mkdir(exist_ok=True)
    return [path, *_draw(report, docs / "images")]


def markdown(report: Mapping[str, Any]) -> str:
    """The report beside its JSON."""
    return sections(heading(report), *_parts(report, plots=""))


INTRODUCTION = """\
reasoning_gym's `n_queens`: a board of 12 rows on which 3 or 4 queens stand, and 8 or 9 are to be placed. The prompt
shows the squares of every empty row that no queen attacks; a step is one of those of the first empty row (`c4` and a
line break, two tokens). A path ends at a full board, which the family's own verifier judges, or at a row that has no
free square; nobody says before that it was lost some queens ago (`bavt_fast/tasks/n_queens.py`).

The model is a Llama of a million weights, trained from nothing on one core (`benchmarks/families/imitation.py`). It
imitates good queens, and is asked beside it, by layers that are thrown away, whether boards can be completed and what a
queen leaves in other rows. The critic is made as for any model, by `bavt-fast train critic`; an exact solver of the
family labels the states. Methods, pool and intervals are those of [what a budget buys](budget.md): every method has
the same prompts, steps and critic, and its temperature and options are chosen on validation problems.

No state that the model learnt from, and none behind a step of one, has all queens of a validation or test problem on
its board. So it has seen no state, living or dead, that a search of such a problem can come to (`boards.contains`;
tests prove it from the data). The problems of the critic's training are others of the family."""


LIMIT = """\
Model and critic read the same prompt. Where the model does not see that a queen is wrong the critic mostly does not
either, until the board is two or three queens further: what a search pays for it is these queens."""


def _parts(report: Mapping[str, Any], plots: str) -> list[str]:
    results = results_in(report)
    budgets, who = report["plan"]["budgets"], list(report["curves"])
    name = str(results.rows[0].at["set"])
    others = [method for method in who if method != PARALLEL]

    def lines(methods: Sequence[str], cell: Any, *what: str) -> str:
        return by_budget(results, methods, budgets, name, cell, *what)

    return [
        _training_section(report),
        "## Targets\n\n" + targets_table(report["targets"]),
        f"## {name}\n\n{report['plan']['problems']} problems.\n\n![success against tokens]({plots}{STEM}.svg)",
        "Solved within a budget of tokens:\n\n" + lines(who, share_cell, r.SUCCESS),
        "Multiplier over oracle-verified parallel sampling:\n\n"
        + lines(others, times_cell, r.MULTIPLIER, r.MULTIPLIER_LEAST),
        "How far our search is ahead, in points of success:\n\n" + lines(who, points_cell, r.AHEAD),
        "Tokens over those of a perfect critic for the same success:\n\n"
        + lines([TUNED], times_cell, r.OVER_SOLVER, r.OVER_SOLVER_LEAST),
        _critic_section(results, max(budgets)),
        choices_section(report),
    ]


def _training_section(report: Mapping[str, Any]) -> str:
    minutes, size = report["training"], report["bytes"]
    took = ", ".join(f"{name} {value:g} minutes" for name, value in minutes.items()) or "not in this run"
    return (
        f"## Training\n\nOn one core: {took}. The model's folder has {size[MODEL] / 1e6:.1f} MB, its critic "
        f"{size[CRITIC] / 1e6:.1f} MB. The critic by\n\n"
        "<!-- not run: takes a minute, and the model that the report is about -->\n"
        f"```bash\n{report['critic_command']}\n```"
    )


def _critic_section(results: Results, budget: int) -> str:
    found = {row.who: row.median for row in results.of(r.VISITED)}
    counts = sorted({int(name.split("_")[1]) for name in found}, reverse=True)
    lines = []
    for count in counts:
        value = found.get(f"auc_{count}_missing")
        lines.append(
            [
                f"{count}",
                f"{found[f'states_{count}_missing']:,.0f}",
                f"{found[f'alive_{count}_missing']:.1%}",
                "" if value is None else f"{value:.3f}",
            ]
        )
    return (
        f"## What limits it\n\nThe critic on the states that our search visits at {budget} tokens, by the queens that "
        "are missing:\n\n" + table(("missing", "states", "can be completed", "AUC"), lines) + "\n\n" + LIMIT
    )


def _draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    others = iter(STYLES)
    lines = [Line(name, points, MAIN_STYLES.get(name) or next(others)) for name, points in report["curves"].items()]
    path = folder / f"{STEM}.svg"
    return [path] if plot([Panel("tokens", "solved: n_queens", lines, yscale="linear")], path) else []


__all__ = ["made_of", "markdown", "targets", "write_all", "write_page"]
