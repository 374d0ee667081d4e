"""The critic that reads hidden states, alone and at the end of a real search."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.functions import as_critic  # noqa: E402
from bavt_fast.critics.value_head import HiddenStateCritic  # noqa: E402
from bavt_fast.protocols import Node, Step  # noqa: E402

WIDTH = 8


pytestmark = pytest.mark.usefixtures("one_thread")


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


# --- kinds of heads and of hidden states


class Flat(torch.nn.Module):  # type: ignore[misc]
    """Gives (rows,) instead of (rows, 1)."""

    def forward(self, hidden: Any) -> Any:
        return hidden.mean(-1)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_head_without_a_last_dimension(rows: int) -> None:
    scores = HiddenStateCritic(Flat(), "value").score([candidate(torch.full((WIDTH,), 0.25))] * rows)
    assert scores == [0.25] * rows


@pytest.mark.parametrize("shape", [(2,), (WIDTH, 1), ()])
def test_a_head_that_gives_several_numbers_is_refused(shape: tuple[int, ...]) -> None:
    class Odd(torch.nn.Module):  # type: ignore[misc]
        def forward(self, hidden: Any) -> Any:
            return hidden.new_zeros(len(hidden), *shape) if shape else hidden.sum()

    with pytest.raises(ValueError, match=r"head: expected outputs of shape \(3, 1\), got"):
        HiddenStateCritic(Odd()).score([candidate(torch.zeros(WIDTH))] * 3)


def test_a_head_of_another_width_and_one_that_gives_no_tensor_are_named() -> None:
    class Pair(torch.nn.Module):  # type: ignore[misc]
        def forward(self, hidden: Any) -> Any:
            return hidden[:, :1], hidden

    states = [candidate(torch.zeros(WIDTH))] * 3
    with pytest.raises(ValueError, match=rf"head: expected one for states of shape \(3, {WIDTH}\), got: mat1 and mat2"):
        HiddenStateCritic(torch.nn.Linear(WIDTH + 1, 1)).score(states)
    with pytest.raises(ValueError, match=r"head: expected outputs of shape \(3, 1\), got \(tensor"):
        HiddenStateCritic(Pair()).score(states)


@pytest.mark.parametrize("read", [[], None, [torch.zeros(WIDTH)] * 2])
def test_a_reader_that_gives_no_state_for_each_node(head: Any, read: Any) -> None:
    class Reader:
        def read(self, nodes: Any) -> Any:
            return read

    with pytest.raises(ValueError, match="reader: expected a list of 1 states, one for each node, got"):
        HiddenStateCritic(head, reader=Reader()).score([candidate(torch.zeros(WIDTH))])


def test_a_head_that_is_no_module() -> None:
    with pytest.raises(TypeError, match=r"head: expected a torch.nn.Module, got function; wrap"):
        HiddenStateCritic(lambda hidden: hidden.mean(-1))  # type: ignore[arg-type]


def test_a_head_whose_first_weight_is_quantised(head: Any) -> None:
    """Integers say nothing of the dtype that the states are to have."""

    class Quantised(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.packed = torch.nn.Parameter(torch.ones(WIDTH, dtype=torch.int8), requires_grad=False)
            self.register_buffer("scale", torch.full((1,), 0.5, dtype=torch.float64))

        def forward(self, hidden: Any) -> Any:
            assert hidden.dtype == torch.float64
            return (hidden * self.packed * self.scale).sum(-1, keepdim=True)

    scores = HiddenStateCritic(Quantised(), "value").score([candidate(torch.full((WIDTH,), 0.25))])
    assert scores == [0.125 * WIDTH]


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("bfloat16", "float32"), ("float16", "bfloat16")])
def test_hidden_states_of_several_dtypes_in_one_wave(head: Any, dtypes: tuple[str, str]) -> None:
    hidden = torch.randn(WIDTH).half().float()
    scores = HiddenStateCritic(head).score([candidate(hidden.to(getattr(torch, name))) for name in dtypes])
    assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_hidden_states_of_numpy(head: Any) -> None:
    """From another machine."""
    hidden = torch.randn(3, WIDTH)
    plain = HiddenStateCritic(head).score([candidate(row) for row in hidden])
    assert HiddenStateCritic(head).score([candidate(row.numpy()) for row in hidden]) == pytest.approx(plain)


@pytest.mark.parametrize("shapes", [[(WIDTH,), (WIDTH + 1,)], [(1, WIDTH)], [()]])
def test_hidden_states_of_the_wrong_shape(head: Any, shapes: Any) -> None:
    with pytest.raises(ValueError, match=r"critic: expected hidden states of one shape \(H,\), got \["):
        HiddenStateCritic(head).score([candidate(torch.zeros(shape)) for shape in shapes])


def test_a_wave_is_moved_in_one_piece() -> None:
    """States on another device than the head: as many operations for 64 of them as for 2, and one copy to the host."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.operations: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operations.append(str(function))
            return function(*args, **(kwargs or {}))

    counted = []
    critic = HiddenStateCritic(bavt.ResidualValuePredictor(WIDTH).double())
    for rows in (2, 64):
        candidates = [candidate(row) for row in torch.randn(rows, WIDTH)]
        with Count() as count:
            critic.score(candidates)
        counted.append(count.operations)
    assert counted[0] == counted[1]
    assert sum("stack" in name or "cat" in name for name in counted[0]) == 1
    assert sum("_to_copy" in name for name in counted[0]) == 2  # to the head's dtype, and the scores to float32


def test_states_on_another_device_are_moved_to_the_head_s() -> None:
    """`meta` stands in for a GPU: nothing else would take its tensors together with those of the CPU."""
    seen = []

    class OnMeta(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(WIDTH, 1, device="meta"))

        def forward(self, hidden: Any) -> Any:
            seen.append((hidden @ self.weight).shape)
            return torch.zeros(len(hidden), 1)

    here, there = torch.zeros(WIDTH), torch.zeros(WIDTH, device="meta")
    critic = HiddenStateCritic(OnMeta())
    for states in ([here, here], [here, there], [there, there]):
        assert critic.score([candidate(state) for state in states]) == [0.0, 0.0]
    assert seen == [(2, 1)] * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("head_on", ["cpu", "cuda"])
def test_states_on_a_gpu(head: Any, head_on: str) -> None:
    hidden = torch.randn(9, WIDTH)
    plain = HiddenStateCritic(head).score([candidate(row) for row in hidden])
    critic = HiddenStateCritic(head.to(head_on))
    for states in (hidden.cuda(), [*hidden[:4].cuda(), *hidden[4:]]):
        assert critic.score([candidate(row) for row in states]) == pytest.approx(plain, abs=1e-3)


class Reader:
    """Reads a node's prompt as a number, which fills the state; "?" cannot be read."""

    def read(self, nodes: Any) -> Any:
        return [ValueError("?") if node.prompt == "?" else torch.full((WIDTH,), float(node.prompt)) for node in nodes]


def test_a_reader_reads_contexts_in_the_place_of_steps(head: Any) -> None:
    critic = HiddenStateCritic(head, predicts="logit", reader=Reader())
    nodes = [Node(None, text, Node(None, "1"), Step("s", 1, hidden=torch.zeros(WIDTH))) for text in ("0.5", "?", "2")]
    scores = critic.score(nodes)
    with torch.no_grad():
        expected = [head(torch.full((1, WIDTH), x)).sigmoid().item() for x in (0.5, 2.0)]
    assert [scores[0], scores[2]] == pytest.approx(expected)
    assert isinstance(scores[1], ValueError)
    assert [type(score) for score in critic.score(nodes[1:2])] == [ValueError]
    assert critic.score([]) == []


def test_a_context_that_cannot_be_read_ends_its_question_alone(head: Any) -> None:
    class Task:
        def initial_state(self, question: str) -> str:
            return question

        def apply(self, state: str, step: Step) -> str:
            return step.text

        def key(self, state: str) -> str:
            return state

        def describe(self, state: str) -> bavt.Description:
            return bavt.Description(prompt=state, min_tokens=1)

    def propose(text: str, count: int) -> list[str]:
        return ["?"] if text == "7" else ["0.25"]

    searcher = bavt.Searcher(propose, HiddenStateCritic(head, "logit", reader=Reader()), Task())
    results = searcher.search_many(["7", "8"], budget=bavt.Budget(tokens=20))
    assert isinstance(results[0].error, Exception)
    assert "?" in str(results[0].error)
    assert results[1].error is None
    assert results[1].tree.num_nodes == 2


def test_a_reader_that_is_none_is_refused(head: Any) -> None:
    with pytest.raises(TypeError, match=r"reader: expected a generator with read\(nodes\)"):
        HiddenStateCritic(head, reader=object())  # type: ignore[arg-type]
