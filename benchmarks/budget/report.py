"""The report of a run: JSON, Markdown, CSV, plots, and docs/claims/budget.md. All of it is made of the rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.budget import rows as r
from benchmarks.budget.bench import Measured
from benchmarks.budget.methods import OURS, PARALLEL, SOLVER, TUNED, Curve
from benchmarks.budget.plan import FIXED, Plan
from benchmarks.budget.tuning import Choice
from benchmarks.budget.visits import KINDS
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

STEM = "budget"
STYLES = ("C0-", "C1-", "C2-", "C4-", "C5-", "C6-", "C8-", "C9-", "C0--", "C1--", "C2--", "C4--", "C5--")
MAIN_STYLES = {OURS: "r:", TUNED: "r-", SOLVER: "k--", PARALLEL: "k-"}


def made_of(
    plan: Plan,
    *,
    command: str,
    choices: Mapping[str, Choice],
    measured: Sequence[Measured],
    in_flight: Mapping[int, Curve],
    bounds: Mapping[str, list[dict[str, float]]],
    left_out: Sequence[str],
    wall_s: float,
) -> dict[str, Any]:
    """The report as it is written to JSON."""
    found = [row for part in measured for row in r.rows_of_set(part, plan)]
    found += [*r.rows_of_waves(in_flight, plan), *r.rows_of_bounds(bounds)]
    return report_of(
        title="Success within a token budget",
        command=command,
        machine=describe_machine("torch", "transformers", "numpy", "treequest", "reasoning-gym"),
        rows=found,
        targets=r.targets(Results(found)),
        left_out=left_out,
        wall_s=round(wall_s, 1),
        plan={**asdict(plan), "model": str(plan.model or "embedded"), "says": plan.says},
        sets=[
            {
                "name": part.name,
                "problems": part.problems,
                "refused": part.refused,
                "held_out": part.held_out,
                "drawn_steps": part.drawn[0],
                "drawn_tokens": part.drawn[1],
                "wall_s": round(part.wall_s, 1),
                "reliability": part.visits.reliability(),
                "curves": {name: points_of(curve) for name, curve in part.curves.items()},
            }
            for part in measured
        ],
        choices={name: asdict(choice) for name, choice in choices.items()},
    )


def points_of(curve: Curve) -> list[tuple[int, float]]:
    """(tokens, share of problems solved)."""
    return [(int(b), round(float(rate), 5)) for b, rate in zip(curve.budgets, curve.rates, strict=True)]


# ---- files


def write_all(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """JSON, Markdown, CSV and plots; their paths."""
    path = write(report, markdown(report), folder, STEM)
    written = [path, path.with_suffix(".md"), path.with_suffix(".csv")]
    _write_csv(results_in(report).rows, written[-1])
    return written + draw_all(report, folder)


def draw_all(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Success against tokens for every set, and the critic's reliability; the paths of what was drawn."""
    panels = {slug(part["name"]): _success_panel(part) for part in report["sets"]}
    if panels:
        panels["reliability"] = _reliability_panel(report["sets"])
    drawings = {folder / f"{STEM}-{name}.svg": panel for name, panel in panels.items()}
    return [path for path, panel in drawings.items() if plot([panel], path)]


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row.at))
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["what", "who", *keys, "value", "low", "high", "unit"])
        for row in rows:
            where = [row.at.get(key, "") for key in keys]
            lines.writerow([row.what, row.who, *where, row.median, row.p20, row.p80, row.unit])


def _success_panel(part: Mapping[str, Any]) -> Panel:
    others = iter(STYLES)
    lines = []
    for name, points in part["curves"].items():
        style = MAIN_STYLES.get(name) or next(others)
        lines.append(Line(name, [(x, y) for x, y in points if x >= 40], style))
    return Panel("tokens", f"solved: {part['name']}", lines, yscale="linear")


def _reliability_panel(sets: Sequence[Mapping[str, Any]]) -> Panel:
    lines = [Line("as it should be", [(0.0, 0.0), (1.0, 1.0)], "k:")]
    for number, part in enumerate(sets):
        lines.append(Line(part["name"], [(v, alive) for v, alive, _ in part["reliability"]], f"C{number}o-"))
    return Panel(
        "V by the critic", "share of visited states from which the target can be reached", lines, "linear", 1, "linear"
    )


# ---- Markdown


def markdown(report: Mapping[str, Any]) -> str:
    """The report beside its JSON."""
    return sections(heading(report, report["plan"]["says"]), *_parts(report, plots=""))


def write_page(report: Mapping[str, Any], docs: Path) -> list[Path]:
    """docs/claims/budget.md: what is measured and how, and the same tables; its plots in docs/images."""
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    made = (
        f"Written by `{report['command']}` ({report['wall_s'] / 60:,.0f} minutes) on {report['date']}: {machine}. "
        f"{report['plan']['says']}"
    )
    left_out = "Left out: " + "; ".join(report["left_out"]) + "." if report["left_out"] else ""
    parts = _parts(report, "../images/")
    text = sections("# A budget buys more", INTRODUCTION, made, left_out, *parts, SEE_ALSO)
    path = docs / "claims" / "budget.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    (docs / "images").mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return [path, *draw_all(report, docs / "images")]


SEE_ALSO = """\
[How to choose](../how_to/choose.md) says how to do this for your own model. [The embedded model](../embedded_model.md)
says what it was trained on, and what it never saw."""

INTRODUCTION = """\
Every method here has the same model, the same critic and the same ledger. A pool keeps, for every state, the steps
that the model draws there without replacement, in order, and the critic's value of each. Whoever is the k-th time at a
state gets its k-th step, so methods differ only by what they choose. Independent draws are made of the same steps.
Every token of every generated step is charged, and no method spends more than its budget.

*Parallel sampling, oracle* is the strongest form of best-of-n: whole paths, sampled independently, the first right one
counts. A *multiplier* is how many times the tokens parallel sampling takes for the same success. *Exact solver as
critic* is the limit: this search with perfect values. Temperatures and options are chosen on validation problems, for
every method in the same way; the row *ours* has the settings that the model folder ships with. Our own sets and those
that settings are chosen on are kept out of training (`bavt_fast/tasks/countdown/training/states.py`); reasoning_gym's
are as its seed gives them, and each set says how many of its problems training left out. treequest's AB-MCTS is made
for nodes that are whole answers; here they are steps, as for all others.

Intervals hold 95% of the resamples of a paired bootstrap over problems. The pool is itself one sample of the model."""


def _parts(report: Mapping[str, Any], plots: str) -> list[str]:
    results = results_in(report)
    names = [part["name"] for part in report["sets"]]
    return [
        _summary(results, report),
        "## Targets\n\n" + targets_table(report["targets"]) if names else "",
        *[_set_section(part, report, results, plots) for part in report["sets"]],
        _seed_section(results, names, report),
        _critic_section(results, names, report, plots),
        _waves_section(results, report),
        _bounds_section(results, report),
        choices_section(report),
    ]


def _summary(results: Results, report: Mapping[str, Any]) -> str:
    """One line a set and budget: the baseline, ours and the limit."""
    lines = []
    for part in report["sets"]:
        for budget in [b for b in report["plan"]["budgets"] if b in (60, 125, 250, 500, 1000)]:
            at = {"set": part["name"], "budget_tokens": budget}
            cells = [f"{results.median(r.SUCCESS, PARALLEL, **at):.1%}"]
            for who in (OURS, TUNED, SOLVER):
                share = results.median(r.SUCCESS, who, **at)
                known = [*results.of(r.MULTIPLIER, who, **at), *results.of(r.MULTIPLIER_LEAST, who, **at)]
                least = "> " if known and known[0].what == r.MULTIPLIER_LEAST else ""
                cells += ["" if share is None else f"{share:.1%}", f"{least}{known[0].median:.1f}" if known else ""]
            lines.append([part["name"], f"{budget:,}", *cells])
    heads = ("set", "tokens", PARALLEL, *(head for who in (OURS, TUNED, SOLVER) for head in (who, "multiplier")))
    return "## In short\n\n" + table(heads, lines)


def _set_section(part: Mapping[str, Any], report: Mapping[str, Any], results: Results, plots: str) -> str:
    name, budgets = part["name"], report["plan"]["budgets"]
    about = f"{part['problems']} problems, {part['held_out']} of them kept out of training on purpose"
    if part["refused"]:
        about += f"; {part['refused']} have numbers that the task does not take and count as not solved"
    who = list(part["curves"])
    success = by_budget(results, who, budgets, name, share_cell, r.SUCCESS)
    times = by_budget(results, who[1:], budgets, name, times_cell, r.MULTIPLIER, r.MULTIPLIER_LEAST)
    ahead = by_budget(results, who, budgets, name, points_cell, r.AHEAD)
    over = by_budget(results, [TUNED, OURS], budgets, name, times_cell, r.OVER_SOLVER, r.OVER_SOLVER_LEAST)
    drawing = f"![success against tokens]({plots}{STEM}-{slug(name)}.svg)"
    parts = [
        f"## {name}\n\n{about}.",
        drawing,
        f"Solved within a budget of tokens:\n\n{success}",
        f"Multiplier over oracle-verified parallel sampling:\n\n{times}",
        f"How far the tuned search is ahead, in points of success:\n\n{ahead}",
        f"Tokens over those of a perfect critic for the same success:\n\n{over}",
    ]
    return "\n\n".join(parts)


def by_budget(results: Results, who: Sequence[str], budgets: Sequence[int], name: str, cell: Any, *what: str) -> str:
    """A table of one set: a line a method, a column a budget."""
    lines = []
    for method in who:
        cells = []
        for budget in budgets:
            rows = [row for kind in what for row in results.of(kind, method, set=name, budget_tokens=budget)]
            cells.append(cell(rows[0]) if rows else "")
        lines.append([method, *cells])
    return table(("tokens", *(f"{budget:,}" for budget in budgets)), lines)


def share_cell(row: Row) -> str:
    """A share and its interval."""
    return f"{row.median:.1%} ({row.p20:.0%} to {row.p80:.0%})"


def points_cell(row: Row) -> str:
    """A difference of shares, in points."""
    return f"{100 * row.median:+.1f} ({100 * row.p20:+.0f} to {100 * row.p80:+.0f})"


def times_cell(row: Row) -> str:
    """A factor; a bound where the other side never got there."""
    least = "> " if row.what.endswith("at least") else ""
    return f"{least}{row.median:.1f} ({row.p20:.1f} to {row.p80:.1f})"


def _seed_section(results: Results, names: Sequence[str], report: Mapping[str, Any]) -> str:
    """The search at small budgets against a fixed budget of 1,000 tokens, and ten times that."""
    sides = [(OURS, 250), (OURS, 500), (OURS, 1000), *((PARALLEL, budget) for budget in FIXED)]
    lines = []
    for who, budget in sides:
        cells = []
        for name in names:
            share = results.median(r.SUCCESS, who, set=name, budget_tokens=budget)
            spent = results.median(r.SPENT, who, set=name, budget_tokens=budget)
            cells.append("" if share is None else f"{share:.1%}" + (f", {spent:,.0f} spent" if spent else ""))
        lines.append([f"{who}, {budget:,} tokens", *cells])
    return (
        "## Small budgets against a fixed one\n\nSolved, and tokens spent on average (a search stops when it is "
        "right):\n\n" + table(("", *names), lines)
    )


def _critic_section(results: Results, names: Sequence[str], report: Mapping[str, Any], plots: str) -> str:
    budget = report["plan"]["visits_budget"]
    figures = list(dict.fromkeys(row.who for row in results.of(r.VISITED)))
    lines = [
        [_figure_name(f), *(_figure(results.median(r.VISITED, f, set=n), f) for n in names)] for f in sorted(figures)
    ]
    shares = []
    for kind in KINDS:
        values = [results.median(r.TOKEN_SHARE, kind, set=name) for name in names]
        shares.append([kind, *("" if value is None else f"{value:.1%}" for value in values)])
    return "\n\n".join(
        [
            "## What limits it",
            f"Of our search at {budget} tokens. Where its tokens go; those on steps at a dead state, or that lead into "
            "one, are what a better critic and policy would save:",
            table(("share of tokens", *names), shares),
            "The critic on the states that the search visits, by the numbers left. A rank error is a dead state with a "
            "higher V than a living one of the same search, of all such pairs:",
            table(("", *names), lines),
            f"![reliability]({plots}{STEM}-reliability.svg)",
        ]
    )


def _figure_name(figure: str) -> str:
    kind, left, *_ = [*figure.split("_"), ""]
    names = {"auc": "AUC", "brier": "Brier score", "alive": "living", "states": "states", "rank": "rank errors"}
    return f"{names[kind]}, {left} left" if figure.endswith("_left") else names[kind]


def _figure(value: float | None, figure: str) -> str:
    if value is None:
        return ""
    if figure.startswith("states"):
        return f"{value:,.0f}"
    return f"{value:.1%}" if figure.startswith(("alive", "rank")) else f"{value:.3f}"


def _waves_section(results: Results, report: Mapping[str, Any]) -> str:
    budgets = report["plan"]["budgets"]
    lines = []
    for leaves in report["plan"]["waves"]:
        cells = []
        for budget in budgets:
            at = {"asks_in_flight": leaves, "budget_tokens": budget}
            share = results.median(r.SUCCESS, "ours, asks in flight", **at)
            cost = [*results.of(r.WAVE_COST, **at), *results.of(r.WAVE_COST_LEAST, **at)]
            cells.append(("" if share is None else f"{share:.1%}") + (f"; {times_cell(cost[0])} x" if cost else ""))
        lines.append([str(leaves), *cells])
    return (
        "## The cost of waves\n\nCountdown-5 with several asks in flight in one tree, each drawn by its own seed from "
        "what had been tried when it was asked: solved, and how many times the tokens for what one ask at a time "
        "solves. An ask reserves `max_step_tokens`, here 16, so a budget of B tokens holds at most B / 16 of them.\n\n"
        + table(("asks in flight", *(f"{budget:,}" for budget in budgets)), lines)
    )


def _bounds_section(results: Results, report: Mapping[str, Any]) -> str:
    lines = []
    for name, failure in dict.fromkeys((row.at["set"], row.at["failure"]) for row in results.of(r.BOUND)):
        found = {row.who: row.median for row in results.of(r.BOUND, set=name, failure=failure)}
        lines.append(
            [
                str(name),
                str(failure),
                f"{found['median_bound']:,.0f}" if "median_bound" in found else "none",
                f"{found['median_needed']:,.0f}",
                f"{found['trials_within']:.2%}",
                f"{found['least_within']:.2%}",
                f"{found['searches_within']:.1%}",
            ]
        )
    return (
        "## The guarantee\n\n`iterations_needed` for K = numbers - 1 steps and p_min from the model's own steps, the "
        "least share of good ones at any living state that a question's trials stood at. A trial draws independent "
        "steps at the deepest living state. The bound promises that at least 1 - failure of the trials of *every* "
        "question are done.\n\n"
        + table(
            (
                "set",
                "failure",
                "M (median)",
                "iterations (median)",
                "trials within M",
                "least of a question",
                "searches within M",
            ),
            lines,
        )
    )


def choices_section(report: Mapping[str, Any]) -> str:
    """What was chosen for every method, and on what account."""
    lines = []
    for name, choice in report["choices"].items():
        options = ", ".join(f"{key} {value}" for key, value in choice["options"].items())
        if choice["by_budget"]:
            options += "; by budget " + ", ".join(f"{b}: {value}" for b, value in choice["by_budget"].items())
        lines.append([name, f"{choice['temperature']}", options or "-", f"{choice['success']:.1%}"])
    head = ("method", "temperature", "options", "solved on validation, mean over budgets")
    return "## What was chosen\n\nOn validation problems:\n\n" + table(head, lines)


__all__ = [
    "MAIN_STYLES",
    "STYLES",
    "Target",
    "by_budget",
    "choices_section",
    "made_of",
    "markdown",
    "points_cell",
    "points_of",
    "share_cell",
    "slug",
    "times_cell",
    "write_all",
    "write_page",
]
