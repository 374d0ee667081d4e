"""Steps that somebody has labelled: the data format of TRL's process-reward trainer, one JSON object a line.

{"prompt": "...", "completions": ["step 1", "step 2"], "labels": [true, false]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bavt_fast.protocols import Node, Step, StepRequest

__all__ = ["LabelledPath", "LabelledSteps", "label_states", "read_process_data"]


class LabelledPath(NamedTuple):
    """A prompt, its steps, and of each step whether it is right (1) or not (0), or anything between."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[float, ...]


class LabelledSteps(NamedTuple):
    """What `fit_head` takes: hidden float32 (steps, H), labels float32, parent labels float32 (1 for a path's first
    step), and the numbers of paths and depths, int64; each (steps,)."""

    hidden: Tensor
    labels: Tensor
    parent_labels: Tensor
    questions: Tensor
    depths: Tensor


def read_process_data(path: str | os.PathLike[str]) -> list[LabelledPath]:
    """The paths of a file, in order. Blank lines are passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not a labelled path; with the file's name and the number of the line.
    """
    paths = []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                paths.append(_path(json.loads(line)))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{os.fspath(path)}:{number}: {error}") from error
    if not paths:
        raise ValueError(f"{os.fspath(path)}: expected labelled paths, got none")
    return paths


def _path(fields: Any) -> LabelledPath:
    if not isinstance(fields, Mapping) or not {"prompt", "completions", "labels"} <= set(fields):
        raise ValueError(f"expected an object with prompt, completions and labels, got {fields!r:.80}")
    prompt, steps, labels = fields["prompt"], fields["completions"], fields["labels"]
    if not isinstance(prompt, str) or not prompt:
        raise ValueError(f"prompt: expected a non-empty str, got {prompt!r:.80}")
    if not isinstance(steps, list) or not all(isinstance(step, str) and step for step in steps) or not steps:
        raise ValueError(f"completions: expected a list of non-empty str, got {steps!r:.80}")
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise ValueError(f"labels: expected {len(steps)}, one for each completion, got {labels!r:.80}")
    if not all(isinstance(label, (bool, int, float)) and 0.0 <= label <= 1.0 for label in labels):
        raise ValueError(f"labels: expected booleans or numbers in [0, 1], got {labels!r:.80}")
    return LabelledPath(prompt, tuple(steps), tuple(float(label) for label in labels))


def label_states(paths: Sequence[LabelledPath], generator: Any, *, separator: str = "\n") -> LabelledSteps:
    """The hidden state of every step, as a search over the same steps hands it to a critic: the one that predicts the
    step's delimiter.

    Args:
        generator: a `TorchGenerator`; it reads the steps and writes one token behind each, which is dropped.
        separator: the delimiter, put behind every step that does not end with it.
    """
    requests, rows = [], []
    for number, path in enumerate(paths):
        text, before = path.prompt, 1.0
        for depth, (step, label) in enumerate(zip(path.steps, path.labels, strict=True), start=1):
            step = step.removesuffix(separator)
            requests.append(StepRequest(Node(None, text + step)))
            text += step + separator
            rows.append((label, before, number, depth))
            before = label
    answers = generator.propose(requests, [1] * len(requests), [1] * len(requests))
    hidden = torch.stack([_hidden(answer).float().cpu() for answer in answers])
    labels, parents, questions, depths = zip(*rows, strict=True)
    return LabelledSteps(
        hidden, torch.tensor(labels), torch.tensor(parents), torch.tensor(questions), torch.tensor(depths)
    )


def _hidden(answer: Any) -> Tensor:
    if isinstance(answer, Exception):
        raise answer
    steps: list[Step] = answer
    if not steps or steps[0].hidden is None:
        raise ValueError("generator: expected a step with a hidden state behind each labelled one, got none")
    return torch.as_tensor(steps[0].hidden)
