"""``bavt-fast run``: with searches of one's own, the embedded model, a language model and a server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from fake_server import FakeServer, Reply, chat_completion
from run_worlds import written

pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

from bavt_fast import cli  # noqa: E402
from bavt_fast.runs import Run, read_run  # noqa: E402

MODULE = """
import bavt_fast as bavt

def count(text, wanted):
    if "fail" in text:
        raise RuntimeError("no model here")
    number = sum(map(int, text.split("\\n")[0].rstrip("=? ").split("+")))
    return [f"Answer: {number}"]

def make():
    return bavt.Searcher(count)

def stubborn():
    return bavt.Searcher(count, retries=0)

def frugal():
    return bavt.Searcher(count, wave=1, max_step_tokens=3)

def not_one():
    return 7

def breaks():
    return 1 / 0
"""
ROWS = [{"id": i, "question": f"{i} + {i} = ?"} for i in range(5)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with questions and a module, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "adder", raising=False)
    (tmp_path / "adder.py").write_text(MODULE)
    written(tmp_path, ROWS, "q.jsonl")
    return tmp_path


def run(*arguments: object) -> Any:
    return testing.CliRunner().invoke(cli.app, ["run", *map(str, arguments)])


def ours(*arguments: object) -> Any:
    return run("q.jsonl", "--out", "out", "--searcher", "adder:make", "--budget-tokens", 6, *arguments)


def lines(folder: Path) -> dict[Any, dict[str, Any]]:
    return {line["id"]: line for line in read_run(folder)}


def test_a_search_of_ones_own(desk: Path) -> None:
    done = ours()
    assert done.exit_code == 0, done.output
    assert [lines(desk / "out")[i]["answer"] for i in range(5)] == ["0", "2", "4", "6", "8"]
    assert done.stdout.splitlines() == [
        "5 of 5 questions finished: 0 solved, 0 errors",
        f"spent: {sum(line['spent']['tokens'] for line in lines(desk / 'out').values())} tokens",
        "results: out/results.jsonl",
    ]
    again = ours()
    assert (again.exit_code, again.stdout) == (0, done.stdout)


def test_events_as_json(desk: Path) -> None:
    done = ours("--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["start", *["result"] * 5, "end"]
    assert events[0]["questions"] == 5
    assert events[1] == {"event": "result", **lines(desk / "out")[events[1]["id"]]}
    assert (events[-1]["finished"], events[-1]["end"]) == (5, "done")
    assert ours("--quiet").stdout == ""


def test_broken_lines_and_errors_are_told_and_counted(desk: Path) -> None:
    written(desk, [*ROWS[:2], "{", {"id": 9, "question": "fail"}], "q.jsonl")
    strict = ours("--strict")
    assert (strict.exit_code, (desk / "out" / "run.json").exists()) == (2, False)
    assert "questions: line 3: expected a JSON object" in strict.stderr
    done = ours("--searcher", "adder:stubborn")
    assert done.exit_code == 1
    assert "q.jsonl: line 3: expected a JSON object" in done.stderr
    assert "3 of 3 questions finished: 0 solved, 1 errors, 1 lines passed over" in done.stdout
    assert "1 with RuntimeError: no model here\n" in done.stderr
    assert lines(desk / "out")[9]["error"] == "RuntimeError: no model here"


def test_a_total_ends_the_run_and_a_larger_one_goes_on(desk: Path) -> None:
    first = ours("--total-tokens", 9, "--searcher", "adder:frugal")
    assert first.exit_code == 1
    assert "nothing more fits the total budget: start again with a larger one to go on" in first.stdout
    more = ours("--total-tokens", 900, "--searcher", "adder:frugal")
    assert (more.exit_code, len(lines(desk / "out"))) == (0, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl", "--out", "out"], "questions: expected a file of JSON lines, got none.jsonl"),
        (["q.jsonl", "--out", "out", "--searcher", "adder"], "--searcher: expected module:function"),
        (["q.jsonl", "--out", "out", "--searcher", "adder:not_one"], "return a bavt.Searcher, got 7"),
        (["q.jsonl", "--out", "out", "--searcher", "nowhere:make"], "got No module named 'nowhere'"),
        (["q.jsonl", "--out", "out", "--searcher", "adder:nothing"], "has no attribute 'nothing'"),
        (["q.jsonl", "--out", "out", "--searcher", "adder:breaks"], "got ZeroDivisionError: division by zero"),
        (["q.jsonl", "--out", "out", "--searcher", "..:make"], "--searcher: expected ..:make to return"),
        (["q.jsonl", "--out", "out", "--searcher", "adder:make", "--model", "m"], "expected alone"),
        (["q.jsonl", "--out", "q.jsonl", "--searcher", "adder:make"], "q.jsonl"),
        (["q.jsonl", "--out", "out", "--server", "http://127.0.0.1:1/v1"], "expected the model's name"),
        (
            ["q.jsonl", "--out", "out", "--server", "localhost", "--model", "m"],
            "error: server: expected an address such as 'http://127.0.0.1:8000/v1', got 'localhost'",
        ),
        (["q.jsonl", "--out", ".", "--searcher", "adder:make"], "expected the folder of a run, or an empty one"),
        (
            ["q.jsonl", "--out", "out", "--searcher", "adder:make", "--total-cost", "1"],
            "total_cost: cost is limited but nothing has a price",
        ),
        (["q.jsonl", "--out", "out", "--total-tokens", "0"], "total_tokens: expected an integer of at least 1, got 0"),
        (["q.jsonl", "--out", "out", "--total-cost", "nan"], "total_cost: expected a finite number above zero"),
        (["q.jsonl", "--out", "out", "--budget-tokens", "0"], "budget_tokens: expected an integer of at least 1"),
        (["q.jsonl", "--out", "out", "--budget-seconds", "0"], "budget_seconds: expected a finite number above zero"),
        (["q.jsonl", "--out", "out", "--searcher", "adder:make", "--live"], "--live: expected a --searcher that keeps"),
    ],
)
def test_what_is_refused(desk: Path, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr.replace("\n", " ")
    assert done.stdout == ""
    assert not (desk / "out" / "run.json").exists()


WITHOUT_SEARCHER = "expected without --searcher, which brings its own"
NO_WORDS = "expected beside --server or the --model of a language model, got it with the embedded model"


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        *[
            (["--searcher", "adder:make", *given], given[0], WITHOUT_SEARCHER)
            for given in (
                ["--token-cost", "0.1"],
                ["--prompt-token-cost", "0.1"],
                ["--max-prompt-tokens", "9"],
                ["--wave", "64"],
                ["--policy", "nonsense"],
                ["--temperature", "1"],
                ["--max-step-tokens", "9"],
                ["--retries", "2"],
                ["--task", "text"],
                ["--vote", "value"],
                ["--critic", "nonsense"],
                ["--system", "x"],
                ["--no-chat"],
                ["--device", "nowhere"],
                ["--threads", "1"],
                ["--trust-remote-code"],
            )
        ],
        *[
            (given, given[0], NO_WORDS)
            for given in (
                ["--critic", "none"],
                ["--vote", "none"],
                ["--task", "mathematics"],
                ["--system", ""],
                ["--chat"],
            )
        ],
        (
            ["--dtype", "float32"],
            "--dtype",
            "expected beside the --model of a language model, got it with the embedded",
        ),
        (["--model", "folder", "--chat"], "--chat", "got it with --model folder, a model folder"),
        (["--server", "http://x", "--model", "m", "--device", "cpu"], "--device", "expected without --server"),
        (["--server", "http://x", "--model", "m", "--ray-gpus", "1"], "--ray-gpus", "expected beside --ray, got it"),
    ],
)
def test_what_has_no_effect_is_refused(desk: Path, options: list[str], name: str, said: str) -> None:
    (desk / "folder" / "bavt_fast").mkdir(parents=True)
    (desk / "folder" / "bavt_fast" / "settings.json").write_text("{}")
    done = run("q.jsonl", "--out", "out", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name}: ")
    assert said in done.stderr
    assert not (desk / "out").exists()


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line(desk: Path) -> None:
    (desk / "plain.py").write_text(
        "import bavt_fast as bavt\n"
        "class Plain:\n"
        "    initial_state = staticmethod(lambda question: question)\n"
        "    apply = staticmethod(lambda state, step: state + step.text)\n"
        "    key = staticmethod(lambda state: state)\n"
        "    describe = staticmethod(lambda state: bavt.Description(prompt=state))\n"
        "make = bavt.Searcher(lambda text, count: ['x'], None, Plain())\n"
    )
    written(desk, [{**row, "answer": 1} for row in ROWS], "q.jsonl")
    done = run("q.jsonl", "--out", "out", "--searcher", "plain:make", "--budget-tokens", 3)
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: questions: 5 have an answer, and the task takes none")
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_in_use_and_other_settings_are_refused(desk: Path) -> None:
    import bavt_fast as bavt

    assert ours().exit_code == 0
    changed = ours("--seed", 3)
    assert (changed.exit_code, "seed: expected 0, with which this run began, got 3" in changed.stderr) == (2, True)
    adder: Any = __import__("adder")
    with Run("held", adder.make(), ROWS, budget=bavt.Budget(tokens=5)):
        held = run("q.jsonl", "--out", "held", "--searcher", "adder:make")
        assert (held.exit_code, "another run works in it (one of this process)" in held.stderr) == (2, True)


def test_searches_are_kept_and_viewed(desk: Path) -> None:
    assert ours("--save").exit_code == 0
    table = testing.CliRunner().invoke(cli.app, ["view", "out", "--nodes", "3"])
    assert table.exit_code == 0
    head, _, *rows = table.stdout.splitlines()
    assert head.startswith("5 of 5 questions finished: 0 solved, 0 errors, ")
    assert rows[0].split() == ["id", "solved", "tokens", "value", "stopped", "answer"]
    assert [row.split()[0] for row in rows[1:4]] == ["0", "1", "2"]
    assert rows[4:] == ["… 2 more", "trees: bavt-fast view out -o trees.html"]
    page = testing.CliRunner().invoke(cli.app, ["view", "out", "-o", "trees.html"])
    assert page.exit_code == 0
    assert (desk / "trees.html").read_text().count('id="picture-') == 5


def test_the_table_is_safe_to_show(desk: Path) -> None:
    evil = "\x1b[2J " + "\u202e" + "x" * 300
    (desk / "wild.py").write_text(
        f"import bavt_fast as bavt\nmake = bavt.Searcher(lambda text, count: ['Answer: ' + {evil!r}])\n"
    )
    assert run("q.jsonl", "--out", "out", "--searcher", "wild:make", "--budget-tokens", 6).exit_code == 0
    table = testing.CliRunner().invoke(cli.app, ["view", "out"], env={"COLUMNS": "70"}).stdout
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert max(map(len, table.splitlines())) <= 70


def test_a_run_without_searches_has_no_page(desk: Path) -> None:
    assert ours().exit_code == 0
    page = testing.CliRunner().invoke(cli.app, ["view", "out", "-o", "trees.html"])
    assert (page.exit_code, "`bavt-fast run --save` does" in page.stderr) == (2, True)


def test_a_page_shows_what_is_under_way(desk: Path) -> None:
    (desk / "slow.py").write_text(
        "import bavt_fast as bavt, pathlib, time, urllib.request\n"
        "def make():\n"
        "    def wait(text, count):\n"
        "        while not pathlib.Path('seen').exists(): time.sleep(0.01)\n"
        "        return ['Answer: <b>1</b>']\n"
        "    return bavt.Searcher(wait, record=True)\n"
    )
    command = [sys.executable, "-m", "bavt_fast", "run", "q.jsonl", "--out", "out", "--searcher", "slow:make", "--live"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [*command, "--budget-tokens", "6"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stderr is not None
        line = next(line for line in child.stderr if line.startswith("live: "))
        url = line.removeprefix("live: ").strip()
        shown = ""
        while "5 under way" not in shown:
            shown = urllib.request.urlopen(url).read().decode()
        assert "0 of 5 questions" in shown
        page = urllib.request.urlopen(url + "3/").read().decode()
        assert "2 + 2 = ?" in page
        with urllib.request.urlopen(url + "3/events") as events:
            assert events.readline() == b"event: chunk\n"
        (desk / "seen").touch()
        assert child.wait(timeout=60) == 0
        child.stderr.read()


def test_a_closed_pipe_ends_it_quietly_and_it_goes_on(desk: Path) -> None:
    written(desk, [{"id": i, "question": f"{i} + 1 = ?"} for i in range(3000)], "q.jsonl")
    base = f"{sys.executable} -m bavt_fast run q.jsonl --out out --searcher adder:make --budget-tokens 6"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        ["bash", "-c", f"{base} --json | head -n 3; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.count("\n") == 3
    assert ours("--quiet").exit_code == 0
    assert len(lines(desk / "out")) == 3000


@pytest.mark.parametrize("chat", [None, False])
def test_a_server(desk: Path, chat: bool | None) -> None:
    pytest.importorskip("aiohttp")

    def answer(body: dict[str, Any]) -> Reply:
        text = body["messages"][1]["content"] if "messages" in body else body["prompt"]
        number = 2 * int(re.findall(r"(\d+) \+ \d+ = \?", text)[-1])
        if chat is None:
            return chat_completion(f"Answer: {number}")
        from fake_server import completion

        return completion(f"Answer: {number}")

    with FakeServer(answer) as server:
        options = [] if chat is None else ["--no-chat"]
        done = run("q.jsonl", "--out", "out", "--server", server.url, "--model", "m", "--budget-tokens", 20, *options)
        assert done.exit_code == 0, done.output
        assert server.paths[0].endswith("/chat/completions" if chat is None else "/completions")
    found = lines(desk / "out")
    assert [found[i]["answer"] for i in range(5)] == ["0", "2", "4", "6", "8"]
    assert found[1]["share"] == 1.0
    assert found[1]["spent"]["prompt_tokens"] > 0
    with FakeServer(answer) as server:  # what is kept of the run does not name the port; the address is another one
        other = run("q.jsonl", "--out", "out", "--server", server.url, "--model", "m", "--budget-tokens", 20, *options)
        assert other.exit_code == 0


def test_an_empty_system_prompt_is_none(desk: Path) -> None:
    """As beside a model that is loaded: a template may have one of its own."""
    pytest.importorskip("aiohttp")
    with FakeServer(lambda body: chat_completion("Answer: 1")) as server:
        run("q.jsonl", "--out", "out", "--server", server.url, "--model", "m", "--budget-tokens", 5, "--system", "")
    assert {body["messages"][0]["role"] for body in server.requests} == {"user"}


def test_a_server_that_fails_is_an_error_of_each_question(desk: Path) -> None:
    pytest.importorskip("aiohttp")
    with FakeServer(lambda body: Reply({"error": {"message": "no such model"}}, status=404)) as server:
        done = run("q.jsonl", "--out", "out", "--server", server.url, "--model", "m", "--retries", 0)
    assert done.exit_code == 1
    assert all("no such model" in line["error"] for line in lines(desk / "out").values())


def test_a_total_in_money(desk: Path) -> None:
    pytest.importorskip("aiohttp")
    options = ["--model", "m", "--budget-tokens", 20, "--max-step-tokens", 8, "--token-cost", 0.01, "--wave", 2]
    with FakeServer(lambda body: chat_completion("Answer: 1")) as server:
        arguments = ["q.jsonl", "--out", "out", "--server", server.url, *options]
        short = run(*arguments, "--total-cost", 0.32)
        assert (short.exit_code, 0 < len(server.requests) <= 6) == (1, True)  # 0.05 each, 0.08 while it is out
        assert "nothing more fits the total budget" in short.stdout
        done = run(*arguments, "--total-cost", 100)
    assert (done.exit_code, len(lines(desk / "out"))) == (0, 5), done.output
    assert sum(line["spent"]["cost"] for line in lines(desk / "out").values()) == pytest.approx(
        0.05 * len(server.requests)
    )


def test_the_key_is_in_nothing_that_a_run_says_or_keeps(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp")
    key = "sk-very-secret-1234567890"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def answer(body: dict[str, Any]) -> Reply:
        if "3 + 3" in body["messages"][1]["content"]:
            return Reply({"detail": f"Incorrect API key provided: {key}"}, 401)
        return chat_completion("Answer: 1")

    with FakeServer(answer) as server:
        options = ["--server", server.url, "--model", "m", "--budget-tokens", 20, "--retries", 0, "--save", "--json"]
        done = run("q.jsonl", "--out", "out", *options)
    assert set(server.keys) == {key}
    assert "Incorrect API key provided: [key]" in lines(desk / "out")[3]["error"]
    kept = [path.read_bytes() for path in (desk / "out").rglob("*") if path.is_file()]
    assert len(kept) > 5
    assert not any(key.encode() in content for content in [*kept, done.output.encode()])


def test_a_language_model_in_words(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from test_cli_ask import ScriptedModel, loaded

    loaded(monkeypatch, ScriptedModel())
    written(
        desk,
        [{"id": "a", "question": "What is 9 + 9?", "answer": 18}, {"id": "b", "question": "What is 9 + 9?"}],
        "q.jsonl",
    )
    done = run("q.jsonl", "--out", "out", "--model", "some/model", "--no-verify", "--budget-tokens", 60)
    assert done.exit_code == 0, done.output
    found = lines(desk / "out")
    assert found["a"]["correct"] is True
    assert found["b"]["answer"] in ("18", "$18", "19")
    assert found["a"]["path"][-1].startswith(("**Answer", "The answer", "Answer"))


def test_the_embedded_model(desk: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    rows = [{"id": "24", "question": "4 5 6 10"}, {"id": "68", "question": "3 7 25 50 -> 68", "budget_tokens": 20}]
    written(desk, [*rows, {"id": "bad", "question": "four five"}], "q.jsonl")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = run("q.jsonl", "--out", "out")
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 1
    assert "line 3: question: expected integers" in done.stderr
    found = lines(desk / "out")
    assert (found["24"]["solved"], found["68"]["spent"]["tokens"] <= 20) == (True, True)


def test_interrupted_from_the_keyboard(desk: Path) -> None:
    (desk / "press.py").write_text(
        "import bavt_fast as bavt, signal\n"
        "calls = 0\n"
        "def make():\n"
        "    def work(text, count):\n"
        "        global calls\n"
        "        calls += 1\n"
        "        if calls == 9: signal.raise_signal(signal.SIGINT)\n"
        "        return [f'step {calls}']\n"
        "    return bavt.Searcher(work)\n"
    )
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from bavt_fast import cli; cli.main()"
    )
    command = [sys.executable, "-c", code, "run", "q.jsonl", "--out", "out", "--searcher", "press:make"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    options = ["--budget-tokens", "20"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "")
    assert "interrupted: start again with the same command to go on" in done.stdout


# ---- Many machines (tests/runs/test_ray.py has the runs themselves)


def test_what_does_not_go_with_ray_is_refused(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = ours("--ray", "local", "--live")
    assert (live.exit_code, "--live: expected without --ray" in live.stderr) == (2, True)
    monkeypatch.delitem(sys.modules, "bavt_fast.runs.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    without = ours("--ray", "local")
    assert (without.exit_code, "need Ray: pip install 'bavt_fast[ray]'" in without.stderr) == (2, True)
    assert not (desk / "out").exists()
