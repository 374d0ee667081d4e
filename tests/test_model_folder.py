"""The model folder: the one that ships, and those that are broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.model_folder import embedded_folder, load_folder, save_folder  # noqa: E402
from bavt_fast.tasks.countdown.task import Countdown, CountdownOracle, check_expression, load_game24  # noqa: E402
from bavt_fast.training.evaluate import auc  # noqa: E402
from bavt_fast.training.model import JointModel, build_config, build_tokenizer  # noqa: E402

FILES = ("config.json", "model.safetensors", "tokenizer.json", "value_head.safetensors")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the model that ships


@pytest.fixture(scope="module")
def shipped() -> tuple[Any, Any]:
    return load_folder()


def test_it_is_small() -> None:
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert {path.name for path in files} >= set(FILES)
    assert sum(path.stat().st_size for path in files) <= 10 * 2**20


def test_it_is_a_llama_with_the_countdown_tokenizer(shipped: tuple[Any, Any]) -> None:
    generator, _ = shipped
    assert isinstance(generator.model, transformers.LlamaForCausalLM)
    assert all(parameter.dtype == torch.float32 for parameter in generator.model.parameters())
    text = "Target: 24 (left: 4 5 6 10)\n10 + 4 = 14 (left: 5 6 14)"
    ids = generator.tokenizer(text)["input_ids"]
    assert ids == build_tokenizer()(text)["input_ids"]
    assert generator.tokenizer.decode(ids) == text.replace("\n", " ")


def test_its_head_has_the_keys_of_a_residual_value_predictor(shipped: tuple[Any, Any]) -> None:
    weights = safetensors_torch.load_file(embedded_folder() / "value_head.safetensors")
    width = shipped[0].model.config.hidden_size
    expected = bavt.ResidualValuePredictor(width).state_dict()
    assert {name: weight.shape for name, weight in weights.items()} == {n: w.shape for n, w in expected.items()}
    assert isinstance(shipped[1].head, bavt.ResidualValuePredictor)


def test_every_weight_is_finite(shipped: tuple[Any, Any]) -> None:
    generator, critic = shipped
    for module in (generator.model, critic.head):
        assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_it_solves_a_game_of_24(shipped: tuple[Any, Any]) -> None:
    generator, critic = shipped
    result = bavt.search(
        "4 5 6 10", generator=generator, critic=critic, task=Countdown(), budget=bavt.Budget(tokens=500)
    )
    assert result.solved
    assert result.answer is not None
    assert check_expression(result.answer, (4, 5, 6, 10), 24)
    assert result.spent.tokens <= 500


def test_its_steps_are_valid_and_its_values_tell_solvable_states_apart(shipped: tuple[Any, Any]) -> None:
    """On Games of 24 that were never trained on: most steps are legal, and the dead children score lower."""
    generator, critic = shipped
    task = Countdown()
    puzzles = [numbers for rank, numbers in load_game24() if 901 <= rank <= 930]
    states = [task.initial_state(" ".join(map(str, numbers))) for numbers in puzzles]
    requests = [bavt.StepRequest(task.prompt(state), seed) for seed, state in enumerate(states)]
    rows = generator.propose(requests, [4] * len(states), [32] * len(states))
    steps = [(state, step) for state, row in zip(states, rows, strict=True) for step in row]
    after = [(task.apply(state, step.text), step) for state, step in steps]
    candidates = [bavt.Candidate(state, "", step, 1.0) for state, step in after if state is not None]
    assert len(candidates) > 0.85 * len(steps)
    labels = [value == 1.0 for value in CountdownOracle().score(candidates)]
    assert auc(np.array(critic.score(candidates)), np.array(labels)) > 0.6


# --- folders


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = JointModel(build_config(hidden_size=32, layers=2, mlp_size=64, heads=2))
    folder = tmp_path_factory.mktemp("model")
    save_folder(folder, model.lm, build_tokenizer(), model.head)
    return folder


@pytest.fixture
def folder(good_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_folder, tmp_path / "model"))


def test_a_saved_folder_loads_without_a_word(good_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    generator, critic = load_folder(good_folder, temperature=0.5, without_replacement=False)
    assert generator.temperature == 0.5
    assert not generator.without_replacement
    assert critic.predicts == "value"
    assert load_folder(str(good_folder))[0].delimiter == ")"
    assert capfd.readouterr() == ("", "")


def test_saving_leaves_the_model_as_it_is(tmp_path: Path) -> None:
    model = JointModel(build_config(hidden_size=32, layers=1, mlp_size=64, heads=2))
    save_folder(tmp_path, model.lm, build_tokenizer(), model.head)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    stored = safetensors_torch.load_file(tmp_path / "model.safetensors")
    assert all(weight.dtype == torch.float16 for weight in stored.values())


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model: .* has no config.json; train one with `bavt-fast train"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"model: "):
        load_folder(tmp_path)


def test_a_file_is_no_folder(good_folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model: "):
        load_folder(good_folder / "config.json")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_a_file_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}"):
        load_folder(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{}", b"not a model", b"\x00" * 64])
def test_a_folder_with_a_broken_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_a_folder_with_a_cut_file(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_a_folder_whose_weights_are_another_model_s(folder: Path) -> None:
    """Weights that are missing must not be filled with random numbers."""
    safetensors_torch.save_file({"other": torch.zeros(3)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_a_folder_whose_head_is_another_width(folder: Path) -> None:
    head = bavt.ResidualValuePredictor(16)
    safetensors_torch.save_file(head.state_dict(), folder / "value_head.safetensors")
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_a_folder_whose_config_is_another_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["intermediate_size"] = 80
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is not a model folder of bavt-fast"):
        load_folder(folder)


def test_a_bad_temperature_is_refused(good_folder: Path) -> None:
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0"):
        load_folder(good_folder, temperature=0.0)
