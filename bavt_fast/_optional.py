"""Names that need an optional package: absent where it is not installed, and asking for one says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

__all__ = ["has_torch", "load"]

_OPTIONAL = ("torch", "transformers", "tokenizers", "safetensors", "triton")


def has_torch() -> bool:
    """Whether torch is installed, without importing it."""
    try:
        return importlib.util.find_spec("torch") is not None
    except ValueError:  # a module without a spec stands in for it
        return True


def load(owner: str, name: str, homes: Mapping[str, str]) -> Any:
    """The value of `name`, from the module that `homes` gives for it; for the ``__getattr__`` of the module `owner`.

    Raises:
        AttributeError: there is no such name, or it needs what is not installed. Never an ImportError for that, which
            ``hasattr`` and everything that looks over a module's names would not expect.
    """
    if name not in homes:
        raise AttributeError(f"module {owner!r} has no attribute {name!r}", name=name)
    try:
        importlib.import_module("torch")
        return getattr(importlib.import_module(homes[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        raise AttributeError(
            f"{owner}.{name} needs {error.name}; install it with: pip install 'bavt_fast[torch]'",
            name=name,
        ) from error
