"""The report of a family: JSON, Markdown, a plot; and of all of them docs/claims/families.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.budget import rows as r
from benchmarks.budget.methods import PARALLEL, SOLVER, TUNED, Curve
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
from benchmarks.families.family import CRITIC, MODEL, Family, Texts
from benchmarks.families.measure import Plan
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
    family: Family,
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
        title=f"A family that the package was not made for: {family.name}",
        command=command,
        machine=describe_machine("torch", "transformers", "numpy", "reasoning-gym"),
        rows=rows,
        targets=targets(Results(rows), plan, family.name),
        family=family.name,
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


def targets(results: Results, plan: Plan, family: str) -> list[Target]:
    """A multiplier of at least 2 at every budget."""
    found = []
    for budget in [b for b in plan.budgets if b >= TARGET_FROM]:
        known = [
            *results.of(r.MULTIPLIER, TUNED, budget_tokens=budget),
            *results.of(r.MULTIPLIER_LEAST, TUNED, budget_tokens=budget),
        ]
        value = known[0].median if known else None
        found.append(Target(f"{family}: multiplier at {budget}", value, LEAST_MULTIPLIER, "x", at_least=True))
    return found


def stem_of(family: str) -> str:
    """The name of a family's files."""
    return f"{STEM}-{family}"


def write_all(report: Mapping[str, Any], texts: Texts, folder: Path) -> list[Path]:
    """JSON, Markdown and the plot; their paths."""
    text = sections(heading(report), *_parts(report, texts, plots=""))
    path = write(report, text, folder, stem_of(report["family"]))
    return [path, path.with_suffix(".md"), *_draw(report, folder)]


def write_page(reports: Sequence[tuple[Mapping[str, Any], Texts]], docs: Path) -> list[Path]:
    """docs/claims/families.md and its plots."""
    parts = ["# Nothing is made for Countdown", INTRODUCTION, _overview([report for report, _ in reports])]
    for report, texts in reports:
        machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
        made = (
            f"Measured by `{report['command']}` ({report['wall_s'] / 60:,.0f} minutes) on {report['date']}: {machine}."
        )
        about = f"{texts.problems}\n\n{texts.learnt}\n\n{texts.held_out}"
        parts += [f"## reasoning_gym {report['family']}", about, made, *_parts(report, texts, "../images/")]
    path = docs / "claims" / "families.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sections(*parts), encoding="utf-8")
    (docs / "images").mkdir(exist_ok=True)
    return [path, *[plot for report, _ in reports for plot in _draw(report, docs / "images")]]


INTRODUCTION = """\
Families of reasoning_gym, problems that nobody here wrote and that their own verifiers judge. For each one a Llama of
less than a million weights is trained from nothing on one core; a word is a token. It imitates good steps, and is asked
beside it, by layers that are thrown away, what one has to know to tell good steps from others
(`benchmarks/families/training.py`). The critic is made as for any model, by `bavt-fast train critic`; an exact solver
of the family labels the states. Methods, pool and intervals are those of [what a budget buys](budget.md): every method
has the same prompts, steps and critic, and its temperature and options are chosen on validation problems."""


def _overview(reports: Sequence[Mapping[str, Any]]) -> str:
    """The multiplier of every family in one table."""
    budgets = sorted({budget for report in reports for budget in report["plan"]["budgets"]})
    lines = []
    for report in reports:
        results, name = results_in(report), report["family"]
        cells = [_cell(results, TUNED, budget) for budget in budgets]
        lines.append([name, *cells, *[_cell(results, SOLVER, budget) for budget in budgets[:1]]])
    head = ("family", *[f"at {budget}" for budget in budgets], f"an exact solver as critic, at {budgets[0]}")
    return "Multiplier of our search over oracle-verified parallel sampling, by tokens:\n\n" + table(head, lines)


def _cell(results: Results, who: str, budget: int) -> str:
    for what, sign in ((r.MULTIPLIER, ""), (r.MULTIPLIER_LEAST, "> ")):
        for row in results.of(what, who, budget_tokens=budget):
            return f"{sign}{row.median:.1f}"
    return ""


def _parts(report: Mapping[str, Any], texts: Texts, plots: str) -> list[str]:
    results = results_in(report)
    budgets, who = report["plan"]["budgets"], list(report["curves"])
    name = str(results.rows[0].at["set"])
    others = [method for method in who if method != PARALLEL]

    def lines(methods: Sequence[str], cell: Any, *what: str) -> str:
        return by_budget(results, methods, budgets, name, cell, *what)

    return [
        _training_section(report),
        "### Targets\n\n" + targets_table(report["targets"]),
        f"### What it gains\n\n{report['plan']['problems']} problems.\n\n"
        f"![success against tokens]({plots}{stem_of(report['family'])}.svg)",
        "Solved within a budget of tokens:\n\n" + lines(who, share_cell, r.SUCCESS),
        "Multiplier over oracle-verified parallel sampling:\n\n"
        + lines(others, times_cell, r.MULTIPLIER, r.MULTIPLIER_LEAST),
        "How far our search is ahead, in points of success:\n\n" + lines(who, points_cell, r.AHEAD),
        "Tokens over those of a perfect critic for the same success:\n\n"
        + lines([TUNED], times_cell, r.OVER_SOLVER, r.OVER_SOLVER_LEAST),
        _critic_section(results, texts, max(budgets)),
        choices_section(report).replace("## ", "### ", 1),
    ]


def _training_section(report: Mapping[str, Any]) -> str:
    minutes, size = report["training"], report["bytes"]
    took = ", ".join(f"{name} {value:g} minutes" for name, value in minutes.items()) or "not in this run"
    return (
        f"### Training\n\nOn one core: {took}. The model's folder has {size[MODEL] / 1e6:.1f} MB, its critic "
        f"{size[CRITIC] / 1e6:.1f} MB. The critic by\n\n"
        "<!-- not run: takes a minute, and the model that the report is about -->\n"
        f"```bash\n{report['critic_command']}\n```"
    )


def _critic_section(results: Results, texts: Texts, budget: int) -> str:
    found = {row.who: row.median for row in results.of(r.VISITED)}
    lines = []
    for group in sorted({int(name.rpartition("_")[2]) for name in found}, reverse=True):
        area = found.get(f"auc_{group}")
        states, good = f"{found[f'states_{group}']:,.0f}", f"{found[f'good_{group}']:.1%}"
        lines.append([f"{group}", states, good, "" if area is None else f"{area:.3f}"])
    return (
        f"### What limits it\n\nThe critic on the states that our search visits at {budget} tokens, {texts.groups}:"
        "\n\n" + table((texts.group, "states", texts.good, "AUC"), lines) + "\n\n" + texts.limit
    )


def _draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    others = iter(STYLES)
    lines = [Line(name, points, MAIN_STYLES.get(name) or next(others)) for name, points in report["curves"].items()]
    path = folder / f"{stem_of(report['family'])}.svg"
    return [path] if plot([Panel("tokens", f"solved: {report['family']}", lines, yscale="linear")], path) else []


__all__ = ["made_of", "stem_of", "targets", "write_all", "write_page"]
