"""Turns a training checkpoint into a model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from bavt_fast.model_folder import save_folder
from bavt_fast.training.model import JointModel, build_config, build_tokenizer
from bavt_fast.training.trainer import TrainConfig


def load_checkpoint(path: str | Path, config: TrainConfig) -> JointModel:
    """The joint model of a checkpoint that `Trainer` wrote with this configuration."""
    model = JointModel(build_config(config.hidden_size, config.layers, config.mlp_size, config.heads))
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def export(checkpoint: str | Path, folder: str | Path, config: TrainConfig) -> None:
    """Writes the model folder of a checkpoint."""
    model = load_checkpoint(checkpoint, config)
    save_folder(folder, model.lm, build_tokenizer(), model.head)
