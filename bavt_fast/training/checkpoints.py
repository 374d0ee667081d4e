"""Weights of a run: to go on from, and as a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bavt_fast.model_folder import load_folder, save_folder
from bavt_fast.training.course import Course, Sizes
from bavt_fast.training.growth import take_weights
from bavt_fast.training.model import JointModel

__all__ = ["export", "load_checkpoint", "load_weights", "sizes_of"]


def load_weights(model: JointModel, source: str | Path) -> None:
    """Takes the weights of a checkpoint that `Trainer` wrote, or of a model folder such as the one that ships.

    They may be those of a model with fewer layers or narrower MLPs (`bavt_fast.training.growth`).

    Raises:
        FileNotFoundError: there is no such file or folder, or the folder lacks one of its files.
        ValueError: what is there is neither, or was made for other sizes.
    """
    try:
        for name, state in _read(source).items():
            take_weights(model.get_submodule(name), state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"init: {source} does not fit the model to train ({error})") from error


def sizes_of(source: str | Path) -> dict[str, int]:
    """``layers`` and ``mlp_size`` of the model in a checkpoint or a model folder; nothing where there is none.

    Raises:
        FileNotFoundError, ValueError: as `load_weights`.
    """
    states = [state for state in _read(source).values() if isinstance(state, dict)]
    gates = [weight for state in states for name, weight in state.items() if _is_gate(name, weight)]
    return {"layers": len(gates), "mlp_size": len(gates[0])} if gates else {}


def _is_gate(name: Any, weight: Any) -> bool:
    return str(name).endswith("mlp.gate_proj.weight") and isinstance(weight, torch.Tensor) and weight.ndim == 2


def _read(source: str | Path) -> dict[str, Any]:
    """The weights of parts of a `JointModel`, by the name of the part; "" is all of it."""
    if Path(source).is_dir():
        folder = load_folder(source)
        head = {name.removeprefix("predictor."): weight for name, weight in folder.critic.head.state_dict().items()}
        return {"lm": folder.generator.model.state_dict(), "head": head}
    try:
        return {"": torch.load(source, map_location="cpu", weights_only=True)}
    except OSError:
        raise
    except Exception as error:  # by the first bytes of the file torch raises almost anything
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"init: {source} is neither a checkpoint nor a model folder ({said:.160})") from error


def load_checkpoint(path: str | Path, course: Course, sizes: Sizes) -> JointModel:
    """The joint model of a checkpoint that `Trainer` wrote for this course and these sizes."""
    model = course.new_model(sizes)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


def export(checkpoint: str | Path, folder: str | Path, course: Course, sizes: Sizes) -> None:
    """Writes the model folder of a checkpoint."""
    model = load_checkpoint(checkpoint, course, sizes)
    save_folder(folder, model.lm, course.tokenizer(), model.head, course.settings)
