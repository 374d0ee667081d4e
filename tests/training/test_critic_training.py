"""A critic for a model as it is: the states that it learns from, their labels, and the head that is fitted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import transformers  # noqa: E402
from tiny_models import tiny_model, tiny_vocabulary_model  # noqa: E402
from tiny_tokenizers import CHAT_TEMPLATE, tiny_tokenizer  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from untouched import Untouched  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.critic_file import load_critic, read_manifest  # noqa: E402
from bavt_fast.language_model import TorchModel  # noqa: E402
from bavt_fast.model_folder import ModelFolder, load_folder  # noqa: E402
from bavt_fast.protocols import Description, Node, Scores  # noqa: E402
from bavt_fast.tasks.countdown import Countdown, make_oracle  # noqa: E402
from bavt_fast.tasks.countdown.training.figures import held_out_problems  # noqa: E402
from bavt_fast.tasks.countdown.training.states import TEST  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402
from bavt_fast.training.critic import (  # noqa: E402
    CriticConfig,
    Visits,
    collect_visits,
    label_by_completions,
    label_by_oracle,
    train_critic,
)
from bavt_fast.training.critic.process_data import LabelledPath, label_states  # noqa: E402

COUNT = 20


@pytest.fixture(scope="module")
def folder() -> ModelFolder:
    """At a temperature at which the model errs often enough for a critic to learn something."""
    return load_folder(threads=1, temperature=1.0)


def problems(count: int, k: int = 4) -> list[str]:
    numbers, targets = held_out_problems(TEST, count, k, seed=5)
    return [f"{' '.join(map(str, row))} -> {target}" for row, target in zip(numbers, targets, strict=True)]


@pytest.fixture(scope="module")
def visits(folder: ModelFolder) -> Visits:
    return collect_visits(folder.generator, folder.task, problems(COUNT), budget=bavt.Budget(tokens=120), seed=1)


# --- visits


def test_visits_are_the_states_that_the_search_scores(folder: ModelFolder, visits: Visits) -> None:
    assert len(visits) == len(visits.parents) == len(visits.questions) == len(visits.depths) == len(visits.hidden)
    assert visits.parents[:COUNT].tolist() == [-1] * COUNT
    assert visits.questions[:COUNT].tolist() == list(range(COUNT))
    assert (visits.parents[COUNT:] >= 0).all()
    assert 0 < visits.tokens <= COUNT * 120
    for place, node in enumerate(visits.nodes):
        parent = int(visits.parents[place])
        assert (node.parent is None) == (parent < 0)
        if parent >= 0:
            assert visits.nodes[parent] is node.parent
            assert visits.questions[place] == visits.questions[parent]
            assert visits.depths[place] == visits.depths[parent] + 1
            assert len(node.state.numbers) == 4 - visits.depths[place]
    targets = [int(question.split("-> ")[1]) for question in problems(COUNT)]
    assert [node.state.target for node in visits.nodes[:COUNT]] == targets


def test_a_labelled_step_has_the_state_that_the_search_would_have_shown(folder: ModelFolder, visits: Visits) -> None:
    places = list(range(COUNT, len(visits), 7))
    nodes = [visits.nodes[place] for place in places]
    prompts = [LabelledPath(node.parent.text, (node.step.text,), (1.0,)) for node in nodes]  # type: ignore[union-attr]
    for separator in (")", None):
        found = label_states(prompts, folder.generator, separator=separator)
        torch.testing.assert_close(found.hidden, visits.hidden[places], rtol=1e-3, atol=1e-3)
    questions = problems(COUNT)
    paths = [path_to(visits, place, questions[visits.questions[place]]) for place in places]
    found = label_states(paths, folder.generator, folder.task)
    ends = torch.tensor([len(path.steps) for path in paths]).cumsum(0) - 1
    torch.testing.assert_close(found.hidden[ends], visits.hidden[places], rtol=1e-3, atol=1e-3)
    assert found.depths[ends].equal(visits.depths[places])


def path_to(visits: Visits, place: int, question: str) -> LabelledPath:
    """The steps to a state, as others write them down."""
    steps = []
    while visits.parents[place] >= 0:
        steps.append(visits.nodes[place].step.text)  # type: ignore[union-attr]
        place = int(visits.parents[place])
    return LabelledPath(question, tuple(step.removesuffix("\n") for step in steps[::-1]), (1.0,) * len(steps))


@pytest.mark.parametrize("kind", ["byte_level", "llama", "metaspace"])
@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE])
@pytest.mark.parametrize("question", ["Which letters?", "Which letters?\n"])
def test_labelled_steps_of_a_text_are_read_as_the_search_reads_them(
    kind: str, template: str | None, question: str
) -> None:
    """Behind a line break, or in the turn of the assistant, from tokens as the model writes them."""
    tokenizer = tiny_tokenizer(kind, chat_template=template)
    model = TorchModel(tiny_model(), tokenizer)
    written = [tokenizer.convert_tokens_to_ids(letter) for letter in "qzj"]
    ids = [*written, tokenizer("q\n", add_special_tokens=False)["input_ids"][-1]]
    allowed = torch.full((model.facts.core.config.vocab_size,), -torch.inf)
    allowed[ids] = 0.0
    generator = model.generator(processors=lambda ids, logits: logits + allowed)
    visits = collect_visits(generator, TextTask(), [question], budget=bavt.Budget(tokens=150), seed=3)
    places = range(1, len(visits))
    assert int(visits.depths.max()) >= 3
    for place in places:
        path = path_to(visits, place, question)
        found = label_states([path], generator, TextTask())
        torch.testing.assert_close(found.hidden[-1], visits.hidden[place], rtol=1e-3, atol=1e-3)


def test_visits_for_a_critic_of_contexts_hold_what_their_prompts_leave_behind(
    folder: ModelFolder, visits: Visits
) -> None:
    found = collect_visits(
        folder.generator, folder.task, problems(COUNT), budget=bavt.Budget(tokens=120), seed=1, reads="context"
    )

    def prompts(of: Visits, question: int) -> list[str | None]:
        return [node.prompt for node, its in zip(of.nodes, of.questions.tolist(), strict=True) if its == question]

    for question in range(COUNT):  # which question's step comes first depends on what the store holds
        assert prompts(found, question) == prompts(visits, question)
    assert not found.hidden[:COUNT].any()
    model = bavt.TorchModel(folder.generator.model, folder.generator.tokenizer)
    for place in range(COUNT, len(found), 9):
        expected = model.encode(found.nodes[place].prompt)[0]
        torch.testing.assert_close(found.hidden[place], expected, rtol=1e-3, atol=1e-3)


def test_a_question_that_comes_again_is_one_question_and_another_search(folder: ModelFolder) -> None:
    """It is held out together with the first; how it is written does not matter, but what the model reads does."""
    asked = ["3 5 7 11 -> 24", "2 6 9 9 -> 24", "3 5 7 11 -> 24", "3 5 7 11 -> 25", " 11 7 5 3 -> 24"]
    found = collect_visits(folder.generator, folder.task, asked, budget=bavt.Budget(tokens=150), seed=1)
    assert found.questions[:5].tolist() == [0, 1, 0, 3, 0]
    assert set(found.questions.tolist()) == {0, 1, 3}

    def steps(root: int) -> list[str]:
        below = [place for place, parent in enumerate(found.parents.tolist()) if parent == root]
        return [found.nodes[place].step.text for place in below]  # type: ignore[union-attr]

    assert steps(0) != steps(2)
    alone = collect_visits(folder.generator, folder.task, asked[:1], budget=bavt.Budget(tokens=150), seed=1)
    assert steps(0) == [node.step.text for node in alone.nodes[1:] if node.parent is alone.nodes[0]]  # type: ignore[union-attr]


@pytest.mark.parametrize("arguments", [{"seed": "x"}, {"seed": -1}, {"reads": "mind"}])
def test_visits_of_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(arguments))}: expected"):
        collect_visits(Untouched(), Countdown(), ["4 5 6 10"], budget=bavt.Budget(tokens=60), **arguments)  # type: ignore[arg-type]


def test_a_question_beyond_the_context_is_passed_over(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    """A file of thousands may hold one, and the work on the others is not lost for it."""
    task, few = TextTask(answers="1", max_depth=2), bavt.Budget(tokens=40)
    asked = ["Target: 24 (left: 4 6)\n", "1 2 3 4 " * 200, "Target: 24 (left: 3 8)\n"]
    found = collect_visits(folder.generator, task, asked, budget=few, seed=1)
    assert set(found.questions[3:].tolist()) == {0, 2}
    assert "1 questions are passed over, such as one with this error: prompt: expected fewer than" in caplog.text
    labels = label_by_completions(found.nodes[:4], folder.generator, task, completions=2, max_steps=3).labels
    assert labels.isnan().tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="prompt: expected fewer than"):
        collect_visits(folder.generator, task, asked[1:2], budget=few)


def test_nothing_to_visit_is_an_error(folder: ModelFolder) -> None:
    with pytest.raises(ValueError, match="questions: expected at least one"):
        collect_visits(folder.generator, folder.task, [], budget=bavt.Budget(tokens=10))
    with pytest.raises(ValueError, match="budget: expected enough for a step"):
        collect_visits(folder.generator, folder.task, ["4 5 6 10"], budget=bavt.Budget(tokens=3))
    with pytest.raises(TypeError, match="expected steps with hidden states"):
        collect_visits(
            lambda text, count: ["10 + 4 = 14 (left: 5 6 14)"],
            folder.task,
            ["4 5 6 10"],
            budget=bavt.Budget(tokens=50),
        )


# --- labels


@pytest.mark.parametrize("predicts", ["logit", "residual"])
def test_states_without_a_label_are_not_learnt_from(folder: ModelFolder, predicts: Any) -> None:
    """A verifier is late now and then, while visiting and while labelling."""

    class Slow(Countdown):
        def describe(self, state: Any) -> Description:
            about = super().describe(state)
            is_late = about.terminal and state.expressions[0].endswith("3)")
            return Description(terminal=True) if is_late else about

    config = CriticConfig(budget_tokens=100, rounds=1, completions=2, max_step_tokens=20, predicts=predicts)
    asked = problems(8)
    seen = collect_visits(folder.generator, Slow(), asked, budget=bavt.Budget(tokens=100), max_step_tokens=20)
    labels = label_by_completions(
        seen.nodes, folder.generator, Slow(), completions=2, max_step_tokens=20, seed=1
    ).labels
    missing = labels.isnan()
    assert bool(missing[seen.parents >= 0].any())
    figures = train_critic(folder.generator, Slow(), asked, config=config).figures
    left_out = missing | (missing[seen.parents] & torch.tensor(predicts == "residual"))
    assert figures.states + figures.trained_on == int((~left_out[seen.parents >= 0]).sum())


def test_completions_agree_with_the_oracle(folder: ModelFolder, visits: Visits) -> None:
    """What a completion has reached can be reached; what cannot be reached, none has."""
    nodes = visits.nodes[COUNT:]
    exact = label_by_oracle(nodes, make_oracle())
    found = label_by_completions(nodes, folder.generator, folder.task, completions=4, max_step_tokens=20)
    assert set(exact.tolist()) == {0.0, 1.0}
    assert (found.labels[exact == 0.0] == 0.0).all()
    assert found.labels[exact == 1.0].mean() > 0.1


# --- from end to end


def test_a_critic_trained_on_its_own_searches_knows_what_is_near(folder: ModelFolder, tmp_path: Path) -> None:
    """A new head on the embedded model's states; with two numbers left it tells the living from the dead."""
    out = tmp_path / "critic.safetensors"
    config = CriticConfig(budget_tokens=120, rounds=2, max_step_tokens=20)
    fitted = train_critic(
        folder.generator, folder.task, problems(60), config=config, oracle=make_oracle(), out=out, task_name="countdown"
    )
    assert fitted.figures.auc_by_depth[2] > 0.85
    model = bavt.TorchModel(folder.generator.model, folder.generator.tokenizer)
    critic = load_critic(out, model, task="countdown")
    hidden = torch.randn(4, model.hidden_size)
    assert critic.head(hidden).equal(fitted.head(hidden))
    manifest = read_manifest(out)
    assert manifest.figures["questions"] == 60
    assert manifest.figures["auc_by_depth"]["2"] == pytest.approx(fitted.figures.auc_by_depth[2])
    assert manifest.figures["auc_within_depths"] == pytest.approx(fitted.figures.auc_within_depths)
    assert manifest.figures["tokens"]["visiting"] > 0
    result = bavt.search(
        "4 5 6 10", generator=folder.generator, critic=critic, task=folder.task, budget=bavt.Budget(tokens=200)
    )
    assert result.spent.tokens <= 200


def test_a_critic_of_contexts_reads_what_the_next_step_reads(folder: ModelFolder, tmp_path: Path) -> None:
    out = tmp_path / "critic.safetensors"
    config = CriticConfig(budget_tokens=120, rounds=2, max_step_tokens=20, reads="context")
    fitted = train_critic(folder.generator, folder.task, problems(60), config=config, oracle=make_oracle(), out=out)
    assert fitted.figures.auc_by_depth[2] > 0.7
    assert read_manifest(out).reads == "context"
    model = bavt.TorchModel(folder.generator.model, folder.generator.tokenizer)
    generator = load_folder(threads=1).generator
    critic = load_critic(out, model, reader=generator)
    searcher = bavt.Searcher(generator, critic, folder.task, max_step_tokens=20)
    search = searcher.start("4 5 6 11", budget=bavt.Budget(tokens=200))
    for _ in searcher.run([search]):
        pass
    open_nodes = [node for node in search.nodes[1:] if len(node.state.numbers) > 1]
    assert len(open_nodes) > 3
    for node in open_nodes:
        expected = fitted.head(model.encode(node.prompt)).sigmoid().item()
        assert node.value == pytest.approx(expected, abs=1e-3)
    read = {node.prompt: len(generator.tokenizer(node.prompt)["input_ids"]) for node in search.nodes if node.prompt}
    assert generator.statistics().computed_prompt_tokens <= sum(read.values())


def test_what_cannot_be_trained_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    for asked in ([], ["4 5 6 10"], ["4 5 6 10", "4 5 6 10"]):
        with pytest.raises(ValueError, match="questions: expected two or more"):
            train_critic(Untouched(), Countdown(), asked)
    for out in (tmp_path, tmp_path / "none" / "critic.safetensors"):
        with pytest.raises(OSError, match=str(out)):
            train_critic(Untouched(), Countdown(), problems(3), out=out)
    with pytest.raises(TypeError, match="generator: expected a TorchGenerator, whose model"):
        train_critic(Untouched(), Countdown(), problems(3), out=tmp_path / "critic.safetensors")
    with pytest.raises(TypeError, match="generator: expected one that reads contexts, such as TorchGenerator, got"):
        train_critic(Unread(), Countdown(), problems(3), config=CriticConfig(reads="context"))
    with pytest.raises(TypeError, match="oracle: expected a plain one, got a coroutine"):
        train_critic(Untouched(), Countdown(), problems(3), oracle=later)


class Unread:
    def propose(self, *asked: Any) -> Any:
        raise AssertionError("nothing is asked for")


async def later(text: str) -> float:
    raise AssertionError("nothing is asked for")


def test_a_model_that_cannot_read_the_probe_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    """Else what was learnt could not be written at the end."""
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(["a1", "b2", "\n"])}))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    generator = TorchModel(tiny_vocabulary_model(8), tokenizer).generator(delimiter=())
    with pytest.raises(
        ValueError, match=r"model: expected one that reads '1 2 3 4 = .*, by which a critic knows it, got"
    ):
        train_critic(generator, Countdown(), problems(3), out=tmp_path / "critic.safetensors")
    assert generator.statistics().generated_tokens == 0


def test_the_largest_seed_is_one(folder: ModelFolder) -> None:
    """The rounds count on from it, and what was spent is not lost."""
    config = CriticConfig(budget_tokens=60, rounds=2, completions=1, max_step_tokens=20, seed=2**63 - 1)
    assert train_critic(folder.generator, folder.task, problems(8), config=config).figures.states > 0


def test_what_an_oracle_took_is_in_the_file(folder: ModelFolder, tmp_path: Path) -> None:
    class Charging:
        predicts = "value"

        def score(self, nodes: Sequence[Node]) -> Scores:
            judged.extend(nodes)
            return Scores(make_oracle().score(nodes), [bavt.Spent(tokens=3)] * len(nodes))

    judged: list[Node] = []
    out = tmp_path / "critic.safetensors"
    config = CriticConfig(budget_tokens=100, rounds=2, max_step_tokens=20)
    train_critic(folder.generator, folder.task, problems(8), config=config, oracle=Charging(), out=out)  # type: ignore[arg-type]
    assert read_manifest(out).figures["tokens"]["labelling"] == 3 * len(judged) > 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"questions": "1 2 3 -> 6"}, "questions: expected a list of str, got '1 2 3"),
        ({"questions": 3}, "questions: expected a list of str, got 3"),
        ({"questions": ["1 2 3", ["1 2 4"]]}, "questions[1]: expected a str, got ['1 2 4']"),
        ({"task_name": 5}, "task_name: expected a str or None, got 5"),
        ({"model_name": Path("m")}, "model_name: expected a str or None, got"),
        ({"task": None}, "task: expected an object with the methods of"),
        ({"task": Countdown}, "task: expected an object with the methods of"),
        ({"config": {"rounds": 1}}, "config: expected a CriticConfig, got {'rounds': 1}"),
        ({"oracle": type(make_oracle())}, "oracle: expected an object, got the class"),
        ({"oracle": 5}, "oracle: expected an object with score"),
        ({"seed": 3}, "seed: expected no argument of this name, got 3; see CriticConfig"),
        ({"reads": "context"}, "reads: expected no argument of this name"),
        ({"max_step_tokens": 9}, "max_step_tokens: expected no argument of this name"),
        ({"budget": bavt.Budget(tokens=5)}, "budget: expected no argument of this name"),
        ({"critic": None}, "critic: expected no argument of this name"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_spent(arguments: dict[str, Any], error: str) -> None:
    given: dict[str, Any] = {"task": Countdown(), "questions": problems(3), **arguments}
    with pytest.raises(TypeError, match=re.escape(error)):
        train_critic(Untouched(), **given)


def test_questions_may_come_from_an_iterator(folder: ModelFolder) -> None:
    config = CriticConfig(budget_tokens=60, rounds=1, max_step_tokens=20)
    asked = problems(5)
    given = [asked, iter(asked)]
    trained = [
        train_critic(folder.generator, folder.task, questions, config=config, oracle=make_oracle())  # type: ignore[arg-type]
        for questions in given
    ]
    assert trained[0].figures.reliability == trained[1].figures.reliability
    with pytest.raises(TypeError, match="questions: expected a list of str"):
        collect_visits(folder.generator, folder.task, "4 5 6 10", budget=bavt.Budget(tokens=60))


def test_a_function_may_steer_the_visits(folder: ModelFolder) -> None:
    asked, budget = problems(2), bavt.Budget(tokens=60)
    found = collect_visits(folder.generator, folder.task, asked, budget=budget, critic=lambda text: 0.5)  # type: ignore[arg-type]
    assert len(found) > 2
    with pytest.raises(TypeError, match="critic: expected an object with score"):
        collect_visits(folder.generator, folder.task, asked, budget=budget, critic=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="critic: expected a plain one, got a coroutine"):
        collect_visits(folder.generator, folder.task, asked, budget=budget, critic=later)  # type: ignore[arg-type]


def test_states_of_a_wave_that_failed_are_kept_once(folder: ModelFolder) -> None:
    """They come again one by one, where a critic has no room for all of them."""

    class Narrow:
        predicts = "value"
        failed = 0

        def score(self, nodes: Sequence[Node]) -> list[float]:
            if len(nodes) > 1:
                self.failed += 1
                raise torch.OutOfMemoryError
            return [0.5]

    critic, budget = Narrow(), bavt.Budget(tokens=60)
    found = collect_visits(folder.generator, folder.task, problems(5), budget=budget, critic=critic)  # type: ignore[arg-type]
    assert critic.failed
    assert len({id(node) for node in found.nodes}) == len(found.nodes) == len(found.hidden)


def test_labels_that_are_all_the_same_teach_nothing(folder: ModelFolder) -> None:
    class Sure:
        predicts = "value"

        def score(self, nodes: Sequence[Node]) -> list[float]:
            return [1.0] * len(nodes)

    config = CriticConfig(budget_tokens=60, rounds=1, max_step_tokens=20)
    with pytest.raises(ValueError, match=r"all have the label 1\.0"):
        train_critic(folder.generator, folder.task, problems(3), config=config, oracle=Sure())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"rounds": 0}, {"budget_tokens": 0}, {"completions": 0}, {"seed": -1}, {"predicts": "value"}, {"reads": "mind"}],
)
def test_bad_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        CriticConfig(**change)
