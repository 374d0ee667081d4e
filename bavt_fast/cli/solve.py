"""``bavt-fast solve``: a question for the task of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import bavt_fast.cli.options as given
from bavt_fast.budget import Budget
from bavt_fast.cli.output import (
    as_json,
    as_question,
    check_files,
    exit_code,
    opened_trace,
    refuse,
    searched,
    show_path,
    show_spent,
    shown,
)
from bavt_fast.cli.searchers import folder_searcher
from bavt_fast.folder_settings import embedded_folder, read_settings
from bavt_fast.searcher import Searcher

if TYPE_CHECKING:
    from bavt_fast.protocols import Task
    from bavt_fast.result import SearchResult

__all__ = ["solve"]


def solve(
    question: Annotated[
        list[str], typer.Argument(help="What the model's task takes, such as '4 5 6 10'; quoted where it has a '>'.")
    ],
    budget_tokens: Annotated[int, typer.Option(help="Hard limit on generated tokens.")] = 500,
    budget_seconds: given.BudgetSeconds = None,
    seed: given.Seed = 0,
    target: Annotated[int | None, typer.Option(help="What an answer must come to, for a task with a target.")] = None,
    policy: given.Policy = None,
    candidates: Annotated[int, typer.Option(help="Steps proposed at once; above 1 for uct, puct and ucb.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; the model folder's own without it.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model folder; the embedded model without it.")] = None,
    trust_remote_code: given.TrustRemoteCode = False,
    trace: given.Trace = None,
    live: given.Live = False,
    save: given.Save = None,
    json_alone: given.Json = False,
    quiet: given.Quiet = False,
) -> None:
    """Answer a question with the embedded model, or another, within a budget."""
    console = Console(quiet=json_alone or quiet)
    try:
        text = as_question(question)
        given.check_apart({"--trace": trace, "--save": save})
        folder = embedded_folder() if model is None else model
        task = read_settings(folder).make_task(None if target is None else {"target": target})
        budget = given.budget_of("budget", tokens=budget_tokens, seconds=budget_seconds)
        options: dict[str, Any] = {"candidates": candidates, "record": live or save is not None}
        if policy is not None:
            options["policy"] = policy
        # Loading takes long: what is wrong with the rest is said before.
        Searcher(lambda context, count: [], None, task, **options).start(text, budget=budget, seed=seed)
        check_files(trace, save)
        searcher = folder_searcher(folder, task, temperature, trust_remote_code, **options)
        heard = opened_trace(trace)
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)
    result, saved = searched(console, searcher, text, budget, seed, trace=heard, live=live, save=save)
    solved = _is_right(task, text, result)
    if json_alone:
        typer.echo(json.dumps(as_json(text, result, solved)))
    elif quiet:
        typer.echo(result.answer or "")
    else:
        _report(console, result, solved, budget)
    raise typer.Exit(exit_code(solved, saved))


def _is_right(task: Task[Any], question: str, result: SearchResult) -> bool:
    """Whether the task verified the answer and, where it can work one out anew, comes to the same."""
    check = getattr(task, "check_answer", None)
    return result.solved and result.answer is not None and (check is None or check(question, result.answer))


def _report(console: Console, result: SearchResult, solved: bool, budget: Budget) -> None:
    show_path(console, result.path)
    if solved:
        text = f"solved: {shown(result.answer or '')}  (checked)"
        console.print(text, style="bold green", markup=False, highlight=False, soft_wrap=True)
    else:
        if result.answer:
            text = f"answer: {shown(result.answer)}  (not verified)"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        text = f"not solved; best path so far has value {result.value:.3f}"
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    show_spent(console, result, budget)
