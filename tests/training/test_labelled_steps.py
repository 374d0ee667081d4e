"""Steps that somebody has labelled, as the states that a search over them would leave behind."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import tiny_model  # noqa: E402
from tiny_tokenizers import tiny_tokenizer  # noqa: E402

from bavt_fast.language_model import TorchModel  # noqa: E402
from bavt_fast.model_folder import ModelFolder, load_folder  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402
from bavt_fast.training.critic.process_data import LabelledPath, label_states  # noqa: E402


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    return load_folder(threads=1)


def test_labelled_paths_of_one_prompt_are_one_question(folder: ModelFolder) -> None:
    step = "10 + 4 = 14 (left: 5 6 14)"
    paths = [LabelledPath(asked, (step,), (1.0,)) for asked in ("4 5 6 10", "4 6 5 10 -> 24", "4 5 6 10 -> 25")]
    assert label_states(paths, folder.generator, folder.task).questions.tolist() == [0, 0, 1]
    written = [LabelledPath(asked, ("s", "t"), (1.0, 0.0)) for asked in ("1 2\n", "1 3\n", "1 2\n")]
    assert label_states(written, folder.generator).questions.tolist() == [0, 0, 1, 1, 0, 0]


def test_labelled_steps_end_where_the_task_takes_one_for_invalid(folder: ModelFolder) -> None:
    steps = ("10 + 4 = 14 (left: 5 6 14)", "6 - 5 = 2 (left: 2 14)", "6 - 5 = 1 (left: 1 14)")
    paths = [LabelledPath("4 5 6 10", steps, (1.0, 0.0, 1.0)), LabelledPath("4 5 6 10", steps[:1], (0.5,))]
    found = label_states(paths, folder.generator, folder.task)
    assert found.labels.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="paths: expected steps that the task takes for valid, got none in 1 paths"):
        label_states([LabelledPath("4 5 6 10", steps[1:], (1.0, 0.0))], folder.generator, folder.task)
    with pytest.raises(ValueError, match=r"paths\[1\]: question: expected integers"):
        label_states([paths[0], LabelledPath("none", ("s",), (1.0,))], folder.generator, folder.task)
    with pytest.raises(ValueError, match="paths: expected at least one"):
        label_states([], folder.generator)


def test_labelled_steps_end_where_the_context_of_the_model_does(
    folder: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """No search gets there, and one long path of many is no reason to learn from none."""
    long = LabelledPath("1 2\n", ("1 + 2 = 3 (left: 3)\n",) * 200, (1.0,) * 200)
    short = LabelledPath("1 3\n", ("s", "t"), (1.0, 0.0))
    found = label_states([long, short], folder.generator)
    steps = len(found.labels) - 2
    assert 0 < steps < 200
    assert f"{200 - steps} labelled steps are left out: the model's context does not hold them" in caplog.text
    assert found.questions.tolist() == [0] * steps + [1, 1]
    assert found.depths.tolist() == [*range(1, steps + 1), 1, 2]
    torch.testing.assert_close(found.hidden[steps:], label_states([short], folder.generator).hidden)
    with pytest.raises(ValueError, match=r"paths\[0\]: .*a context that the model can take"):
        label_states([long._replace(prompt=long.steps[0] * 200)], folder.generator)


def test_half_a_character_in_a_labelled_path_is_a_question_mark() -> None:
    """As it is in a prompt of a search. JSON can hold it, no tokenizer takes it."""
    generator = TorchModel(tiny_model(), tiny_tokenizer("byte_level")).generator()
    broken = LabelledPath("Which\ud83d", ("a \udc00\n", "b\ud83d"), (1.0, 0.0))
    whole = LabelledPath("Which?", ("a ?\n", "b?"), (1.0, 0.0))
    found, expected = (label_states([path], generator) for path in (broken, whole))
    torch.testing.assert_close(found.hidden, expected.hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"paths": [("1 2\n", ("s",), (1.0,))]}, r"paths: expected a list of LabelledPath, got \[\('1 2"),
        ({"paths": None}, "paths: expected a list of LabelledPath, got None"),
        ({"generator": len}, "generator: expected one that reads contexts, such as TorchGenerator, got <built-in"),
        ({"separator": 5}, "separator: expected a str or None, got 5"),
        ({"task": "text"}, "task: expected an object with the methods of bavt_fast.Task, got 'text'"),
        ({"task": TextTask}, "task: expected an object with the methods of bavt_fast.Task, got <class"),
    ],
)
def test_what_is_no_labelled_data_is_said(folder: ModelFolder, wrong: dict[str, Any], message: str) -> None:
    given = {"paths": [LabelledPath("1 2\n", ("s",), (1.0,))], "generator": folder.generator, **wrong}
    with pytest.raises(TypeError, match=message):
        label_states(**given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": (1.0,)}, r"labels: expected 2, one for each of the steps, got \(1.0,\)"),
        ({"labels": None}, "labels: expected 2, one for each of the steps, got None"),
        ({"labels": ("1", "0")}, "labels: expected booleans or numbers"),
        ({"labels": (1.0, float("nan"))}, "labels: expected booleans or numbers"),
        ({"steps": "12"}, "steps: expected a list of non-empty str, got '12'"),
        ({"steps": (1, 2)}, "steps: expected a list of non-empty str"),
        ({"prompt": 5}, "prompt: expected a non-empty str, got 5"),
    ],
)
def test_every_labelled_step_has_a_label(folder: ModelFolder, change: dict[str, Any], message: str) -> None:
    good = LabelledPath("Target:", ("1", "2"), (1.0, 0.0))
    with pytest.raises(ValueError, match=rf"paths\[1\]: {message}"):
        label_states([good, good._replace(**change)], folder.generator)


def test_labelled_steps_end_with_an_answer() -> None:
    """No search goes on behind it."""
    generator = TorchModel(tiny_model(), tiny_tokenizer("byte_level")).generator()
    path = LabelledPath("What?", ("a", "Answer: 5", "b"), (1.0, 0.0, 1.0))
    assert label_states([path], generator, TextTask()).labels.tolist() == [1.0, 0.0]
    assert label_states([path], generator, TextTask(max_depth=1)).labels.tolist() == [1.0]
    assert label_states([path], generator).labels.tolist() == [1.0, 0.0, 1.0]
