"""Tasks: what a state, a step, validity and an answer are.

A module of this package that a model folder or the command line may name, such as ``text``, has

- ``make_task(**options) -> Task``;
- where it reads problems of the package reasoning-gym, ``gym_question(problem) -> str``, its question of one;
- where the values of its states can be worked out exactly, ``make_oracle() -> Critic``, whose values are in [0, 1]; it
  takes those options of the task that change what can be reached;
- where a model of its own ships, a folder ``model`` beside it;
- where one can be trained, a submodule ``training`` with ``make_course() -> Course`` (`bavt_fast.training.course`).

A task may have ``check_answer(question, answer) -> bool``, which works an answer out anew, apart from the search (None,
of a search that found none, is not right), and ``same_answer(reference, answer) -> bool``, by which a vote counts equal
answers together, and ``with_answer(answer) -> Task``, the task for a question whose right answer is known.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import keyword
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["made_task", "task_module", "training_module"]


def task_module(name: str) -> ModuleType:
    """The module of a task, by its name inside this package. Nothing outside the package is ever imported.

    Raises:
        TypeError: `name` is not a str.
        ValueError: there is no such module here, or it cannot make a task.
    """
    if not isinstance(name, str):
        raise TypeError(f"task: expected a str such as 'text', got {name!r:.80}")
    module = importlib.import_module(f"{__name__}.{name}") if _is_module(name) else None
    if module is None or not hasattr(module, "make_task"):
        raise ValueError(f"task: expected the name of a module in {__name__} that has make_task(), got {name!r:.80}")
    return module


def made_task(name: str, options: Mapping[str, Any]) -> Any:
    """The task of a module, made with these options.

    Raises:
        TypeError, ValueError: there is no such module, or its task does not take these options.
    """
    make = task_module(name).make_task
    taken = inspect.signature(make)
    try:
        taken.bind(**options)
    except TypeError as error:
        raise TypeError(
            f"task_options: expected arguments of the task {name!r} ({', '.join(taken.parameters)}), got "
            f"{', '.join(options) or 'none':.80}: {error}"
        ) from error
    return make(**options)


def training_module(name: str) -> ModuleType:
    """The module ``training`` of a task.

    Raises:
        TypeError, ValueError: as `task_module`, and ValueError where the task has no training.
    """
    task = task_module(name)
    if not hasattr(task, "__path__") or importlib.util.find_spec(f"{task.__name__}.training") is None:
        raise ValueError(f"task: expected a task that has a module training, got {name!r}")
    return importlib.import_module(f"{task.__name__}.training")


def _is_module(name: str) -> bool:
    # ASCII letters without a dot: the name can neither leave this package nor be another spelling of one in it.
    is_plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
    return is_plain and importlib.util.find_spec(f"{__name__}.{name}") is not None
