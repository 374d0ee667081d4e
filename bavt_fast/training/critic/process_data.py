"""Steps that somebody has labelled: the data format of TRL's process-reward trainer, one JSON object a line.

{"prompt": "...", "completions": ["step 1", "step 2"], "labels": [true, false]}
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bavt_fast._checks import about_json
from bavt_fast.generators.prompts import PromptTooLong, bare_ids
from bavt_fast.protocols import Description, Node, Step, Task
from bavt_fast.step_checks import checked_description, checked_task

__all__ = ["LabelledPath", "LabelledSteps", "label_states", "read_process_data"]

log = logging.getLogger(__name__)


class LabelledPath(NamedTuple):
    """A prompt, its steps, and of each step whether it is right (1) or not (0), or anything between."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[float, ...]


class LabelledSteps(NamedTuple):
    """What `fit_head` takes: hidden float32 (steps, H), labels float32, parent labels float32 (1 for a path's first
    step), and the numbers of questions and depths, int64; each (steps,). Paths of the same prompt are one question."""

    hidden: Tensor
    labels: Tensor
    parent_labels: Tensor
    questions: Tensor
    depths: Tensor


def read_process_data(path: str | os.PathLike[str]) -> list[LabelledPath]:
    """The paths of a file, in order. Blank lines are passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or a line is not a labelled path; with the file's name and the number of the line.
    """
    paths = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                paths.append(_path(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{os.fspath(path)}:{number}: {about_json(error)}") from error
    if not paths:
        raise ValueError(f"{os.fspath(path)}: expected labelled paths, got none")
    return paths


def _path(fields: Any) -> LabelledPath:
    if not isinstance(fields, Mapping) or not {"prompt", "completions", "labels"} <= set(fields):
        raise ValueError(f"expected an object with prompt, completions and labels, got {fields!r:.80}")
    return _checked(fields["prompt"], fields["completions"], fields["labels"], "completions")


def _checked(prompt: Any, steps: Any, labels: Any, name: str = "steps") -> LabelledPath:
    """A path of these parts. Raises ValueError for others; `name` is what the steps are called there."""
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"prompt: expected a non-empty str, got {prompt!r:.80}")
    are_steps = isinstance(steps, (list, tuple)) and all(isinstance(step, str) and step for step in steps)
    if not are_steps or not steps:
        raise ValueError(f"{name}: expected a list of non-empty str, got {steps!r:.80}")
    if not isinstance(labels, (list, tuple)) or len(labels) != len(steps):
        raise ValueError(f"labels: expected {len(steps)}, one for each of the {name}, got {labels!r:.80}")
    if not all(isinstance(label, (bool, int, float)) and 0.0 <= label <= 1.0 for label in labels):
        raise ValueError(f"labels: expected booleans or numbers in [0, 1], got {labels!r:.80}")
    return LabelledPath(prompt, tuple(steps), tuple(float(label) for label in labels))


def label_states(
    paths: Sequence[LabelledPath], generator: Any, task: Task[Any] | None = None, *, separator: str | None = None
) -> LabelledSteps:
    """The hidden state of every step, as a search over the same steps hands it to a critic: the one that predicts the
    step's last token.

    Args:
        generator: a `TorchGenerator`; it reads the steps in its prompts, and writes nothing.
        task: makes the prompt a question and the steps states, with the prompts that they have in a search. A step that
            it takes for invalid is left out, and so are those behind it or behind an answer: no critic ever sees them.
            So are steps beyond the model's context. Without a task the prompt is what the model reads, and the steps
            follow it.
        separator: the delimiter, put behind every step that does not end with it; None for the generator's own.

    Raises:
        TypeError: an argument is not what it should be.
        ValueError: no path, a step without a label, no valid step that the model's context holds, or a question that
            the task cannot parse; with the number of the path.
    """
    _check(paths, generator, separator)
    if task is not None:
        checked_task(task)
    ends = (tuple(generator.delimiters) or ("\n",)) if separator is None else (separator,)
    nodes, owners, rows = [], [], []
    questions: dict[str, int] = {}
    for number, path in enumerate(paths):
        before = 1.0
        try:
            path = _checked(*path)
            contexts = list(_contexts(path, generator.tokenizer, task, ends))
        except ValueError as error:
            raise ValueError(f"paths[{number}]: {error}") from error
        question = questions.setdefault(contexts[0].context()[0], len(questions)) if contexts else -1
        for depth, (context, label) in enumerate(zip(contexts, path.labels, strict=False), start=1):
            nodes.append(context)
            owners.append(number)
            rows.append((label, before, question, depth))
            before = label
    if not rows:
        raise ValueError(f"paths: expected steps that the task takes for valid, got none in {len(paths)} paths")
    if left_out := sum(len(path.steps) for path in paths) - len(rows):
        log.info("%d labelled steps are left out: invalid ones, and those behind them or an answer", left_out)
    answers = list(zip(generator.read(nodes), owners, rows, strict=True))
    held = [answer for answer in answers if not isinstance(answer[0], PromptTooLong)]
    if len(held) < len(answers):
        log.warning("%d labelled steps are left out: the model's context does not hold them", len(answers) - len(held))
    hidden = torch.stack([_hidden(state, owner) for state, owner, _ in held or answers])
    labels, parents, owned, depths = zip(*[row for *_, row in held], strict=True)
    return LabelledSteps(hidden, torch.tensor(labels), torch.tensor(parents), torch.tensor(owned), torch.tensor(depths))


def _check(paths: Any, generator: Any, separator: Any) -> None:
    if not isinstance(paths, Sequence) or not all(isinstance(path, LabelledPath) for path in paths):
        raise TypeError(f"paths: expected a list of LabelledPath, got {paths!r:.80}")
    if not paths:
        raise ValueError("paths: expected at least one, got none")
    if not all(hasattr(generator, name) for name in ("read", "tokenizer", "delimiters")):
        raise TypeError(f"generator: expected one that reads contexts, such as TorchGenerator, got {generator!r:.80}")
    if separator is not None and not isinstance(separator, str):
        raise TypeError(f"separator: expected a str or None, got {separator!r:.80}")


def _contexts(path: LabelledPath, tokenizer: Any, task: Task[Any] | None, ends: tuple[str, ...]) -> Iterator[Node]:
    """Of each step the context that predicts its last token."""
    state = None if task is None else task.initial_state(path.prompt)
    about = Description(prompt=path.prompt) if task is None else checked_description(task.describe(state))
    if about.prompt is None:
        raise ValueError("task: expected a prompt for the initial state, got None")
    node = Node(state, about.prompt)
    for text in path.steps:
        if about.terminal:
            return
        step = _step(text if text.endswith(ends) else text + ends[0], node.text[-1:], tokenizer)
        state = None if task is None else task.apply(node.state, step)
        if task is not None and state is None:
            return
        begun = step.token_ids[:-1]
        yield Node(None, None, node, replace(step, token_ids=begun)) if begun else node
        about = Description() if task is None else checked_description(task.describe(state))
        node = Node(state, about.prompt, node, step)


def _step(text: str, before: str, tokenizer: Any) -> Step:
    """A step with its tokens as they are behind what stands before: some tokenizers begin a text with a space."""

    def ids_of(text: str) -> tuple[int, ...]:
        return tuple(bare_ids(tokenizer, text))

    lead, ids = ids_of(before), ids_of(before + text)
    ids = ids[len(lead) :] if ids[: len(lead)] == lead else ids_of(text)
    return Step(text, len(ids), token_ids=ids)


def _hidden(state: Any, path: int) -> Tensor:
    if isinstance(state, ValueError):
        raise ValueError(f"paths[{path}]: {state}") from state
    if isinstance(state, Exception):
        raise state
    return torch.as_tensor(state).detach().float().cpu()
