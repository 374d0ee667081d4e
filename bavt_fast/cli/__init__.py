"""The command line: ``bavt-fast solve``, ``bavt-fast ask`` and ``bavt-fast train``.

Exit codes: 0 solved, answered or done; 1 not solved within the budget or no answer (the best partial path is shown), or
the reader of the output went away; 2 bad input, something that is not installed, or output that cannot be written.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

try:
    import typer

    from bavt_fast.cli.ask import ask
    from bavt_fast.cli.output import BAD_INPUT, NOT_SOLVED
    from bavt_fast.cli.solve import solve
    from bavt_fast.cli.train import train
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("typer", "rich"):
        raise
    print(
        f"bavt-fast: the command line needs {error.name}; install it with: pip install 'bavt_fast[all]'",
        file=sys.stderr,
    )
    sys.exit(2)

from bavt_fast._version import __version__

__all__ = ["app", "main"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Budget-aware value tree search.")
app.command()(solve)
app.command()(ask)
app.command()(train)


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
