"""Files that a kill leaves whole: what is appended is there or not, what is replaced is old or new."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["AppendedFile", "encoded", "locked", "replaced", "whole_lines"]


def encoded(record: Any) -> bytes:
    """One line of JSON in UTF-8, without its end."""
    try:
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a character, as texts of models may have: only an escape can hold it
        return json.dumps(record, separators=(",", ":")).encode()


class AppendedFile:
    """A file that only grows. An append that fails leaves it as it was.

    Args:
        end: what of the file is good, in bytes; the rest is cut off. None for all of it.

    Raises:
        OSError: it cannot be opened for writing.
    """

    def __init__(self, path: Path, end: int | None = None) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.end = os.fstat(self._descriptor).st_size
        self._is_torn = False  # whether there may be something behind the end
        if end is not None and end < self.end:
            os.ftruncate(self._descriptor, end)
            self.end = end

    def append(self, data: bytes) -> None:
        """Writes the data behind what is there. Raises OSError, naming the file, where there is no room.

        Where Ctrl-C breaks in, `end` says whether the data is there.
        """
        left, end = memoryview(data), self.end + len(data)
        try:
            self._mend()
            self._is_torn = True
            while left:
                left = left[os.write(self._descriptor, left) :]
            self.end, self._is_torn = end, False
        except BaseException as error:
            with contextlib.suppress(OSError):
                self._mend()
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise

    def _mend(self) -> None:
        """Cuts off what an append left that was broken off."""
        if self._is_torn:
            os.ftruncate(self._descriptor, self.end)
            self._is_torn = False

    def sync(self) -> None:
        """What was appended is on the disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
                raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Closes the file; may be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def replaced(path: Path) -> Iterator[Any]:
    """A file to write bytes into, which takes the place of `path` at the end, whole and on the disk.

    Of a link it is the file that it leads to. A file that is there keeps its permissions.

    Raises:
        OSError: naming `path`.
    """
    temporary = None
    try:
        target = Path(os.path.realpath(path))
        handle, temporary = tempfile.mkstemp(prefix=".bavt-", suffix=".tmp", dir=target.parent)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError) and ".bavt-" in str(error.filename or ".bavt-"):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _sync_folder(target.parent)


def _mode_of(path: Path) -> int:
    """The permissions of a file; of one that is not there those of any new one."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def _sync_folder(folder: Path) -> None:
    """A rename is on the disk once its folder is; not every file system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def locked(path: Path) -> int:
    """A descriptor that holds the lock of a file, which is made; the lock ends with it, however this process ends.

    Raises:
        BlockingIOError: somebody holds it.
        OSError: the file cannot be made, or written; it is named.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException as error:
        os.close(descriptor)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    return descriptor


def whole_lines(path: Path, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """(end in bytes, line) of the lines of a file that have an end, from a byte on; none where there is no file."""
    end = begin
    try:
        file = open(path, "rb")  # noqa: SIM115 (see below)
    except FileNotFoundError:
        return
    with file:
        file.seek(begin)
        for line in file:
            end += len(line)
            if line.endswith(b"\n"):
                yield end, line[:-1]
