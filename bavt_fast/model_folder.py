"""Model folders: language model, tokenizer and value head. The package ships one, made by ``bavt-fast train``.

A folder holds ``config.json``, ``model.safetensors``, ``tokenizer.json`` (as transformers saves them) and
``value_head.safetensors`` with the weights of a `ResidualValuePredictor` that predicts the value's logit.
"""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor
from bavt_fast.generators.torch_model import TorchGenerator

__all__ = ["DELIMITER", "SEARCH_SETTINGS", "embedded_folder", "load_folder", "save_folder"]

DELIMITER = ")"
SEARCH_SETTINGS: dict[str, Any] = {"decay": 0.7, "discount": 0.97}
"""What did best for the embedded model on validation problems (`python -m benchmarks.budget`), for `Searcher`."""
_HEAD_FILE = "value_head.safetensors"


def embedded_folder() -> Path:
    """The folder of the model that the package ships."""
    return Path(str(resources.files("bavt_fast").joinpath("tasks/countdown/model")))


def load_folder(
    folder: str | Path | None = None, *, temperature: float = 0.7, without_replacement: bool = True
) -> tuple[TorchGenerator, HiddenStateCritic]:
    """Generator and critic of a model folder, in float32; of the embedded model for None. Reads local files only.

    Raises:
        FileNotFoundError: the folder, or one of its files, is missing.
        ValueError: the folder does not hold a model that fits together.
    """
    path = embedded_folder() if folder is None else Path(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json", _HEAD_FILE):
        if not (path / name).is_file():
            raise FileNotFoundError(f"model: {path} has no {name}; train one with `bavt-fast train --out {path}`")
    try:
        model = _load_model(path)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        head = ResidualValuePredictor(model.config.hidden_size)
        weights = load_file(path / _HEAD_FILE)
        head.load_state_dict({name: weight.float() for name, weight in weights.items()})
    except Exception as error:
        raise ValueError(f"model: {path} is not a model folder of bavt-fast ({error})") from error
    generator = TorchGenerator(
        model, tokenizer, delimiter=DELIMITER, temperature=temperature, without_replacement=without_replacement
    )
    return generator, HiddenStateCritic(head, predicts="logit")


def _load_model(path: Path) -> Any:
    """The language model, loaded without a word. Weights that are missing are an error, not random numbers."""
    verbosity, shows_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
        if shows_bar:
            transformers_logging.enable_progress_bar()
    model, report = loaded
    if report["missing_keys"]:
        raise ValueError(f"model.safetensors lacks {sorted(report['missing_keys'])[0]}")
    return model


def save_folder(folder: str | Path, model: torch.nn.Module, tokenizer: object, head: torch.nn.Module) -> None:
    """Writes a model folder with half-precision weights, the head with the keys of `ResidualValuePredictor`."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).half().save_pretrained(path)  # type: ignore[operator]
    tokenizer.save_pretrained(path)  # type: ignore[attr-defined]
    weights = {f"predictor.{name}": weight.detach().half().contiguous() for name, weight in head.state_dict().items()}
    save_file(weights, path / _HEAD_FILE)
