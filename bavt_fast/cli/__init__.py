"""The command line: ``bavt-fast solve`` and ``bavt-fast train``.

Exit codes: 0 solved or done; 1 not solved within the budget (the best partial path is shown), or the reader of the
output went away; 2 bad input, something that is not installed, or output that cannot be written.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
except ModuleNotFoundError as error:
    print(
        f"bavt-fast: the command line needs {error.name}; install it with: pip install 'bavt_fast[all]'",
        file=sys.stderr,
    )
    sys.exit(2)

from bavt_fast._version import __version__
from bavt_fast.budget import Budget
from bavt_fast.folder_settings import embedded_folder, read_settings
from bavt_fast.result import Progress, SearchError, SearchResult
from bavt_fast.searcher import Searcher
from bavt_fast.tasks import training_module

if TYPE_CHECKING:
    from collections.abc import Callable

    from bavt_fast.protocols import Task

SOLVED, NOT_SOLVED, BAD_INPUT = 0, 1, 2

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Budget-aware value tree search.")
errors = Console(stderr=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bavt-fast {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Budget-aware value tree search."""


@app.command()
def solve(
    question: Annotated[
        list[str], typer.Argument(help="What the model's task takes, such as '4 5 6 10'; quoted where it has a '>'.")
    ],
    budget_tokens: Annotated[int, typer.Option(help="Hard limit on generated tokens.")] = 500,
    budget_seconds: Annotated[float | None, typer.Option(help="Hard limit on wall-clock seconds.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tree.")] = 0,
    target: Annotated[int | None, typer.Option(help="What an answer must come to, for a task with a target.")] = None,
    policy: Annotated[str, typer.Option(help="power, best_first, uct, puct or ucb.")] = "power",
    candidates: Annotated[int, typer.Option(help="Steps proposed at once; above 1 for uct, puct and ucb.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; the model folder's own without it.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model folder; the embedded model without it.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the Python code that the model folder brings, if any.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answer alone.")] = False,
) -> None:
    """Answer a question with the embedded model, or another, within a budget."""
    console = Console(quiet=as_json or quiet)
    text = " ".join(question)
    try:
        folder = embedded_folder() if model is None else model
        task = read_settings(folder).make_task(None if target is None else {"target": target})
        task.initial_state(text)
        budget = Budget(tokens=budget_tokens, seconds=budget_seconds)
        searcher = _searcher(folder, task, temperature, trust_remote_code, policy=policy, candidates=candidates)
    except (ValueError, TypeError, OSError, ImportError) as error:
        _refuse(error)
    try:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            searcher.on_progress = _shows(live, budget)
            result = searcher.search(text, budget=budget, seed=seed)
    except SearchError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        result = error.result
    except (ValueError, TypeError) as error:
        _refuse(error)
    solved = _is_right(task, text, result)
    if as_json:
        typer.echo(json.dumps(_as_json(text, result, solved)))
    elif quiet:
        typer.echo(result.answer or "")
    else:
        _report(console, result, solved, budget)
    raise typer.Exit(SOLVED if solved else NOT_SOLVED)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, the log and, at the end, the model folder.")],
    task: Annotated[str | None, typer.Option(help="The task to train for; the embedded model's without it.")] = None,
    minutes: Annotated[float, typer.Option(help="Wall time of the training.")] = 75.0,
    seed: Annotated[int, typer.Option()] = 0,
    init: Annotated[Path | None, typer.Option(help="A checkpoint or a model folder to go on from.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = True,
) -> None:
    """Train a small model and its critic on problems that the task generates."""
    import logging

    try:
        from bavt_fast.training.checkpoints import export
        from bavt_fast.training.trainer import TrainConfig, Trainer, prepare_out

        config = TrainConfig(
            out=str(out),
            minutes=minutes,
            seed=seed,
            init=None if init is None else str(init),
            threads=threads,
            compile=compile_model,
        )
        name = read_settings(embedded_folder()).task if task is None else task
        course = training_module(name).make_course()
        trainer = Trainer(config, course)
        prepare_out(out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        _refuse(error)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    trainer.run()
    export(out / "checkpoint.pt", out / "model", course, config.sizes)
    typer.echo(f"model folder: {out / 'model'}")


def main() -> None:
    """Entry point of ``bavt-fast``."""
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:  # it is None where the shell closed it
                sys.stdout.flush()  # what cannot be written is said here, not by the interpreter as it ends
    except BrokenPipeError:
        _drop_output()
        sys.exit(NOT_SOLVED)
    except OSError as error:
        _drop_output()
        print(f"bavt-fast: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _drop_output() -> None:
    """Standard output goes nowhere from here on: the interpreter flushes it once more as it ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _searcher(
    folder: Path, task: Task[Any], temperature: float | None, trust_remote_code: bool, **options: Any
) -> Searcher:
    from bavt_fast.model_folder import load_folder

    loaded = load_folder(folder, temperature=temperature, trust_remote_code=trust_remote_code)
    return Searcher(loaded.generator, loaded.critic, task, **{**loaded.settings.search, **options})


def _is_right(task: Task[Any], question: str, result: SearchResult) -> bool:
    """Whether the task verified the answer and, where it can work one out anew, comes to the same."""
    check = getattr(task, "check_answer", None)
    return result.solved and result.answer is not None and (check is None or check(question, result.answer))


def _refuse(error: Exception) -> NoReturn:
    text = str(error)
    if isinstance(error, ModuleNotFoundError):
        text = f"this command needs {error.name}; install it with: pip install 'bavt_fast[all]'"
    errors.print(f"error: {text}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(BAD_INPUT) from error


def _shows(live: Live, budget: Budget) -> Callable[[Progress], None]:
    def update(progress: Progress) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_row("spent", f"{progress.spent.tokens} of {budget.tokens} tokens, {progress.spent.seconds:.1f} s")
        table.add_row("nodes", str(progress.num_nodes))
        table.add_row("best value", f"{progress.value:.3f}")
        table.add_row("best path", "\n".join(progress.path))
        live.update(table)

    return update


def _report(console: Console, result: SearchResult, solved: bool, budget: Budget) -> None:
    for number, step in enumerate(result.path, start=1):
        console.print(f"  {number}. {step}", markup=False, highlight=False)
    if solved:
        console.print(f"solved: {result.answer}  (checked)", style="bold green", markup=False, highlight=False)
    else:
        if result.answer:
            console.print(f"answer: {result.answer}  (not verified)", markup=False, highlight=False)
        console.print(f"not solved; best path so far has value {result.value:.3f}", style="yellow", highlight=False)
    console.print(
        f"spent: {result.spent.tokens} of {budget.tokens} tokens, {result.spent.seconds:.2f} s; "
        f"{result.tree.num_nodes} nodes; stopped: {result.stop_reason}",
        highlight=False,
    )


def _as_json(question: str, result: SearchResult, solved: bool) -> dict[str, Any]:
    return {
        "question": question,
        "solved": solved,
        "answer": result.answer,
        "path": list(result.path),
        "value": result.value,
        "spent": asdict(result.spent),
        "stop_reason": result.stop_reason,
        "nodes": result.tree.num_nodes,
        "invalid_steps": result.invalid_steps,
        "duplicate_steps": result.duplicate_steps,
        "refuted_steps": result.refuted_steps,
    }
