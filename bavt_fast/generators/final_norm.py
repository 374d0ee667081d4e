"""The final norm of a model in a folder, alone: what stands between the last layer and the output head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

__all__ = ["load_final_norm"]


def load_final_norm(name: str) -> nn.Module:
    """The module, in float32 on the CPU, as transformers has it: ``norm(states) -> states``, (rows, H).

    Args:
        name: a folder, or the id of a hub's model that was downloaded before.

    Raises:
        FileNotFoundError: there is no such model on this machine.
        ValueError: no final norm is found in it, or not its weights.
    """
    folder = _folder(name)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    core = model.base_model
    norms = {path: module for path, module in core.named_modules() if _is_norm(module) and path.count(".") < 2}
    if not norms:
        raise ValueError(f"model: expected a final norm in {name}, got none in {type(core).__name__}")
    path, norm = list(norms.items())[-1]
    norm.to_empty(device="cpu")
    wanted = set(norm.state_dict())
    weights = _weights(folder, f"{path}.")
    if set(weights) != wanted:
        raise ValueError(f"model: expected {sorted(wanted)} of {path} in {name}, got {sorted(weights)}")
    norm.load_state_dict(weights)
    return norm.float().eval()


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and next(module.parameters(recurse=False), None) is not None


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"model: expected a folder, or a model that was downloaded, got {name}") from error


def _weights(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Weights whose names end in ``prefix`` and one word, by that word. The core's own name may stand before it."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (not a mapping)
                owner, dot, word = name.rpartition(".")
                if dot and owner.count(".") <= prefix.count(".") and f".{owner}.".endswith(f".{prefix}"):
                    found[word] = weights.get_tensor(name)
    return found
