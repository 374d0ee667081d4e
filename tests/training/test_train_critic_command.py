"""`bavt-fast train critic`, and labelled steps that others have made."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

from tiny_models import tiny_model  # noqa: E402
from tiny_tokenizers import tiny_tokenizer  # noqa: E402

from bavt_fast import cli  # noqa: E402
from bavt_fast.cli.prompts import plain_prompt  # noqa: E402
from bavt_fast.cli.searchers import MAX_DEPTH  # noqa: E402
from bavt_fast.cli.train_critic import (  # noqa: E402
    Learner,
    _answers_of,
    _from_steps,
    _learner,
    _oracle_of,
    _questions,
    task_options,
)
from bavt_fast.critics.critic_file import read_manifest  # noqa: E402
from bavt_fast.model_folder import embedded_folder  # noqa: E402
from bavt_fast.protocols import Node  # noqa: E402
from bavt_fast.tasks import made_task, task_module  # noqa: E402
from bavt_fast.tasks.countdown import Countdown  # noqa: E402
from bavt_fast.tasks.countdown.training.figures import held_out_problems  # noqa: E402
from bavt_fast.tasks.countdown.training.states import TEST  # noqa: E402
from bavt_fast.tasks.reasoning_gym import ReasoningGymTask  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402
from bavt_fast.training.critic import CriticConfig  # noqa: E402
from bavt_fast.training.critic.process_data import LabelledPath, read_process_data  # noqa: E402


def test_labelled_steps_are_read_as_trl_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(
        '\ufeff{"prompt": "1 + 1?", "completions": ["It is é.", "2"], "labels": [true, false], "more": 1}\n\n'
        '{"prompt": "p", "completions": ["s"], "labels": [0.25]}\n',
        encoding="utf-8",
    )
    assert read_process_data(path) == [
        LabelledPath("1 + 1?", ("It is é.", "2"), (1.0, 0.0)),
        LabelledPath("p", ("s",), (0.25,)),
    ]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("[]", "expected an object"),
        ('{"prompt": "", "completions": ["a"], "labels": [1]}', "prompt: expected"),
        ('{"prompt": "p", "completions": [], "labels": []}', "completions: expected"),
        ('{"prompt": "p", "completions": ["a", ""], "labels": [1, 1]}', "completions: expected"),
        ('{"prompt": "p", "completions": ["a"], "labels": [1, 0]}', "labels: expected 1"),
        ('{"prompt": "p", "completions": ["a"], "labels": [NaN]}', "labels: expected booleans"),
        ('{"prompt": "p", "completions": ["a"], "labels": [2]}', "labels: expected booleans"),
        ("not json", r"expected a JSON object, got 'not json' \(Expecting value at character 0\)"),
    ],
)
def test_lines_that_are_not_labelled_steps_are_named(tmp_path: Path, line: str, match: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"prompt": "p", "completions": ["a"], "labels": [1]}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"steps\.jsonl:2: .*{match}"):
        read_process_data(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="expected labelled paths, got none"):
        read_process_data(path)


def test_files_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    line = '{"prompt": "é", "completions": ["a"], "labels": [1]}\r\n'
    path.write_bytes(line.encode() + line.encode("latin-1"))
    with pytest.raises(ValueError, match=r"steps\.jsonl:2: expected UTF-8, got b'\\xe9' at byte"):
        read_process_data(path)
    path.write_bytes(line.encode("utf-8-sig") + line.encode())
    assert [found.prompt for found in read_process_data(path)] == ["é", "é"]
    plain = tmp_path / "questions.txt"
    plain.write_bytes(b"caf\xe9?\n")
    with pytest.raises(ValueError, match=r"problems: expected UTF-8 in .*questions\.txt"):
        _questions(plain, None)
    plain.write_bytes("\ufeff2 +\u2028 2?\r\n\n a\x0cb\x85c \n".encode())
    assert _questions(plain, None) == [("2 +\u2028 2?", None), ("a\x0cb\x85c", None)]


def run(*arguments: object) -> Any:
    return testing.CliRunner().invoke(cli.app, ["train", "critic", *map(str, arguments)])


def test_the_command_writes_a_critic(tmp_path: Path) -> None:
    questions, out = tmp_path / "questions.txt", tmp_path / "new" / "critic.safetensors"
    numbers, targets = held_out_problems(TEST, 20, 5, seed=5)  # not all of them are solved
    lines = [f"{' '.join(map(str, row))} -> {target}" for row, target in zip(numbers, targets, strict=True)]
    questions.write_text("\n".join(lines) + "\n\n")
    result = run(
        *("--model", embedded_folder(), "--problems", questions, "--out", out, "--limit", 16),
        *("--budget-tokens", 250, "--rounds", 1, "--max-step-tokens", 24),
    )
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.splitlines()[-1])
    assert printed["out"] == str(out)
    manifest = read_manifest(out)
    areas = manifest.figures["auc_by_depth"]
    assert printed["auc_by_depth"] == {depth: round(area, 4) for depth, area in areas.items()} != {}
    assert printed["auc_within_depths"] == round(manifest.figures["auc_within_depths"], 4)
    assert (manifest.task, manifest.predicts, manifest.figures["questions"]) == ("countdown", "logit", 16)
    assert manifest.reads == "step"


def test_problems_with_answers_are_taken_where_the_task_needs_none(tmp_path: Path) -> None:
    problems, out = tmp_path / "problems.jsonl", tmp_path / "critic.safetensors"
    numbers, targets = held_out_problems(TEST, 12, 5, seed=5)
    with problems.open("w") as file:
        for row, target in zip(numbers, targets, strict=True):
            question = f"{' '.join(map(str, row))} -> {target}"
            file.write(json.dumps({"question": question, "answer": str(target)}) + "\n")
    result = run(
        *("--model", embedded_folder(), "--problems", problems, "--out", out),
        *("--budget-tokens", 250, "--rounds", 1, "--max-step-tokens", 24),
    )
    assert result.exit_code == 0, result.output
    assert read_manifest(out).task == "countdown"


def test_the_oracle_is_that_of_the_task_with_its_options() -> None:
    state = Countdown(fractions=True).initial_state("1 5 5 5")
    for options, value in (({}, 0.0), ({"fractions": True, "target": 24}, 1.0)):
        oracle = _oracle_of(task_module("countdown"), Countdown(**options), options)
        assert oracle.score([Node(state, None)]) == [value]
    assert _oracle_of(task_module("text"), TextTask(), {"max_depth": 3}) is None


def test_the_command_takes_labelled_steps(tmp_path: Path) -> None:
    steps, out = tmp_path / "steps.jsonl", tmp_path / "critic.safetensors"
    lines = [
        {"prompt": f"1 {n} 20 -> 24", "completions": [f"{n} + 1 = {n + 1} (left: {n + 1} 20)"], "labels": [n % 2 == 0]}
        for n in range(2, 19)
    ]
    steps.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("--model", embedded_folder(), "--steps", steps, "--out", out, "--predicts", "residual")
    assert result.exit_code == 0, result.output
    assert (read_manifest(out).predicts, read_manifest(out).task) == ("residual", "countdown")


def test_labelled_steps_of_a_family_are_for_that_family_alone(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    task = ReasoningGymTask("countdown", size=9, seed=42, inner="countdown")
    steps, out = tmp_path / "steps.jsonl", tmp_path / "critic.safetensors"
    with steps.open("w") as file:
        for number, question in enumerate(task.questions):
            a, *_, b = task.initial_state(question).inner.numbers
            left = " ".join(map(str, sorted([*task.initial_state(question).inner.numbers[1:-1], a + b])))
            line = {"prompt": question, "completions": [f"{a} + {b} = {a + b} (left: {left})"], "labels": [number % 2]}
            file.write(json.dumps(line) + "\n")
    options = ("name=countdown", "size=9", "seed=42", "inner=countdown")
    words = [word for option in options for word in ("--task-option", option)]
    result = run("--model", embedded_folder(), "--task", "reasoning_gym", *words, "--steps", steps, "--out", out)
    assert result.exit_code == 0, result.output
    assert read_manifest(out).task == "reasoning_gym:countdown"


def test_labelled_steps_begin_with_what_the_model_is_asked(tmp_path: Path) -> None:
    """Their prompt is a question, which a model without a chat template reads behind instructions and examples."""
    steps = tmp_path / "steps.jsonl"
    steps.write_text('{"prompt": "2 + 2?", "completions": ["It is 4.", "Answer: 4"], "labels": [true, true]}\n')
    read: list[str] = []

    class Reads:
        tokenizer = tiny_tokenizer("byte_level")
        delimiters = ("\n",)

        def read(self, nodes: list[Node]) -> None:
            read.extend(node.text for node in nodes)
            raise ValueError("that is enough")

    prompt_of = functools.partial(plain_prompt, system="Think.", examples=[("1 + 1?", "Answer: 2")])
    learner = Learner("model", Reads(), "text", {}, prompt_of, {})
    with pytest.raises(ValueError, match="that is enough"):
        _from_steps(learner, steps, CriticConfig(), tmp_path / "critic.safetensors")
    start = "Think.\n\nQuestion: 1 + 1?\nAnswer: 2\n\nQuestion: 2 + 2?\n"
    assert read == [start + "It is 4.\n", start + "It is 4.\nAnswer: 4\n"]


def test_the_command_takes_a_task_with_its_own_questions_and_arguments(tmp_path: Path) -> None:
    pytest.importorskip("reasoning_gym")
    out = tmp_path / "critic.safetensors"
    options = ("name=countdown", "size=9", "seed=42", "inner=countdown")  # hard: some of its states are dead
    words = [word for option in options for word in ("--task-option", option)]
    result = run(
        *("--model", embedded_folder(), "--task", "reasoning_gym", *words, "--out", out, "--limit", 8),
        *("--budget-tokens", 60, "--rounds", 1, "--max-step-tokens", 20, "--completions", 2, "--reads", "context"),
    )
    assert result.exit_code == 0, result.output
    manifest = read_manifest(out)
    assert manifest.reads == "context"
    assert (manifest.task, manifest.figures["questions"]) == ("reasoning_gym:countdown", 8)
    assert manifest.figures["tokens"]["labelling"] == 0  # the inner task has an exact solver


DEEP = "[" * 100_000


def test_arguments_of_a_task_are_read_as_they_are_meant() -> None:
    words = [
        "size=200",
        "share=0.5",
        "name=n_queens",
        "flag=true",
        "nothing=null",
        "text=[1]",
        "more=a=b",
        "empty=",
        f"deep={DEEP}",
    ]
    assert task_options(words) == {
        "size": 200,
        "share": 0.5,
        "name": "n_queens",
        "flag": True,
        "nothing": None,
        "text": "[1]",
        "more": "a=b",
        "empty": "",
        "deep": DEEP,
    }
    for word in ("size", "=3", "a b=3"):
        with pytest.raises(ValueError, match="task-option: expected NAME=VALUE"):
            task_options([word])
    with pytest.raises(ValueError, match="each name once"):
        task_options(["size=1", "size=2"])


def test_a_path_in_words_may_be_as_deep_as_that_of_ask(tmp_path: Path) -> None:
    """Else its later states were never learnt from."""
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer("byte_level").save_pretrained(tmp_path)
    for given, depth in (({}, MAX_DEPTH), ({"max_depth": 3}, 3)):
        learner = _learner(str(tmp_path), "text", given, None, None, None)
        assert made_task("text", learner.task_options).max_depth == depth
    assert _learner(str(tmp_path), "n_queens", {}, None, None, None).task_options == {}


def test_of_two_answers_to_a_question_the_last_one_counts_and_this_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    learner = Learner(None, None, "text", {}, lambda question: f"{question}!", {})
    problems = [("a", "1"), ("b", "2"), ("a", "1"), ("b", "[3]"), ("c", None)]
    assert _answers_of(learner, problems) == {"a!": "1", "b!": "[3]"}
    said = capsys.readouterr().err
    assert said == "problems: expected one answer to 'b', got '2' and '[3]'; the last one counts\n"


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    empty, plain, same = tmp_path / "empty.txt", tmp_path / "plain.txt", tmp_path / "same.jsonl"
    empty.write_text("\n")
    plain.write_text("1 + 1?\n2 + 2?\n")
    step = "4 + 10 = 14 (left: 5 6 14)"
    lines = [{"prompt": asked, "completions": [step], "labels": [1]} for asked in ("4 5 6 10", "4 5 6 10 -> 25")]
    same.write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = ("--model", embedded_folder(), "--out", tmp_path / "critic.safetensors")
    for arguments, match in (
        (model, "either --problems or --steps"),
        ((*model, "--problems", empty, "--steps", empty), "either --problems or --steps"),
        ((*model, "--steps", empty, "--reads", "context"), "reads: expected step with --steps"),
        ((*model, "--steps", empty, "--limit", 5), "--limit: expected beside --problems, got it with --steps"),
        ((*model, "--steps", empty, "--rounds", 1), "--rounds: expected beside --problems"),
        ((*model, "--problems", empty, "--limit", 0), "limit: expected an integer of at least 1, got 0"),
        ((*model, "--problems", empty, "--device", "cpu"), "--device: expected beside the --model of a language model"),
        ((*model, "--problems", empty, "--dtype", "float16"), "--dtype: expected beside the --model of"),
        ((*model, "--problems", empty), "expected questions in"),
        ((*model, "--problems", tmp_path / "none.txt"), "No such file"),
        ((*model, "--problems", empty, "--task", "nowhere"), "expected the name of a module"),
        ((*model, "--problems", empty, "--rounds", 0), "rounds: expected"),
        ((*model, "--task-option", "size"), "task-option: expected NAME=VALUE"),
        (
            (*model, "--problems", plain, "--task-option", "size=3"),
            "task_options: expected arguments of the task 'countdown' (target, fractions), got size",
        ),
        (
            (*model, "--task", "reasoning_gym", "--task-option", "size=3"),
            "task_options: expected arguments of the task 'reasoning_gym' (name, size, seed, inner, question_of, "
            "config), got size: missing a required argument: 'name'",
        ),
        ((*model, "--problems", plain, "--task", "text"), "problems: expected JSON lines with question and answer"),
        ((*model, "--steps", same), "labels: expected some that differ, got 2 that are all 1.0"),
        (
            (*model, "--problems", plain, "--model", "no/such/model"),
            "error: model: expected a folder with a model or a",
        ),
        (("--model", "nowhere", "--problems", plain, "--out", plain), "--out: expected a file of its own"),
        (("--model", "nowhere", "--problems", plain, "--out", tmp_path), "expected a file to write, got a folder"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert match in result.stderr
    assert not (tmp_path / "critic.safetensors").exists()
