"""``bavt-fast ask`` with a scripted model in the place of a language model."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

import bavt_fast as bavt  # noqa: E402
from bavt_fast import cli  # noqa: E402
from bavt_fast.cli.prompts import EXAMPLES, SYSTEM, plain_prompt  # noqa: E402
from bavt_fast.protocols import Step, StepRequest  # noqa: E402

QUESTION = "What is 9 + 9?"
LINES = {
    0: ["9 + 9 is a sum.", "Twice 9 is needed."],
    1: ["**Answer:** 18", "The answer is 18.", "Answer: $18", "Answer: 19"],
}


class ScriptedModel:
    """Writes a line of thought, then one of a few answers, by the request's seed."""

    def __init__(self, chat_template: str | None = "template", lines: dict[int, list[str]] = LINES) -> None:
        self.tokenizer = types.SimpleNamespace(chat_template=chat_template)
        self.lines = lines
        self.options: dict[str, Any] = {}
        self.requests: list[StepRequest] = []
        self.scored = 0

    def generator(self, **options: Any) -> ScriptedModel:
        self.options = options
        return self

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self.requests += states
        answers = []
        for request in states:
            lines = self.lines[len(request.node.context()[1])]
            answers.append([Step(lines[request.seed % len(lines)] + "\n", 5)])
        return answers

    def prompted_critic(self) -> Callable[[str], float]:
        def score(text: str) -> float:
            self.scored += 1
            return 0.875 if "19" in text else 0.125

        return score


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    return loaded(monkeypatch, ScriptedModel())


def loaded(monkeypatch: pytest.MonkeyPatch, model: ScriptedModel) -> ScriptedModel:
    def load(name: str, **options: Any) -> ScriptedModel:
        if name == "nowhere":
            raise FileNotFoundError("name: expected a folder, got nowhere")
        model.tokenizer.name, model.tokenizer.options = name, options
        return model

    module = types.ModuleType("bavt_fast.language_model")
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bavt_fast.language_model", module)
    return model


def invoke(*arguments: str, question: str = QUESTION) -> Any:
    words = ["--budget-tokens", "200"] if "--budget-tokens" not in arguments else []
    return testing.CliRunner().invoke(cli.app, ["ask", question, "--model", "some/model", *words, *arguments])


def test_the_answer_is_voted_on_and_shown_with_its_path(model: ScriptedModel) -> None:
    result = invoke()
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    assert lines[0].startswith("  1. ")
    assert "18" in lines[1]
    assert lines[2].startswith("answer: ")
    assert "18" in lines[2]
    assert "% of the votes, 2 different answers" in lines[2]
    assert "of 200 tokens" in lines[3]


def test_questions_need_no_quotes_and_go_to_the_model_as_they_are(model: ScriptedModel) -> None:
    assert (
        testing.CliRunner()
        .invoke(cli.app, ["ask", "What", "is", "9?", "--model", "m", "--budget-tokens", "50"])
        .exit_code
        == 0
    )
    assert model.requests[0].text == "What is 9?\n"
    assert model.options == {"chat": True, "system": SYSTEM, "examples": EXAMPLES}


def test_one_json_object_and_nothing_else(model: ScriptedModel) -> None:
    result = invoke("--json", "--seed", "3")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["question"], found["solved"]) == (0, QUESTION, False)
    assert found["answer"].strip("$.") == "18"
    assert found["votes"][found["answer"]] / sum(found["votes"].values()) == found["share"] > 0.5
    assert "18" in found["path"][-1]
    assert found["spent"]["tokens"] <= 200


def test_the_answer_alone(model: ScriptedModel) -> None:
    result = invoke("--quiet")
    assert (result.exit_code, result.stdout.strip("$.\n")) == (0, "18")


def test_the_model_may_score_itself_and_the_best_path_be_taken(model: ScriptedModel) -> None:
    best = json.loads(invoke("--json", "--critic", "prompted", "--vote", "none").stdout)
    assert model.scored > 0
    assert (best["answer"], best["value"], best["path"][-1]) == ("19", 0.875, "Answer: 19")
    assert "votes" not in best
    most = json.loads(invoke("--json", "--critic", "prompted", "--vote", "majority").stdout)
    assert set(most["votes"]) > {"19"}
    assert all(votes == int(votes) for votes in most["votes"].values())
    text = invoke("--critic", "prompted", "--vote", "none").stdout
    assert "answer: 19  (value 0.875)" in text


def test_options_reach_the_model_and_the_search(model: ScriptedModel) -> None:
    arguments = [
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "--threads",
        "3",
        "--trust-remote-code",
        "--temperature",
        "0",
    ]
    assert invoke(*arguments, "--system", "Be brief.").exit_code == 0
    assert model.tokenizer.name == "some/model"
    assert model.tokenizer.options == {"device": "cpu", "dtype": "bfloat16", "threads": 3, "trust_remote_code": True}
    assert model.options == {"chat": True, "system": "Be brief.", "examples": ()}
    assert model.requests[0].sampling.temperature == 0.0


@pytest.mark.parametrize(("template", "argument"), [(None, None), ("template", "--no-chat")])
def test_without_a_chat_template_the_instructions_are_text(
    monkeypatch: pytest.MonkeyPatch, template: str | None, argument: str | None
) -> None:
    model = loaded(monkeypatch, ScriptedModel(template))
    found = json.loads(invoke("--json", *[argument] * (argument is not None)).stdout)
    assert model.options == {"chat": False}
    assert model.requests[0].text == plain_prompt(QUESTION, SYSTEM, EXAMPLES)
    assert found["question"] == QUESTION
    assert invoke("--no-chat", "--system", "").exit_code == 0
    assert model.requests[-1].prompt == f"Question: {QUESTION}\n"


def test_the_chat_template_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(monkeypatch, ScriptedModel(None))
    assert invoke("--chat", "--system", "").exit_code == 0
    assert model.options == {"chat": True, "system": None, "examples": ()}


@pytest.mark.parametrize(("tokens", "side_by_side"), [(200, 1), (800, 3), (4000, 8)])
def test_a_small_budget_is_not_all_spent_on_first_steps(model: ScriptedModel, tokens: int, side_by_side: int) -> None:
    sizes: list[int] = []
    propose = model.propose

    def watched(states: Any, counts: Any, limits: Any) -> Any:
        sizes.append(len(states))
        return propose(states, counts, limits)

    model.propose = watched  # type: ignore[method-assign]
    assert invoke("--budget-tokens", str(tokens), "--max-step-tokens", "20").exit_code == 0
    assert max(sizes) == side_by_side


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line_without_its_place_in_the_program(model: ScriptedModel) -> None:
    done = invoke("--budget-tokens", "1")
    assert re.search(r"^warning: generator or critic: took Spent\(tokens=4, .*$", done.stderr, re.MULTILINE)
    assert ".py" not in done.stderr


def test_no_answer_within_the_budget(model: ScriptedModel) -> None:
    result = invoke("--budget-tokens", "5")
    assert result.exit_code == 1
    assert "no answer; best path so far has value 1.000" in result.stdout
    quiet = invoke("--budget-tokens", "5", "--quiet")
    assert (quiet.exit_code, quiet.stdout) == (1, "\n")
    found = json.loads(invoke("--budget-tokens", "5", "--json").stdout)
    assert (found["answer"], found["votes"], found["share"]) == (None, {}, 0.0)


def test_markup_in_a_step_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while it runs."""
    loaded(monkeypatch, ScriptedModel(lines={0: ["[bold]a[/b] [/]"], 1: ["Answer: [/red] 7"]}))
    result = invoke()
    assert result.exit_code == 0
    assert "1. [bold]a[/b] [/]" in result.stdout
    assert "answer: [/red] 7" in result.stdout


def test_what_a_terminal_would_obey_is_shown_as_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, ScriptedModel(lines={0: ["Bell \a and \x1b[2J."], 1: ["Answer: \x1b[31m7"]}))
    result = invoke()
    assert "\x1b" not in result.stdout
    assert "\a" not in result.stdout
    assert r"1. Bell \x07 and \x1b[2J." in result.stdout
    assert r"answer: \x1b[31m7" in result.stdout


def test_a_model_that_fails_leaves_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded(monkeypatch, ScriptedModel(lines={0: ["So."]}))  # and nothing behind it
    result = invoke()
    assert result.exit_code == 1
    assert re.search(r"error: KeyError during the search(, raised by the generator)?: 1\n", result.stderr)
    assert "1. So." in result.stdout


def test_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    loaded(monkeypatch, ScriptedModel(lines={0: ["So."], 1: [r"\boxed{(x+1)^2}", "Answer: x^2 + 2x + 1", "#### 2x"]}))
    found = json.loads(invoke("--task", "mathematics", "--json").stdout)
    assert len(found["votes"]) == 2
    assert len(json.loads(invoke("--json").stdout)["votes"]) == 3


@pytest.mark.parametrize("task", ["text", "mathematics"])
def test_answers_are_announced_as_the_tasks_read_them(monkeypatch: pytest.MonkeyPatch, task: str) -> None:
    if task == "mathematics":
        pytest.importorskip("math_verify")
    said = ["So the answer is 36.", "Final answer: 36", "answer: 36", "#### 36"]
    loaded(monkeypatch, ScriptedModel(lines={0: ["#### Solution"], 1: said}))
    found = json.loads(invoke("--task", task, "--json").stdout)
    assert (found["answer"].rstrip("."), found["path"][0]) == ("36", "#### Solution")
    assert list(found["votes"]) == [found["answer"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget-tokens", "0"], "budget_tokens: expected an integer of at least 1, got 0"),
        (["--budget-seconds", "-1"], "budget_seconds: expected a finite number above zero"),
        (["--policy", "best"], "policy"),
        (["--seed", "-1"], "seed: expected an integer"),
        (["--wave", "0"], "wave: expected an integer of at least 1, got 0"),
        (["--temperature", "-1"], "temperature: expected a finite number of zero or above, got -1"),
        (["--max-step-tokens", "0"], "max_step_tokens: expected an integer of at least 1, got 0"),
        (["--model", "nowhere"], "model: expected a folder, got nowhere"),
        (["--critic", "best"], "critic: expected none, prompted, or a file"),
        (["--vote", "best"], "Invalid value for '--vote'"),
        (["--task", "cooking"], "Invalid value for '--task'"),
    ],
)
def test_bad_input_is_said_before_a_model_is_loaded(model: ScriptedModel, arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not hasattr(model.tokenizer, "name")


@pytest.mark.parametrize("bad", [["--seed", "-1"], ["--model", "nowhere"], ["--critic", "best"]])
def test_bad_input_costs_no_trace_of_before(model: ScriptedModel, tmp_path: Path, bad: list[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("of yesterday")
    assert invoke("--trace", str(trace), *bad).exit_code == 2
    assert trace.read_text() == "of yesterday"


@pytest.mark.parametrize("place", ["{tmp}", "{tmp}/nowhere/trace.jsonl"])
def test_a_trace_that_cannot_be_written_is_said_before_a_model_is_loaded(
    model: ScriptedModel, tmp_path: Path, place: str
) -> None:
    result = invoke("--trace", place.format(tmp=tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert not hasattr(model.tokenizer, "name")


def test_a_search_that_cannot_be_saved_is_said_before_a_model_is_loaded(model: ScriptedModel, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere" / "s.bavt", "/dev/null"):
        result = invoke("--save", str(place))
        assert (result.exit_code, result.stdout) == (2, "")
    assert not hasattr(model.tokenizer, "name")


def test_what_was_found_is_worth_more_than_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def save(search: bavt.Search, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    loaded(monkeypatch, ScriptedModel())
    monkeypatch.setattr(bavt.Search, "save", save)
    result = invoke("--save", str(tmp_path / "s.bavt"), "--quiet")
    assert (result.exit_code, result.stdout) == (2, "$18\n")
    assert "s.bavt: No space left" in result.stderr


def test_no_file_is_written_twice_or_over_one_that_is_read(model: ScriptedModel, tmp_path: Path) -> None:
    one, link = tmp_path / "one", tmp_path / "link"
    one.write_text("a critic's")
    link.symlink_to(one)
    for words, names in (
        (["--trace", str(one), "--save", str(link)], "--save: expected a file of its own, got {}, which --trace"),
        (["--critic", str(one), "--save", str(link)], "--save: expected a file of its own, got {}, which --critic"),
        (["--critic", str(one), "--trace", str(link)], "--trace: expected a file of its own, got {}, which --critic"),
    ):
        result = invoke(*words)
        assert (result.exit_code, one.read_text()) == (2, "a critic's")
        assert names.format(link) in result.stderr
    assert not hasattr(model.tokenizer, "name")


@pytest.mark.parametrize("words", [["ask"], ["ask", "q"], ["ask", " ", "--model", "m"]])
def test_a_question_and_a_model_are_needed(model: ScriptedModel, words: list[str]) -> None:
    result = testing.CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Missing" in result.stderr or "question: expected a non-empty str" in result.stderr


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, model: ScriptedModel) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    result = invoke("--task", "mathematics")
    assert result.exit_code == 2
    assert "needs math-verify; install it with: pip install 'bavt_fast[mathematics]'" in result.stderr
    monkeypatch.setitem(sys.modules, "bavt_fast.language_model", None)
    result = invoke()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: " in result.stderr


def test_a_plain_prompt() -> None:
    assert (
        plain_prompt("q?", "Do.", [("a?", "so\nAnswer: b")]) == "Do.\n\nQuestion: a?\nso\nAnswer: b\n\nQuestion: q?\n"
    )
    assert plain_prompt("q?", "") == "Question: q?\n"


def test_the_examples_are_answered_as_the_instructions_ask() -> None:
    task = bavt.Searcher(lambda text, count: []).task
    for question, answer in EXAMPLES:
        state = task.initial_state(question)
        for line in answer.splitlines(keepends=True):
            assert not task.describe(state).terminal
            state = task.apply(state, Step(line, 1))
        assert task.describe(state).terminal
