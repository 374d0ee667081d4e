"""Model folders without their weights: which files they have, and what ``bavt_fast/settings.json`` in them says.

    config.json, model.safetensors, tokenizer.json      as transformers saves them
    bavt_fast/value_head.safetensors                    those of a `ResidualValuePredictor`, a probe of its model
    bavt_fast/settings.json                             `FolderSettings`

The head lies in a folder of its own because other loaders take every *.safetensors beside the model for a part of it.
Nothing here needs torch, so that a wrong folder or question is refused at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from bavt_fast._checks import about_json, as_amount
from bavt_fast.protocols import Task
from bavt_fast.tasks import made_task, task_module

__all__ = ["FORMAT", "HEADS", "HEAD_FILE", "SETTINGS_FILE", "FolderSettings", "embedded_folder", "read_settings"]

FORMAT = 1
HEAD_FILE = "bavt_fast/value_head.safetensors"
SETTINGS_FILE = "bavt_fast/settings.json"
FILES = ("config.json", "model.safetensors", "tokenizer.json", HEAD_FILE, SETTINGS_FILE)
HEADS = ("value", "residual", "logit")


@dataclass(frozen=True)
class FolderSettings:
    """How a model is to be used.

    Args:
        task: the task that it was trained for, a module of `bavt_fast.tasks` such as "text".
        delimiter: text that ends a step.
        head: what the value head predicts: "value", "residual", or "logit" where its sigmoid is the value.
        temperature: softmax temperature, above 0.
        search: arguments of `Searcher` that suit the model, such as ``{"decay": 0.7}``.
        task_options: arguments of the task.

    Raises:
        TypeError, ValueError: one of them is not that.
    """

    task: str
    delimiter: str
    head: str
    temperature: float = 1.0
    search: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("task", "delimiter"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name}: expected a str, got {value!r:.80}")
            if not value:
                raise ValueError(f"{name}: expected a non-empty str, got {value!r}")
        if self.head not in HEADS:
            raise ValueError(f"head: expected one of {', '.join(HEADS)}, got {self.head!r:.80}")
        object.__setattr__(self, "temperature", as_amount("temperature", self.temperature))
        for name in ("search", "task_options"):
            options = getattr(self, name)
            if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
                raise TypeError(f"{name}: expected arguments by their names, got {options!r:.80}")
            for key, value in options.items():
                if value is not None and not isinstance(value, (bool, int, float, str)):
                    raise TypeError(f"{name}: expected a number or a str for {key}, got {value!r:.80}")

    def to_json(self) -> str:
        """What `from_json` reads."""
        values = {**asdict(self), "search": dict(self.search), "task_options": dict(self.task_options)}
        return json.dumps({"format": FORMAT, **values}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> FolderSettings:
        """Reads what `to_json` wrote.

        Raises:
            TypeError, ValueError: it is not that, or of another format.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"settings: expected a JSON object, got {values!r:.80}")
        found = values.pop("format", None)
        if found != FORMAT or isinstance(found, bool):
            raise ValueError(f"format: expected {FORMAT}, got {found!r:.80}")
        names = [entry.name for entry in fields(cls)]
        if unknown := sorted(set(values) - set(names)):
            raise ValueError(f"settings: expected some of {', '.join(names)}, got {', '.join(unknown):.80}")
        if missing := [name for name in ("task", "delimiter", "head") if name not in values]:
            raise ValueError(f"settings: expected task, delimiter and head, got none for {', '.join(missing)}")
        return cls(**values)

    def make_task(self, options: Mapping[str, Any] | None = None) -> Task[Any]:
        """The task, with these arguments before the folder's own.

        Raises:
            TypeError, ValueError: there is no such task, or it does not take these arguments.
        """
        task: Task[Any] = made_task(self.task, {**self.task_options, **(options or {})})
        return task


def embedded_folder() -> Path:
    """The folder of the model that the package ships, beside the task that it was trained for.

    Raises:
        FileNotFoundError: this copy of the package has none.
    """
    tasks = Path(str(resources.files("bavt_fast.tasks")))
    found = sorted(tasks.glob(f"*/model/{SETTINGS_FILE}"))
    if not found:
        raise FileNotFoundError(f"model: expected one beside a task in {tasks}, got none; name a folder")
    return found[0].parent.parent


def read_settings(folder: str | Path) -> FolderSettings:
    """The settings of a model folder that has all its files and whose task there is.

    Raises:
        FileNotFoundError: the folder, or one of its files, is missing.
        ValueError: the settings are not what `FolderSettings` takes, or the folder has the layout of an older version.
    """
    path = Path(folder)
    if (path / "value_head.safetensors").is_file() and not (path / HEAD_FILE).is_file():
        raise ValueError(
            f"model: expected the head in {HEAD_FILE} and {SETTINGS_FILE} beside it, got value_head.safetensors beside "
            f"the model in {path}, the layout of an older version; move the head there, and write format (1), task, "
            "delimiter, head, temperature and search into the settings"
        )
    for name in FILES:
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"model: {path} has no {name}; train one with `bavt-fast train --out {path}`, or take a language model "
                "as it is, by bavt.load or `bavt-fast ask`"
            )
    try:
        settings = FolderSettings.from_json((path / SETTINGS_FILE).read_text(encoding="utf-8"))
        task_module(settings.task)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"model: {path} is not a model folder of bavt-fast ({SETTINGS_FILE}: {about_json(error)})"
        ) from error
    return settings
