"""Files that hold one search as it stands: its tree, account, steps and open asks, everything but states and models.

    magic 8 | version u32 | 0 u32 | bytes of the JSON u64 | bytes of the native part u64 | JSON | native part |
    blake2b-128 of all before it

The native part is a snapshot of the engine's question (`csrc/engine/question_snapshot.cpp`); the JSON holds what Python
keeps beside it. States are not stored: a load makes them again by replaying `Task.apply`, so nothing is ever unpickled,
and the task is not asked again what it said of them. Nothing read is trusted.

The JSON is UTF-8 that may hold lone surrogates, as texts may; an escape would make two of them one character. Numbers
may be NaN or infinite, as log-probabilities may.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bavt_fast._core import SnapshotError
from bavt_fast.protocols import Step

__all__ = ["VERSION", "dump_step", "load_step", "read", "write"]

VERSION = 1
_MAGIC = b"BAVTSRCH"
_HEADER = struct.Struct("<8sIIQQ")
_DIGEST_BYTES = 16
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def write(path: str | os.PathLike[str], record: dict[str, Any], native: bytes) -> None:
    """Writes a checkpoint. It appears under its path when it is whole and on the disk.

    Raises:
        OSError: the file cannot be written, or what stands there is not a file; it stands there still.
        TypeError: the record holds what JSON has no form for.
    """
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    whole = _HEADER.pack(_MAGIC, VERSION, 0, len(text), len(native)) + text + native
    whole += hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).digest()
    target = Path(path)
    _require_file(target)
    handle, temporary = tempfile.mkstemp(prefix=".bavt-", suffix=".tmp", dir=target.parent)
    try:
        with open(handle, "wb") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _require_file(target: Path) -> None:
    """A rename would put a file in the place of a device or a pipe."""
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "expected a regular file, got a device or a pipe", str(target))


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is; not every file system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """The record and the native part of a checkpoint.

    Raises:
        OSError: the file cannot be read, or is not a file.
        SnapshotError: it is not a checkpoint, is damaged, or of another version.
    """
    _require_file(Path(path))
    whole = Path(path).read_bytes()
    if len(whole) < _HEADER.size + _DIGEST_BYTES or not whole.startswith(_MAGIC):
        raise SnapshotError("checkpoint: expected a file that Search.save wrote, got something else")
    _, version, reserved, text_bytes, native_bytes = _HEADER.unpack_from(whole)
    if version != VERSION:
        raise SnapshotError(
            f"checkpoint: expected version {VERSION}, got {version}; load it with the bavt_fast that saved it"
        )
    body, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if reserved or len(body) != _HEADER.size + text_bytes + native_bytes:
        raise SnapshotError("checkpoint: truncated, or with bytes left over")
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise SnapshotError("checkpoint: damaged, its checksum does not match")
    end = _HEADER.size + text_bytes
    record = checked(lambda: json.loads(body[_HEADER.size : end].decode("utf-8", "surrogatepass")))
    if not isinstance(record, dict):
        raise SnapshotError(f"checkpoint: expected a record, got {type(record).__name__}")
    return record, body[end:]


def checked(make: Callable[[], Any]) -> Any:
    """What `make` makes of a record; whatever it trips over is a fault of the record."""
    try:
        return make()
    except SnapshotError:
        raise
    except _FAULTS as error:
        raise SnapshotError(f"checkpoint: damaged ({type(error).__name__}: {error})") from error


def dump_step(step: Step) -> list[Any]:
    """A step as JSON, without its hidden state."""
    return [
        step.text,
        step.tokens,
        step.finish_reason,
        step.prompt_tokens,
        step.tool_calls,
        step.cost,
        step.seconds,
        [int(token) for token in step.token_ids],
        [float(probability) for probability in step.token_probabilities],
        None if step.log_probability is None else float(step.log_probability),
        step.cached_tokens,
    ]


def load_step(fields: Sequence[Any]) -> Step:
    """The step of `dump_step`, not yet checked."""
    text, tokens, finish_reason, prompt_tokens, tool_calls, cost, seconds, *rest = fields
    ids, probabilities, log_probability, cached_tokens = rest
    numbers = [*probabilities, 0.0 if log_probability is None else log_probability]
    if not all(type(i) is int for i in ids) or not all(type(p) is float for p in numbers):
        raise SnapshotError("checkpoint: damaged (token ids or probabilities of a step are not numbers)")
    return Step(
        text,
        tokens,
        finish_reason,
        prompt_tokens,
        tool_calls,
        cost,
        seconds,
        None,
        tuple(ids),
        tuple(probabilities),
        log_probability,
        cached_tokens,
    )
