"""The command line as a shell sees it: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

import bavt_fast as bavt  # noqa: E402
from bavt_fast import cli  # noqa: E402
from bavt_fast._version import __version__  # noqa: E402
from bavt_fast.folder_settings import SETTINGS_FILE, embedded_folder  # noqa: E402
from bavt_fast.tasks.countdown import check_expression  # noqa: E402
from bavt_fast.tasks.countdown.training import course  # noqa: E402

# Threads that spin while they wait for a core make a search on a busy machine ten times as long.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
COMMAND = [sys.executable, "-m", "bavt_fast"]


def shell(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": ENVIRONMENT, **options}
    return subprocess.run([*COMMAND, *arguments], **options)


@pytest.fixture
def invoke() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda *arguments: testing.CliRunner().invoke(cli.app, list(arguments))
    torch.set_num_threads(threads)


# --- solve


@pytest.mark.parametrize("question", [["4 5 6 10"], ["4", "5", "6", "10"], ["4,", "5,", "6 10"]])
def test_a_question_needs_no_quotes(invoke: Callable[..., Any], question: list[str]) -> None:
    result = invoke("solve", *question, "--quiet")
    assert result.exit_code == 0
    assert check_expression(result.stdout, (4, 5, 6, 10), 24)


def test_the_report_shows_path_answer_and_what_was_spent() -> None:
    done = shell("solve", "4 5 6 10", "--budget-tokens", "500")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line[:5] for line in lines[:3]] == ["  1. ", "  2. ", "  3. "]
    answer = lines[3].removeprefix("solved: ").removesuffix("  (checked)")
    assert check_expression(answer, (4, 5, 6, 10), 24)
    assert "of 500 tokens" in lines[4]


def test_one_json_object_and_nothing_else(invoke: Callable[..., Any]) -> None:
    result = invoke("solve", "2 3 -> 6", "--json", "--candidates", "3", "--policy", "uct")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["question"], found["solved"], found["answer"]) == ("2 3 -> 6", True, "3 * 2")
    assert 0 < found["spent"]["tokens"] <= 500


def test_more_candidates_are_proposed_at_once(invoke: Callable[..., Any], tmp_path: Path) -> None:
    for count in (1, 3):
        trace = tmp_path / f"{count}.jsonl"
        invoke("solve", "4 5 6 10", "--policy", "uct", "--candidates", str(count), "--quiet", "--trace", str(trace))
        events = [json.loads(line) for line in trace.read_text().splitlines()]
        wanted = [event["count"] for event in events if event["kind"] == "ask"]
        assert wanted[0] == max(wanted) == count


def test_the_target_is_the_tasks(invoke: Callable[..., Any]) -> None:
    result = invoke("solve", "2", "3", "--target", "6", "--quiet")
    assert (result.exit_code, result.stdout) == (0, "3 * 2\n")


def test_what_is_not_solved_shows_the_best_path_and_says_so(invoke: Callable[..., Any]) -> None:
    result = invoke("solve", "1 1 1 1", "--budget-tokens", "60")
    assert result.exit_code == 1
    assert "not solved; best path so far has value" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "4 5 x"], "question: expected integers"),
        (["solve", "4"], "question: expected 2 to 6 numbers, got 1"),
        (["solve", "4 5", "--budget-tokens", "0"], "budget_tokens: expected an integer of at least 1, got 0"),
        (["solve", "4 5", "--budget-seconds", "nan"], "budget_seconds: expected a finite number above zero, got nan"),
        (["solve", "4 5", "--temperature", "nan"], "temperature"),
        (["solve", "4 5", "--candidates", "0"], "candidates"),
        (["solve", "4 5", "--policy", "best"], "policy"),
        (["solve", "4 5", "--seed", "-1"], "seed"),
        (["solve", "4 5", "--target", "1000"], "target: expected an integer from 0 to 999, got 1000"),
        (["solve", "4 5", "--model", "nowhere"], "nowhere has no config.json"),
        (["solve"], "Missing argument"),
        (["solve", "4 5", "--no-such-option"], "No such option"),
        (["train", "--out", "{tmp}/out", "--minutes", "-1"], "minutes: expected a finite number above zero, got -1"),
        (["train", "--out", "{tmp}/out", "--minutes", "0"], "minutes: expected a finite number above zero, got 0"),
        (["train", "--out", "{tmp}/out", "--minutes", "nan"], "minutes: expected a finite number above zero, got nan"),
        (["train", "--out", "{tmp}/out", "--threads", "0"], "threads: expected an integer of at least 1, got 0"),
        (["train", "--out", "{tmp}/out", "--layers", "0"], "layers: expected an integer of at least 1, got 0"),
        (["train", "--out", "{tmp}/out", "--batch", "0"], "batch: expected an integer of at least 1, got 0"),
        (["train", "--out", "{tmp}/out", "--device", "gpu"], "device: expected one that torch has here, got 'gpu'"),
        (["train", "--out", "{tmp}/out", "--task", "os"], "task: expected the name of a module in bavt_fast.tasks"),
        (["train", "--out", "{tmp}/out", "--task", "text"], "task: expected a task that has a module training"),
        (["train", "--out", "{tmp}/out", "--init", "{tmp}/nowhere"], "nowhere"),
        (["train", "--out", "/dev/full/below"], "out: expected a folder that can be written, got /dev/full/below"),
        (["train", "--out", "{tmp}/file"], "out: expected a folder that can be written"),
    ],
)
def test_bad_input_is_said_before_anything_starts(
    invoke: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("")
    result = invoke(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "bad",
    [
        ["--policy", "best"],
        ["--candidates", "0"],
        ["--seed", "-1"],
        ["--temperature", "-1"],
        ["--model", "{torn}"],
    ],
)
def test_bad_input_costs_no_trace_of_before(invoke: Callable[..., Any], tmp_path: Path, bad: list[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("of yesterday")
    torn = Path(shutil.copytree(embedded_folder(), tmp_path / "model"))
    (torn / "config.json").write_text("{")
    words = [word.format(torn=torn) for word in bad]
    assert invoke("solve", "4 5", "--trace", str(trace), *words).exit_code == 2
    assert trace.read_text() == "of yesterday"


def test_code_in_a_model_folder_is_refused_and_not_asked_about(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(embedded_folder(), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "odd.OddConfig"}}))
    (folder / "odd.py").write_text("print('it ran')\n")
    done = shell("solve", "4 5 6 10", "--model", str(folder), input="y\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert "names Python code of the folder's own (auto_map)" in done.stderr
    assert "--trust-remote-code" in done.stderr


def test_a_folder_for_another_task_answers_its_questions(invoke: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing in the command line knows the task: an unverified answer is shown as one."""
    folder = Path(shutil.copytree(embedded_folder(), tmp_path / "model"))
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    settings.update(task="text", task_options={"end": "left", "max_depth": 2})
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
    question = "Target: 24 (left: 4 6)"
    result = invoke("solve", question, "--model", str(folder))
    assert result.exit_code == 1
    assert "answer: " in result.stdout
    assert "(not verified)" in result.stdout
    refused = invoke("solve", question, "--model", str(folder), "--target", "24")
    assert refused.exit_code == 2
    assert "target" in refused.stderr


# --- the shell around it


def test_version() -> None:
    done = shell("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"bavt-fast {__version__}\n", "")


def test_output_that_cannot_be_written_is_said() -> None:
    for arguments in (["--version"], ["solve", "2 3 -> 6"]):
        with open("/dev/full", "w") as full:
            done = shell(*arguments, stdout=full)
        assert done.returncode == 2
        assert done.stderr == "bavt-fast: [Errno 28] No space left on device\n"


def saved(folder: Path) -> Path:
    result = bavt.search("q", generator=lambda text, count: ["a"], budget=bavt.Budget(tokens=3))
    (folder / "one.json").write_text(result.to_json())
    return folder / "one.json"


@pytest.mark.parametrize("words", ["--version", "--help", "solve 2 3 --target 6 --json", "view {file}"])
def test_a_shell_that_closes_standard_output_is_told_what_is_lost(tmp_path: Path, words: str) -> None:
    line = f"{sys.executable} -m bavt_fast {words.format(file=saved(tmp_path))} >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"(bavt-fast|error): \[Errno 9\] Bad file descriptor\n", done.stderr)


def test_what_prints_nothing_needs_no_standard_output(tmp_path: Path) -> None:
    out = tmp_path / "tree.svg"
    line = f"{sys.executable} -m bavt_fast view {saved(tmp_path)} -o {out} >&-"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr, out.read_text()[:4]) == (0, "", "<svg")


def test_bad_input_is_bad_input_where_nobody_can_be_told() -> None:
    """Standard error may be a full disk, too."""
    with open("/dev/full", "w") as full:
        assert shell("solve", "2 three", stderr=full).returncode == 2
        assert shell("solve", "2 3 -> 6", "--quiet", stderr=full).returncode == 0


def test_a_reader_that_goes_away_ends_it_without_a_word() -> None:
    for arguments in (["--help"], ["solve", "2 3 -> 6", "--json"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = shell(*arguments, stdout=writer)
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("typer", ["--version"]),
        ("rich.live", ["--version"]),
        ("torch", ["solve", "4 5 6 10"]),
        ("transformers", ["solve", "4 5 6 10"]),
        ("torch", ["train", "--out", "{tmp}/out"]),
    ],
)
def test_what_is_not_installed_is_named(missing: str, arguments: list[str], tmp_path: Path) -> None:
    words = [argument.format(tmp=tmp_path) for argument in arguments]
    code = f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['x', *{words!r}]; "
    code += "import bavt_fast.__main__ as command; command.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"needs {missing}; install it with: pip install 'bavt_fast[all]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# --- train


def test_train_makes_a_folder_that_solve_takes(
    invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the shipped weights, for a moment."""
    monkeypatch.setattr(course, "HELD_OUT", 30)
    out = tmp_path / "run"
    sizes = ["--minutes", "0.01", "--batch", "20", "--threads", "1"]
    arguments = [*sizes, "--no-compile", "--init", str(embedded_folder())]
    result = invoke("train", "--out", str(out), *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"model folder: {out / 'model'}\n"
    assert (out / "model" / SETTINGS_FILE).read_text() == (embedded_folder() / SETTINGS_FILE).read_text()
    solved = invoke("solve", "2 3 -> 6", "--model", str(out / "model"), "--quiet")
    assert (solved.exit_code, solved.stdout) == (0, "3 * 2\n")
