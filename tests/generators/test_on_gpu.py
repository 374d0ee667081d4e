"""The generator on a GPU: CUDA graphs, drawing on the device, passes ahead of the host, memory that runs out.

What each test compares with is computed without graphs, or on the CPU; a failure says in what they differ.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from model_families import FAMILIES, LETTERS, VOCABULARY, build_model, build_tokenizer  # noqa: E402
from random_steps import difference, steps_of  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor  # noqa: E402
from bavt_fast.generators.contexts import Drawing  # noqa: E402
from bavt_fast.generators.decode_batch import DecodeBatch  # noqa: E402
from bavt_fast.generators.device_sampling import DeviceSampler  # noqa: E402
from bavt_fast.generators.forward import Forward  # noqa: E402
from bavt_fast.generators.sampling import Sampler, SamplingRules  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import Node, StepRequest  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def make(model: Any, **options: Any) -> TorchGenerator:
    settings: dict[str, Any] = {"delimiter": ("e", "a"), "store_bytes": 2**28, **options}
    return TorchGenerator(model.to(DEVICE), build_tokenizer(), **settings)


def batch_of(generator: TorchGenerator) -> DecodeBatch:
    batch: DecodeBatch = generator._scheduler.batch  # type: ignore[attr-defined]
    return batch


def assert_captured(generator: TorchGenerator) -> None:
    static = batch_of(generator).static
    assert static is not None
    assert static.is_on, "graphs were turned off: the warning of this test says why"
    assert static._passes, "no graph was captured"


def requests(count: int, text: str = "the fox ran over the hill ") -> list[StepRequest]:
    random_ = random.Random(count)
    return [StepRequest(text + "".join(random_.choices(LETTERS[1:], k=i % 7)), 100 + i) for i in range(count)]


@contextmanager
def waiting_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


# --- graphs


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "gpt2", "opt", "deepseek_dense"])
def test_graphs_give_the_steps_of_plain_passes_and_of_a_cpu(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of one width and of two; the last family without its experts, for which torch may wait."""
    deepseek = FAMILIES["deepseek_v3"]
    dense = replace(deepseek, settings={**deepseek.settings, "first_k_dense_replace": 2})
    monkeypatch.setitem(FAMILIES, "deepseek_dense", dense)
    on_cpu = steps_of(TorchGenerator(build_model(family), build_tokenizer(), delimiter=("e", "a")))
    with_graphs = make(build_model(family))
    found = steps_of(with_graphs)
    assert_captured(with_graphs)
    assert difference(found, steps_of(make(build_model(family), graphs=False))) == "", "graphs / plain passes"
    assert difference(found, steps_of(make(build_model(family), max_batch=2))) == "", "graphs / two rows at once"
    assert difference(found, on_cpu) == "", "on the GPU / on the CPU"


@pytest.mark.parametrize("family", ["gemma3", "mistral", "bloom", "mamba"])
def test_models_that_cannot_be_captured_give_the_steps_of_a_cpu(family: str) -> None:
    """Windows shorter than the contexts, masks of their own, a context that is no keys and values."""
    on_cpu = steps_of(TorchGenerator(build_model(family), build_tokenizer(), delimiter=("e", "a")), waves=6)
    found = steps_of(make(build_model(family)), waves=6)
    assert difference(found, on_cpu) == ""


def test_graphs_are_captured_anew_where_the_window_grows() -> None:
    found, expected = make(build_model("llama")), make(build_model("llama"), graphs=False)
    for count in (1, 3, 9, 30, 2):
        one, other = (
            [row[0] for row in generator.propose(requests(count), [1] * count, [24] * count)]
            for generator in (found, expected)
        )
        assert difference(one, other) == "", f"{count} rows"
    assert_captured(found)


def test_steps_of_a_half_precision_model_have_the_states_of_full_passes() -> None:
    """In bfloat16, with rows of many lengths: what a critic reads is what a pass over the whole context gives."""
    model = wide_model().to(DEVICE, torch.bfloat16)
    generator = make(model, delimiter=("\n",))
    asked = requests(24)
    rows = generator.propose(asked, [1] * 24, [12] * 24)
    assert_captured(generator)
    for request, row in zip(asked, rows, strict=True):
        assert isinstance(row, list)
        ids = [*generator._ids_of(request.node), *row[0].token_ids[:-1]]
        with torch.no_grad():
            output = model(torch.tensor([ids], device=DEVICE), output_hidden_states=True)
        expected, found = output.hidden_states[-1][0, -1].float(), row[0].hidden.float()
        likeness = float(torch.cosine_similarity(expected, found, dim=0))
        assert likeness > 0.995, f"{len(row[0].token_ids)} tokens behind {request.text!r}: cosine {likeness:.4f}"


def test_passes_are_captured_ahead() -> None:
    generator = make(build_model("llama"))
    generator.warm_up(8, 60)
    assert_captured(generator)
    rows = generator.propose(requests(8), [1] * 8, [12] * 8)
    expected = make(build_model("llama"), graphs=False).propose(requests(8), [1] * 8, [12] * 8)
    assert difference([row[0] for row in rows], [row[0] for row in expected]) == ""


def test_a_pass_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward pass and drawing, where no row is done."""
    generator = make(build_model("llama"), delimiter=("\n",), temperature=0.7)
    scheduler = generator._scheduler
    generator.submit(range(6), requests(6), [1] * 6, [90] * 6)
    for _ in range(4):
        scheduler.advance()
    monkeypatch.setattr(Drawing, "finished", lambda drawing: drawing.reasons.read()[:0])
    scheduler.advance()
    with waiting_refused():
        for _ in range(6):
            scheduler.advance()
    generator.discard(range(6))
    assert_captured(generator)


def test_the_host_s_work_runs_beside_a_pass() -> None:
    """Steps that end are handed over, and judged, while a pass is under way that takes far longer; one that begins
    then, from the pass's numbers, is what it is without all that."""
    generator, expected = make(build_model("llama")), make(build_model("llama"), graphs=False)
    torch.manual_seed(0)
    critic = HiddenStateCritic(ResidualValuePredictor(32).to(DEVICE), "logit")
    scheduler: Any = generator._scheduler
    decode = scheduler.batch.decode
    out = dict(enumerate(requests(12)))
    generator.submit(list(out), list(out.values()), [1] * 12, [14] * 12)
    told: list[Any] = []
    beside = 0

    def slow(tokens: Any) -> Any:
        result = decode(tokens)
        torch.cuda._sleep(10**8)  # type: ignore[no-untyped-call]
        return result

    for number in range(40):
        if not out:
            break
        answers = generator.collect()
        nodes = []
        for ticket, answer in answers:
            assert isinstance(answer, list), answer
            request = out.pop(ticket)
            nodes.append(Node(None, None, request.node, answer[0]))
            told.append((request, answer[0], nodes[-1]))
        scores = critic.score(nodes)
        is_under_way = not torch.cuda.current_stream().query()
        if scheduler.batch.decode is slow:
            beside += is_under_way
        for (_, step, node), score in zip(told[len(told) - len(nodes) :], scores, strict=True):
            [plain] = critic.score([Node(None, None, None, replace(step, hidden=step.hidden.clone()))])
            assert score == pytest.approx(plain, abs=1e-4)
            if number < 20 and not step.is_cut:
                ticket = 100 + len(told) + len(out)
                while ticket in out:
                    ticket += 1
                out[ticket] = StepRequest(node, 7 * ticket)
                generator.submit([ticket], [out[ticket]], [1], [14])
        if number == 3:
            scheduler.batch.decode = slow  # what is made at first use is made
    generator.discard(list(out))
    assert beside > 3, "the host waited for the pass that was queued"
    assert_captured(generator)
    for request, step, _ in told:
        [[other]] = expected.propose([request], [1], [14])
        assert difference([step], [other]) == ""


def test_a_full_context_ends_at_the_last_place() -> None:
    """Rows that are done go on for a pass; a place behind the last one would end the process."""
    text = "the fox ran " * 20
    for cut in range(5):
        request = StepRequest(text + "x" * cut, cut)
        [found], [expected] = (
            TorchGenerator(
                build_model("gpt2").to(device), build_tokenizer(), delimiter="\n", store_bytes=2**20
            ).propose([request], [1], [99])
            for device in (DEVICE, "cpu")
        )
        assert difference(found, expected) == ""  # type: ignore[arg-type]


# --- drawing


@pytest.mark.parametrize("kernel", [False, True])
def test_drawing_is_the_same_on_the_cpu(kernel: bool) -> None:
    """The same logits, rules of all kinds: truncation, greedy rows, steps that were tried before. Without the first two
    by the kernel."""
    random_ = np.random.default_rng(0)
    size, rows = 3000, 60
    table = random_.integers(0, 3, (3, size)).astype(np.int32)
    table[:, :2600] = 0  # most tokens end nothing
    named = np.ones(size, dtype=bool)
    named[5:9] = False
    rules = [
        SamplingRules(
            int(random_.integers(2**62)),
            0,
            6,
            temperature=float(random_.choice([0.0, 0.7, 1.0])),
            top_p=float(random_.choice([1.0, 0.9])),
            top_k=int(random_.choice([0, 20])),
            min_p=float(random_.choice([0.0, 0.05])),
            tried=[] if row % 3 else [([row, row + 1], [0.2, 0.5]), ([row], [0.1])],
        )
        for row in range(rows)
    ]
    if kernel:
        rules = [replace(r, temperature=r.temperature or 0.4, top_p=1.0, top_k=0, min_p=0.0) for r in rules]
    kinds = ((Sampler, "cpu"), (DeviceSampler if kernel else Sampler, DEVICE))
    samplers = [kind(table, 1, [17], named, torch.device(device)) for kind, device in kinds]
    if isinstance(samplers[1], DeviceSampler):
        samplers[1]._checked = {False, True}  # its own draws from the first one on
    numbers = [sampler.open(rules, [-1] * rows) for sampler in samplers]
    for _ in range(6):
        logits = torch.from_numpy(random_.normal(0, 3, (rows, size)).astype(np.float32))
        hidden = torch.from_numpy(random_.normal(0, 1, (rows, 4)).astype(np.float32))
        for sampler, own in zip(samplers, numbers, strict=True):
            at = torch.tensor(own, device=sampler.device)
            sampler.draw(at, np.asarray(own), logits.to(sampler.device), hidden.to(sampler.device))
    apart = 0
    for row, (one, other) in enumerate(
        zip(*[sampler.drawn(own) for sampler, own in zip(samplers, numbers, strict=True)], strict=True)
    ):
        if (one.tokens, one.reason) != (other.tokens, other.reason):
            apart += 1  # a number next to the border of two tokens
            print(f"row {row}, {rules[row]}: {other.tokens} ({other.reason}), on the CPU {one.tokens} ({one.reason})")
            continue
        assert other.probabilities == pytest.approx(one.probabilities, rel=1e-3), f"row {row}"
        assert torch.equal(one.hidden, other.hidden.cpu()), f"row {row}: another token's hidden state"
    assert apart <= 1, f"{apart} of {rows} rows drew other tokens"


def test_the_kernel_draws_for_a_search() -> None:
    generator = make(build_model("llama"), delimiter=("\n",), temperature=0.7)
    generator.propose(requests(6), [1] * 6, [20] * 6)
    sampler = generator._scheduler.sampler
    assert isinstance(sampler, DeviceSampler)
    assert sampler.is_on, "the kernel was turned off: the warning of this test says why"
    assert sampler._checked


def test_numbers_that_are_none_are_an_error_of_their_request_alone() -> None:
    model = build_model("llama")
    [hole] = build_tokenizer()("Q", add_special_tokens=False)["input_ids"]
    model.get_input_embeddings().weight.data[hole] = float("nan")
    generator = make(model, without_replacement=False)
    bad, good = StepRequest("the fox ran over the hill Q and ", 1), StepRequest("and so ", 2)
    expected = make(model, graphs=False).propose([good], [1], [8])
    for asked in ([good], [bad, good], [bad], [good]):
        answers = generator.propose(asked, [1] * len(asked), [8] * len(asked))
        for request, answer in zip(asked, answers, strict=True):
            if request is bad:
                assert "got NaN or infinity" in str(answer), answer
            else:
                assert isinstance(answer, list), f"{answer!r} beside {len(asked) - 1} others"
                assert difference(answer, expected[0]) == ""  # type: ignore[arg-type]
    assert_captured(generator)


# --- memory


@pytest.mark.parametrize("graphs", [True, False])
def test_memory_that_runs_out_halves_the_rows(graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of more than five rows fail, in the middle of steps; the others give the same steps."""
    expected = make(build_model("llama"), graphs=False).propose(requests(12), [1] * 12, [12] * 12)
    generator = make(build_model("llama"), graphs=graphs)
    untimed = Forward.untimed
    failures = []

    def short_of_memory(self: Any, ids: Any, *rest: Any) -> Any:
        if ids.shape[0] > 5 and generator._scheduler.passes > 2:
            failures.append(ids.shape[0])
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return untimed(self, ids, *rest)

    generator.propose(requests(4), [1] * 4, [6] * 4)
    monkeypatch.setattr(Forward, "untimed", short_of_memory)
    found = generator.propose(requests(12), [1] * 12, [12] * 12)
    assert failures, "nothing was tried with more than five rows"
    assert generator._scheduler.max_rows <= 6
    for answer in found:
        assert isinstance(answer, list), answer
    assert difference([row[0] for row in found], [row[0] for row in expected]) == ""  # type: ignore[index]
    if graphs:
        assert_captured(generator)


def test_a_device_that_is_full_serves_fewer_rows() -> None:
    """Really full: the allocator gets 400 MB, and the window of all rows takes more."""
    model = wide_model(layers=8, heads=8).to(DEVICE)
    asked = requests(48, "the fox ran over the hill " * 12)
    expected = make(model, graphs=False, max_batch=4, store_bytes=0).propose(asked, [1] * 48, [4] * 48)
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    generator = make(model, store_bytes=2**26)
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 400e6) / total)
    try:
        found = generator.propose(asked, [1] * 48, [4] * 48)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for answer in found:
        assert isinstance(answer, list), answer
    assert generator._scheduler.max_rows < 48, "nothing ran out: the test is too small"
    assert difference([row[0] for row in found], [row[0] for row in expected], 1e-2) == ""  # type: ignore[index]


def test_the_store_may_have_half_of_what_is_free() -> None:
    free = torch.cuda.mem_get_info()[0]
    generator = make(build_model("llama"), store_bytes=None)
    assert 0.4 * free < generator._store.limit_bytes < 0.6 * free


# --- searches


@pytest.mark.parametrize("reads", ["step", "context"])
def test_a_search_with_a_critic_on_the_device(reads: str) -> None:
    generator = make(build_model("llama"), measure=True)
    torch.manual_seed(0)
    head = ResidualValuePredictor(32).to(DEVICE)
    critic = HiddenStateCritic(head, "logit", reader=generator if reads == "context" else None)
    searcher = bavt.Searcher(generator, critic, TextTask(max_depth=6), wave=8, max_step_tokens=8)
    start = time.perf_counter()
    results = searcher.search_many(["the fox", "and so", "it was"], budget=bavt.Budget(tokens=120))
    seconds = time.perf_counter() - start
    for result in results:
        assert result.error is None, result.error
        assert result.tree.num_nodes > 1
    told = generator.statistics()
    assert 0.0 < told.forward_seconds + told.sampling_seconds < seconds


def test_the_critic_reads_states_where_they_are() -> None:
    """On the device, in one call of the fused kernel; as on the CPU."""
    rows = make(build_model("llama")).propose(requests(20), [1] * 20, [8] * 20)
    nodes = [Node(None, "x", Node(None, "x"), row[0]) for row in rows]  # type: ignore[index]
    torch.manual_seed(0)
    head = ResidualValuePredictor(32)
    expected = HiddenStateCritic(head, "logit").score(nodes)
    found = HiddenStateCritic(head.to(DEVICE), "logit").score(nodes)
    assert found == pytest.approx(expected, abs=1e-3), "the head on the device / on the CPU"


def wide_model(layers: int = 4, heads: int = 4) -> Any:
    """Of ordinary widths, for the tokenizer of letters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64 * heads,
        intermediate_size=128 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0.0, 0.3)
    return model
