"""Weights of a run: to go on from, and as a model folder."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch

from bavt_fast.model_folder import load_folder, save_folder
from bavt_fast.training.course import Course, Sizes
from bavt_fast.training.growth import take_weights
from bavt_fast.training.model import JointModel

__all__ = ["export", "load_checkpoint", "load_weights"]


def load_weights(model: JointModel, source: str | Path) -> None:
    """Takes the weights of a checkpoint that `Trainer` wrote, or of a model folder such as the one that ships.

    They may be those of a model with fewer layers or narrower MLPs (`bavt_fast.training.growth`).

    Raises:
        FileNotFoundError: there is no such file or folder, or the folder lacks one of its files.
        ValueError: what is there is neither, or was made for other sizes.
    """
    parts: list[tuple[torch.nn.Module, dict[str, torch.Tensor]]]
    if Path(source).is_dir():
        folder = load_folder(source)
        head = {name.removeprefix("predictor."): weight for name, weight in folder.critic.head.state_dict().items()}
        parts = [(model.lm, folder.generator.model.state_dict()), (model.head, head)]
    else:
        try:
            parts = [(model, torch.load(source, map_location="cpu", weights_only=True))]
        except (UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"init: {source} is neither a checkpoint nor a model folder ({error})") from error
    try:
        for module, state in parts:
            take_weights(module, state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"init: {source} does not fit the model to train ({error})") from error


def load_checkpoint(path: str | Path, course: Course, sizes: Sizes) -> JointModel:
    """The joint model of a checkpoint that `Trainer` wrote for this course and these sizes."""
    model = course.new_model(sizes)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


def export(checkpoint: str | Path, folder: str | Path, course: Course, sizes: Sizes) -> None:
    """Writes the model folder of a checkpoint."""
    model = load_checkpoint(checkpoint, course, sizes)
    save_folder(folder, model.lm, course.tokenizer(), model.head, course.settings)
