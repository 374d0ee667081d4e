"""What a run leaves on disk, and what it makes of files that were cut, damaged or could not be written."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from run_worlds import BUDGET, Mortal, completed, one_life, questions, results, searcher

import bavt_fast as bavt
from bavt_fast.protocols import Step
from bavt_fast.runs import Run, RunError, read_run


def test_a_result_that_a_kill_cut_is_written_again(tmp_path: Path) -> None:
    rows = questions(6)
    completed(tmp_path / "whole", rows)
    one_life(tmp_path / "out", rows, 36)
    path = tmp_path / "out" / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) >= 2
    for tail in (lines[-1][:-1], lines[-1][:20], b"{", b"\0" * 30 + b"\n", b'{"id": "id-5"}\n' + lines[0]):
        path.write_bytes(b"".join(lines[:-1]) + tail)
        is_damaged = b"\n" in tail  # no kill leaves such a line
        said = pytest.warns(UserWarning, match=rf"{path}: damaged; 1 of its lines") if is_damaged else nullcontext()
        with said, Run(tmp_path / "out", searcher(), rows, budget=BUDGET) as run:
            assert run.progress().finished == len(lines) - 1
        assert path.read_bytes() == b"".join(lines[:-1])
    completed(tmp_path / "out", rows)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_what_damage_cuts_off_a_journal_is_said_and_counted(tmp_path: Path) -> None:
    rows, tokens = questions(6), 0

    class Counts(Mortal):
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            nonlocal tokens
            answers = super().propose(states, counts, limits)
            tokens += sum(step.tokens for steps in answers for step in steps)
            return answers

    Counts.__qualname__ = "Mortal"

    def life(total: int) -> Any:
        made = searcher(Counts(), max_step_tokens=6, wave=4)
        return completed(tmp_path, rows, made, total=bavt.Budget(tokens=total))

    first = life(400)
    assert (first.end, first.lost_asks, tokens > 380) == ("total", 0, True)
    path = tmp_path / "journal"
    text = bytearray(path.read_bytes())
    text[text.index(b"\n= ", len(text) // 3) - 1] ^= 1
    path.write_bytes(text)
    with pytest.warns(UserWarning, match=rf"{path}: damaged at byte \d+; .*: \d+ bytes, with \d+ answers") as said:
        second = life(400)
    assert f"with {second.lost_asks} answers" in str(said[0].message)
    assert (second.end, second.lost_asks > 10, tokens <= 400) == ("total", True, True)
    assert life(10**6).lost_asks == second.lost_asks


def test_a_journal_that_is_compacted_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bavt_fast.runs import journal

    rows = questions(30)
    completed(tmp_path / "whole", rows)
    monkeypatch.setattr(journal, "COMPACT_BYTES", 2_000)
    sizes = []
    for calls in (7, 11, 13, 60):
        one_life(tmp_path / "out", rows, calls)
        sizes.append((tmp_path / "out" / "journal").stat().st_size)
    completed(tmp_path / "out", rows)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert (tmp_path / "out" / "journal").stat().st_size < 100
    assert not list((tmp_path / "out").glob(".bavt-*"))


def test_searches_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    rows = [{"id": name, "question": "q"} for name in ("plain", "a/b", "..", ".hidden", "ü", "x" * 300)]
    completed(tmp_path, rows, keep=True)
    kept = sorted((tmp_path / "searches").iterdir())
    assert len(kept) == len(rows)
    pictures = bavt.view.pictures(tmp_path)
    assert len(pictures) == len(rows)
    assert {picture.question for picture in pictures} == {"q"}


def test_no_two_searches_are_kept_in_one_file(tmp_path: Path) -> None:
    names = ["line 2", "x" * 300, "line%202", "line 5", "", "\ud800", "\\ud800", ".hidden", "y" * 201, "%2Ehidden"]
    completed(tmp_path, [{"id": name, "question": f"q{i}"} for i, name in enumerate(names)], keep=True)
    kept = {bavt.view.picture(path).question for path in (tmp_path / "searches").iterdir()}
    assert kept == {f"q{i}" for i in range(len(names))}


class FullDisk:
    """Stands for ``os.write``: takes so many bytes, then says that there is no room."""

    def __init__(self, room: int, write: Any) -> None:
        self.room, self.write = room, write

    def __call__(self, descriptor: int, data: Any) -> int:
        taken = min(len(data), self.room)
        if taken == 0:
            raise OSError(28, "No space left on device")
        self.room -= taken
        return int(self.write(descriptor, data[:taken]))


@pytest.mark.parametrize("room", [0, 10, 1_000, 5_000])
def test_a_full_disk_ends_with_one_error_and_goes_on_later(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    rows = questions(8)
    completed(tmp_path / "whole", rows)
    with Run(tmp_path / "out", searcher(), rows, budget=BUDGET) as run:
        with monkeypatch.context() as patched:
            patched.setattr("bavt_fast._files.os.write", FullDisk(room, os.write))
            with pytest.raises(RunError, match="No space left on device; what was answered before is kept") as failed:
                list(run)
        with pytest.raises(ValueError, match="make it again to go on"):
            list(run)
        assert str(tmp_path / "out") in str(failed.value)
        assert run.summary().end == "interrupted"
    completed(tmp_path / "out", rows)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_disk_that_is_full_as_a_run_begins_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bavt_fast._files.os.pwrite", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*lock'"):
        Run(tmp_path, searcher(), questions(2), budget=BUDGET)


def test_a_run_stays_in_its_folder_where_its_process_goes_to_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere" / "out"  # what the run's folder is called from there
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    rows = questions(12)
    with Run("out", searcher(), rows, budget=BUDGET, keep=True) as run:
        lines = iter(run)
        next(lines)
        monkeypatch.chdir(elsewhere.parent)
        next(lines)
        lines.close()
        list(run)
    assert not [*elsewhere.iterdir()]
    assert (len(results(tmp_path / "out")), len([*(tmp_path / "out" / "searches").iterdir()])) == (12, 12)


def test_lines_are_json(tmp_path: Path) -> None:
    def odd(text: str, count: int) -> list[Step]:
        return [Step("lone \ud800 and \u2028\n", 3)]

    completed(tmp_path, [{"id": 1, "question": "q \ud83d"}], bavt.Searcher(odd), budget=bavt.Budget(tokens=9))
    assert len(list(read_run(tmp_path))) == 1
    for name in ("questions.jsonl", "results.jsonl"):
        (line,) = (tmp_path / name).read_text(encoding="utf-8").split("\n")[:-1]
        json.loads(line)
