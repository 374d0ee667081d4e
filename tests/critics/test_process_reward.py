"""Process reward models as critics, against the same computed by hand for one path at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from reward_models import byte_level, causal, classifier, encoder, metaspace, path, word_piece  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.functions import as_critic  # noqa: E402
from bavt_fast.critics.process_reward import ProcessRewardCritic  # noqa: E402
from bavt_fast.protocols import Node, Step  # noqa: E402

EXACT = {"abs": 1e-5, "rel": 1e-4}
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


pytestmark = pytest.mark.usefixtures("one_thread")


PATHS = [
    path("2 + 3 = 5\n"),
    path("We add.\n", "2 + 3 = 6\n", "Answer: 6\n"),
    path("We add.\n", "2 + 3 = 5\n"),
    path("\n\nWe add.\n", "   indented\n", "no line break"),
    path("x" * 90 + "\n", question="Why?"),
    path(*[f"step {i}\n" for i in range(9)]),
]


def steps_of(node: Node) -> list[str]:
    return [step.text.strip("\n") for step in node.context()[1]]


def logits_of(model: Any, ids: list[int]) -> list[list[float]]:
    with torch.no_grad():
        rows: list[list[float]] = model(input_ids=torch.tensor([ids])).logits[0].tolist()
    return rows


def softmax(logits: list[float], place: int) -> float:
    exponentials = [math.exp(logit - max(logits)) for logit in logits]
    return exponentials[place] / sum(exponentials)


# --- the three kinds, by hand


def qwen_by_hand(model: Any, tokenizer: Any, node: Node) -> list[float]:
    """As the model card of Qwen2.5-Math-PRM has it: the positive class at each <extra_0>."""
    question = node.context()[0].strip()
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    text += "".join(step + "<extra_0>" for step in steps_of(node))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = logits_of(model, ids)
    return [softmax(logits[i], 1) for i, token in enumerate(ids) if tokenizer.decode([token]) == "<extra_0>"]


def shepherd_by_hand(model: Any, tokenizer: Any, node: Node) -> list[float]:
    """As Math-Shepherd has it: "+" against "-" after each ки."""
    text = node.context()[0].strip() + " " + "\n".join(step + " ки" for step in steps_of(node))
    ids = tokenizer(text)["input_ids"]
    good, bad, tag = (tokenizer.convert_tokens_to_ids(token) for token in ("▁+", "▁-", "▁ки"))
    logits = logits_of(model, ids)
    return [softmax([logits[i][good], logits[i][bad]], 0) for i, token in enumerate(ids) if token == tag]


def lines_by_hand(model: Any, tokenizer: Any, node: Node) -> list[float]:
    """The good label at the line break behind each step, every step encoded by itself."""
    ids = list(tokenizer(node.context()[0])["input_ids"])
    ends = []
    for step in steps_of(node):
        ids += tokenizer(step + "\n")["input_ids"]
        ends.append(len(ids) - 1)
    logits = logits_of(model, ids)
    return [softmax(logits[end], 1) for end in ends]


def kinds() -> dict[str, tuple[ProcessRewardCritic, Any]]:
    bytes_, spaces = byte_level(), metaspace()
    labels, words = classifier(bytes_), causal(spaces)
    return {
        "qwen": (ProcessRewardCritic.qwen(labels, bytes_), lambda n: qwen_by_hand(labels, bytes_, n)),
        "shepherd": (ProcessRewardCritic.shepherd(words, spaces), lambda n: shepherd_by_hand(words, spaces, n)),
        "lines": (ProcessRewardCritic(labels, bytes_), lambda n: lines_by_hand(labels, bytes_, n)),
    }


@pytest.mark.parametrize("kind", ["qwen", "shepherd", "lines"])
def test_scores_of_steps_are_those_computed_by_hand(kind: str) -> None:
    critic, by_hand = kinds()[kind]
    paths = [node for node in PATHS if "   indented\n" not in node.text] if kind == "lines" else PATHS
    found = critic.step_scores(paths)
    for node, scores in zip(paths, found, strict=True):
        expected = by_hand(node)
        assert len(expected) == len(steps_of(node))
        assert scores == pytest.approx(expected, **EXACT)
    flat = [score for scores in found for score in scores]  # type: ignore[union-attr]
    assert len({round(score, 3) for score in flat}) > len(flat) // 2  # they differ: it is not one number


@pytest.mark.parametrize("kind", ["qwen", "shepherd"])
def test_how_a_path_becomes_a_value(kind: str) -> None:
    critic, by_hand = kinds()[kind]
    steps = [by_hand(node) for node in PATHS]
    for aggregate, expected in (
        ("last", [scores[-1] for scores in steps]),
        ("min", [min(scores) for scores in steps]),
        ("product", [math.prod(scores) for scores in steps]),
    ):
        critic.aggregate = aggregate  # type: ignore[assignment]
        assert critic.score(PATHS) == pytest.approx(expected, **EXACT)
        assert all(type(score) is float and 0.0 <= score <= 1.0 for score in critic.score(PATHS))


@pytest.mark.parametrize("max_batch", [1, 2, 4, 100])
def test_a_path_alone_scores_as_it_does_in_a_batch(max_batch: int) -> None:
    tokenizer = metaspace()
    shapes = []

    class Watched(transformers.LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, input_ids: Any, attention_mask: Any, logits_to_keep: Any, **rest: Any) -> Any:
            shapes.append((tuple(input_ids.shape), int(attention_mask.sum())))
            return super().forward(input_ids, attention_mask, logits_to_keep=logits_to_keep, **rest)

    plain = causal(tokenizer)
    watched = Watched(plain.config)
    watched.load_state_dict(plain.state_dict())
    critic = ProcessRewardCritic.shepherd(watched, tokenizer, aggregate="min", max_batch=max_batch)
    alone = [critic.score([node])[0] for node in PATHS]
    shapes.clear()
    assert critic.score(PATHS) == pytest.approx(alone, **EXACT)
    assert len(shapes) == math.ceil(len(PATHS) / max_batch)
    widths = [length for (_, length), _ in shapes]
    assert widths == sorted(widths)  # like lengths go together
    assert max(rows for (rows, _), _ in shapes) <= max_batch
    assert sum(written for _, written in shapes) == sum(len(critic.layout.lay([node])[0].ids) for node in PATHS)  # type: ignore[union-attr]


def test_a_causal_model_that_gives_all_logits() -> None:
    """The same where a model does not take the positions that are wanted."""
    tokenizer = metaspace()
    model = causal(tokenizer)

    class All(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.config = model, model.config

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return (self.inner(input_ids=input_ids, attention_mask=attention_mask).logits,)  # a tuple, as some give

    plain = ProcessRewardCritic.shepherd(model, tokenizer).score(PATHS)
    assert ProcessRewardCritic.shepherd(All(), tokenizer).score(PATHS) == pytest.approx(plain, **EXACT)


def test_an_encoder_without_white_space() -> None:
    """WordPiece drops line breaks: a step is judged at its last word. BERT sees what comes after, so paths differ."""
    tokenizer = word_piece()
    model = encoder(tokenizer)
    critic = ProcessRewardCritic(model, tokenizer, aggregate="min")
    node = path("we add\n", "2 + 3 = 5\n", question="what is 2 + 3?\n")
    ids = tokenizer("what is 2 + 3? we add 2 + 3 = 5")["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words[-2:] == ["5", "[SEP]"]
    ends = [len(words) - 2 - words[::-1].index("##d") + 1, len(words) - 2]
    assert words[ends[0]] == "##d"
    logits = logits_of(model.eval(), ids)
    assert critic.step_scores([node, node.parent or node])[0] == pytest.approx(
        [softmax(logits[end], 1) for end in ends], **EXACT
    )


def test_labels() -> None:
    tokenizer = byte_level()
    node = path("a\n")
    ids = tokenizer(node.text)["input_ids"]
    three = classifier(tokenizer, labels=3)
    three.config.label2id = {"bad": 0, "good": 1, "neutral": 2}
    logits = logits_of(three.eval(), ids)[-1]
    for label, place in ((0, 0), (2, 2), ("good", 1), ("neutral", 2)):
        critic = ProcessRewardCritic(three, tokenizer, good_label=label)
        assert critic.score([node]) == pytest.approx([softmax(logits, place)], **EXACT)
    one = classifier(tokenizer, labels=1)
    [logit] = logits_of(one.eval(), ids)[-1]
    assert ProcessRewardCritic(one, tokenizer).score([node]) == pytest.approx([1 / (1 + math.exp(-logit))], **EXACT)


def test_other_layouts() -> None:
    tokenizer = byte_level()
    model = classifier(tokenizer)
    critic = ProcessRewardCritic(model, tokenizer, step_tag=" #", between=" | ", prompt=lambda q: f"<{q.strip()}> ")
    ids = tokenizer("<q> a # | b #")["input_ids"]
    logits = logits_of(model, ids)
    expected = [softmax(logits[i], 1) for i, token in enumerate(ids) if tokenizer.decode([token]) == "#"]
    assert critic.step_scores([path("a\n", "b\n", question="q\n")])[0] == pytest.approx(expected, **EXACT)
    no_system = ProcessRewardCritic.qwen(model, tokenizer, system=None)
    text, places = no_system.layout.text(path("a\n", question="q\n"))
    assert text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<extra_0>"
    assert places == [len(text) - 1]


def test_a_state_that_is_its_own_prompt_is_judged_by_the_steps_that_led_there() -> None:
    critic, _ = kinds()["qwen"]
    first = Node(None, "left: 5\n", Node(None, "2 3\n"), Step("2 + 3\n", 1))
    plain = path("2 + 3\n", "done\n", question="2 3\n")
    assert critic.score([Node(None, "all\n", first, Step("done\n", 1))]) == critic.score([plain])


def test_half_precision() -> None:
    tokenizer = byte_level()
    full = ProcessRewardCritic.qwen(classifier(tokenizer), tokenizer).score(PATHS)
    half = ProcessRewardCritic.qwen(classifier(tokenizer).bfloat16(), tokenizer).score(PATHS)
    assert half == pytest.approx(full, abs=0.08)
    assert half != full


def test_no_graph_is_kept_and_the_model_is_put_into_eval_mode() -> None:
    tokenizer = byte_level()
    model = classifier(tokenizer).train()
    critic = ProcessRewardCritic(model, tokenizer)
    assert not model.training
    critic.score(PATHS)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert critic.score([]) == []
    assert as_critic(critic) is critic


# --- texts that are trouble


@pytest.mark.parametrize("kind", ["qwen", "shepherd", "lines"])
@pytest.mark.parametrize(
    "step",
    [
        "\n",
        "",
        " \n",
        "ки ки\n",
        "a <extra_0> b\n",
        "<|im_end|>\n",
        "日本語。\n",
        "e\u0301 \u202e 😀\n",
        "\x00\n",
        "a\n\nb\n",
    ],
)
def test_every_step_has_one_score(kind: str, step: str) -> None:
    """Empty ones too, and those that write the tag themselves."""
    critic, _ = kinds()[kind]
    node = path("first\n", step, "last\n")
    plain = path("first\n", "other\n", "last\n")
    scores, others = critic.step_scores([node, plain])
    assert len(scores) == len(others) == 3  # type: ignore[arg-type]
    assert all(0.0 < score < 1.0 for score in scores)  # type: ignore[union-attr]
    assert scores[0] == pytest.approx(others[0], **EXACT)  # type: ignore[index]
    assert scores[1:] != pytest.approx(others[1:], **EXACT)  # type: ignore[index]


def test_a_path_beyond_the_context_fails_alone() -> None:
    tokenizer = byte_level()
    critic = ProcessRewardCritic(classifier(tokenizer, context=60), tokenizer)
    short = path("a\n")
    room = 60 - len(short.text)
    nodes = [short, path("x" * 10**5 + "\n"), path("a\n", "b" * (room - 1) + "\n"), path("a\n", "b" * room + "\n")]
    first, huge, fits, over = critic.score(nodes)
    assert isinstance(first, float)
    assert isinstance(fits, float)
    assert isinstance(huge, ValueError)
    assert isinstance(over, ValueError)
    assert "critic: expected a path of at most 60 tokens, got 61 for 'hat is 2 + 3?" in str(over)
    assert "limit the depth of the search" in str(over)


def test_the_length_of_the_context_is_the_smallest_that_is_said() -> None:
    tokenizer = byte_level()
    assert ProcessRewardCritic(classifier(tokenizer, context=60), tokenizer).max_length == 60
    assert ProcessRewardCritic(classifier(tokenizer, context=60), tokenizer, max_length=9).max_length == 9
    tokenizer.model_max_length = 50
    assert ProcessRewardCritic(classifier(tokenizer, context=60), tokenizer).max_length == 50
    mamba = transformers.MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=300)
    tokenizer.model_max_length = 10**30
    model = transformers.MambaForCausalLM(mamba)
    assert ProcessRewardCritic(model, tokenizer, score_tokens=(10, 11)).max_length is None


def test_positions_that_begin_behind_a_padding_id() -> None:
    """RoBERTa's: its embedding has more of them than its context has tokens."""
    tokenizer, sizes = byte_level(), {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.RobertaConfig(
        **sizes, num_attention_heads=1, vocab_size=len(tokenizer), pad_token_id=1, max_position_embeddings=42
    )
    critic = ProcessRewardCritic(transformers.RobertaForTokenClassification(config), tokenizer)
    assert critic.max_length == 40
    fits, over = critic.score([path("a" * size + "\n", question="?\n") for size in (37, 38)])
    assert isinstance(fits, float)
    assert "expected a path of at most 40 tokens, got 41" in str(over)


def test_an_offloaded_model() -> None:
    accelerate = pytest.importorskip("accelerate")
    tokenizer = byte_level()
    wanted = ProcessRewardCritic(classifier(tokenizer), tokenizer).score(PATHS)
    model = accelerate.cpu_offload(classifier(tokenizer), execution_device=torch.device("cpu"))
    assert ProcessRewardCritic(model, tokenizer).score(PATHS) == pytest.approx(wanted, **EXACT)


def test_nan_names_the_node_and_leaves_the_others() -> None:
    tokenizer = byte_level()
    model = classifier(tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Z")["input_ids"]] = math.nan
    plain = ProcessRewardCritic(classifier(tokenizer), tokenizer, aggregate="min").score([path("a\n")])
    critic = ProcessRewardCritic(model, tokenizer, aggregate="min")
    good, bad, also_bad, also_good = critic.score(
        [path("a\n"), path("a\n", "Z\n"), path("a\n", "Z\n", "b\n"), path("a\n")]
    )
    assert [good, also_good] == pytest.approx([plain[0]] * 2, **EXACT)
    assert "critic: expected finite scores, got nan for 'What is 2 + 3?\\na\\nZ\\n'; where the model runs" in str(bad)
    assert "got nan for 'What is 2 + 3?\\na\\nZ\\nb\\n'" in str(also_bad)


def test_a_text_that_cannot_be_encoded_fails_alone() -> None:
    critic, _ = kinds()["qwen"]
    whole = critic.layout.tokenizer

    def picky(texts: list[str], **options: Any) -> Any:
        if "Z" in "".join(texts):
            raise Exception("no word for Z")  # as the package tokenizers does
        return whole(texts, **options)

    critic.layout.tokenizer = picky
    good, bad, root, also = critic.score([path("a\n"), path("Z\n"), Node(None, "q\n"), path("a\n")])
    assert good == pytest.approx(also, **EXACT)
    assert isinstance(bad, Exception)
    assert "expected a state with a step behind it, got the question 'q" in str(root)
    assert [str(error) for error in critic.score([path("Z\n")])] == [str(bad)] == ["no word for Z"]


def test_half_a_character_is_judged_as_a_question_mark() -> None:
    """As it is in a prompt of a search."""
    for critic, _ in kinds().values():
        broken, whole = path("a\ud83d\n", question="Which\udc00\n"), path("a?\n", question="Which?\n")
        assert critic.score([broken]) == pytest.approx(critic.score([whole]), **EXACT)


def test_a_tokenizer_that_drops_everything() -> None:
    tokenizer = word_piece()
    critic = ProcessRewardCritic(encoder(tokenizer), tokenizer)
    [error] = critic.score([path(" \n", question="\n")])
    assert "critic: expected a token at the end of every step" in str(error)


# --- in a search


class Steps:
    """Proposes numbered steps; of the questions named Z, ones with a Z in them."""

    def propose(self, states: Any, counts: Any, limits: Any) -> Any:
        return [[Step(f"step {s.seed % 97} {'Z' * s.text.startswith('Z')}\n", 3)] for s in states]


def test_a_search_of_many_questions() -> None:
    tokenizer = byte_level()
    model = classifier(tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("Z")["input_ids"]] = math.nan
    critic = ProcessRewardCritic.qwen(model, tokenizer, system=None, max_batch=3)
    searcher = bavt.Searcher(Steps(), critic, wave=4)
    results = searcher.search_many(["a", "Z", "b"], budget=bavt.Budget(tokens=30))
    assert [result.stop_reason for result in results] == ["budget", "error", "budget"]
    assert "critic: expected finite scores, got nan" in str(results[1].error)
    by_hand = qwen_model_by_hand(model, tokenizer, results[0])
    assert results[0].tree.values[1:].tolist() == pytest.approx(by_hand, **EXACT)
    assert results[0].spent.tokens == 30


def qwen_model_by_hand(model: Any, tokenizer: Any, result: Any) -> list[float]:
    """The value of each node of the first question, one at a time."""
    values = []
    for number in range(1, result.tree.num_nodes):
        steps: list[str] = []
        while number:
            steps.insert(0, result.steps[number].text.rstrip())
            number = int(result.tree.parents[number])
        text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n" + "".join(s + "<extra_0>" for s in steps)
        values.append(softmax(logits_of(model, tokenizer(text)["input_ids"])[-1], 1))
    return values


# --- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"aggregate": "mean"}, ValueError, "aggregate: expected 'last', 'min' or 'product', got 'mean'"),
        ({"aggregate": ["min"]}, ValueError, r"aggregate: expected 'last', 'min' or 'product', got \['min'\]"),
        ({"step_tag": ""}, ValueError, "step_tag: expected a non-empty str"),
        ({"step_tag": None}, TypeError, "step_tag: expected a str, got None"),
        ({"between": 5}, TypeError, "between: expected a str, got 5"),
        ({"prompt": "q"}, TypeError, "prompt: expected a function or None, got 'q'"),
        ({"max_batch": 0}, ValueError, "max_batch: expected an integer of at least 1"),
        ({"max_length": 0}, ValueError, "max_length: expected an integer of at least 1"),
        ({"good_label": -1}, ValueError, "good_label: expected an integer of at least 0"),
        ({"good_label": "great"}, ValueError, r"good_label: expected one of \['LABEL_0', 'LABEL_1'\], got 'great'"),
        ({"score_tokens": "+"}, TypeError, r"score_tokens: expected a pair such as \('\+', '-'\), got '\+'"),
        (
            {"score_tokens": ("good", "-")},
            ValueError,
            r"score_tokens: expected texts of one token each, got \[.*\] for",
        ),
        ({"score_tokens": (-1, 5)}, ValueError, "score_tokens: expected an integer from 0 to"),
        ({"score_tokens": (5, 10**6)}, ValueError, "score_tokens: expected an integer from 0 to"),
        ({"score_tokens": (True, False)}, TypeError, "score_tokens: expected an integer from 0 to"),
        ({"score_tokens": (5, None)}, TypeError, "score_tokens: expected an integer from 0 to"),
        ({"score_tokens": ("+", "+")}, ValueError, "score_tokens: expected two tokens"),
    ],
)
def test_bad_arguments(options: Any, error: type[Exception], message: str) -> None:
    tokenizer = byte_level()
    with pytest.raises(error, match=message):
        ProcessRewardCritic(classifier(tokenizer), tokenizer, **options)


def test_tokens_that_mean_good_and_bad_are_of_causal_models() -> None:
    tokenizer = byte_level()
    critic = ProcessRewardCritic(classifier(tokenizer), tokenizer, score_tokens=("+", "-"))
    with pytest.raises(ValueError, match=r"score_tokens: expected a causal model, got .*give good_label"):
        critic.score([path("a\n")])


def test_models_and_tokenizers_that_do_not_fit() -> None:
    tokenizer = byte_level()
    for model in ("Qwen/Qwen2.5-Math-PRM-7B", None, type(classifier(tokenizer))):
        for make in (ProcessRewardCritic, ProcessRewardCritic.qwen):
            with pytest.raises(TypeError, match="model: expected a model with logits per token, got"):
                make(model, tokenizer)
    with pytest.raises(TypeError, match="tokenizer: expected a fast tokenizer"):
        ProcessRewardCritic(classifier(tokenizer), object())
    with pytest.raises(
        ValueError, match=r"model: expected logits of one or two labels, got \d+; give good_label, or sco"
    ):
        ProcessRewardCritic(causal(tokenizer), tokenizer).score([path("a\n")])
    with pytest.raises(ValueError, match="good_label: expected one of the model's 2 labels, got 2"):
        ProcessRewardCritic(classifier(tokenizer), tokenizer, good_label=2).score([path("a\n")])

    with pytest.raises(ValueError, match="tokenizer: expected one with a chat template"):
        ProcessRewardCritic.qwen(classifier(tokenizer), word_piece())
    other = metaspace()
    other.chat_template = tokenizer.chat_template
    with pytest.raises(ValueError, match="tokenizer: expected one with the token <extra_0>"):
        ProcessRewardCritic.qwen(classifier(other), other)

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return (self.weight.expand(len(input_ids), 2),)

    with pytest.raises(ValueError, match=r"good_label: expected one of \[\], got 'good'"):
        ProcessRewardCritic(Pooled(), tokenizer, good_label="good")
    with pytest.raises(ValueError, match=r"model: expected logits per token, \(1, 17, labels\), got \(1, 2\); load it"):
        ProcessRewardCritic(Pooled(), tokenizer).score([path("a\n")])
