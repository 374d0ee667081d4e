"""The critic that reads hidden states, alone and at the end of a real search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.functions import as_critic  # noqa: E402
from bavt_fast.critics.value_head import HiddenStateCritic  # noqa: E402
from bavt_fast.protocols import Node, Step  # noqa: E402

WIDTH = 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def head() -> Any:
    torch.manual_seed(0)
    return bavt.ResidualValuePredictor(WIDTH)


def candidate(hidden: Any) -> Node:
    return Node(None, None, Node(None, "text"), Step("step", 1, hidden=hidden))


def test_scores_are_the_head_s(head: Any) -> None:
    hidden = torch.randn(5, WIDTH)
    candidates = [candidate(row) for row in hidden]
    with torch.no_grad():
        plain = head(hidden).squeeze(-1)
    for predicts, expected, said in (
        ("residual", plain, "residual"),
        ("value", plain, "value"),
        ("logit", plain.sigmoid(), "value"),
    ):
        critic = HiddenStateCritic(head, predicts=predicts)  # type: ignore[arg-type]
        scores = critic.score(candidates)
        assert scores == pytest.approx(expected.tolist(), abs=1e-6)
        assert all(type(score) is float for score in scores)
        assert critic.predicts == said
        assert as_critic(critic) is critic
        assert scores == pytest.approx([critic.score([one])[0] for one in candidates], abs=1e-6)


def test_the_head_is_put_into_eval_mode_and_no_graph_is_kept(head: Any) -> None:
    critic = HiddenStateCritic(head.train())
    assert not head.training
    critic.score([candidate(torch.randn(WIDTH, requires_grad=True))])
    assert all(parameter.grad is None for parameter in head.parameters())


def test_hidden_states_of_another_dtype(head: Any) -> None:
    hidden = torch.randn(WIDTH)
    scores = [HiddenStateCritic(head).score([candidate(hidden.to(d))])[0] for d in (torch.float32, torch.float64)]
    assert scores[0] == pytest.approx(scores[1])
    half = HiddenStateCritic(head).score([candidate(hidden.bfloat16())])[0]
    assert half == pytest.approx(scores[0], abs=0.05)


def test_no_candidates(head: Any) -> None:
    assert HiddenStateCritic(head).score([]) == []


def test_a_step_without_hidden_state_is_named(head: Any) -> None:
    with pytest.raises(TypeError, match=r"critic: a step without a hidden state; use a generator"):
        HiddenStateCritic(head).score([candidate(torch.randn(WIDTH)), candidate(None)])


def test_a_root_has_no_hidden_state(head: Any) -> None:
    with pytest.raises(TypeError, match=r"critic: a step without a hidden state"):
        HiddenStateCritic(head).score([Node(None, "q")])


def test_a_head_without_parameters() -> None:
    """A function of the hidden state is a head too."""

    class Mean(torch.nn.Module):  # type: ignore[misc]
        def forward(self, hidden: Any) -> Any:
            return hidden.mean(-1, keepdim=True)

    scores = HiddenStateCritic(Mean(), "value").score([candidate(torch.full((WIDTH,), 0.25, dtype=torch.float64))])
    assert scores == [0.25]


@pytest.mark.parametrize("predicts", ["logits", "", None, 1])
def test_a_wrong_kind_of_prediction(head: Any, predicts: Any) -> None:
    with pytest.raises(ValueError, match="predicts: expected 'value', 'residual' or 'logit'"):
        HiddenStateCritic(head, predicts=predicts)


def test_a_head_that_gives_nan_ends_the_search_with_its_result(head: Any) -> None:
    class Generator:
        def propose(self, states: Any, counts: Any, limits: Any) -> list[list[Step]]:
            value = math.nan if states[0].tried or "x" in states[0].text else 0.5
            return [[Step("x\n", 1, hidden=torch.full((WIDTH,), value))]]

    with pytest.raises(bavt.SearchError, match="critic: expected finite scores, got nan") as caught:
        bavt.search("q", generator=Generator(), critic=HiddenStateCritic(head), budget=bavt.Budget(tokens=9))
    assert caught.value.result.path == ("x",)


def test_a_search_with_a_tiny_model_end_to_end() -> None:
    """A random model and head: the tokens charged are those generated, and the same seed gives the same tree."""
    from tiny_models import tiny_model

    from bavt_fast.generators.torch_model import TorchGenerator
    from bavt_fast.tasks.countdown.training.model import build_tokenizer
    from bavt_fast.tasks.text import TextTask

    torch.manual_seed(3)
    critic = HiddenStateCritic(bavt.ResidualValuePredictor(32), predicts="logit")

    def search() -> bavt.SearchResult:
        generator = TorchGenerator(tiny_model(), build_tokenizer(), delimiter="7")
        searcher = bavt.Searcher(generator, critic, TextTask(max_depth=3), wave=4, max_step_tokens=8)
        return searcher.search("Target: 5", budget=bavt.Budget(tokens=120), seed=4)

    first = search()
    told = [step for step in (*first.steps, *(refusal.step for refusal in first.refused)) if step is not None]
    assert first.spent.tokens == sum(len(step.token_ids) for step in told) <= 120
    assert first.generation is not None
    assert first.generation.generated_tokens == first.spent.tokens
    assert first.tree.num_nodes > 1
    second = search()
    assert first.tree.parents.tobytes() == second.tree.parents.tobytes()
    assert first.tree.values.tobytes() == second.tree.values.tobytes()
    assert first.path == second.path
