"""The recipe's neural half: parameters, numbers, and the agent around them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from bavt_fast.critics.value_head import ResidualValuePredictor  # noqa: E402
from bavt_fast.recipe import reference  # noqa: E402
from bavt_fast.recipe.heads import CriticHead  # noqa: E402
from bavt_fast.recipe.search import BudgetAwareValueTreeSearch, DualRoleLLMAgent  # noqa: E402


def plain_predictor(hidden_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden_dim, 2 * hidden_dim), nn.ReLU(), nn.Linear(2 * hidden_dim, 1))


def test_the_search_alone_imports_no_torch() -> None:
    code = "import sys; from bavt_fast.recipe import search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_state_dict_keys_and_shapes() -> None:
    state = ResidualValuePredictor(16).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "predictor.0.weight": (32, 16),
        "predictor.0.bias": (32,),
        "predictor.2.weight": (1, 32),
        "predictor.2.bias": (1,),
    }
    assert ResidualValuePredictor().state_dict()["predictor.0.weight"].shape == (1536, 768)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_forward_is_the_plain_sequential(training: bool, batch: int, dtype: Any) -> None:
    torch.manual_seed(3)
    ours = ResidualValuePredictor(24).to(dtype).train(training)
    torch.manual_seed(3)
    plain = plain_predictor(24).to(dtype)
    embeddings = torch.randn(batch, 24, dtype=dtype)
    result = ours(embeddings)
    assert result.shape == (batch, 1)
    assert result.dtype == dtype
    assert torch.equal(result, plain(embeddings))
    with torch.no_grad():
        assert torch.equal(ours(embeddings), result)


def test_gradients_reach_the_parameters() -> None:
    predictor = ResidualValuePredictor(8)
    predictor(torch.randn(5, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in predictor.parameters())


def test_a_recipe_checkpoint_loads() -> None:
    plain = nn.Module()
    plain.predictor = plain_predictor(12)
    ours = ResidualValuePredictor(12)
    ours.load_state_dict(plain.state_dict())
    embeddings = torch.randn(4, 12)
    assert torch.equal(ours(embeddings), plain.predictor(embeddings))


@pytest.mark.parametrize("shape", [(2, 9), (9,), ()])
def test_embeddings_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^context_embeddings: expected shape \(batch, 8\), got .*hidden_dim"):
        ResidualValuePredictor(8)(torch.zeros(shape))


class FakeCuda(FakeTensorMode):
    """Tensors that claim to lie on a GPU and hold nothing."""

    def predictor(self) -> ResidualValuePredictor:
        predictor = ResidualValuePredictor(8).eval()
        for layer in (predictor.predictor[0], predictor.predictor[2]):
            for name, parameter in list(layer.named_parameters()):
                setattr(layer, name, nn.Parameter(torch.empty(parameter.shape, device="cuda")))
        return predictor


def is_fused(predictor: ResidualValuePredictor, embeddings: Any) -> bool:
    graph = make_fx(lambda rows: predictor(rows))(embeddings).graph
    return torch.ops.bavt_fast.critic_mlp.default in [node.target for node in graph.nodes]


def test_on_cuda_the_kernel_runs_in_eval_mode_without_gradients_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeCuda() as mode:
        predictor, embeddings = mode.predictor(), torch.empty(3, 8, device="cuda")
        with torch.no_grad():
            assert is_fused(predictor, embeddings)
            assert not is_fused(predictor.train(), embeddings)
            assert not is_fused(predictor.eval(), torch.empty(2, 3, 8, device="cuda")), "sequences are torch's"
            with monkeypatch.context() as patch:
                patch.setattr(torch, "is_autocast_enabled", lambda *device: True)
                assert predictor._fused_weights(embeddings) is None, "autocast is torch's to follow"
        assert predictor._fused_weights(embeddings) is None, "gradients are on"


def test_changed_layers_are_run_as_they_are() -> None:
    with FakeCuda() as mode, torch.no_grad():
        embeddings = torch.empty(3, 8, device="cuda")
        hooked, pruned, without_bias, replaced = (mode.predictor() for _ in range(4))
        hooked.predictor[0].register_forward_hook(lambda layer, inputs, output: output * 2)
        # Pruning renames the weight and computes it in a hook before each call.
        weight = pruned.predictor[0].weight
        del pruned.predictor[0].weight
        pruned.predictor[0].weight_orig, pruned.predictor[0].weight = weight, weight.detach()
        pruned.predictor[0].register_forward_pre_hook(lambda layer, inputs: None)
        without_bias.predictor[2].bias = None
        replaced.predictor[1] = nn.GELU()
        for predictor in (hooked, pruned, without_bias, replaced):
            assert not is_fused(predictor, embeddings)
        outer, narrow, alone = (mode.predictor() for _ in range(3))
        outer.predictor.register_forward_hook(lambda layers, inputs, output: output * 2)
        first, last = narrow.predictor[0], narrow.predictor[2]
        first.weight, first.bias = (nn.Parameter(torch.empty(shape, device="cuda")) for shape in ((4, 8), (4,)))
        last.weight = nn.Parameter(torch.empty(1, 4, device="cuda"))
        alone.predictor = alone.predictor[2]  # type: ignore[assignment]
        for predictor in (outer, narrow, alone):
            assert predictor._fused_weights(embeddings) is None


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "8", True, None])
def test_a_width_that_is_none_is_named(wrong: Any) -> None:
    for build in (ResidualValuePredictor, lambda width: CriticHead(object(), width)):
        with pytest.raises((TypeError, ValueError), match=r"^hidden_dim: expected an integer of at least 1, got"):
            build(wrong)


@pytest.mark.parametrize("wrong", [[0.5] * 8, np.zeros((1, 8)), None])
def test_embeddings_that_are_no_tensor_are_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^context_embeddings: expected a Tensor, got"):
        ResidualValuePredictor(8)(wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", [1, 33])
def test_the_fused_forward_agrees_with_the_layers(batch: int) -> None:
    torch.manual_seed(0)
    predictor = ResidualValuePredictor(96).cuda().eval()
    embeddings = torch.randn(batch, 96, device="cuda")
    with torch.no_grad():
        fused, plain = predictor(embeddings), predictor.predictor(embeddings)
    assert fused.shape == plain.shape
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-3)


class HashEncoder:
    """Embeds a text as a fixed random row; generates steps that count its calls."""

    def __init__(self, hidden_dim: int = 768) -> None:
        self.hidden_dim = hidden_dim
        self.calls: list[tuple[Any, ...]] = []

    def encode(self, text: str) -> Any:
        self.calls.append(("encode", text))
        generator = torch.Generator().manual_seed(sum(map(ord, text)))
        return torch.randn(1, self.hidden_dim, generator=generator)

    def generate(self, prompt: str, **sampling: Any) -> str:
        self.calls.append(("generate", prompt, sampling))
        return f"  step {len(self.calls) % 5}\n"


def test_the_critic_head_scores_the_embedding_of_the_text() -> None:
    model = HashEncoder(16)
    head = CriticHead(model, hidden_dim=16)
    value = head.estimate_residual_value("some text")
    assert type(value) is float
    assert value == head.value_predictor.predictor(model.encode("some text")).item()
    assert head.model is model
    assert set(head.state_dict()) == {f"value_predictor.{key}" for key in head.value_predictor.state_dict()}


def test_a_module_as_model_is_a_submodule_of_the_head() -> None:
    head = CriticHead(nn.Linear(2, 2))
    assert "model.weight" in head.state_dict()


@pytest.mark.parametrize(
    ("embedding", "error"),
    [([0.0] * 8, TypeError), (torch.zeros(2, 8), ValueError), (torch.zeros(1, 9), ValueError)],
)
def test_embeddings_of_the_wrong_kind_are_refused(embedding: Any, error: type[Exception]) -> None:
    class Model:
        def encode(self, text: str) -> Any:
            return embedding

    with pytest.raises(error, match=r"^(model\.encode|context_embeddings): expected"):
        CriticHead(Model(), hidden_dim=8).estimate_residual_value("text")


@pytest.mark.parametrize("answer", [None, ["a step"], b"a step", 7])
def test_what_the_agents_model_generates_has_to_be_a_text(answer: Any) -> None:
    class Model:
        def generate(self, prompt: str, **sampling: Any) -> Any:
            return answer

    with pytest.raises(TypeError, match=rf"^base_model\.generate: expected a str, got {type(answer).__name__}"):
        DualRoleLLMAgent(Model()).generate_next_steps("context")


def test_a_value_of_several_numbers_is_named() -> None:
    class Model:
        def generate_next_steps(self, text: str, num_candidates: int) -> list[str]:
            return ["a", "b"]

        def estimate_residual_value(self, text: str) -> Any:
            return torch.zeros(2)

    model = Model()
    with pytest.raises(TypeError, match=r"expected a number, got Tensor of shape \(2,\); return a float"):
        BudgetAwareValueTreeSearch(model, model, 5).search("question")  # type: ignore[arg-type]


class RecipeAgent:
    """The recipe's agent around a given critic head."""

    def __init__(self, base_model: Any, critic_head: Any) -> None:
        self.model, self.critic_head = base_model, critic_head

    def reason_with_budget(self, question: str, budget_tokens: int = 1000, max_depth: int = 10) -> str:
        search = reference.BudgetAwareValueTreeSearch(self, self.critic_head, budget_tokens)
        return search.search(question, max_depth)

    def generate_next_steps(self, context: str, num_candidates: int = 3) -> list[str]:
        prompt = context + "\n\nNext reasoning steps:"
        steps = []
        for _ in range(num_candidates):
            steps.append(self.model.generate(prompt, max_tokens=50, temperature=0.7).strip())
        return steps


@pytest.mark.parametrize("max_depth", [2, 10])
def test_the_agent_reasons_as_the_recipes_agent_does(max_depth: int) -> None:
    torch.manual_seed(1)
    agent = DualRoleLLMAgent(HashEncoder())
    oracle_model = HashEncoder()
    oracle = RecipeAgent(oracle_model, CriticHead(oracle_model))
    oracle.critic_head.load_state_dict(agent.critic_head.state_dict())
    answer = agent.reason_with_budget("Why?", budget_tokens=40, max_depth=max_depth)
    assert answer == oracle.reason_with_budget("Why?", budget_tokens=40, max_depth=max_depth)
    assert agent.model.calls == oracle_model.calls
    assert agent.model.calls[0] == (
        "generate",
        "Why?\n\nNext reasoning steps:",
        {"max_tokens": 50, "temperature": 0.7},
    )


def test_the_agents_steps_are_stripped_and_one_call_each() -> None:
    agent = DualRoleLLMAgent(HashEncoder())
    assert agent.generate_next_steps("context", num_candidates=2) == ["step 1", "step 2"]
    assert len(agent.model.calls) == 2


class CountingAgent(DualRoleLLMAgent):
    """Overrides what users override: the generation of steps, and evaluate."""

    def generate_next_steps(self, context: str, num_candidates: int = 3) -> list[str]:
        return ["x", "y"][: num_candidates - 1]

    def evaluate(self, reasoning: str, question: str) -> tuple[int, str]:
        return len(reasoning), question


def test_compare_budgets_evaluates_each_budget() -> None:
    agent = CountingAgent(HashEncoder())
    results = agent.compare_budgets("Why?", budgets=[8, 1])
    expected = {}
    for budget in (8, 1):
        search = BudgetAwareValueTreeSearch(agent, agent.critic_head, budget)
        expected[budget] = (len(search.search("Why?")), "Why?")
    assert results == expected
    assert list(results) == [8, 1]
    assert agent.compare_budgets("Why?", budgets=(budget for budget in (8, 1))) == expected  # as of the recipe
    assert list(agent.compare_budgets("Why?")) == [100, 250, 500, 1000]


def test_compare_budgets_without_evaluate_says_so_before_it_searches() -> None:
    agent = DualRoleLLMAgent(HashEncoder())
    with pytest.raises(AttributeError, match=r"^evaluate: expected a method .* of DualRoleLLMAgent, got none"):
        agent.compare_budgets("Why?")
    assert not agent.model.calls


@pytest.mark.parametrize(
    ("budgets", "error"), [([5, 0], ValueError), ([5, True], TypeError), ([1.5], TypeError), (5, TypeError)]
)
def test_bad_budgets_are_refused_before_any_search(budgets: Any, error: type[Exception]) -> None:
    agent = CountingAgent(HashEncoder())
    with pytest.raises(error, match=r"^budgets: expected"):
        agent.compare_budgets("Why?", budgets=budgets)
    assert not agent.model.calls


@pytest.mark.parametrize(("budget", "error"), [(0, ValueError), (2.0, TypeError)])
def test_a_bad_budget_is_refused(budget: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^budget_tokens: expected"):
        DualRoleLLMAgent(HashEncoder()).reason_with_budget("Why?", budget_tokens=budget)
