"""How the command line's own process starts and ends, faster than Python does by itself.

None of this is for a program that imports the package: it holds for a whole process, from its first line to its last.
So nothing happens before `begin`, as in a test that calls a command.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

__all__ = ["begin", "end", "loading"]


_is_ours = False


def begin() -> None:
    """To be called before torch is imported: its threads sleep while they wait, unless the user wants otherwise.

    See `bavt_fast.threads`. What the terminal's encoding lacks is written as an escape: a model writes any character.
    Where the shell closed standard output, writing to it fails, as on a disk that is full.
    """
    global _is_ours
    _is_ours = True
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.stdout is None:  # Python would let all that is printed go nowhere
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115 (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # it is None where the shell closed it
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def loading() -> Iterator[None]:
    """Around the imports and the loading of a model: what they make lives to the end, and is not searched for garbage.

    torch and transformers make a million objects; to look through them again and again is a quarter of the start.
    """
    if not _is_ours:
        yield
        return
    gc.disable()
    try:
        _import_lightly()
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_lightly() -> None:
    """Imports torch and transformers without two things that a search does not need, an eighth of the start."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError:
        return  # the command says so, where it needs them
    if not torch.accelerator.is_available():
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type] # torch imports it where it finds it
    _leave_models_unread(transformers)


def _leave_models_unread(transformers: Any) -> None:
    """transformers has just read 2,500 files to list its models, and reads them again for its package ``models``.

    That package is put in its place without running, and finds what is asked of it by the first list.
    """
    name = "transformers.models"
    spec = importlib.util.find_spec(name)
    if spec is None or name in sys.modules:
        return

    def find(attribute: str) -> Any:
        try:
            return importlib.import_module(f"{name}.{attribute}")
        except ModuleNotFoundError:
            return getattr(transformers, attribute)

    module = importlib.util.module_from_spec(spec)
    module.__getattr__ = find  # type: ignore[method-assign]
    sys.modules[name] = module


def end(code: int) -> NoReturn:
    """Ends the process without taking its modules apart, which takes 0.4 s and which the system does better.

    What was registered with `atexit` runs, and what was printed is written.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is None where the shell closed it
            with suppress(OSError):  # what can be said of it was said
                stream.flush()
    os._exit(code)
