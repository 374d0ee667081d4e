"""Process reward models behind a server, against the same model in this process. The server answers as vLLM does."""

from __future__ import annotations

import asyncio
import copy
import decimal
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, thinks_and_answers  # noqa: E402
from reward_models import byte_level, classifier, encoder, path, word_piece  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.process_reward import ProcessRewardCritic  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402

DOWN = Reply(b"<html>bad gateway</html>", 502, {"Retry-After": "0", "Content-Type": "text/html"})


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


PATHS = [
    path("2 + 3 = 5\n"),
    path("We add.\n", "2 + 3 = 6\n", "Answer: 6\n"),
    path("\n\nWe add.\n", "   indented\n", "no line break"),
    path("x" * 40 + "\n", question="Why?"),
    path(*[f"step {i}\n" for i in range(9)]),
]


def pooled(rows: Any, tokens: int | None = None) -> Reply:
    """An answer of ``/pooling``."""
    usage = None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    data = [{"index": 0, "object": "pooling", "data": rows}]
    return Reply({"id": "1", "object": "list", "created": 0, "model": "prm", "data": data, "usage": usage})


def pooling(model: Any, step_tag_id: int | None = None) -> Callable[[dict[str, Any]], Reply]:
    """A server with a model: rows of all tokens, or of the step tags alone, as vLLM's poolers ALL and STEP."""
    model.eval()
    lock = threading.Lock()

    def answer(body: dict[str, Any]) -> Reply:
        ids = body["input"]
        with lock, torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0].float()
        rows = (logits.softmax(-1) if logits.shape[-1] > 1 else logits.sigmoid()).tolist()
        kept = [row for row, token in zip(rows, ids, strict=True) if step_tag_id in (None, token)]
        return pooled(kept, len(ids))

    return answer


def constant(score: float = 0.5) -> Callable[[dict[str, Any]], Reply]:
    return lambda body: pooled([[1 - score, score]] * len(body["input"]), len(body["input"]))


def served(server: FakeServer, tokenizer: Any = None, **options: Any) -> bavt.ServedRewardCritic:
    return bavt.ServedRewardCritic("prm", tokenizer or byte_level(), base_url=server.url, **options)


# --- scores


@pytest.mark.parametrize("aggregate", ["last", "min", "product"])
@pytest.mark.parametrize("kind", ["labels", "one label", "encoder", "step tags", "all tokens of a tagged text"])
def test_values_are_those_of_the_model_in_this_process(kind: str, aggregate: Any) -> None:
    tokenizer = word_piece() if kind == "encoder" else byte_level()
    model = encoder(tokenizer) if kind == "encoder" else classifier(tokenizer, 1 if kind == "one label" else 2)
    tagged = "tag" in kind
    tag = tokenizer("<extra_0>", add_special_tokens=False)["input_ids"][0] if kind == "step tags" else None
    paths = PATHS[:1] if kind == "encoder" else PATHS  # whose context is short
    here = (ProcessRewardCritic.qwen if tagged else ProcessRewardCritic)(model, tokenizer, aggregate=aggregate)
    with FakeServer(pooling(model, tag)) as server:
        make = bavt.ServedRewardCritic.qwen if tagged else bavt.ServedRewardCritic
        critic = make("prm", tokenizer, base_url=server.url, aggregate=aggregate)
        values, spent = critic.score(paths)
        steps = critic.step_scores(paths)
        critic.close()
    assert values == pytest.approx(here.score(paths), abs=1e-5)
    for own, others in zip(here.step_scores(paths), steps, strict=True):
        assert others == pytest.approx(own, abs=1e-5)
    read = [len(laid.ids) for laid in here.layout.lay(paths)]
    assert spent == [bavt.Spent(prompt_tokens=tokens) for tokens in read]
    assert (critic.asked, critic.prompt_tokens) == (2 * len(paths), 2 * sum(read))


def test_a_tag_that_also_stands_in_the_text_is_not_a_step() -> None:
    """The server gives a row for it; it is passed over."""
    tokenizer = byte_level()
    model = classifier(tokenizer)
    tag = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    node = path("one\ntwo\n", "three\n", question="Q\nwith lines\n")
    with FakeServer(pooling(model, tag)) as server:
        (steps,) = served(server, tokenizer).step_scores([node])
    assert steps == pytest.approx(ProcessRewardCritic(model, tokenizer).step_scores([node])[0], abs=1e-5)
    assert len(steps) == 2


def test_what_is_sent() -> None:
    with FakeServer(constant()) as server:
        critic = served(server, api_key="secret-key")
        critic.score(PATHS[:1])
        with_slash = bavt.ServedRewardCritic("prm", byte_level(), base_url=server.url.removesuffix("/v1") + "/")
        with_slash.score(PATHS[:1])
    assert server.paths == ["/pooling", "/pooling"]
    assert server.keys == ["secret-key", "none"]
    ids = byte_level()("What is 2 + 3?\n2 + 3 = 5\n")["input_ids"]
    assert server.requests[0] == {
        "model": "prm", "input": ids, "task": "token_classify", "use_activation": True, "add_special_tokens": False,
    }  # fmt: skip
    assert "secret-key" not in repr(vars(critic.layout))


def test_a_wave_is_asked_for_at_once() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        reply = constant()(body)
        reply.delay_s = 0.2
        return reply

    with FakeServer(answer) as server:
        served(server).score(PATHS)
        assert server.most_at_once == len(PATHS)
        served(server, max_in_flight=2).score(PATHS)
    with FakeServer(answer) as server:
        served(server, max_in_flight=2).score(PATHS)
        assert server.most_at_once == 2


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([[0.5, 0.5]] * 3, {}, r"rows of 25 tokens, or of 2 step tags \(token \d+\), got 3; give the step_tag"),
        ([[0.1, 0.2, 0.7]] * 25, {}, "one or two labels, got 3; give good_label"),
        ([[0.5, 0.5]] * 25, {"good_label": 2}, r"label 2 \(good_label\) among the model's, got 2 labels"),
        ([[None, None]] * 25, {}, "expected finite scores, got nan"),
        ([[-3.0, 4.5]] * 25, {}, "expected probabilities, got 4.5; the server has to apply its activation"),
    ],
)
def test_rows_that_say_nothing_of_the_steps(rows: Any, options: Any, message: str) -> None:
    with FakeServer(lambda body: pooled(rows, 25)) as server:
        (error,), spent = served(server, **options).score(PATHS[:1])
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match=message):
        raise error
    assert server.url in str(error)
    assert spent == [bavt.Spent(prompt_tokens=25)]
    assert len(server.requests) == 1  # it would say the same again


def test_labels_and_rounding() -> None:
    with FakeServer(lambda body: pooled([[0.25, 0.0, 1.0005]] * len(body["input"]))) as server:
        assert served(server, good_label=0).score(PATHS[:1]).values == [0.25]
        assert served(server, good_label=2).score(PATHS[:1]).values == [1.0]


# --- costs


def test_what_a_node_costs() -> None:
    coarse = decimal.localcontext(decimal.Context(prec=1))  # of the caller: our money is not rounded by it
    with FakeServer(constant()) as server, coarse:
        critic = served(server, max_prompt_tokens=40, prompt_token_cost=0.01)
        values, spent = critic.score([PATHS[0], PATHS[4]])
    assert critic.max_score == bavt.Spent(cost=0.4, prompt_tokens=40)
    assert values[0] == 0.5
    assert isinstance(values[1], ValueError)
    assert "at most 40 tokens" in str(values[1])
    assert spent == [bavt.Spent(cost=0.25, prompt_tokens=25), bavt.Spent()]
    assert len(server.requests) == 1  # the long one is not sent


def test_a_server_that_says_too_little_or_what_cannot_be_is_charged_what_was_sent() -> None:
    for said, charged in ((3, 25), (None, 25), (-1, 25), (60, 60), (10**30, 25), (2**60 + 1, 25)):
        with FakeServer(lambda body, said=said: pooled([[0.5, 0.5]] * 25, said)) as server:
            assert served(server).score(PATHS[:1]).spent == [bavt.Spent(prompt_tokens=charged)]


@pytest.mark.parametrize(
    "data", [[], [{"data": [[]]}], [{"data": 0.5}], [{"data": []}, {"data": []}], [{"data": [[10**400]]}]]
)
def test_an_answer_that_was_billed_is_charged_and_not_asked_for_again(data: Any) -> None:
    with FakeServer(lambda body: Reply({"data": data, "usage": {"prompt_tokens": 25}})) as server:
        (error,), spent = served(server).score(PATHS[:1])
    assert isinstance(error, ValueError)
    assert server.url in str(error)
    assert spent == [bavt.Spent(prompt_tokens=25)]
    assert len(server.requests) == 1


def test_the_longest_path_is_what_the_tokenizer_says() -> None:
    tokenizer = byte_level()
    with FakeServer(constant()) as server:
        assert served(server, tokenizer).max_score == bavt.Spent()
        tokenizer.model_max_length = 30
        critic = served(server, tokenizer)
        assert critic.max_score == bavt.Spent(prompt_tokens=30)
        values = critic.score(PATHS).values
    assert [isinstance(value, ValueError) for value in values] == [False, True, True, True, True]


@pytest.mark.parametrize("kind", [bavt.ServedRewardCritic, bavt.AsyncServedRewardCritic])
def test_a_search_within_its_prompt_tokens(kind: Any) -> None:
    """Both servers at once; the budget holds what the critic reads, and the better step is gone on with."""

    def judge(body: dict[str, Any]) -> Reply:
        text = tokenizer.decode(body["input"])
        score = 0.9 if "thought 3" in text else 0.2
        return pooled([[1 - score, score]] * len(body["input"]), len(body["input"]))

    tokenizer = byte_level()
    with FakeServer(thinks_and_answers) as server, FakeServer(judge) as judging:
        generator = bavt.OpenAIGenerator("m", base_url=server.url)
        critic = kind("prm", tokenizer, base_url=judging.url, max_prompt_tokens=60)
        searcher = bavt.Searcher(generator, critic, TextTask(), wave=4, max_step_tokens=8, max_prompt_tokens=10)
        budget = bavt.Budget(prompt_tokens=1500)
        results = searcher.search_many(["What?", "Why?"], budget=budget)
        again = asyncio.run(searcher.asearch_many(["What?"], budget=budget))
    read = sum(result.spent.prompt_tokens for result in [*results, *again])
    assert all(0 < result.spent.prompt_tokens <= 1500 and not result.overrun.prompt_tokens for result in results)
    assert 0 < critic.prompt_tokens < read
    values = {round(float(value), 3) for result in results for value in result.tree.values.tolist()}
    assert {0.2, 0.9} <= values


# --- faults


@pytest.mark.parametrize(
    "fault",
    [
        DOWN,
        Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0"}),
        Reply(b'{"data": [{"da'),
        Reply({"data": []}),
        Reply({"data": [{"data": [[]]}]}),
        Reply({"data": [{"data": 0.5}]}),
        Reply({"data": [{"data": [[10**400]]}]}),
        Reply([]),
        Reply({"data": [{"data": [[0.5, 0.5]] * 25}]}, sent_share=0.5),
    ],
)
def test_a_fault_is_tried_again_and_charged_once(fault: Reply) -> None:
    replies = [fault, constant()({"input": [0] * 25})]
    with FakeServer(lambda body: replies.pop(0)) as server:
        values, spent = served(server).score(PATHS[:1])
    assert values == [0.5]
    assert spent == [bavt.Spent(prompt_tokens=25)]
    assert server.requests[0] == server.requests[1]


def test_a_fault_that_stays_ends_its_own_node_alone() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return DOWN if len(body["input"]) > 25 else constant()(body)

    with FakeServer(answer) as server:
        values, spent = served(server, retries=1, api_key="secret-key").score(PATHS[:2])
    assert values[0] == 0.5
    assert isinstance(values[1], bavt.GenerationError)
    assert server.url in str(values[1])
    assert "secret-key" not in str(values[1])
    assert spent == [bavt.Spent(prompt_tokens=25), bavt.Spent()]
    assert len(server.requests) == 3


def test_what_is_of_no_use_to_repeat_is_not_repeated() -> None:
    refusal = {"error": {"message": "Unsupported task: 'token_classify' Supported tasks: ('embed',)"}}
    with FakeServer(lambda body: Reply(refusal, 400)) as server:
        ((error,), _) = served(server).score(PATHS[:1])
    assert "Supported tasks" in str(error)
    assert len(server.requests) == 1


def test_it_can_be_closed_and_goes_on() -> None:
    with FakeServer(constant()) as server:
        critic = served(server)
        for _ in range(2):
            assert critic.score(PATHS[:1]).values == [0.5]
            critic.close()
        critic.close()

        async def inside() -> Any:
            return critic.score(PATHS[:1]).values  # a loop is running

        assert asyncio.run(inside()) == [0.5]
        critic.close()


def test_what_another_thread_asks_for_ends_when_it_is_closed() -> None:
    asked = threading.Event()
    found: list[Any] = []

    def answer(body: dict[str, Any]) -> Reply:
        asked.set()
        return Reply({}, delay_s=1.0)

    def ask() -> None:
        try:
            found.append(critic.score(PATHS[:1]))
        except bavt.GenerationError as error:
            found.append(error)

    with FakeServer(answer) as server:
        critic = served(server)
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        assert asked.wait(20)
        critic.close()
        thread.join(20)
    assert [str(error) for error in found] == [f"critic: server {server.url}: the critic was closed meanwhile"]


def test_the_first_calls_of_many_threads_ask_in_one_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[Any] = []
    made = asyncio.new_event_loop

    def slowly() -> Any:
        time.sleep(0.05)
        loops.append(made())
        return loops[-1]

    with FakeServer(constant()) as server, ThreadPoolExecutor(4) as threads:
        critic = served(server)
        monkeypatch.setattr(asyncio, "new_event_loop", slowly)
        found = list(threads.map(lambda _: critic.score(PATHS[:1]).values, range(4)))
        critic.close()
    assert found == [[0.5]] * 4
    assert len(loops) == 1
    assert critic.asked == 4


def test_a_copy_asks_in_a_loop_of_its_own() -> None:
    with FakeServer(constant()) as server:
        critic = served(server)
        assert critic.score(PATHS[:1]).values == [0.5]
        for copied in (copy.copy(critic), copy.deepcopy(critic)):
            assert copied.score(PATHS[:1]).values == [0.5]
            copied.close()
        assert critic.score(PATHS[:1]).values == [0.5]
        critic.close()


def test_a_forked_process_asks_in_an_event_loop_of_its_own() -> None:
    with FakeServer(constant()) as server:
        critic = served(server)
        assert critic.score(PATHS[:1]).values == [0.5]
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)  # it would wait for ever
            right = critic.score(PATHS[:1]).values == [0.5]
            critic.close()
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert critic.score(PATHS[:1]).values == [0.5]
        critic.close()


def test_a_state_without_steps_fails_alone() -> None:
    with FakeServer(constant()) as server:
        values = served(server).score([path(), PATHS[0]]).values
    assert isinstance(values[0], ValueError)
    assert values[1] == 0.5


# --- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model: expected the model's name"),
        ({"base_url": ""}, "base_url: expected the server's address"),
        ({"aggregate": "mean"}, "aggregate: expected 'last', 'min' or 'product'"),
        ({"good_label": -1}, "good_label"),
        ({"max_prompt_tokens": 0}, "max_prompt_tokens"),
        ({"prompt_token_cost": -1.0}, "prompt_token_cost"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"step_tag": ""}, "step_tag: expected a non-empty str"),
    ],
)
def test_bad_arguments(options: Any, message: str) -> None:
    good = {"model": "prm", "tokenizer": byte_level(), "base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ValueError, match=message):
        bavt.ServedRewardCritic(**{**good, **options})


def test_without_the_package_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bavt_fast.server_connections", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ModuleNotFoundError, match=r"critic: a server needs aiohttp.*bavt_fast\[server\]"):
        bavt.ServedRewardCritic("prm", byte_level(), base_url="http://127.0.0.1:1/v1")
