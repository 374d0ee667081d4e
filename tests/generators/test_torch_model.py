"""The torch generator on tiny random models: every number it hands over is checked against plain full forwards."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from model_families import build_model  # noqa: E402
from model_families import build_tokenizer as build_letters  # noqa: E402
from tiny_models import NAMED, forward, softmax, tiny_model, tiny_vocabulary_model  # noqa: E402
from tiny_tokenizers import word_tokenizer  # noqa: E402

from bavt_fast.generators import kept_prompts  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import Node, Sampling, Step, StepRequest  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402

PROMPTS = [
    "Target: 24 (left: 4 5 6 10)\n",
    "Target: 7 (left: 3 4)\n",
    "Target: 61 (left: 1 2 3 25 50 100)\n",
    "Target:",
    "Target: 24 (left: 4 5 6 10)\n",
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


def requests(count: int = 5, tried: tuple[Step, ...] = ()) -> list[StepRequest]:
    return [StepRequest(PROMPTS[i % len(PROMPTS)], seed=100 + i, tried=tried) for i in range(count)]


# --- decoding


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_steps_are_what_a_full_forward_says(model: Any, tokenizer: Any, temperature: float) -> None:
    """Hidden states and probabilities of a padded batch with a cache, against one full forward for each token."""
    generator = TorchGenerator(model, tokenizer, delimiter=")", temperature=temperature)
    steps = generator.propose(requests(), [2, 1, 1, 1, 2], [12, 5, 9, 12, 1])
    assert [len(row) for row in steps] == [2, 1, 1, 1, 2]
    for request, row in zip(requests(), steps, strict=True):
        prompt = tokenizer(request.text)["input_ids"]
        for step in row:
            for at, (token, probability) in enumerate(zip(step.token_ids, step.token_probabilities, strict=True)):
                logits, hidden = forward(model, prompt + list(step.token_ids[:at]))
                assert probability == pytest.approx(softmax(logits / temperature)[token], rel=1e-3, abs=1e-7)
            torch.testing.assert_close(step.hidden, hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["GPT2", "GPTNeoX", "Qwen2", "Mistral"])
def test_other_model_families(tokenizer: Any, family: str) -> None:
    """Absolute and rotary positions, shared and separate embeddings: hidden states and probabilities are right."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 1016, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes["n_positions" if family == "GPT2" else "intermediate_size"] = 64
    if family in ("Qwen2", "Mistral"):
        sizes["num_key_value_heads"] = 1
    config = getattr(transformers, f"{family}Config")(**sizes, bos_token_id=None, eos_token_id=None)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0.0, 0.3)
    steps = TorchGenerator(model, tokenizer, delimiter=")").propose(requests(), [1] * 5, [6] * 5)
    for request, row in zip(requests(), steps, strict=True):
        ids = tokenizer(request.text)["input_ids"] + list(row[0].token_ids)
        with torch.no_grad():
            output = model(input_ids=torch.tensor([ids[:-1]]), output_hidden_states=True)
        torch.testing.assert_close(row[0].hidden, output.hidden_states[-1][0, -1], rtol=1e-3, atol=1e-3)
        probability = output.logits[0, -1, :NAMED].softmax(-1)[ids[-1]]
        assert row[0].token_probabilities[-1] == pytest.approx(float(probability), rel=1e-2)


@pytest.mark.parametrize("max_batch", [1, 3, 256])
def test_a_step_does_not_depend_on_its_batch(model: Any, tokenizer: Any, max_batch: int) -> None:
    together = TorchGenerator(model, tokenizer, delimiter=")", max_batch=max_batch)
    batch = together.propose(requests(), [1] * 5, [10] * 5)
    for request, row in zip(requests(), batch, strict=True):
        alone = TorchGenerator(model, tokenizer, delimiter=")").propose([request], [1], [10])[0]
        assert [step.token_ids for step in row] == [step.token_ids for step in alone]
        torch.testing.assert_close(row[0].hidden, alone[0].hidden, rtol=1e-4, atol=1e-4)


def test_seeds_decide(model: Any, tokenizer: Any) -> None:
    generator = TorchGenerator(model, tokenizer, delimiter=")")
    one, again = (generator.propose(requests(), [3] * 5, [8] * 5) for _ in range(2))
    assert [[s.token_ids for s in row] for row in one] == [[s.token_ids for s in row] for row in again]
    by_seed = {generator.propose([StepRequest(PROMPTS[0], seed)], [1], [6])[0][0].token_ids for seed in range(20)}
    assert len(by_seed) > 10
    candidates = generator.propose([StepRequest(PROMPTS[0], 2**63 - 1)], [20], [6])[0]
    assert len({step.token_ids for step in candidates}) > 10


def test_tokens_limits_and_delimiters(tokenizer: Any) -> None:
    """Flat distributions, with the delimiter made likely: short, long and cut steps."""
    model = tiny_model(spread=0.02)
    close = tokenizer.convert_tokens_to_ids("##)")
    generator = TorchGenerator(with_bias(model, {close: 5.5}), tokenizer, delimiter=")")
    limits = [1, 2, 3, 8, 20]
    rows = generator.propose(requests(), [40] * 5, limits)
    for row, limit in zip(rows, limits, strict=True):
        for step in row:
            assert 1 <= step.tokens <= limit
            assert step.tokens == len(step.token_ids) == len(step.token_probabilities)
            complete = step.finish_reason == "delimiter"
            written = [at for at, token in enumerate(step.token_ids) if token != close]
            begin = written[0] if written else step.tokens  # nothing but delimiters ends nothing
            assert complete == (close in step.token_ids[begin:])
            assert complete or step.finish_reason == "limit"
            assert close not in step.token_ids[begin:-1]
            assert complete or step.tokens == limit
            assert step.text.endswith(")") == (step.token_ids[-1] == close)
            assert "1" + step.text == tokenizer.decode([1, *step.token_ids], skip_special_tokens=True)
    lengths = Counter(step.tokens for step in rows[4] if step.finish_reason == "delimiter")
    assert len(lengths) > 3


def with_bias(model: Any, bias: dict[int, float]) -> Any:
    """The model with constants added to some logits."""
    original = model.forward

    def biased(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        for token, value in bias.items():
            output.logits[..., token] += value
        return output

    model.forward = biased
    return model


def test_text_behind_the_delimiter_is_kept() -> None:
    """A token may hold more than the delimiter: `b)x` ends the step, and the x is part of it, as it was written."""
    tokens = word_tokenizer(["a", "b)x", "pad"])
    generator = TorchGenerator(tiny_vocabulary_model(3), tokens, delimiter=")")
    steps = generator.propose([StepRequest("a a", seed) for seed in range(30)], [1] * 30, [8] * 30)
    ended = [row[0] for row in steps if row[0].finish_reason == "delimiter"]
    assert ended
    assert all(step.text.endswith("b)x") for step in ended)


def test_a_context_goes_on_from_the_tokens_of_its_steps(model: Any, tokenizer: Any) -> None:
    """Not from their text, which another tokenization may write with other tokens."""
    generator = TorchGenerator(model, tokenizer, delimiter=")")
    child = Node(None, None, Node(None, PROMPTS[0]), Step("never read", 2, token_ids=(77, 900)))
    below = Node(None, None, child, Step("nor this", 1, token_ids=(5,)))
    ids = [*tokenizer(PROMPTS[0])["input_ids"], 77, 900, 5]
    step = generator.propose([StepRequest(below, 3)], [1], [4])[0][0]
    for at, token in enumerate(step.token_ids):
        logits, _ = forward(model, ids + list(step.token_ids[:at]))
        assert step.token_probabilities[at] == pytest.approx(softmax(logits)[token], rel=1e-3, abs=1e-7)


def test_sampling_of_a_request(model: Any, tokenizer: Any) -> None:
    """Temperature, top-k and top-p of the request come before the generator's; others of the batch have their own."""
    generator = TorchGenerator(model, tokenizer, delimiter=")", without_replacement=False)
    logits, _ = forward(model, tokenizer(PROMPTS[0])["input_ids"])
    order, plain = np.argsort(-logits), softmax(logits)

    def first_tokens(sampling: Sampling, draws: int = 200) -> list[tuple[int, float]]:
        asked = [StepRequest(PROMPTS[0], seed, sampling=sampling) for seed in range(draws)]
        others = [StepRequest(PROMPTS[1], seed) for seed in range(3)]
        rows = generator.propose([*asked, *others], [1] * (draws + 3), [1] * (draws + 3))
        alone = generator.propose(others, [1] * 3, [1] * 3)
        assert [row[0].token_ids for row in rows[draws:]] == [row[0].token_ids for row in alone]
        return [(row[0].token_ids[0], row[0].token_probabilities[0]) for row in rows[:draws]]

    assert set(first_tokens(Sampling(temperature=0.0))) == {(int(order[0]), 1.0)}
    warm = softmax(logits / 2.0)
    for token, probability in first_tokens(Sampling(temperature=2.0)):
        assert probability == pytest.approx(warm[token], rel=1e-3)
    kept = plain[order[:3]].sum()
    top = first_tokens(Sampling(top_k=3))
    assert {token for token, _ in top} <= set(order[:3].tolist())
    for token, probability in top:
        assert probability == pytest.approx(plain[token] / kept, rel=1e-3)
    needed = int(np.searchsorted(np.cumsum(plain[order]), 0.5)) + 1
    assert {token for token, _ in first_tokens(Sampling(top_p=0.5))} <= set(order[:needed].tolist())
    for least in (1e-9, 1e-46):  # the second one is 0 in float32
        assert {token for token, _ in first_tokens(Sampling(top_p=least))} == {int(order[0])}


@pytest.mark.parametrize("eos", [7, [7, 8]])
def test_the_model_s_end_of_text_ends_a_step(tokenizer: Any, eos: Any) -> None:
    model = tiny_model(spread=0.02)
    model.generation_config.eos_token_id = eos
    ids = [eos] if isinstance(eos, int) else eos
    generator = TorchGenerator(with_bias(model, dict.fromkeys(ids, 6.0)), tokenizer, delimiter=")")
    steps = [row[0] for row in generator.propose(requests(30), [1] * 30, [30] * 30)]
    assert {step.finish_reason for step in steps} <= {"delimiter", "end"}
    assert all((step.finish_reason == "end") == (step.token_ids[-1] in ids) for step in steps)
    assert {step.token_ids[-1] for step in steps} >= set(ids)
    assert all(not set(ids) & set(step.token_ids[:-1]) for step in steps)


def test_half_precision(tokenizer: Any) -> None:
    generator = TorchGenerator(tiny_model().bfloat16(), tokenizer, delimiter=")")
    step = generator.propose(requests(1), [1], [6])[0][0]
    assert step.hidden.dtype == torch.bfloat16
    assert all(0.0 < p <= 1.0 for p in step.token_probabilities)


def test_low_temperature_is_greedy(model: Any, tokenizer: Any) -> None:
    generator = TorchGenerator(model, tokenizer, delimiter=")", temperature=1e-3)
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    expected: list[int] = []
    while len(expected) < 6:
        expected.append(int(forward(model, prompt + expected)[0].argmax()))
    assert list(generator.propose(requests(1), [1], [6])[0][0].token_ids) == expected


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": list(range(100))}},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
)
def test_adapters_of_the_embedding(tokenizer: Any, options: dict[str, Any]) -> None:
    """The likeliest tokens are those that the whole model gives, adapters and all."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", init_lora_weights=False, **options)
    adapted = peft.get_peft_model(tiny_model(), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                weight.normal_()
    asked = [StepRequest(prompt) for prompt in PROMPTS[:2]]
    rows = TorchGenerator(adapted, tokenizer, delimiter=")", temperature=0.0).propose(asked, [1] * 2, [6] * 2)
    for prompt, row in zip(PROMPTS[:2], rows, strict=True):
        ids = tokenizer(prompt)["input_ids"]
        for token in row[0].token_ids:
            with torch.no_grad():
                assert token == int(adapted(input_ids=torch.tensor([ids])).logits[0, -1, :NAMED].argmax())
            ids.append(token)
    plain = TorchGenerator(tiny_model(), tokenizer, delimiter=")", temperature=0.0).propose(asked, [1] * 2, [6] * 2)
    assert [row[0].token_ids for row in rows] != [row[0].token_ids for row in plain]


def test_the_model_is_put_into_eval_mode(tokenizer: Any) -> None:
    model = tiny_model().train()
    TorchGenerator(model, tokenizer, delimiter=")")
    assert not model.training


def test_nothing_asked_for(model: Any, tokenizer: Any) -> None:
    generator = TorchGenerator(model, tokenizer, delimiter=")")
    assert generator.propose([], [], []) == []
    assert generator.propose(requests(2), [0, 1], [5, 5])[0] == []
    assert generator.propose(requests(1), [2], [0]) == [[]]


BAD_ARGUMENTS = {
    "temperature": [-1.0, math.nan, math.inf, "1", None, True],
    "max_batch": [0, -1, 1.5, True, None],
    "top_p": [0.0, 1.5, math.nan, "1", None],
    "top_k": [-1, 1.5, True, None],
    "min_p": [-0.1, 1.5, math.nan, None],
    "store_bytes": [-1, 0.5, True],
    "prompts": ["text", [1, 2]],
    "processors": [[lambda ids, logits: logits], 3],
    "without_replacement": ["no", 1, None],
    "graphs": ["no"],
    "measure": ["no"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD_ARGUMENTS for value in BAD_ARGUMENTS[name]])
def test_bad_arguments(model: Any, tokenizer: Any, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name}: expected"):
        TorchGenerator(model, tokenizer, delimiter=")", **{name: value})


SAMPLING_NAMES = ("temperature", "top_p", "top_k", "min_p")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in SAMPLING_NAMES for value in BAD_ARGUMENTS[name] if value is not None],
)
def test_bad_sampling_of_a_request(model: Any, tokenizer: Any, name: str, value: Any) -> None:
    """Its own request fails; the others of the batch are answered."""
    asked = [StepRequest(PROMPTS[0], sampling=Sampling(**{name: value})), StepRequest(PROMPTS[0])]
    bad, good = TorchGenerator(model, tokenizer, delimiter=")").propose(asked, [1, 1], [5, 5])
    assert isinstance(bad, (TypeError, ValueError))
    assert str(bad).startswith(f"{name}: expected")
    assert len(good) == 1


@pytest.mark.parametrize(
    ("name", "request_options", "count", "limit"),
    [
        ("seed", {"seed": 1.5}, 1, 5),
        ("seed", {"seed": None}, 1, 5),
        ("seconds_left", {"seconds_left": "1"}, 1, 5),
        ("seconds_left", {"seconds_left": math.nan}, 1, 5),
        ("counts", {}, 1.5, 5),
        ("limits", {}, 1, 5.0),
    ],
)
def test_a_bad_request_fails_alone(
    model: Any, tokenizer: Any, name: str, request_options: dict[str, Any], count: Any, limit: Any
) -> None:
    asked = [StepRequest(PROMPTS[0]), StepRequest(PROMPTS[0], **request_options)]
    good, bad = TorchGenerator(model, tokenizer, delimiter=")").propose(asked, [1, count], [5, limit])
    assert str(bad).startswith(f"{name}: expected")
    assert len(good) == 1


def test_requests_before_an_interrupt_are_given_up(model: Any, tokenizer: Any) -> None:
    """One that comes while the prompts are encoded."""

    def prompts(text: str) -> list[int]:
        if text == "interrupt":
            raise KeyboardInterrupt
        return list(tokenizer(text)["input_ids"])

    generator = TorchGenerator(model, tokenizer, delimiter=")", prompts=prompts)
    with pytest.raises(KeyboardInterrupt):
        generator.propose([StepRequest(PROMPTS[0]), StepRequest("interrupt")], [1, 1], [5, 5])
    generator.propose([StepRequest(PROMPTS[1])], [1], [5])
    read = len(tokenizer(PROMPTS[1])["input_ids"])
    assert generator.statistics().computed_prompt_tokens == read


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_inference_mode_may_come_and_go(family: str) -> None:
    """What was made in it can be written to there alone, so nothing is."""
    generator = TorchGenerator(build_model(family), build_letters())
    wanted = TorchGenerator(build_model(family), build_letters())
    with torch.inference_mode():
        again = TorchGenerator(build_model(family), build_letters())
    asked = [StepRequest(text, seed) for seed, text in enumerate(("abcdef", "hij", "abcdefk"))]
    for inside in (True, False, True, False):
        with torch.inference_mode(inside):
            found = [one.propose(asked, [2, 1, 1], [8, 8, 8]) for one in (generator, again)]
            for one in (generator, again):
                one.read([asked[0].node])
        expected = wanted.propose(asked, [2, 1, 1], [8, 8, 8])
        ids = [[[step.token_ids for step in steps] for steps in rows] for rows in (*found, expected)]
        assert ids[0] == ids[1] == ids[2]
        assert not any(step.hidden.is_inference() for rows in found for steps in rows for step in steps)
        asked = [StepRequest(request.node, request.seed + 9) for request in asked]


def test_new_weights_after_clear(tokenizer: Any) -> None:
    """Nothing of the old ones is left: not in the store, nor where the last rows were decoded."""
    model = tiny_model()
    generator = TorchGenerator(model, tokenizer, delimiter=())
    generator.propose(requests(1), [1], [1])
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-0.7)
    generator.clear()
    ((step,),) = generator.propose(requests(1), [1], [6])
    ((expected,),) = TorchGenerator(model, tokenizer, delimiter=()).propose(requests(1), [1], [6])
    assert step.token_ids == expected.token_ids
    assert step.token_probabilities == pytest.approx(expected.token_probabilities)


def test_bad_delimiters(model: Any, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="delimiter: expected a non-empty str"):
        TorchGenerator(model, tokenizer, delimiter="")
    for value in (None, 5, {"\n"}):
        with pytest.raises(TypeError, match="delimiter: expected a str"):
            TorchGenerator(model, tokenizer, delimiter=value)
    with pytest.raises(ValueError, match=r"delimiter: .*xyz"):
        TorchGenerator(model, tokenizer, delimiter="xyz")


@pytest.mark.parametrize(
    "ids",
    [None, "12", 5, [-1], [5000], [1.5], ["1"], [[1, 2]], {"input_ids": [1]}, np.ones((1, 2), dtype=int), np.ones(2)],
    ids=repr,
)
def test_prompts_that_are_no_token_ids_fail_their_own_request(model: Any, tokenizer: Any, ids: Any) -> None:
    """On a GPU an id that the embedding has not would end the process's work there."""
    plain = TorchGenerator(model, tokenizer, delimiter=")").prompts
    generator = TorchGenerator(
        model, tokenizer, delimiter=")", prompts=lambda text: ids if text == "bad" else plain(text)
    )
    good, bad = generator.propose([StepRequest(PROMPTS[0]), StepRequest("bad")], [1, 1], [5, 5])
    assert isinstance(good, list)
    assert isinstance(bad, (TypeError, ValueError))
    assert str(bad).startswith("prompts: ")
    assert "expected" in str(bad)
    assert isinstance(generator.read([Node(None, "bad")])[0], type(bad))


def test_prompts_that_are_kept_are_within_a_number_of_ids(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_prompts, "_MOST_IDS", 10)
    asked: list[str] = []

    def prompts(text: str) -> list[int]:
        asked.append(text)
        return [5] * len(text)

    generator = TorchGenerator(model, tokenizer, delimiter=")", prompts=prompts)
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "bbbb", "aaaa", "d" * 20, "d" * 20, "e"):
        generator.propose([StepRequest(text)], [1], [1])
    assert asked == ["aaaa", "bbbb", "cccc", "aaaa", "d" * 20, "e"]


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_prompts_may_be_arrays_of_ids(model: Any, tokenizer: Any, array: Any) -> None:
    plain = TorchGenerator(model, tokenizer, delimiter=")")
    generator = TorchGenerator(model, tokenizer, delimiter=")", prompts=lambda text: array(plain.prompts(text)))
    for _ in range(2):  # the second time from the store
        found, wanted = (one.propose(requests(2), [1, 1], [5, 5]) for one in (generator, plain))
        assert found == wanted
    assert generator.statistics().saved_prompt_tokens > 0


def test_a_step_of_tokens_that_the_model_has_not_is_refused(model: Any, tokenizer: Any) -> None:
    generator = TorchGenerator(model, tokenizer, delimiter=")")
    generator.tokenizer = lambda text, **_: {"input_ids": [5000]}
    step = StepRequest(Node(None, None, Node(None, PROMPTS[0]), Step("new", 1)))
    good, bad = generator.propose([StepRequest(PROMPTS[0]), step], [1, 1], [5, 5])
    assert isinstance(good, list)
    assert str(bad) == "tokenizer: token ids: expected an integer from 0 to 1015, got 5000"


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_context_is_refused(model: Any, tokenizer: Any, text: str) -> None:
    """Its own request fails; the others of the batch are answered."""
    requests = [StepRequest("Target:"), StepRequest(text)]
    good, bad = TorchGenerator(model, tokenizer, delimiter=")").propose(requests, [1, 1], [5, 5])
    assert isinstance(good, list)
    assert good[0].tokens
    assert isinstance(bad, ValueError)
    assert "at least one token" in str(bad)
