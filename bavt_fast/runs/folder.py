"""The folder of a run.

run.json         what is searched, and how: a run goes on only with the same
questions.jsonl  the questions as they were read, those of broken lines left out
results.jsonl    a line for each question that is finished
journal          what was answered so far (`bavt_fast.runs.journal`)
searches/        the searches that are finished, where they are kept
lock             held by the process that works here
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from bavt_fast._checks import as_count
from bavt_fast._files import AppendedFile, encoded, locked, replaced, whole_lines
from bavt_fast.budget import Spent
from bavt_fast.runs.questions import Row

__all__ = ["RunError", "RunFolder", "is_run", "read_run"]

FORMAT = 1
_OWN = ("run.json", "questions.jsonl", "results.jsonl", "journal", "searches", "lock")


class RunError(RuntimeError):
    """A run that cannot begin or go on: its folder is in use or of another run, or its disk is full."""


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is that of a run."""
    return Path(folder, "run.json").is_file()


def read_run(folder: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The lines of the results of a run, also of one that is under way, in the order in which they came.

    Raises:
        OSError: there is no run.
    """
    with open(Path(folder, "run.json"), "rb"):
        pass
    for line in _lines(Path(folder, "results.jsonl")):
        if line.result is not None:
            yield line.result


class RunFolder:
    """Holds the folder of a run, alone, until it is closed.

    Args:
        folder: made where it is missing.

    Raises:
        RunError: another run works in it, or it has files of something else, or is no folder.
        OSError: it cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"folder: expected a folder's name, got {folder!r:.80}")
        self.path = Path(folder).absolute()  # also where the process goes to another folder meanwhile
        if os.path.lexists(self.path) and not self.path.is_dir():
            what = "a link that leads nowhere" if self.path.is_symlink() and not self.path.exists() else "a file"
            raise RunError(f"{self.path}: expected the folder of a run, or an empty one, got {what}")
        if self.path.is_dir() and not is_run(self.path):
            names = {entry.name for entry in self.path.iterdir() if not entry.name.startswith(".bavt-")}
            # A run that was killed as it began left its lock. Without one, questions.jsonl is somebody's own.
            foreign = sorted(names - {*_OWN} if "lock" in names else names)
            if foreign:
                raise RunError(f"{self.path}: expected the folder of a run, or an empty one, got one with {foreign[0]}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = weakref.finalize(self, os.close, self._locked())
        self._results: AppendedFile | None = None

    def _locked(self) -> int:
        for again in (True, False):
            try:
                return locked(self.path / "lock")
            except BlockingIOError:
                process = (self.path / "lock").read_text().strip()
                is_ours = process == str(os.getpid())
                if is_ours and again:
                    gc.collect()  # one that nobody has any more
                    continue
                who = " (one of this process); close() it" if is_ours else f" (process {process}); wait for it"
                raise RunError(f"{self.path}: another run works in it" + who * bool(process)) from None
        raise AssertionError("the last attempt returns or raises")

    def _has(self, name: str) -> bool:
        path = self.path / name
        return path.exists() and path.stat().st_size > 0

    # ---- what is searched

    def begin(self, about: Mapping[str, Any], rows: Iterable[Row]) -> int:
        """Notes what is searched, or finds that it is what was begun here; how many questions there are.

        Raises:
            RunError: it is not; with the first difference.
        """
        if is_run(self.path):
            return self._same(about, rows)
        left = [name for name in ("results.jsonl", "journal") if self._has(name)]
        if left:
            raise RunError(f"{self.path}: expected run.json beside {left[0]}, got none; use another folder")
        count = 0
        with replaced(self.path / "questions.jsonl") as file:
            for row in rows:
                file.write(row.to_json().encode() + b"\n")
                count += 1
        with replaced(self.path / "run.json") as file:
            file.write(json.dumps({"format": FORMAT, "questions": count, **about}, indent=2).encode() + b"\n")
        return count

    def _same(self, about: Mapping[str, Any], rows: Iterable[Row]) -> int:
        try:
            began = json.loads((self.path / "run.json").read_bytes())
            count = as_count("questions", began.pop("questions"))
            found = began.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise RunError(
                f"{self.path / 'run.json'}: expected what a run wrote, got something else ({error})"
            ) from error
        if found != FORMAT:
            raise RunError(f"{self.path}: expected a run of format {FORMAT}, got {found!r:.40}; use another folder")
        was, now = _flat(began), _flat(json.loads(json.dumps(about)))
        for name in [*now, *was]:
            if was.get(name, _ABSENT) != now.get(name, _ABSENT):
                raise self._differs(name, _shown(was, name), _shown(now, name))
        there = 0
        for old, new in itertools.zip_longest(self.rows(), rows):
            if old is None or new is None or not old.is_same(new):
                raise self._differs(f"questions: line {(new or old).line}", _row(old), _row(new))
            there += 1
        if there != count:
            raise RunError(
                f"{self.path / 'questions.jsonl'}: expected {count} questions, which run.json says, got {there}"
            )
        return count

    def _differs(self, what: str, was: str, now: str) -> RunError:
        was, now = _where_apart(was, now)
        return RunError(
            f"{what}: expected {was}, with which this run began, got {now}; go on with that, or begin another run in "
            f"another folder than {self.path}"
        )

    def rows(self) -> Iterator[Row]:
        """The questions, in order."""
        with open(self.path / "questions.jsonl", "rb") as file:
            for line in file:
                try:
                    row = Row.from_json(line)
                except (ValueError, TypeError) as error:
                    raise RunError(f"{file.name}: expected what a run wrote, got {line!r:.60}") from error
                yield row

    # ---- what is finished

    def open_results(self, count: int, drop_errors: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
        """(number of the question, its line) of each result that is there. What a kill has cut is taken out.

        So are whole lines that are no results, with a warning: no kill leaves them.

        Args:
            drop_errors: take those of questions that failed out of the file, too.
        """
        path = self.path / "results.jsonl"
        numbers = {row.id: number for number, row in enumerate(self.rows())} if path.exists() else {}
        seen = bytearray(count)
        end, is_whole, damaged = 0, True, 0
        for line in _lines(path):
            damaged += line.result is None
            number = None if line.result is None else numbers.get(line.result["id"])
            if line.result is None or number is None or seen[number]:
                is_whole = False
                continue
            seen[number] = 1
            end = line.end
            is_whole = is_whole and not (drop_errors and "error" in line.result)
            yield number, line.result
        if damaged:
            warnings.warn(
                f"{path}: damaged; {damaged} of its lines are no results and are left out. Their questions are "
                "searched again; what they had spent and the journal does not have is not known",
                stacklevel=3,
            )
        if not is_whole:
            self._rewrite_results(path, numbers, drop_errors)
            end = path.stat().st_size
        self._results = AppendedFile(path, end)

    def _rewrite_results(self, path: Path, numbers: Mapping[Any, int], drop_errors: bool) -> None:
        """Without the lines that are none, as a machine that stopped may leave them, and without a second of one id."""
        seen = set()
        with replaced(path) as file:
            for line in _lines(path):
                if line.result is None or (drop_errors and "error" in line.result):
                    continue
                name = line.result["id"]
                if name in numbers and name not in seen:
                    seen.add(name)
                    file.write(encoded(line.result) + b"\n")

    def write_result(self, line: Mapping[str, Any]) -> None:
        """Raises OSError where there is no room; the file is as it was."""
        assert self._results is not None, "open_results() comes before"
        self._results.append(encoded(line) + b"\n")

    def sync_results(self) -> None:
        if self._results is not None:
            self._results.sync()

    def search_file(self, row: Row) -> Path:
        """Where the search of a question is kept, each in a file of its own; the folder is made."""
        folder = self.path / "searches"
        folder.mkdir(exist_ok=True)
        name = quote(str(row.id), safe=" ,;=@+()[]{}", errors="surrogatepass")
        if not name or len(name) > 200 or name.startswith("."):
            name = f"line {row.line}"
        elif name.startswith("line "):  # as a question is called whose id is no name
            name = name.replace(" ", "%20")
        return folder / f"{name}.bavt"

    @property
    def is_closed(self) -> bool:
        return not self._lock.alive

    def close(self) -> None:
        """Lets the folder go; may be called again."""
        if self._results is not None:
            self._results.close()
        self._lock()


class _Line(NamedTuple):
    end: int
    result: dict[str, Any] | None  # None for a line that is no result


def _lines(path: Path) -> Iterator[_Line]:
    for end, line in whole_lines(path):
        try:
            result = json.loads(line)
        except (ValueError, RecursionError):
            result = None
        yield _Line(end, result if _is_result(result) else None)


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("id"), (str, int)):
        return False
    try:
        Spent(**result["spent"])
    except (KeyError, TypeError, ValueError):
        return False
    return True


_ABSENT = object()
_SHOWN = 200  # characters of what differs


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``{"a.b": value}`` for ``{"a": {"b": value}}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "none"


def _row(row: Row | None) -> str:
    return "no more questions" if row is None else row.to_json()


def _where_apart(was: str, now: str) -> tuple[str, str]:
    """Two texts, of long ones a part with their first difference."""
    same = next((at for at, (one, other) in enumerate(zip(was, now, strict=False)) if one != other), len(was))
    begin = 0 if same < _SHOWN else same - _SHOWN // 2
    before = "..." if begin else ""
    return before + was[begin : begin + _SHOWN], before + now[begin : begin + _SHOWN]
