"""`TorchGenerator.read`: the state at the end of a context, from passes that the next step does not make again."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from model_families import LETTERS, build_model, build_tokenizer, families, fresh_pass

from bavt_fast.generators.contexts import Context
from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import GenerationError, Node, Step, StepRequest

ONE_OF_EACH = [name for name in ("llama", "gemma3", "mamba", "qwen3_next", "xlnet") if name in families()]
SIZES = {"max_batch": 4}


def generator_of(name: str = "llama", **options: Any) -> TorchGenerator:
    return TorchGenerator(build_model(name), build_tokenizer(), threads=1, **{**SIZES, **options})


def prompt(number: int, length: int) -> str:
    letters = itertools.islice(itertools.cycle(LETTERS[1 + number % 7 :]), 3 * length)
    return "".join(itertools.islice(letters, 0, None, 3))


def ids_of(generator: TorchGenerator, node: Node) -> list[int]:
    text, steps = node.context()
    return [*generator.tokenizer(text)["input_ids"], *[token for step in steps for token in step.token_ids]]


def check(generator: TorchGenerator, nodes: list[Node]) -> None:
    for node, state in zip(nodes, generator.read(nodes), strict=True):
        assert isinstance(state, torch.Tensor)
        _, hidden = fresh_pass(generator.model, ids_of(generator, node))
        torch.testing.assert_close(state, hidden[0], rtol=1e-4, atol=1e-4)


def some_nodes(generator: TorchGenerator) -> list[Node]:
    """Roots, steps without a prompt, and states with a prompt of their own; more than fit in a batch."""
    roots = [Node(None, prompt(i, 2 + 3 * i)) for i in range(4)]
    answers = generator.propose([StepRequest(root, 5) for root in roots], [2] * 4, [4] * 4)
    nodes = list(roots)
    for root, steps in zip(roots, answers, strict=True):
        assert not isinstance(steps, Exception)
        for place, step in enumerate(steps):
            nodes.append(Node(None, None, root, step))
            nodes.append(Node(None, prompt(5 + place, 7), root, step))
    return nodes


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_is_read_is_what_a_fresh_pass_says(name: str) -> None:
    generator = generator_of(name)
    nodes = some_nodes(generator)
    check(generator, nodes)
    check(generator, nodes[::-1])  # from the store
    check(generator_of(name, store_bytes=0), nodes)


def test_nothing_is_computed_twice() -> None:
    generator = generator_of()
    root = Node(None, prompt(0, 9))
    [[step]] = generator.propose([StepRequest(root, 1)], [1], [5])  # type: ignore[misc]
    nodes = [Node(None, prompt(3, 8), root, step), Node(None, prompt(4, 6), root, step)]
    before = generator.statistics()
    first = generator.read([*nodes, nodes[0]])
    read = generator.statistics()
    assert read.computed_prompt_tokens - before.computed_prompt_tokens == 8 + 6  # the third is the first
    assert first[0].equal(first[2])  # type: ignore[union-attr,arg-type]
    again = generator.read(nodes)
    steps = generator.propose([StepRequest(node, 7) for node in nodes], [1, 1], [3, 3])
    after = generator.statistics()
    assert after.computed_prompt_tokens == read.computed_prompt_tokens
    assert all(old.equal(new) for old, new in zip(first, again, strict=False))  # type: ignore[union-attr,arg-type]
    unread = generator_of()
    expected = unread.propose([StepRequest(node, 7) for node in nodes], [1, 1], [3, 3])
    assert [s.token_ids for row in steps for s in row] == [s.token_ids for row in expected for s in row]  # type: ignore[union-attr]


def test_what_contexts_share_is_computed_once() -> None:
    """The steps of a path, read together: each goes on from the one before. More paths than a batch has rows."""
    paths = []
    for number in range(6):
        nodes = [Node(None, prompt(number, 20 + number))]
        for text in ("abc", "de", "fghij"):
            ids = tuple(build_tokenizer()(text)["input_ids"])
            nodes.append(Node(None, None, nodes[-1], Step(text, len(ids), token_ids=ids)))
        paths.append(nodes)
    generator = generator_of()
    check(generator, [node for nodes in paths for node in nodes[1:]])
    assert generator.statistics().computed_prompt_tokens == sum(len(ids_of(generator, nodes[-1])) for nodes in paths)


def test_no_more_than_a_batch_of_contexts_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_of(store_bytes=0)
    read, held = generator._scheduler.read, []

    def counted(contexts: Sequence[Context]) -> None:
        held.append(len(contexts))
        read(contexts)

    monkeypatch.setattr(generator._scheduler, "read", counted)
    check(generator, [Node(None, prompt(i, 5 + i)) for i in range(11)])
    assert held == [4, 4, 3]


def test_requests_under_way_go_on() -> None:
    """Read between two tokens of a full batch, with more waiting: the steps are those of nobody reading."""
    requests = [StepRequest(Node(None, prompt(i, 4 + i)), 11 * i) for i in range(9)]

    def steps(reads: bool) -> dict[int, Any]:
        generator, found = generator_of(), {}
        generator.submit(list(range(9)), requests, [1] * 9, [6] * 9)
        while len(found) < 9:
            generator._scheduler.advance()
            if reads:
                check(generator, [Node(None, prompt(len(found), 12)), requests[len(found) % 9].node])
            found.update({ticket: answer[0].token_ids for ticket, answer in generator.collect()})  # type: ignore[index]
        return found

    assert steps(True) == steps(False)


def test_a_context_that_is_too_long_is_read_where_its_step_ended() -> None:
    generator = generator_of()
    generator._most_tokens = 10
    state = torch.full((32,), 0.5)
    long = prompt(0, 11)
    fits, stepped, bare = (
        Node(None, prompt(0, 10)),
        Node(None, long, Node(None, long), Step("a", 1, hidden=state)),
        Node(None, long),
    )
    read = generator.read([fits, stepped, bare])
    assert isinstance(read[0], torch.Tensor)
    assert read[1].equal(state)  # type: ignore[union-attr]
    assert isinstance(read[2], ValueError)
    assert "a context that the model can take" in str(read[2])


def test_one_node_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_of(prompts=lambda text: build_tokenizer()(text)["input_ids"] if "!" not in text else [])
    read = generator.read([Node(None, "abc"), Node(None, "!"), Node(None, "abcd")])
    assert [type(state) for state in read] == [torch.Tensor, ValueError, torch.Tensor]
    assert "at least one token" in str(read[1])


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_pass_that_fails_is_told_for_its_nodes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name not in families():
        pytest.skip(f"this transformers has no {name}")
    generator = generator_of(name)
    node = Node(None, "abc")
    with monkeypatch.context() as broken:

        def fail(compute: Any, tokens: int) -> Any:
            raise RuntimeError("no such device")

        broken.setattr(generator._scheduler.forward, "timed", fail)
        [error] = generator.read([node])
        assert isinstance(error, GenerationError)
        assert "no such device" in str(error)
    check(generator, [node])


def test_an_interruption_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_of()
    generator.submit([3], [StepRequest("abcde", 1)], [1], [9])
    generator._scheduler.advance()

    def interrupted(compute: Any, tokens: int) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(generator._scheduler.forward, "timed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generator.read([Node(None, "abc")])
    [(ticket, answer)] = generator.collect()
    assert ticket == 3
    assert isinstance(answer, GenerationError)
    check(generator, [Node(None, "abc")])


def test_nothing_to_read() -> None:
    assert generator_of().read([]) == []
