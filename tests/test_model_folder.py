"""Model folders: saved, loaded, broken in every way, and never a way to run code unasked."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from tiny_course import CountingCourse  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.folder_settings import FILES, HEAD_FILE, SETTINGS_FILE, FolderSettings, read_settings  # noqa: E402
from bavt_fast.model_folder import load_folder, save_folder  # noqa: E402
from bavt_fast.tasks import task_module, training_module  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402
from bavt_fast.training.course import Sizes  # noqa: E402
from bavt_fast.training.model import JointModel  # noqa: E402

COURSE = CountingCourse()
SIZES = Sizes(hidden_size=32, layers=2, mlp_size=64, heads=2)


pytestmark = pytest.mark.usefixtures("one_thread")


def save(folder: Path, model: JointModel, **changes: Any) -> None:
    save_folder(folder, model.lm, COURSE.tokenizer(), model.head, replace(COURSE.settings, **changes))


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    save(folder, COURSE.new_model(SIZES), temperature=0.25, search={"decay": 0.5, "policy": "best_first"})
    return folder


@pytest.fixture
def folder(good_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_folder, tmp_path / "model"))


def rewrite(file: Path, **changes: Any) -> None:
    """Changes keys of a JSON file; a key given as None is taken out."""
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


# --- what fits


def test_a_saved_folder_loads_without_a_word(good_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    loaded = load_folder(good_folder)
    assert (loaded.generator.temperature, loaded.generator.delimiters) == (0.25, (".",))
    assert loaded.generator.without_replacement
    assert loaded.critic.predicts == "value"
    assert isinstance(loaded.task, TextTask)
    assert loaded.task.max_depth == 3
    other = load_folder(
        str(good_folder), temperature=0.5, without_replacement=False, task_options={"max_depth": 2, "end": "x"}
    )
    assert (other.generator.temperature, other.generator.without_replacement) == (0.5, False)
    assert (other.task.max_depth, other.task.end) == (2, "x")  # type: ignore[attr-defined]
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_all_that_a_search_takes(good_folder: Path) -> None:
    loaded = load_folder(good_folder)
    searcher = bavt.Searcher(loaded.generator, loaded.critic, loaded.task, **loaded.settings.search)
    result = searcher.search("1 2 3", budget=bavt.Budget(tokens=40))
    assert 0 < result.spent.tokens <= 40


def test_other_loaders_take_the_folder_as_it_is(good_folder: Path) -> None:
    """Every *.safetensors beside the model is the model's, as loaders of weights by pattern expect."""
    weights: dict[str, Any] = {}
    for file in good_folder.glob("*.safetensors"):
        weights.update(safetensors_torch.load_file(file))
    model = transformers.AutoModelForCausalLM.from_pretrained(good_folder, local_files_only=True)
    assert set(weights) == set(model.state_dict())
    assert (good_folder / HEAD_FILE).is_file()


def test_settings_survive_the_file() -> None:
    settings = FolderSettings("text", "</step>", "residual", 0.5, {"decay": 0.5, "policy": "uct"}, {"end": "=> "})
    assert FolderSettings.from_json(settings.to_json()) == settings
    least = FolderSettings.from_json('{"format": 1, "task": "text", "delimiter": "x", "head": "value"}')
    assert least == FolderSettings("text", "x", "value")


def test_saving_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = COURSE.new_model(SIZES)
    save(tmp_path, model)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for file in (tmp_path / "model.safetensors", tmp_path / HEAD_FILE):
        assert all(weight.dtype == torch.float16 for weight in safetensors_torch.load_file(file).values())


def test_a_head_of_its_own_class_is_saved_like_its_layers(tmp_path: Path) -> None:
    model, head = COURSE.new_model(SIZES), bavt.ResidualValuePredictor(32)
    save_folder(tmp_path, model.lm, COURSE.tokenizer(), head, COURSE.settings)
    found = load_folder(tmp_path).critic.head.state_dict()
    assert {name: w.tolist() for name, w in found.items()} == {
        name: w.half().float().tolist() for name, w in head.state_dict().items()
    }


# --- what is not saved


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    model, out = COURSE.new_model(SIZES), tmp_path / "out"
    for head, match in (
        (bavt.ResidualValuePredictor(16), "expected the model's width of 32, got a head of width 16"),
        (torch.nn.Linear(32, 1), "expected a head of predictor.0.bias .*, got predictor.bias"),
    ):
        with pytest.raises(ValueError, match=match):
            save_folder(out, model.lm, COURSE.tokenizer(), head, COURSE.settings)
    with pytest.raises(ValueError, match=r"task: expected the name of a module in bavt_fast.tasks .*, got 'nowhere'"):
        save(out, model, task="nowhere")
    with pytest.raises(ValueError, match="JSON"):
        save(out, model, search={"decay": float("nan")})
    with torch.no_grad():
        model.lm.get_input_embeddings().weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="expected weights that half precision can hold, got infinity or NaN in model"):
        save(out, model)
    assert not out.exists()


# --- what is not loaded


def test_a_folder_that_is_missing(tmp_path: Path, good_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model: .* has no config.json; train one with `bavt-fast train"):
        load_folder(tmp_path / "nowhere")
    for other in (tmp_path, good_folder / "config.json"):
        with pytest.raises(FileNotFoundError, match=r"model: "):
            load_folder(other)


def test_a_language_model_alone(folder: Path) -> None:
    """As the hub has them: the error says how these are loaded."""
    shutil.rmtree(folder / "bavt_fast")
    with pytest.raises(FileNotFoundError, match=rf"has no {HEAD_FILE}; .* as it is, by bavt.load or `bavt-fast ask`"):
        load_folder(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_a_file_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        load_folder(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"not a model", b"\x00" * 64, b"\xff\xfe"])
def test_a_folder_with_a_broken_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_settings_that_are_not_json_are_shown(folder: Path) -> None:
    (folder / SETTINGS_FILE).write_text('{"format": 1,')
    with pytest.raises(ValueError, match=r"settings.json: expected a JSON object, got '\{\"format\": 1,' \(Expecting"):
        load_folder(folder)
    (folder / SETTINGS_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"settings.json: expected UTF-8, got .* at byte 0 of what may be UTF-16"):
        load_folder(folder)


@pytest.mark.parametrize("name", [SETTINGS_FILE, "config.json", "tokenizer_config.json"])
def test_settings_that_nest_too_deeply_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=rf"is not a model folder of bavt-fast \({name}: .*recursion"):
        load_folder(folder)


def test_a_head_of_a_wrong_width_is_not_made_to_see_that(folder: Path) -> None:
    """It would take 8 TB."""
    safetensors_torch.save_file({"predictor.0.weight": torch.zeros(1, 1 << 20)}, folder / HEAD_FILE)
    with pytest.raises(ValueError, match=r"expected a head of .*1048576.*, got predictor"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["model.safetensors", HEAD_FILE])
def test_a_folder_with_a_cut_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_a_folder_whose_weights_are_another_model_s(folder: Path) -> None:
    """Weights that are missing must not be filled with random numbers."""
    safetensors_torch.save_file({"other": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"is not a model folder of bavt-fast \(weights: expected .*, got no"):
        load_folder(folder)


def test_a_folder_whose_config_is_another_width(folder: Path) -> None:
    rewrite(folder / "config.json", intermediate_size=80)
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def head_weights(width: int) -> dict[str, Any]:
    return dict(bavt.ResidualValuePredictor(width).state_dict())


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (head_weights(16), "expected the model's width of 32, got a head of width 16"),
        ({**head_weights(32), "more": torch.zeros(1)}, r"expected a head of .*, got more \(1,\), predictor"),
        ({"predictor.0.weight": torch.zeros(64, 32)}, r"predictor.2.weight .*, got predictor.0.weight \(64, 32\)"),
        ({**head_weights(32), "predictor.0.weight": torch.zeros(9, 32)}, r"got .*predictor.0.weight \(9, 32\)"),
        ({**head_weights(32), "predictor.0.weight": torch.zeros(32)}, r"got .*predictor.0.weight \(32,\)"),
        (
            {**head_weights(32), "predictor.2.bias": torch.tensor([torch.nan])},
            "got infinity or NaN in predictor",
        ),
        ({"w": torch.zeros(0)}, r"expected a head of .*, got w \(0,\)"),
    ],
)
def test_a_head_that_does_not_fit_says_both(folder: Path, weights: dict[str, Any], match: str) -> None:
    safetensors_torch.save_file(weights, folder / HEAD_FILE)
    with pytest.raises(ValueError, match=match):
        load_folder(folder)


def test_a_head_of_other_weights_of_the_same_sizes_is_told_apart(folder: Path, tmp_path: Path) -> None:
    """As where weights that were trained on are put beside the head of the model before: a critic half wrong."""
    torch.manual_seed(1)
    save(tmp_path / "other", COURSE.new_model(SIZES))
    shutil.copy(tmp_path / "other" / HEAD_FILE, folder / HEAD_FILE)
    with pytest.raises(ValueError, match=r"expected the head of these weights, got one .* other states \(cosine"):
        load_folder(folder)


def test_a_folder_from_before_there_was_a_probe_loads(folder: Path) -> None:
    weights = safetensors_torch.load_file(folder / HEAD_FILE)
    del weights["probe"]
    safetensors_torch.save_file(weights, folder / HEAD_FILE)
    load_folder(folder)


@pytest.mark.parametrize("scale", [0.0, 30_000.0])
def test_a_model_whose_states_are_zero_or_huge_is_saved_and_loads(tmp_path: Path, scale: float) -> None:
    model = COURSE.new_model(SIZES)
    with torch.no_grad():
        model.lm.model.norm.weight.fill_(scale)
    save(tmp_path, model)
    assert ("probe" in safetensors_torch.load_file(tmp_path / HEAD_FILE)) == (scale > 0)
    load_folder(tmp_path)


def test_a_probe_of_another_width_is_refused(folder: Path) -> None:
    weights = {**safetensors_torch.load_file(folder / HEAD_FILE), "probe": torch.zeros(7)}
    safetensors_torch.save_file(weights, folder / HEAD_FILE)
    with pytest.raises(ValueError, match=r"expected the head of these weights, got one"):
        load_folder(folder)


def test_the_layout_of_before_is_named(folder: Path) -> None:
    (folder / HEAD_FILE).rename(folder / "value_head.safetensors")
    shutil.rmtree(folder / "bavt_fast")
    with pytest.raises(ValueError, match=r"model: expected the head in bavt_fast/value_head.safetensors") as caught:
        load_folder(folder)
    assert SETTINGS_FILE in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": 2}, "format: expected 1, got 2"),
        ({"format": None}, "format: expected 1, got None"),
        ({"format": True}, "format: expected 1, got True"),
        ({"task": None}, "settings: expected task, delimiter and head, got none for task"),
        ({"task": 3}, "task: expected a str, got 3"),
        ({"head": "logits"}, "head: expected one of value, residual, logit, got 'logits'"),
        ({"head": ["value"]}, "head: expected one of"),
        ({"delimiter": ""}, "delimiter: expected a non-empty str, got ''"),
        ({"temperature": 0}, "temperature: expected a finite number above zero, got 0"),
        ({"temperature": "1"}, "temperature: expected a finite number above zero, got '1'"),
        ({"search": [1]}, r"search: expected arguments by their names, got \[1\]"),
        ({"search": {"decay": [1]}}, r"search: expected a number or a str for decay, got \[1\]"),
        ({"search": {"on_progress": 1, "depth": 2}}, "search: expected arguments of Searcher, got depth, on_progress"),
        ({"colour": "red"}, "settings: expected some of task, .*, got colour"),
    ],
)
def test_settings_that_are_none_are_refused(folder: Path, changes: dict[str, Any], match: str) -> None:
    rewrite(folder / SETTINGS_FILE, **changes)
    with pytest.raises(ValueError, match=rf"model: .* is not a model folder of bavt-fast \({SETTINGS_FILE}: {match}"):
        load_folder(folder)


def test_bad_arguments_are_refused(good_folder: Path) -> None:
    with pytest.raises(ValueError, match="temperature: expected a finite number"):
        load_folder(good_folder, temperature=-0.1)
    with pytest.raises(TypeError, match="target"):
        load_folder(good_folder, task_options={"target": 24})


# --- tasks and code


@pytest.mark.parametrize(
    "name",
    ["os", "nowhere", "", ".", "..cli", "text.os", "countdown.task", "__init__", "text ", "tеxt", "class", "ｔｅｘｔ"],
)
def test_nothing_outside_the_tasks_is_imported(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    real = builtins.__import__
    with pytest.raises(ValueError, match=r"task: expected the name of a module in bavt_fast.tasks"):
        task_module(name)
    rewrite(folder / SETTINGS_FILE, task=name or "''")
    before = set(sys.modules)
    monkeypatch.setattr(builtins, "__import__", lambda n, *a, **k: imported.append(n) or real(n, *a, **k))
    with pytest.raises(ValueError, match="task: expected"):
        read_settings(folder)
    assert set(sys.modules) == before
    assert not {"os", "bavt_fast.cli"} & set(imported)


def test_a_module_without_a_task_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import bavt_fast.tasks

    (tmp_path / "half_done.py").write_text("ANSWER = 42\n")
    (tmp_path / "whole.py").write_text("def make_task(): return 'a task'\n")
    monkeypatch.setattr(bavt_fast.tasks, "__path__", [*bavt_fast.tasks.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=r"that has make_task\(\), got 'half_done'"):
        task_module("half_done")
    assert task_module("whole").make_task() == "a task"
    with pytest.raises(ValueError, match="expected a task that has a module training, got 'whole'"):
        training_module("whole")
    with pytest.raises(TypeError, match="task: expected a str"):
        task_module(3)  # type: ignore[arg-type]


CODE = """
import pathlib
pathlib.Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM
class OddConfig(LlamaConfig):
    model_type = "odd"
class OddModel(LlamaForCausalLM):
    config_class = OddConfig
"""


@pytest.mark.parametrize("model_type", ["odd", "llama"])
def test_code_in_a_folder_runs_only_where_it_is_trusted(
    folder: Path, tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything asked: a question in the middle of a run would wait for ever."""
    mark = tmp_path / "mark"
    (folder / "odd.py").write_text(CODE.format(mark=str(mark)))
    auto_map = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.OddModel"}
    rewrite(folder / "config.json", auto_map=auto_map, model_type=model_type)
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a question was asked"))
    with pytest.raises(TypeError, match="trust_remote_code: expected True or False, got 'no'"):
        load_folder(folder, trust_remote_code="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"config.json names Python code .* \(auto_map\).*trust_remote_code=True"):
        load_folder(folder)
    assert not mark.exists()
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers puts the folder of such modules on it
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    loaded = load_folder(folder, trust_remote_code=True)
    assert mark.read_text() == "ran"
    assert type(loaded.generator.model).__name__ == "OddModel"


def test_code_for_the_tokenizer_is_not_run_either(folder: Path) -> None:
    rewrite(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["odd.OddTokenizer", None]})
    with pytest.raises(ValueError, match=r"tokenizer_config\.json names Python code"):
        load_folder(folder)
