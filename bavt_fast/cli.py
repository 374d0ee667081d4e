"""The command line: ``bavt-fast solve`` and ``bavt-fast train``.

Exit codes of ``solve``: 0 solved, 1 not solved within the budget (the best partial path is shown), 2 bad input.
"""

from __future__ import annotations

import json
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
    sys.exit(f"bavt-fast: the command line needs {error.name}; install it with: pip install 'bavt_fast[all]'")

from bavt_fast.budget import Budget
from bavt_fast.searcher import Progress, Searcher, SearchError, SearchResult
from bavt_fast.tasks.countdown.task import Countdown, check_expression

if TYPE_CHECKING:
    from collections.abc import Callable

SOLVED, NOT_SOLVED, BAD_INPUT = 0, 1, 2

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Budget-aware value tree search.")
errors = Console(stderr=True)


@app.command()
def solve(
    puzzle: Annotated[str, typer.Argument(help="2 to 6 integers, such as '4 5 6 10' or '3 7 25 50 -> 61'.")],
    budget_tokens: Annotated[int, typer.Option(help="Hard limit on generated tokens.")] = 500,
    budget_seconds: Annotated[float | None, typer.Option(help="Hard limit on wall-clock seconds.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same tree.")] = 0,
    target: Annotated[int, typer.Option(help="What the numbers must make.")] = 24,
    policy: Annotated[str, typer.Option(help="power, best_first, uct, puct or ucb.")] = "power",
    temperature: Annotated[float, typer.Option(help="Sampling temperature of the model.")] = 0.7,
    model: Annotated[Path | None, typer.Option(help="A model folder; the embedded model without it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the answer alone.")] = False,
) -> None:
    """Solve a Countdown puzzle or a Game of 24 with the embedded model, within a budget."""
    console = Console(quiet=as_json or quiet)
    try:
        task = Countdown(target)
        task.initial_state(puzzle)
        budget = Budget(tokens=budget_tokens, seconds=budget_seconds)
        searcher = _searcher(model, task, policy, temperature)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as error:
        _refuse(error)
    try:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            searcher.on_progress = _shows(live, budget)
            result = searcher.search(puzzle, budget=budget, seed=seed)
    except SearchError as error:
        errors.print(f"error: {error}", markup=False)
        result = error.result
    except ValueError as error:
        _refuse(error)
    state = task.initial_state(puzzle)
    checked = result.answer is not None and check_expression(result.answer, state.numbers, state.target)
    if as_json:
        typer.echo(json.dumps(_as_json(puzzle, state.target, result, checked)))
    elif quiet:
        typer.echo(result.answer or "")
    else:
        _report(console, result, state.target, checked, budget)
    raise typer.Exit(SOLVED if checked else NOT_SOLVED)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, the log and, at the end, the model folder.")],
    minutes: Annotated[float, typer.Option(help="Wall time of the training.")] = 75.0,
    seed: Annotated[int, typer.Option()] = 0,
    init: Annotated[Path | None, typer.Option(help="A checkpoint or a model folder to go on from.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = True,
) -> None:
    """Train the embedded model and its critic on generated Countdown and Game of 24 problems."""
    import logging

    from bavt_fast.training.export import export
    from bavt_fast.training.trainer import TrainConfig, Trainer

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = TrainConfig(
        out=str(out),
        minutes=minutes,
        seed=seed,
        init=None if init is None else str(init),
        threads=threads,
        compile=compile_model,
    )
    try:
        trainer = Trainer(config)
    except (ValueError, FileNotFoundError) as error:
        _refuse(error)
    trainer.run()
    export(out / "checkpoint.pt", out / "model", config)
    typer.echo(f"model folder: {out / 'model'}")


def main() -> None:
    """Entry point of ``bavt-fast``."""
    app()


def _searcher(model: Path | None, task: Countdown, policy: str, temperature: float) -> Searcher:
    from bavt_fast.model_folder import SEARCH_SETTINGS, load_folder

    generator, critic = load_folder(model, temperature=temperature)
    return Searcher(generator, critic, task, policy=policy, **SEARCH_SETTINGS)


def _refuse(error: Exception) -> NoReturn:
    errors.print(f"error: {error}", markup=False)
    raise typer.Exit(BAD_INPUT) from error


def _shows(live: Live, budget: Budget) -> Callable[[Progress], None]:
    def update(progress: Progress) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_row("spent", f"{progress.spent.tokens} of {budget.tokens} tokens, {progress.spent.seconds:.1f} s")
        table.add_row("nodes", str(progress.nodes))
        table.add_row("best value", f"{progress.value:.3f}")
        table.add_row("best path", "\n".join(progress.path))
        live.update(table)

    return update


def _report(console: Console, result: SearchResult, target: int, checked: bool, budget: Budget) -> None:
    for number, step in enumerate(result.path, start=1):
        console.print(f"  {number}. {step}", markup=False, highlight=False)
    if checked:
        console.print(f"solved: {result.answer} = {target}  (checked)", style="bold green", highlight=False)
    else:
        console.print(f"not solved; best path so far has value {result.value:.3f}", style="yellow", highlight=False)
    console.print(
        f"spent: {result.spent.tokens} of {budget.tokens} tokens, {result.spent.seconds:.2f} s; "
        f"{result.tree.num_nodes} nodes; stopped: {result.stop_reason}",
        highlight=False,
    )


def _as_json(puzzle: str, target: int, result: SearchResult, checked: bool) -> dict[str, Any]:
    return {
        "puzzle": puzzle,
        "target": target,
        "solved": checked,
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


if __name__ == "__main__":
    main()
