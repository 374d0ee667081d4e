"""Options that several commands have, each defined once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from bavt_fast.budget import Budget

__all__ = [
    "BudgetSeconds",
    "Chat",
    "Critic",
    "Device",
    "Dtype",
    "Json",
    "Live",
    "MaxStepTokens",
    "Policy",
    "Quiet",
    "Save",
    "Seed",
    "System",
    "TaskName",
    "Threads",
    "Trace",
    "TrustRemoteCode",
    "VoteBy",
    "VoteRule",
    "budget_of",
    "check_apart",
    "refuse_options",
]


class TaskName(str, Enum):
    """How answers are compared: `tasks.text` or `tasks.mathematics`."""

    TEXT = "text"
    MATHEMATICS = "mathematics"


class VoteRule(str, Enum):
    """How the answer is chosen: the best path's, or by a vote of all answers (`bavt_fast.votes`)."""

    NONE = "none"
    MAJORITY = "majority"
    VALUE = "value"


def policies() -> list[str]:
    """What a shell completes ``--policy`` with."""
    return ["power", "best_first", "uct", "puct", "ucb"]


def budget_of(prefix: str, **limits: Any) -> Budget:
    """A budget of the options that are called like its limits, behind a prefix: errors name the option.

    Raises:
        TypeError, ValueError: as `Budget`.
    """
    try:
        return Budget(**limits)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{prefix}_{error}") from error


def check_apart(outputs: Mapping[str, Path | None], inputs: Mapping[str, str | Path | None] | None = None) -> None:
    """Raises ValueError where a file to write is another one, or one that is read. Each has the name of its option."""
    read = {os.path.realpath(file): name for name, file in (inputs or {}).items() if file and Path(file).is_file()}
    for name, file in outputs.items():
        if file is not None and (other := read.setdefault(os.path.realpath(file), name)) != name:
            raise ValueError(f"{name}: expected a file of its own, got {file}, which {other} names too")


def refuse_options(context: typer.Context, names: Sequence[str], where: str) -> None:
    """Raises ValueError for the first of these options that was given: `where` says beside what it has an effect."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in names and source is not None and source.name == "COMMANDLINE":
            flags = parameter.secondary_opts if context.params[name] is False else parameter.opts
            raise ValueError(f"{(flags or parameter.opts)[0]}: expected {where}")


BudgetSeconds = Annotated[float | None, typer.Option(help="Hard limit on wall-clock seconds.")]
Chat = Annotated[
    bool | None, typer.Option("--chat/--no-chat", help="Use the chat template; by default where there is one.")
]
Critic = Annotated[
    str, typer.Option(help="Who scores steps: none, prompted (the model itself), or a trained critic's file.")
]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the best there is without it.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="Such as float32 or bfloat16; without it float32 on a CPU, and the model's own on a GPU."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Live = Annotated[bool, typer.Option("--live", help="Link to a page that shows the search as it runs.")]
MaxStepTokens = Annotated[int, typer.Option(help="Tokens after which a step is cut short and dropped.")]
Policy = Annotated[
    str | None,
    typer.Option(
        help="power, best_first, uct, puct or ucb; what the model folder says, or power.", autocompletion=policies
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the answer alone.")]
Save = Annotated[Path | None, typer.Option(help="Write the search to this file, for `bavt-fast view`.", dir_okay=False)]
Seed = Annotated[int, typer.Option(help="The same seed gives the same tree.")]
System = Annotated[
    str | None, typer.Option(help="System prompt in the place of our own, which asks for steps and an answer.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads; as suits the model without it.")]
Trace = Annotated[
    Path | None, typer.Option(help="Write what happens to a file, one JSON object a line.", dir_okay=False)
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run the Python code that the model brings, if any.")
]
VoteBy = Annotated[
    VoteRule, typer.Option("--vote", help="Choose the answer by a vote of all paths, or take the best path's.")
]
