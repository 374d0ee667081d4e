"""The model that ships: its files, its weights, and what it can do."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.folder_settings import FILES, HEAD_FILE  # noqa: E402
from bavt_fast.model_folder import ModelFolder, embedded_folder, load_folder  # noqa: E402
from bavt_fast.tasks.countdown import (  # noqa: E402
    GAME24_TEST_RANKS,
    Countdown,
    CountdownOracle,
    check_expression,
    load_game24,
)
from bavt_fast.tasks.countdown.training import make_course  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402
from bavt_fast.training.figures import auc  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shipped() -> ModelFolder:
    return load_folder()


def test_it_is_small() -> None:
    files = [path for path in embedded_folder().rglob("*") if path.is_file()]
    assert {path.relative_to(embedded_folder()).as_posix() for path in files} >= set(FILES)
    assert sum(path.stat().st_size for path in files) <= 16 * 10**6


def test_it_is_a_llama_with_the_countdown_tokenizer(shipped: ModelFolder) -> None:
    generator = shipped.generator
    assert isinstance(generator.model, transformers.LlamaForCausalLM)
    assert all(parameter.dtype == torch.float32 for parameter in generator.model.parameters())
    text = "Target: 24 (left: 4 5 6 10)\n10 + 4 = 14 (left: 5 6 14)"
    ids = generator.tokenizer(text)["input_ids"]
    assert ids == build_tokenizer()(text)["input_ids"]
    assert generator.tokenizer.decode(ids) == text.replace("\n", " ")


def test_its_settings_are_those_it_was_trained_for(shipped: ModelFolder) -> None:
    assert shipped.settings == make_course().settings
    assert isinstance(shipped.task, Countdown)
    assert load_folder(task_options={"target": 10}).task.initial_state("4 6").target == 10


def test_its_head_has_the_keys_of_a_residual_value_predictor(shipped: ModelFolder) -> None:
    weights = safetensors_torch.load_file(embedded_folder() / HEAD_FILE)
    assert weights.pop("probe").isfinite().all(), "without it the head of other weights would not be noticed"
    width = shipped.generator.model.config.hidden_size
    expected = bavt.ResidualValuePredictor(width).state_dict()
    assert {name: weight.shape for name, weight in weights.items()} == {n: w.shape for n, w in expected.items()}
    assert isinstance(shipped.critic.head, bavt.ResidualValuePredictor)


def test_every_weight_is_finite(shipped: ModelFolder) -> None:
    for module in (shipped.generator.model, shipped.critic.head):
        assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_it_solves_a_game_of_24(shipped: ModelFolder) -> None:
    searcher = bavt.Searcher(shipped.generator, shipped.critic, shipped.task, **shipped.settings.search)
    result = searcher.search("4 5 6 10", budget=bavt.Budget(tokens=500))
    assert result.solved
    assert result.answer is not None
    assert check_expression(result.answer, (4, 5, 6, 10), 24)
    assert result.spent.tokens <= 500


def test_its_steps_are_valid_and_its_values_tell_solvable_states_apart(shipped: ModelFolder) -> None:
    """On Games of 24 that were never trained on: most steps are legal, and the dead children score lower."""
    generator, critic, task = shipped.generator, shipped.critic, shipped.task
    puzzles = [numbers for rank, numbers in load_game24() if rank in GAME24_TEST_RANKS][:30]
    states = [task.initial_state(" ".join(map(str, numbers))) for numbers in puzzles]
    requests = [bavt.StepRequest(task.describe(state).prompt, seed) for seed, state in enumerate(states)]
    rows = generator.propose(requests, [4] * len(states), [32] * len(states))
    steps = [(state, step) for state, row in zip(states, rows, strict=True) for step in row]
    after = [(task.apply(state, step), step) for state, step in steps]
    candidates = [bavt.Node(state, None, step=step) for state, step in after if state is not None]
    assert len(candidates) > 0.85 * len(steps)
    labels = [value == 1.0 for value in CountdownOracle().score(candidates)]
    assert auc(np.array(critic.score(candidates)), np.array(labels)) > 0.6
