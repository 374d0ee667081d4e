"""``bavt-fast view``, and the options of other commands that lead to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from pictures import evil, recorded

pytest.importorskip("typer")

from typer.testing import CliRunner, Result

from bavt_fast.cli import app
from bavt_fast.view import Picture, html, picture


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    recorded().save(tmp_path / "one.bavt")
    return tmp_path / "one.bavt"


def test_a_tree_in_the_terminal(saved: Path) -> None:
    done = run("view", saved, "--nodes", 5, "--depth", 2)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "Where to?" in lines[3]
    assert len([line for line in lines[3:] if re.match(r"[* ] \d\.\d{3}", line)]) <= 5
    assert "\x1b" not in done.stdout


def test_a_page_of_one_and_of_several(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "tree.html"
    assert run("view", saved, "-o", out).exit_code == 0
    assert out.read_text(encoding="utf-8") == html(saved)
    (tmp_path / "two.json").write_text(picture(saved).to_json())
    assert run("view", saved, tmp_path / "two.json", "-o", out, "--title", "A & B").exit_code == 0
    assert "<title>A &amp; B</title>" in out.read_text(encoding="utf-8")
    assert out.read_text(encoding="utf-8").count('id="picture-') == 2
    assert run("view", tmp_path, "-o", tmp_path / "folder.html").exit_code == 0


@pytest.mark.parametrize(
    ("ending", "begin"),
    [
        (".svg", b"<svg"),
        (".dot", b"digraph"),
        (".gv", b"digraph"),
        (".mmd", b"flowchart"),
        (".json", b"{"),
        (".png", b"\x89PNG"),
    ],
)
def test_a_diagram_by_the_ending_of_its_file(saved: Path, tmp_path: Path, ending: str, begin: bytes) -> None:
    out = tmp_path / f"tree{ending}"
    few = () if ending == ".json" else ("--nodes", 7)
    assert run("view", saved, "-o", out, *few).exit_code == 0
    assert out.read_bytes().startswith(begin)


def test_texts_that_no_file_can_hold(tmp_path: Path) -> None:
    source = tmp_path / "evil.json"
    source.write_text(evil().to_json())
    for ending in (".html", ".svg", ".dot", ".mmd", ".json", ".png"):
        assert run("view", source, "-o", tmp_path / f"tree{ending}").exit_code == 0, ending
    assert run("view", source).exit_code == 0


@pytest.mark.filterwarnings("default")
def test_one_damaged_search_of_many_is_a_line(saved: Path) -> None:
    (saved.parent / "cut.bavt").write_bytes(saved.read_bytes()[:-20])
    done = run("view", saved.parent, "-o", saved.parent / "page.html")
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.startswith(f"warning: {saved.parent}/cut.bavt: checkpoint: ")
    assert done.stderr.endswith("; left out\n")
    alone = run("view", saved.parent / "cut.bavt")
    assert (alone.exit_code, alone.stderr.startswith(f"error: {saved.parent}/cut.bavt: ")) == (2, True)


def a_run(folder: Path, *lines: str) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text('{"format": 1, "questions": 3}')
    (folder / "results.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_the_table_of_a_run_and_a_tree_beside_it(saved: Path, tmp_path: Path) -> None:
    done = run("view", a_run(tmp_path / "run", '{"id": 1, "spent": {"tokens": 5}}'), saved)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("1 of 3 questions finished: 0 solved, 0 errors, 5 tokens\n")
    assert "Where to?" in done.stdout
    (tmp_path / "kept" / "searches").mkdir(parents=True)
    (tmp_path / "kept" / "run.json").write_text("{}")
    page = run("view", tmp_path / "kept", tmp_path / "run", "-o", tmp_path / "page.html")
    assert (page.exit_code, f"{tmp_path}/run: expected a run that kept its searches" in page.stderr) == (2, True)


def test_a_result_that_says_little_has_its_row(tmp_path: Path) -> None:
    done = run("view", a_run(tmp_path / "run", '{"id": "a", "spent": {}}', '{"id": "b", "spent": {"cost": 1}}'))
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.split()[:3] for line in done.stdout.splitlines()[-2:]] == [["a", "no", "0"], ["b", "no", "0"]]


def test_the_table_counts_answers_that_were_compared(tmp_path: Path) -> None:
    lines = [
        '{"id": 1, "spent": {}, "correct": true}',
        '{"id": 2, "spent": {}, "correct": false}',
        '{"id": 3, "spent": {}}',
    ]
    done = run("view", a_run(tmp_path / "run", *lines))
    assert done.stdout.startswith("3 of 3 questions finished: 0 solved, 0 errors, 0 tokens, 1 of 2 correct\n")


def test_a_value_of_any_size_has_its_row(tmp_path: Path) -> None:
    """As a run's `outcome` may give one."""
    done = run("view", a_run(tmp_path / "run", f'{{"id": "a", "spent": {{}}, "value": {10**400}}}'))
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].split()[:3] == ["a", "no", "0"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.bavt"], "nowhere.bavt"),
        (["words.txt"], "expected a file that Search.save"),
        (["one.bavt", "-o", "tree.pdf"], "ends in one of .html"),
        (["one.bavt", "one.bavt", "-o", "tree.svg"], "expected a file of .html for 2 searches"),
        (["empty"], "found none"),
        (["torn"], "torn/run.json: expected what a run wrote"),
        (["deep"], "deep/run.json: expected what a run wrote"),
        (["one.bavt", "-o", "no/such/folder.html"], "no/such/folder.html"),
        (["one.bavt", "-o", "tree.svg", "--depth", "2"], "--depth: expected in the terminal, got it beside --out"),
        (["one.bavt", "-o", "tree.html", "--depth", "2"], "--depth: expected in the terminal, got it beside --out"),
        (["one.bavt", "-o", "tree.svg", "--title", "A"], "--title: expected beside --out of a page (.html)"),
        (
            ["one.bavt", "-o", "tree.html", "--nodes", "2"],
            "--nodes: expected in the terminal or beside a diagram, got it",
        ),
        (
            ["one.bavt", "-o", "tree.json", "--nodes", "2"],
            "--nodes: expected in the terminal or beside a diagram, got it",
        ),
        (["torn", "--depth", "2"], "--depth: expected beside a tree, got it beside the table of a run"),
        (["trace.jsonl"], "trace.jsonl: picture: expected one JSON object, as to_json() of a result gave, got '{"),
        (["one.bavt", "--title", "A"], "--title: expected beside --out of a page (.html)"),
    ],
)
def test_bad_input_says_what_is_wrong(
    saved: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(saved.parent)
    Path("words.txt").write_text("words")
    Path("trace.jsonl").write_text('{"kind": "ask"}\n{"kind": "tell"}\n')
    Path("empty").mkdir()
    for folder, text in (("torn", "{"), ("deep", "[" * 100_000)):
        Path(folder).mkdir()
        Path(folder, "run.json").write_text(text)
    done = run("view", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", ["one.json", "link.json", "."])
def test_no_search_is_written_over(saved: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """A picture of it cannot be gone on with."""
    monkeypatch.chdir(saved.parent)
    one = saved.rename("one.json")
    before = one.read_bytes()
    if given == "link.json":
        Path(given).symlink_to(one)
    done = run("view", given, "-o", "one.json")
    assert done.exit_code == 2
    assert f"--out: expected a file of its own, got one.json, which is read with {given}" in done.stderr
    assert one.read_bytes() == before
    assert run("view", given, "-o", "two.json").exit_code == 0


def test_no_file_of_a_run_is_written_over(saved: Path, tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", '{"id": "a", "spent": {}}')
    (folder / "searches").mkdir()
    saved.rename(folder / "searches" / "a")
    before = (folder / "run.json").read_bytes()
    assert run("view", folder, "-o", folder / "run.json").exit_code == 2
    assert (folder / "run.json").read_bytes() == before
    for _ in range(2):
        assert run("view", folder, "-o", folder / "trees.html").exit_code == 0


def test_a_reader_that_goes_away_is_no_error(saved: Path) -> None:
    many = [str(saved)] * 400  # more than a pipe holds
    child = subprocess.Popen(
        [sys.executable, "-m", "bavt_fast", "view", *many],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    assert (child.wait(timeout=60), child.stderr.read()) == (1, b"")
    child.stderr.close()


def test_solve_saves_what_view_shows(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run("solve", "4 5 6 10", "--json", "--save", tmp_path / "s.bavt")
    assert done.exit_code == 0
    made: Picture = picture(tmp_path / "s.bavt")
    assert made.answer == json.loads(done.stdout)["answer"]
    assert made.solved
    assert made.events
    assert made.missing == ()
    refused = run("solve", "4 5 6 10", "--quiet", "--save", tmp_path / "no" / "s.bavt")
    assert refused.exit_code == 2
    assert "No such file" in refused.stderr
    assert refused.stdout == "", "said before the search begins"


def test_solve_live_links_to_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    seen: list[Any] = []
    from bavt_fast.view.server import Live

    begin = Live.__enter__

    def watched(live: Live) -> Live:
        def watch() -> None:
            with urllib.request.urlopen(f"{live.url}events", timeout=20) as stream:
                seen.append(stream.read())

        thread = threading.Thread(target=watch)
        thread.start()
        end_s = time.monotonic() + 10
        while not live.watchers and time.monotonic() < end_s:
            time.sleep(0.01)
        monkeypatch.setattr(watched, "thread", thread, raising=False)
        return begin(live)

    monkeypatch.setattr(Live, "__enter__", watched)
    done = run("solve", "4 5 6 10", "--quiet", "--live")
    watched.thread.join(timeout=20)  # type: ignore[attr-defined]
    assert done.exit_code == 0
    assert re.search(r"^live: http://127\.0\.0\.1:\d+/[\w-]{32}/$", done.stderr, re.MULTILINE)
    assert len(done.stdout.splitlines()) == 1
    assert b'"stop_reason":"solved"' in seen[0]
    assert seen[0].endswith(b"event: end\ndata: {}\n\n")
