"""The command line: ``bavt-fast solve``, ``ask``, ``run``, ``view`` and ``train``.

Exit codes: 0 solved, answered or done; 1 not solved within the budget or no answer (the best partial path is shown), a
run with errors, broken lines or questions that the total budget did not reach, or the reader of the output went away;
2 bad input, something that is not installed, or output that cannot be written; 130 Ctrl-C before there was anything to
show, or in a run.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated, NoReturn

try:
    import typer

    from bavt_fast.cli.ask import ask
    from bavt_fast.cli.output import BAD_INPUT, NOT_SOLVED, SOLVED, plain_warnings
    from bavt_fast.cli.run import run
    from bavt_fast.cli.solve import solve
    from bavt_fast.cli.train import training
    from bavt_fast.cli.view import view
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("typer", "rich"):
        raise
    raise ModuleNotFoundError(
        f"the command line needs {error.name}; install it with: pip install 'bavt_fast[all]'", name=error.name
    ) from None

import bavt_fast.cli.process as process
from bavt_fast._version import __version__

__all__ = ["app", "main"]

app = typer.Typer(no_args_is_help=True, help="Budget-aware value tree search.")
app.command()(solve)
app.command()(ask)
app.command()(run)
app.add_typer(training, name="train")
app.command()(view)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bavt-fast {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Budget-aware value tree search."""
    context.with_resource(plain_warnings())


def main() -> NoReturn:
    """Entry point of ``bavt-fast``."""
    process.begin()
    process.end(_run())


def _run() -> int:
    """The exit code of the command, once all that it printed is written."""
    try:
        try:
            app(prog_name="bavt-fast")
        finally:
            sys.stdout.flush()  # what cannot be written is said here, not as the process ends
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else SOLVED
    except BrokenPipeError:
        _drop_output()
        return NOT_SOLVED
    except OSError as error:
        _drop_output()
        with contextlib.suppress(OSError):  # it may be standard error that cannot be written
            print(f"bavt-fast: {error}", file=sys.stderr)
        return BAD_INPUT
    return SOLVED


def _drop_output() -> None:
    """Standard output goes nowhere from here on: it is flushed once more as the process ends."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
