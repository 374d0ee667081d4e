"""A trained critic as one file: the head's weights, and for which model and task it was trained.

A head reads hidden states, and those of another model, another layer or a state before the final norm have the same
shape and mean something else. So the file holds a *probe*: the state that the model left behind after a short text. A
model that leaves another one there is refused.

    critic.safetensors    predictor.*  the weights of a `ResidualValuePredictor`
                          probe        float32 (H,)
                          metadata     "bavt_fast": `CriticManifest` as JSON
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from bavt_fast._checks import as_count
from bavt_fast._files import replaced
from bavt_fast._optional import needs

with needs("torch", __name__):
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save
    from torch import Tensor

    from bavt_fast.critics.value_head import ContextReader, HiddenStateCritic, ResidualValuePredictor, head_shapes

__all__ = ["CriticManifest", "check_model", "check_out", "load_critic", "read_manifest", "save_critic"]

FORMAT = 1
PROBE = "1 2 3 4 = (a b c"
"""The text whose last state is the probe: words of most tokenizers, among them those of small ones."""
LEAST_COSINE = 0.98
"""Of two probes of one model: half precision changes the fourth digit, another model everything."""
LAST = "last"
"""The last layer's states, behind the final norm."""
_KEY = "bavt_fast"
_LAYERS = [torch.nn.Linear, torch.nn.ReLU, torch.nn.Linear]


class _Model(Protocol):
    """A `TorchModel`, or a generator over a server that hands over hidden states.

    Its ``hidden_layer`` says which layer's they are; without one it is the last's, behind the final norm.
    """

    def encode(self, text: str) -> Any:
        """(1, H): the state of the text's last token."""
        ...


@dataclass(frozen=True)
class CriticManifest:
    """What a critic was trained for.

    Attributes:
        model: its name, for people.
        hidden_size: H.
        layer: the states that it reads: "last" for the last layer's behind the final norm, a
            number for that layer's output.
        task: its name, for people and for `load_critic`.
        predicts: "value", "residual" or "logit", as `HiddenStateCritic` has them.
        reads: "step", the state that a step left behind, or "context", the one at the end of a node's context.
        figures: how good it was on held-out questions, and what its training took: what JSON can hold, and NumPy's and
            torch's numbers.

    Raises:
        TypeError, ValueError: an entry is not what it should be.
    """

    model: str
    hidden_size: int
    task: str
    predicts: Literal["value", "residual", "logit"]
    layer: str = LAST
    reads: Literal["step", "context"] = "step"
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "task", "layer"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: expected a str, got {getattr(self, name)!r:.80}")
        size = as_count("hidden_size", self.hidden_size, minimum=1, maximum=1 << 20)
        object.__setattr__(self, "hidden_size", size)
        for name, wanted in (("predicts", ("value", "residual", "logit")), ("reads", ("step", "context"))):
            if getattr(self, name) not in wanted:
                raise ValueError(f"{name}: expected {' or '.join(wanted)}, got {getattr(self, name)!r:.40}")
        if not isinstance(self.figures, Mapping):
            raise TypeError(f"figures: expected a mapping of names, got {self.figures!r:.80}")


def save_critic(path: str | os.PathLike[str], head: torch.nn.Module, manifest: CriticManifest, model: _Model) -> None:
    """Writes the file, whole or not at all.

    Args:
        head: a `ResidualValuePredictor`.
        model: the `TorchModel` that it was trained for, or a generator over a server with its hidden states.

    Raises:
        TypeError: an argument is something else, or JSON cannot hold a figure.
        ValueError: head and manifest do not fit the model, or a weight is not finite.
        OSError: the file cannot be written.
    """
    if not isinstance(head, torch.nn.Module):
        raise TypeError(f"head: expected a ResidualValuePredictor, got {head!r:.80}")
    if not isinstance(manifest, CriticManifest):
        raise TypeError(f"manifest: expected a CriticManifest, got {manifest!r:.80}")
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in head.state_dict().items()}
    width = getattr(head, "hidden_dim", None)
    probe = _probe(model)
    if not manifest.hidden_size == width == len(probe):
        raise ValueError(
            f"head: expected the model's width of {len(probe)}, got a head of width {width} and a manifest that "
            f"says {manifest.hidden_size}"
        )
    layers = [type(layer) for part in head.children() for layer in part.children()]
    if _shapes(weights) != head_shapes(manifest.hidden_size) or layers != _LAYERS:
        raise TypeError(
            f"head: expected the layers of a ResidualValuePredictor, which is what is loaded, got {head!r:.200}"
        )
    if manifest.layer != _layer_of(model):
        raise ValueError(
            f"manifest: expected the layer of the model's states, {_layer_of(model)!r}, got {manifest.layer!r}"
        )
    if (name := _not_finite(weights)) is not None:
        raise ValueError(f"head: expected finite weights, got NaN or infinity in {name}")
    weights["probe"] = probe
    text = json.dumps(_strict({"format": FORMAT, "probe_text": PROBE, **asdict(manifest)}), allow_nan=False)
    with replaced(Path(path)) as file:
        file.write(save(weights, metadata={_KEY: text}))


def check_model(model: _Model) -> None:
    """Raises TypeError or ValueError where `save_critic` would: for what is no model, or does not read the probe."""
    _probe(model)


def check_out(path: str | os.PathLike[str]) -> None:
    """Before what a file is to hold is worked out: raises OSError where `save_critic` could not write it.

    FileExistsError where something else than a critic stands there, such as the weights of the model.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, got a folder", str(path))
    if target.is_file() and target.stat().st_size and not _is_critic(target):
        raise FileExistsError(errno.EEXIST, "expected a new file or that of a critic, got something else", str(path))
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read_manifest(path: str | os.PathLike[str]) -> CriticManifest:
    """What a critic's file says of itself.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a critic's file, or of another format.
    """
    return _read(path)[0]


def load_critic(
    path: str | os.PathLike[str], model: _Model, *, task: str | None = None, reader: ContextReader | None = None
) -> HiddenStateCritic:
    """The critic of a file, for the model that it was trained for.

    Args:
        model: a `TorchModel`, or a generator over a server with its hidden states (``hidden_layer``).
        task: the name of the task that it is wanted for; None for any.
        reader: the generator of the search, for a critic that reads contexts; the others do without.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it reads contexts, and there is no reader.
        ValueError: it is not a critic's file; or it was trained for another model, other states or another task. Both
            are named.
    """
    manifest, weights = _read(path)
    if task is not None and task != manifest.task:
        raise ValueError(f"critic: expected one trained for the task {task!r}, got one for {manifest.task!r} in {path}")
    if manifest.reads == "context" and reader is None:
        raise TypeError(
            f"reader: expected the generator of the search, for the critic in {path} reads contexts; got None"
        )
    if manifest.layer != _layer_of(model):
        raise ValueError(
            f"critic: expected one for states of layer {_layer_of(model)!r} ({model!r}), got one for layer "
            f"{manifest.layer!r} of {manifest.model!r} in {path}"
        )
    probe = _probe(model)
    if manifest.hidden_size != len(probe):
        raise ValueError(
            f"critic: expected one for states of width {len(probe)} ({model!r}), got one of width "
            f"{manifest.hidden_size} for {manifest.model!r} in {path}"
        )
    likeness = float(torch.cosine_similarity(probe, weights.pop("probe"), dim=0))
    if not likeness >= LEAST_COSINE:
        raise ValueError(
            f"critic: expected one trained on the states of {model!r}, got one for {manifest.model!r} in {path}, whose "
            f"states are others (cosine {likeness:.3f}, expected at least {LEAST_COSINE})"
        )
    head = ResidualValuePredictor(manifest.hidden_size)
    head.load_state_dict(weights)
    return HiddenStateCritic(head, manifest.predicts, reader=reader if manifest.reads == "context" else None)


def _strict(value: Any) -> Any:
    """As JSON has it: null for NaN and infinity. Raises TypeError for what it cannot hold."""
    if isinstance(value, Mapping):
        return {str(name): _strict(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        return _strict(value.tolist())
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"figures: expected numbers, texts, lists and mappings of them, got {value!r:.80}")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _probe(model: _Model) -> Tensor:
    if isinstance(model, (str, type)) or not callable(getattr(model, "encode", None)):
        raise TypeError(
            "model: expected a TorchModel, or a generator over a server with its hidden states, got "
            f"{model!r:.80}; for a generator of torch take TorchModel(generator.model, generator.tokenizer)"
        )
    try:
        state = model.encode(PROBE)[0]
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, ValueError):  # tokenizers raise the plain one
            raise
        raise ValueError(
            f"model: expected one that reads {PROBE!r}, by which a critic knows it, got: {error}"
        ) from error
    return torch.as_tensor(state).detach().float().cpu().clone()


def _layer_of(model: _Model) -> str:
    """As `CriticManifest.layer` has it."""
    layer: str | None = getattr(model, "hidden_layer", None)
    return LAST if layer is None else layer


def _read(path: str | os.PathLike[str]) -> tuple[CriticManifest, dict[str, Tensor]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"critic: expected a file, got {path}; train one with `bavt-fast train critic`")
    try:
        with safe_open(path, framework="pt") as file:
            manifest = _manifest((file.metadata() or {}).get(_KEY))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"critic: {path} is not a critic's file ({error})") from error
    wanted, found = {**head_shapes(manifest.hidden_size), "probe": (manifest.hidden_size,)}, _shapes(weights)
    if found != wanted:
        raise ValueError(f"critic: {path} is not a critic's file (expected weights {wanted}, got {found!r:.300})")
    if (name := _not_finite(weights)) is not None:
        raise ValueError(
            f"critic: {path} is not a critic's file (expected finite weights and probe, got NaN or infinity in {name})"
        )
    return manifest, weights


def _is_critic(path: Path) -> bool:
    """Whether it says so; it may be of another version, or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return _KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The first that holds something else than finite numbers."""
    return next((name for name, weight in weights.items() if not weight.isfinite().all()), None)


def _manifest(text: str | None) -> CriticManifest:
    if text is None:
        raise ValueError("no manifest")
    values = json.loads(text)
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"expected a manifest of format {FORMAT}")
    if values.pop("probe_text", None) != PROBE:
        raise ValueError(f"expected a probe of {PROBE!r}")
    values.setdefault("reads", "step")  # files from before there was a choice
    names = {entry.name for entry in fields(CriticManifest)}
    if set(values) != names:
        raise ValueError(f"expected a manifest of {', '.join(sorted(names))}, got {', '.join(sorted(values)):.200}")
    return CriticManifest(**cast(Any, values))
