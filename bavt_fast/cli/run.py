"""``bavt-fast run``: a file of questions, which goes on where it was ended."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console

import bavt_fast.cli.options as given
from bavt_fast.cli.options import TaskName, VoteRule
from bavt_fast.cli.output import errors, refuse
from bavt_fast.cli.progress import Reporter
from bavt_fast.cli.prompts import EXAMPLES, SYSTEM, plain_prompt
from bavt_fast.cli.run_options import check_options
from bavt_fast.cli.searchers import ENDS, MAX_DEPTH, check_critic, folder_searcher, model_searcher, voted
from bavt_fast.folder_settings import SETTINGS_FILE, embedded_folder, read_settings
from bavt_fast.runs import Run, RunError
from bavt_fast.runs.worker import Made
from bavt_fast.searcher import Searcher
from bavt_fast.tasks import task_module

if TYPE_CHECKING:
    from bavt_fast.result import SearchResult
    from bavt_fast.runs.questions import Row

__all__ = ["run"]

DONE, NOT_ALL, INTERRUPTED = 0, 1, 130
FOLDER_TOKENS, WORDS_TOKENS = 500, 1000
"""Budgets of a question where nobody says: of a model folder's task, and of a question in words."""


def run(
    context: typer.Context,
    questions: Annotated[
        Path, typer.Argument(help="JSON lines: id, question and, where wanted, answer, budget_tokens, seed.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; one that was begun goes on.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="A model folder, a hub id, smollm2, or with --server the server's name for it; the embedded model "
            "without it."
        ),
    ] = None,
    server: Annotated[str | None, typer.Option(help="Address of a server, such as http://127.0.0.1:8000/v1.")] = None,
    searcher: Annotated[
        str | None, typer.Option(help="Search by your own: module:function that returns a bavt.Searcher.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(help="Generated tokens of each question; 500, or 1000 for questions in words.")
    ] = None,
    budget_seconds: given.BudgetSeconds = None,
    total_tokens: Annotated[int | None, typer.Option(help="Generated tokens of all questions together.")] = None,
    total_cost: Annotated[
        float | None,
        typer.Option(help="Money of all questions together; needs --token-cost, or prices of the --searcher."),
    ] = None,
    token_cost: Annotated[float, typer.Option(help="Price of a generated token.")] = 0.0,
    prompt_token_cost: Annotated[float, typer.Option(help="Price of a token that is read.")] = 0.0,
    max_prompt_tokens: Annotated[int, typer.Option(help="The most tokens read for one step, where they cost.")] = 0,
    seed: given.Seed = 0,
    policy: given.Policy = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; the model's own, or 0.4.")] = None,
    wave: Annotated[int, typer.Option(min=1, help="Questions searched side by side.")] = 64,
    max_step_tokens: Annotated[
        int | None, typer.Option(help="Tokens after which a step is cut short and dropped; 128 for questions in words.")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="Asks of a question that may fail before it gives up.")] = 2,
    task: Annotated[TaskName, typer.Option(help="How answers in words are compared.")] = TaskName.TEXT,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="End a search at the right answer, where it is known; or compare after."
        ),
    ] = True,
    vote_by: given.VoteBy = VoteRule.VALUE,
    critic: given.Critic = "none",
    system: given.System = None,
    chat: given.Chat = None,
    device: given.Device = None,
    dtype: given.Dtype = None,
    threads: given.Threads = None,
    trust_remote_code: given.TrustRemoteCode = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at broken lines, before anything is spent.")] = False,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Go on with the questions that failed, too.")
    ] = False,
    flush_seconds: Annotated[
        float, typer.Option(min=0.0, help="How often what was answered is forced to the disk.")
    ] = 5.0,
    save: Annotated[
        bool, typer.Option("--save", help="Keep the search of every question, for `bavt-fast view`.")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="Link to a page that shows the searches as they run.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Search by the workers of a Ray cluster, --wave questions in each: auto, host:port, or local for "
            "several processes on this machine.",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers; one for each GPU of the cluster, or each CPU without GPUs.")
    ] = None,
    ray_gpus: Annotated[
        float | None, typer.Option(min=0.0, help="GPUs of each worker; 1 where the cluster has any and no --server.")
    ] = None,
    json_alone: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for every event and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Answer a file of questions. Killed and started again, it goes on."""
    reporter = Reporter(json_alone, quiet)
    options: dict[str, Any] = {
        "wave": wave,
        "leaves": 1,
        **({} if policy is None else {"policy": policy}),
        "retries": retries,
        "token_cost": token_cost,
        "prompt_token_cost": prompt_token_cost,
        "max_prompt_tokens": max_prompt_tokens,
        **({} if max_step_tokens is None else {"max_step_tokens": max_step_tokens}),
        "record": save or live,
    }
    words = _Words(model, server, task, vote_by, critic, system, chat, temperature)
    loads = {"device": device, "dtype": dtype, "threads": threads, "trust_remote_code": trust_remote_code}
    try:
        if not questions.is_file():
            raise FileNotFoundError(f"questions: expected a file of JSON lines, got {questions}, which is no file")
        check_options(context, is_folder=_is_folder(words))
        usual = FOLDER_TOKENS if searcher is not None or _is_folder(words) else WORDS_TOKENS
        tokens = usual if budget_tokens is None else budget_tokens
        is_limited = total_tokens is not None or total_cost is not None
        settings: dict[str, Any] = {
            "budget": given.budget_of("budget", tokens=tokens, seconds=budget_seconds),
            "seed": seed,
            "total": given.budget_of("total", tokens=total_tokens, cost=total_cost) if is_limited else None,
            "verify": verify,
            "strict": strict,
            "retry_errors": retry_errors,
            "flush_s": flush_seconds,
            "keep": save,
        }
        make = partial(_made, searcher, words, loads, options)
        with Console(stderr=True, quiet=json_alone or quiet).status("loading the model", spinner="line"):
            if ray is None:
                made = make()
                if live and not made.searcher.settings.record:
                    raise ValueError(
                        f"--live: expected a --searcher that keeps its events, got {searcher} without; make it with "
                        "bavt.Searcher(..., record=True)"
                    )
                begun = Run(out, made.searcher, questions, outcome=made.outcome, about=made.about, **settings)
            else:
                if live:
                    raise ValueError("--live: expected without --ray, whose searches are elsewhere")
                from bavt_fast.runs.ray import RayRun

                gpus = 0.0 if ray_gpus is None and server is not None else ray_gpus
                begun = RayRun(out, make, questions, address=ray, workers=ray_workers, gpus=gpus, **settings)
    except (ValueError, TypeError, OSError, ImportError, RunError) as error:
        refuse(_of_option(error))
    with begun, _served(begun) if live else nullcontext():
        try:
            with reporter.showing(begun, questions), closing(iter(begun)) as lines:
                for line in lines:
                    reporter.finished(line)
        except RunError as error:
            refuse(error)
        summary = begun.summary()
    reporter.ended(summary, out)
    if summary.end == "interrupted":
        raise typer.Exit(INTERRUPTED)
    whole = summary.end == "done" and not summary.errors and not summary.broken
    raise typer.Exit(DONE if whole else NOT_ALL)


def _of_option(error: Exception) -> Exception:
    """What a run refuses of its total is the limit on money: no other needs a price or a reservation."""
    if isinstance(error, ValueError) and str(error).startswith("total: "):
        return ValueError(f"total_cost: {str(error).removeprefix('total: ')}")
    return error


class _Words(NamedTuple):
    """What is said of how questions are asked."""

    model: str | None
    server: str | None
    task: TaskName
    vote_by: VoteRule
    critic: str
    system: str | None
    chat: bool | None
    temperature: float | None


def _is_folder(words: _Words) -> bool:
    """Whether a model folder searches, which has a task of its own; else questions are in words."""
    return words.server is None and (words.model is None or Path(words.model, SETTINGS_FILE).is_file())


def _made(named: str | None, words: _Words, loads: Mapping[str, Any], options: dict[str, Any]) -> Made:
    if named is not None:
        if words.model is not None or words.server is not None:
            raise ValueError("--searcher: expected alone, got it beside --model or --server; it brings its own")
        return Made(_imported(named), None, {"searcher": named})
    if _is_folder(words):
        folder = embedded_folder() if words.model is None else Path(words.model)
        task = read_settings(folder).make_task()
        loaded = {name: loads[name] for name in ("threads", "trust_remote_code")}
        made = folder_searcher(folder, task, words.temperature, **loaded, **options)
        return Made(made, None, {"model": words.model or "embedded", "temperature": words.temperature})
    check_critic(words.critic)
    options = {
        "max_step_tokens": 128,
        "temperature": 0.4 if words.temperature is None else words.temperature,
        **options,
    }
    if words.server is None:
        assert words.model is not None, "without a model it is a folder"
        made, prompt_of = model_searcher(
            words.model, words.task.value, words.critic, system=words.system, chat=words.chat, loads=loads, **options
        )
    else:
        made, prompt_of = _server_searcher(words, options)
    made.task.prompt = prompt_of

    def outcome(row: Row, result: SearchResult) -> dict[str, Any]:
        answer, path, vote = voted(result, made.task, words.vote_by)
        votes = {} if vote is None else {"share": vote.share, "votes": vote.counts}
        return {"answer": answer, "path": list(path), **votes}

    about = {**words._asdict(), "task": words.task.value, "vote_by": words.vote_by.value}
    about["server"] = words.server is not None  # its address may change
    return Made(made, outcome, about)


def _server_searcher(words: _Words, options: dict[str, Any]) -> tuple[Searcher, Callable[[str], str]]:
    """A search by a model behind a server."""
    from bavt_fast.generators.openai_server import OpenAIGenerator

    if words.model is None:
        raise ValueError("--server: expected the model's name on the server as --model, got none")
    if words.critic != "none":
        raise ValueError(f"critic: expected none with a server, got {words.critic!r}; see --searcher for others")
    system = SYSTEM if words.system is None else words.system
    made = task_module(words.task.value).make_task(end=ENDS, max_depth=MAX_DEPTH)
    prompt_of: Callable[[str], str] = str
    asked: dict[str, Any] = {"max_in_flight": options["wave"]}
    if words.chat is False:
        examples = EXAMPLES if words.system is None else ()
        prompt_of = partial(plain_prompt, system=system, examples=examples)
    else:
        asked |= {"chat": True, "system": system or None}
    try:
        generator = OpenAIGenerator(words.model, base_url=words.server, **asked)
    except ValueError as error:
        if not str(error).startswith("base_url: "):
            raise
        raise ValueError(f"server: {str(error).removeprefix('base_url: ')}") from error
    return Searcher(generator, None, made, **options), prompt_of


def _imported(name: str) -> Searcher:
    """What ``module:function`` returns; modules of the current folder are found too."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise ValueError(f"--searcher: expected module:function, such as my_search:make, got {name!r:.80}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), function)
        made = make() if callable(make) else make
    except Exception as error:  # their code: what it raises is about their search, not about this program
        what = str(error) if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"
        raise ValueError(f"--searcher: expected {name} to return a bavt.Searcher, got {what}") from error
    if not isinstance(made, Searcher):
        raise TypeError(f"--searcher: expected {name} to return a bavt.Searcher, got {made!r:.80}")
    return made


def _served(begun: Run) -> Any:
    from bavt_fast.view.server import LiveRun

    try:
        served = LiveRun(begun)
    except OSError as error:
        refuse(error)
    errors.print(f"live: {served.url}", markup=False, highlight=False, soft_wrap=True)
    return served
