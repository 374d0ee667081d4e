"""What needs an optional package: where it is not installed, names are absent, and errors say what to install."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["has_torch", "load", "needs"]

_OPTIONAL = ("torch", "transformers", "tokenizers", "safetensors", "triton")


def has_torch() -> bool:
    """Whether torch is installed, without importing it."""
    try:
        return importlib.util.find_spec("torch") is not None
    except ValueError:  # a module without a spec stands in for it
        return True


@contextmanager
def needs(extra: str, user: str) -> Iterator[None]:
    """Imports of `user` stand in it: where one finds no package, the error says which extra brings it.

    Raises:
        ModuleNotFoundError: as the import did, with that said.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "bavt_fast"):
            raise
        raise ModuleNotFoundError(
            f"{user} needs {package}; install it with: pip install 'bavt_fast[{extra}]'", name=error.name
        ) from error


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
