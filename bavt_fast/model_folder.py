"""Model folders: a language model, its value head, and the task they were trained for. See `bavt_fast.folder_settings`.

Python code that a folder brings (``auto_map``) runs only where the caller says so.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from bavt_fast._checks import about_json, as_flag
from bavt_fast._optional import needs
from bavt_fast.folder_settings import HEAD_FILE, SETTINGS_FILE, FolderSettings, embedded_folder, read_settings
from bavt_fast.protocols import Task
from bavt_fast.settings import Settings
from bavt_fast.tasks import task_module

with needs("torch", __name__):
    import torch
    from safetensors.torch import load_file, save_file

    from bavt_fast.critics.critic_file import LEAST_COSINE
    from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor, head_shapes
    from bavt_fast.generators.pretrained import ModelSource, load_pretrained
    from bavt_fast.generators.torch_model import TorchGenerator
    from bavt_fast.model_places import input_device

__all__ = ["FolderSettings", "ModelFolder", "embedded_folder", "load_folder", "save_folder"]

_CODE_FILES = ("config.json", "tokenizer_config.json")  # where a folder can name Python code of its own
_PROBE = "probe"
_PROBE_TOKENS = 8
_SEARCH_OPTIONS = {"wave", "leaves", "retries", *(option.name for option in fields(Settings))}


@dataclass(frozen=True)
class ModelFolder:
    """What a search takes: ``Searcher(f.generator, f.critic, f.task, **f.settings.search)``."""

    generator: TorchGenerator
    critic: HiddenStateCritic
    task: Task[Any]
    settings: FolderSettings


def load_folder(
    folder: str | Path | None = None,
    *,
    temperature: float | None = None,
    without_replacement: bool = True,
    threads: int | None = None,
    task_options: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> ModelFolder:
    """Generator, critic and task of a model folder, in float32; of the embedded model for None. Reads local files only.

    Args:
        folder: the folder.
        temperature: softmax temperature; None for the folder's own.
        without_replacement, threads: see `TorchGenerator`.
        task_options: arguments of the task, which win over those of the folder.
        trust_remote_code: run the Python code that the folder brings, if it brings any.

    Raises:
        FileNotFoundError: the folder, or one of its files, is missing.
        ValueError: the folder does not hold a model that fits together, such as the value head of a model that was
            trained on since; has the layout of an older version, or brings code that was not allowed to run; or a bad
            temperature.
        TypeError: an argument that the task does not know, or of the wrong type.
    """
    path = embedded_folder() if folder is None else Path(folder)
    settings = read_settings(path)
    task = settings.make_task(task_options)
    _check_code(path, as_flag("trust_remote_code", trust_remote_code))
    try:
        if unknown := sorted(set(settings.search) - _SEARCH_OPTIONS):
            raise ValueError(f"{SETTINGS_FILE}: search: expected arguments of Searcher, got {', '.join(unknown):.80}")
        head, probe = _load_head(path)
        source = ModelSource(path)
        model, tokenizer = load_pretrained(source, dtype=torch.float32, trust_remote_code=trust_remote_code)
        _check_width(head, model)
        _check_probe(probe, model)
    except Exception as error:
        raise ValueError(f"model: {path} is not a model folder of bavt-fast ({error})") from error
    generator = TorchGenerator(
        model,
        tokenizer,
        delimiter=settings.delimiter,
        temperature=settings.temperature if temperature is None else temperature,
        without_replacement=without_replacement,
        threads=threads,
    )
    return ModelFolder(generator, HiddenStateCritic(head, predicts=cast(Any, settings.head)), task, settings)


def save_folder(
    folder: str | Path, model: torch.nn.Module, tokenizer: object, head: torch.nn.Module, settings: FolderSettings
) -> None:
    """Writes a model folder with half-precision weights. `model` and `head` stay as they are.

    Args:
        folder: made where it is missing.
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        head: a `ResidualValuePredictor`, or the ``nn.Sequential`` inside it.
        settings: what `load_folder` needs besides.

    Raises:
        ValueError: the head does not fit the model, a weight is not finite in half precision, there is no such task, or
            an option is a number that JSON has no form for. Nothing has been written then.
    """
    task_module(settings.task)
    text = settings.to_json()
    copied: Any = copy.deepcopy(model).eval()
    weights = {
        f"predictor.{name.removeprefix('predictor.')}": weight.detach().half().contiguous()
        for name, weight in head.state_dict().items()
    }
    _check_width(_head_of(weights), model)
    probe = _probe_of(copied).half()
    if probe.any() and probe.isfinite().all():  # else it says nothing, and the head stays without
        weights[_PROBE] = probe
    half = copied.half()
    for name, weight in half.state_dict().items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"model: expected weights that half precision can hold, got infinity or NaN in {name}")
    path = Path(folder)
    (path / HEAD_FILE).parent.mkdir(parents=True, exist_ok=True)
    (path / SETTINGS_FILE).unlink(missing_ok=True)  # written last: a folder without it is not taken for a whole one
    half.save_pretrained(path)
    tokenizer.save_pretrained(path)  # type: ignore[attr-defined]
    save_file(weights, path / HEAD_FILE)
    (path / SETTINGS_FILE).write_text(text, encoding="utf-8")


def _check_code(path: Path, trust_remote_code: bool) -> None:
    for name in _CODE_FILES:
        if trust_remote_code or not (path / name).is_file():
            continue
        try:
            config = json.loads((path / name).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"model: {path} is not a model folder of bavt-fast ({name}: {about_json(error)})"
            ) from error
        if isinstance(config, dict) and "auto_map" in config:
            raise ValueError(
                f"model: {path / name} names Python code of the folder's own (auto_map), which does not run unasked; "
                "if you trust it, pass trust_remote_code=True (--trust-remote-code)"
            )


def _load_head(path: Path) -> tuple[ResidualValuePredictor, torch.Tensor | None]:
    """The head, and the probe of the model that it reads; None in a folder from before there was one."""
    try:
        weights = load_file(path / HEAD_FILE)
        probe = weights.pop(_PROBE, None)
        return _head_of(weights), probe
    except Exception as error:
        raise ValueError(f"{HEAD_FILE}: {error}") from error


def _head_of(weights: Mapping[str, torch.Tensor]) -> ResidualValuePredictor:
    """The head with these weights, in float32; ValueError where they are not those of a `ResidualValuePredictor`."""
    first = weights.get("predictor.0.weight")
    width = first.shape[1] if first is not None and first.dim() == 2 else 1
    expected = head_shapes(width)
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if found != expected:
        raise ValueError(f"expected a head of {_shapes(expected)}, got {_shapes(found)}")
    head = ResidualValuePredictor(width)
    head.load_state_dict({name: weight.float() for name, weight in weights.items()})
    for name, weight in head.state_dict().items():
        if not weight.isfinite().all():
            raise ValueError(f"expected finite weights, got infinity or NaN in {name}")
    return head


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))[:300]


def _check_width(head: ResidualValuePredictor, model: Any) -> None:
    width = model.config.get_text_config().hidden_size
    if head.hidden_dim != width:
        raise ValueError(f"head: expected the model's width of {width}, got a head of width {head.hidden_dim}")


def _probe_of(model: Any) -> torch.Tensor:
    """The direction of the last layer's state, float32 (H,), behind the first words of the vocabulary: a head that was
    trained for other weights of the same sizes is told apart by it."""
    words = torch.arange(_PROBE_TOKENS, device=input_device(model)) % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        states = model.base_model(input_ids=words[None], use_cache=False).last_hidden_state
    return torch.nn.functional.normalize(states[0, -1].float().cpu(), dim=0).clone()


def _check_probe(probe: torch.Tensor | None, model: Any) -> None:
    if probe is None:
        return
    found = _probe_of(model)
    same_shape = probe.shape == found.shape
    likeness = float(torch.cosine_similarity(found, probe.float(), dim=0)) if same_shape else 0.0
    if not likeness >= LEAST_COSINE:
        raise ValueError(
            f"{HEAD_FILE}: expected the head of these weights, got one for a model with other states "
            f"(cosine {likeness:.3f}, expected at least {LEAST_COSINE}); copy both files from the same folder"
        )
