"""What a run refuses: broken lines, another run's folder or questions, a folder in use, and what it says of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_worlds import BUDGET, Mortal, completed, one_life, questions, results, searcher, written
from scripted import World

import bavt_fast as bavt
from bavt_fast.runs import Run, RunError

BROKEN = [
    ("not json", "line 2: expected a JSON object"),
    ("[1]", "line 2: expected an object with id and question, got [1]"),
    ('{"question": "q"}', "line 2: expected id and question, got none for id"),
    ('{"id": true, "question": "q"}', "line 2: id: expected a str or an int, got True"),
    ('{"id": 2, "question": " "}', "line 2: question: expected a str that says something"),
    ('{"id": 2, "question": "q", "budget_tokens": 0}', "line 2: budget_tokens: expected an integer of at least 1"),
    ('{"id": 2, "question": "q", "seed": -1}', "line 2: seed: expected an integer from 0"),
    ('{"id": 2, "question": "q", "answer": []}', "line 2: answer: expected a str or a number"),
    ('{"id": "1", "question": "q"}', "line 2: id: expected each once, got '1' again, of line 1"),
    ("[" * 100_000, "line 2: "),
]


@pytest.mark.parametrize(("line", "said"), BROKEN)
def test_broken_lines_are_named_and_the_others_run(line: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, [{"id": 1, "question": "q"}, line, "", {"id": 3, "question": "q"}])
    summary = completed(tmp_path / "out", path)
    assert (summary.finished, [broken.line for broken in summary.broken]) == (2, [2])
    assert said in str(summary.broken[0])
    assert set(results(tmp_path / "out")) == {1, 3}
    with pytest.raises(ValueError, match="questions: line 2: "):
        Run(tmp_path / "strict", searcher(), path, budget=BUDGET, strict=True)
    assert not (tmp_path / "strict" / "run.json").exists()


def test_a_line_that_is_not_utf8_and_a_mark_before_the_first(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "question": "q"}\r\n{"id": 2, "question": "\xff"}\n')
    with Run(tmp_path / "out", searcher(), path, budget=BUDGET) as run:
        assert [str(line) for line in run.broken] == ["line 2: expected UTF-8, got b'\\xff' at byte 23"]
        assert run.progress().questions == 1
    path.write_text('{"id": 1, "question": "q"}\n{"id": 2, "question": "q"}\n', encoding="utf-16")
    with Run(tmp_path / "wide", searcher(), path, budget=BUDGET) as run:
        assert "line 1: expected UTF-8, got b'\\xff' at byte 0 of what may be UTF-16" in str(run.broken[0])
        assert run.progress().questions == 0


def test_a_question_that_the_task_cannot_read_is_a_broken_line(tmp_path: Path) -> None:
    from bavt_fast.tasks.countdown import Countdown

    made = bavt.Searcher(lambda text, count: ["x"], task=Countdown())
    with Run(tmp_path, made, [{"id": 1, "question": "no numbers"}], budget=BUDGET) as run:
        assert "line 1: question: expected integers" in str(run.broken[0])


def test_one_process_at_a_time(tmp_path: Path) -> None:
    held = Run(tmp_path, searcher(), questions(2), budget=BUDGET)
    with pytest.raises(RunError, match="another run works in it"):
        Run(tmp_path, searcher(), questions(2), budget=BUDGET)
    with pytest.raises(RunError, match=r"one of this process\); close\(\) it"):
        Run(tmp_path, searcher(), questions(2), budget=BUDGET)
    held.close()
    completed(tmp_path, questions(2))


def test_a_run_that_nobody_has_any_more_is_no_other_one(tmp_path: Path) -> None:
    """As where a cell of a notebook is run twice."""
    for _ in range(2):
        for _ in Run(tmp_path, searcher(), questions(5), budget=BUDGET):
            break
    assert completed(tmp_path, questions(5)).finished == 5


@pytest.mark.parametrize("left", ["results.jsonl", "journal"])
def test_a_folder_that_lost_what_was_searched_is_refused(left: str, tmp_path: Path) -> None:
    one_life(tmp_path, questions(6), 8)
    (tmp_path / "run.json").unlink()
    for name in {"results.jsonl", "journal"} - {left}:
        (tmp_path / name).unlink()
    (tmp_path / left).write_bytes(b"{}\n")
    with pytest.raises(RunError, match=f"expected run.json beside {left}, got none"):
        completed(tmp_path, questions(6))


DIFFERENT: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"policy": "best_first"}, {}, "settings.policy: expected 'power', with which this run began, got 'best_first'"),
    ({}, {"budget": bavt.Budget(tokens=121)}, "budget.tokens: expected 120, .* got 121"),
    ({}, {"seed": 1}, "seed: expected 0, .* got 1"),
    ({}, {"verify": False}, "verify: expected True"),
    ({}, {"about": {"model": "b"}}, "about.model: expected 'a', .* got 'b'"),
    ({}, {"about": {}}, "about.model: expected 'a', .* got none"),
    ({}, {"about": {"model": "a", "new": 1}}, "about.new: expected none, .* got 1"),
]


@pytest.mark.parametrize(("settings", "options", "said"), DIFFERENT)
def test_another_run_is_refused_by_its_first_difference(
    settings: dict[str, Any], options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    about = {"about": {"model": "a"}}
    one_life(tmp_path, questions(4), 2, **about)
    with pytest.raises(RunError, match=said):
        completed(tmp_path, questions(4), searcher(**settings), **{**about, **options})
    allowed = searcher(wave=3, record=True, retries=1)
    assert completed(tmp_path, questions(4), allowed, total=bavt.Budget(tokens=10**6), flush_s=0, **about).end == "done"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (questions(3), "line 4: expected .*id-3.* got no more questions"),
        (questions(5), "line 5: expected no more questions, .* got .*id-4"),
        ([*questions(2), {"id": "id-2", "question": "q2?"}, *questions(4)[3:]], r"line 3: expected .*q2.* got .*q2\?"),
        (questions(4, seed=1), 'line 1: expected .* got .*"seed": 1'),
    ],
)
def test_other_questions_are_refused_by_the_first_line_that_differs(rows: Any, said: str, tmp_path: Path) -> None:
    one_life(tmp_path, questions(4), 2)
    with pytest.raises(RunError, match="questions: " + said):
        completed(tmp_path, rows)
    completed(tmp_path, questions(4))


def test_what_differs_behind_much_that_is_the_same_is_shown(tmp_path: Path) -> None:
    long = "much that is the same, " * 50
    rows = [{"id": 1, "question": f"{long} one"}]
    completed(tmp_path, rows, about={"system": f"{long} first"})
    with pytest.raises(
        RunError, match=r"system: expected \.\.\..* first', with which .* got \.\.\..* second'; go on"
    ) as one:
        completed(tmp_path, rows, about={"system": f"{long} second"})
    with pytest.raises(
        RunError, match=r"line 1: expected \.\.\..* one\"\}, with which .* got \.\.\..* two\"\};"
    ) as other:
        completed(tmp_path, [{"id": 1, "question": f"{long} two"}], about={"system": f"{long} first"})
    assert max(len(str(told.value)) for told in (one, other)) < 800


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(RunError, match=r"expected the folder of a run, or an empty one, got one with thesis\.tex"):
        completed(tmp_path, questions(1))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_no_folder_is_refused_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("somebody's own")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, what in (("file", "a file"), ("link", "a link that leads nowhere")):
        with pytest.raises(RunError, match=f"{name}: expected the folder of a run, or an empty one, got {what}"):
            completed(tmp_path / name, questions(1))
    with pytest.raises(TypeError, match="folder: expected a folder's name, got None"):
        Run(None, searcher(), questions(1), budget=BUDGET)
    (tmp_path / "there").mkdir()
    (tmp_path / "leads").symlink_to(tmp_path / "there")
    assert completed(tmp_path / "leads", questions(1)).end == "done"


def test_questions_of_the_folders_owner_are_not_written_over(tmp_path: Path) -> None:
    """Questions that lie where a run keeps its own, as by --out of the folder that they are in."""
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": 1, "question": "q", "note": "mine"}\nbroken\n')
    before = path.read_bytes()
    with pytest.raises(RunError, match=r"expected the folder of a run, or an empty one, got one with questions\.jsonl"):
        completed(tmp_path, path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("questions.jsonl", before)]


def test_a_run_that_was_killed_as_it_began_begins_again(tmp_path: Path) -> None:
    completed(tmp_path, questions(2))
    for name in ("run.json", "results.jsonl", "journal"):
        (tmp_path / name).unlink()
    assert completed(tmp_path, questions(3)).finished == 3


def test_the_same_questions_go_on_without_the_broken_and_blank_lines_between_them(tmp_path: Path) -> None:
    rows = questions(4)
    one_life(tmp_path / "out", written(tmp_path, [rows[0], "{broken", "", *rows[1:]]), 2)
    summary = completed(tmp_path / "out", written(tmp_path, rows))
    assert (summary.finished, summary.broken) == (4, ())


def test_several_asks_in_one_tree_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves: expected 1 in a run"):
        Run(tmp_path, searcher(leaves=2), questions(1), budget=BUDGET)


def test_another_version_of_a_task_is_found_out(tmp_path: Path) -> None:
    one_life(tmp_path, questions(4), 4)
    other = bavt.Searcher(Mortal(), None, searcher(world=World(seed=99)).task, wave=8, step_tool_calls=1)
    with pytest.raises((RunError, ValueError), match=r"critic: expected|does not fit"):
        completed(tmp_path, questions(4), other)


@pytest.mark.parametrize("spoilt", ["run.json", "questions.jsonl"])
def test_a_folder_that_was_spoilt_is_refused(spoilt: str, tmp_path: Path) -> None:
    completed(tmp_path, questions(2))
    for text in ("{", "[]", '{"format": 1}', '{"format": 1, "questions": "2"}', "7\n"):
        (tmp_path / spoilt).write_text(text)
        with pytest.raises(RunError, match=r"expected what a run wrote|expected a run of format"):
            completed(tmp_path, questions(2))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_folder_with_another_number_of_questions_than_it_says_is_refused(count: int, tmp_path: Path) -> None:
    completed(tmp_path, questions(2))
    about = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**about, "questions": count}))
    with pytest.raises(RunError, match=f"expected {count} questions, which run.json says, got 2"):
        completed(tmp_path, questions(2))


def test_a_search_of_a_run_keeps_its_budget(tmp_path: Path) -> None:
    """A later life would make it again by the run's, and find that its journal does not fit."""

    def extended(text: str, count: int) -> list[str]:
        for _, search in run.searches():
            with pytest.raises(ValueError, match="more: expected a search that is not of a Run, whose budget holds"):
                search.extend(bavt.Budget(tokens=30))
        told.append(text)
        return [f"step {len(told)}"]

    told: list[str] = []
    run = Run(tmp_path, bavt.Searcher(extended), questions(2), budget=bavt.Budget(tokens=20))
    summary = run.complete()
    assert len(told) > 4
    assert (summary.finished, summary.spent.tokens) == (2, 2 * len(told))
