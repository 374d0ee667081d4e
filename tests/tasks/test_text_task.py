"""Plain text as a task."""

from __future__ import annotations

import time
from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.protocols import Description, Step
from bavt_fast.tasks.text import TextState, TextTask


def apply(task: TextTask, state: TextState, text: str, finish_reason: Any = "delimiter") -> TextState:
    after = task.apply(state, Step(text, 1, finish_reason))
    assert after is not None
    return after


def after(*texts: str, task: TextTask | None = None, ended: bool = False) -> Description:
    """What the task says of the state behind some steps."""
    task = task or TextTask()
    state = task.initial_state("q")
    for i, text in enumerate(texts, 1):
        state = apply(task, state, text, "end" if ended and i == len(texts) else "delimiter")
    return task.describe(state)


def test_a_state_is_the_text_so_far_as_written() -> None:
    task = TextTask()
    state = task.initial_state("How many?")
    assert task.describe(state) == Description(prompt="How many?\n", min_tokens=1)
    then = apply(task, state, "  first, think \n")
    assert then == TextState("How many?\n  first, think \n", "  first, think \n", 1, start=len("How many?\n"))
    assert task.describe(then) == Description(min_tokens=1)  # the context goes on by the step
    assert task.key(then) != task.key(state)
    assert task.initial_state("How many?\n") == state


@pytest.mark.parametrize("step", ["", " ", "\n", "\t\r\n"])
def test_an_empty_step_is_invalid(step: str) -> None:
    task = TextTask()
    assert task.apply(task.initial_state("q"), Step(step, 1)) is None


def test_a_path_ends_on_an_answer_or_at_max_depth() -> None:
    task = TextTask(end="Answer:", max_depth=2)
    question = task.initial_state("Answer: 5?")
    assert not task.describe(question).terminal  # only steps end a path
    thought = apply(task, question, "think\n")
    assert not task.describe(thought).terminal
    assert task.describe(apply(task, question, "Answer: 42\n")) == Description(True, None, "42")
    assert task.describe(apply(task, thought, "still thinking\n")) == Description(True, None, "still thinking")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 42", "42"),
        ("So we have it.\nAnswer: 42\n", "42"),
        ("Answer:42.5", "42.5"),
        ("Answer:\n42\n", "42"),
        ("Answer:\n\n  42 \nbecause", "42"),
        ("**Answer:** 42", "42"),
        ("**Answer: 42**", "42"),
        ("**Answer**: 42", "42"),
        ("### __Answer__:\n**42**", "42"),
        ("  ## Answer: `x + 1`", "x + 1"),
        ("> Answer: *forty two*", "forty two"),
        ("- Answer: 42\r\n", "42"),
        ("**Answer:**\n\n**42**", "42"),
        ("Answer: 41\nNo, wait.\nAnswer: 42", "42"),
        ("Answer: a: b", "a: b"),
        ("Answer: 42\nAnswer:\n", "42"),  # an empty one is none
        ("Answer:\nAnswer:\n43", "43"),
        ("Answer:\n$$\n42\n$$", "42"),
        ("Answer:\n```python\n42\n```", "42"),
        ("Answer: 100%", "100%"),
        ("The answer is 42.", "42."),
        ("Therefore, the answer is: **42**", "42"),
        ("**Final Answer:** 42", "42"),
        ("The final answer is\n42\n", "42"),
        ("Answer：42", "42"),
        ("**Answer**：**北京**", "北京"),
        ("**Final Answer：** 42", "42"),
        ("The answer is：\u300042", "42"),
        ("Answer：\n42\n", "42"),
        ("Answer : 42", "42"),
        ("**Answer** ：42", "42"),
        ("The answer is : 42", "42"),
        ("\u3000\u3000Answer：42", "42"),
        ("\u00a0Answer\u00a0: 42", "42"),
        ("\ufeffAnswer: 42\u200b", "42"),
        ("\u200b**Answer:** \u200e\n42", "42"),
        ("so 6 * 7 = 42\n#### 42", "42"),
        ("answer: 42", "42"),
        ("#### -$1,000", "-$1,000"),
        ("#### −5", "−5"),
        ("#### ‑5", "‑5"),
        ("#### ₹5", "₹5"),
        ("#### 18.", "18."),
        ("#### 1.5 m", "1.5 m"),
        ("Answer: ½ кг — 三", "½ кг — 三"),
        (r"Answer: $\frac{1}{2}$.", r"$\frac{1}{2}$."),
        (r"so it is \boxed{42}, I think.", "42"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{42}}", "42"),
        (r"\boxed {42} or \fbox{43}", "43"),
        (r"$\boxed 42$", "42"),
        (r"\boxed{41} \boxed{}", "41"),
        (r"{ \boxed{41} } } \boxed{42}", "42"),
        (r"Answer: the value is $\boxed{42}$.", "42"),
        ("Answer: 41\n" r"No: \boxed{42}", "42"),
        (r"\boxed{41}" "\nAnswer: 42", "42"),
        ("Answer:\n" r"\[ \boxed{42} \]", "42"),
        (r"\boxed{1} \boxed{2", "1"),  # the second one never closes
        (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert after("think\n", text) == Description(True, None, answer)


@pytest.mark.parametrize(
    "text",
    [
        "The Answer: 42",
        "So. Answer: 42",
        "Answers: 42",
        "What the answer is depends on you.",
        "### Answer",
        "#### Step 1: add the numbers",
        "#### The plan",
        "#### 1. Add the numbers",
        "#### **2) Add** the numbers",
        "Answer 42",
        r"\boxed{}",
        r"\boxed{ ** }",
        r"\boxed{42",
        "Answer: \u200b",
        r"\boxedtext{42}",
        "boxed{42}",
        "a box of 42",
        r"Answer: $\boxed{",
    ],
)
def test_what_announces_no_answer(text: str) -> None:
    assert not after(text).terminal


def test_an_answer_may_come_with_the_next_step() -> None:
    assert not after("Answer:\n").terminal
    assert after("Answer:\n", "42\nbecause\n") == Description(True, None, "42")
    assert after("**Answer:**\n", "**42**\n").answer == "42"
    assert after("Answer:\n", "Answer: 43\n").answer == "43"
    assert after("Answer:\n", "$$\n", "\\boxed{42}\n").answer == "42"


def test_a_box_may_go_over_several_steps() -> None:
    assert not after("so \\boxed{\n", "\\frac{1}\n").terminal
    assert after("so \\boxed{\n", "\\frac{1}\n", "{2}\n", "} is it\n").answer == "\\frac{1}\n{2}"
    assert after("Answer: $\\boxed{4\n", "2}$\n").answer == "4\n2"
    assert after("so \\boxed{4", ended=True).answer == "so \\boxed{4"


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 20_000, "Answer:\n" * 20_000, "{" * 100_000, "*" * 100_000, " " * 100_000]
)
def test_a_long_text_is_read_in_time_that_grows_with_it(text: str) -> None:
    state = TextTask().initial_state("q")
    started = time.process_time()
    apply(TextTask(), state, text, "end")
    assert time.process_time() - started < 2.0


def test_several_words_may_announce_an_answer() -> None:
    task = TextTask(("Answer:", "Final Answer:", "####"))
    for text in ("Answer: 7", "**Final Answer:** 7", "#### 7"):
        assert after(text, task=task).answer == "7"


@pytest.mark.parametrize("end", ["答案：", "答案:"])
def test_a_colon_may_be_as_wide_as_a_chinese_sign(end: str) -> None:
    for text in ("答案：42", "\u3000答案 ：42", "**答案：** 42", "答案: 42", "**答案**：42"):
        assert after(text, task=TextTask(end)).answer == "42"


def test_an_empty_answer_is_none() -> None:
    assert not after("Answer: **\n").terminal
    result = bavt.search(
        "q", generator=lambda text, n: ["Answer:"], task=TextTask(max_depth=1), budget=bavt.Budget(tokens=5)
    )
    assert result.answer is None  # at max_depth the last line is the answer, but this one says none
    assert after("", ended=True).answer == ""


@pytest.mark.parametrize(
    "line",
    [
        "Answer:",
        "Answer：",
        "Answer :",
        "Answer: **",
        "**Answer**:",
        "Answer: $$",
        r"\boxed{}",
        r"$\boxed{ ** }$",
        r"$\boxed{",
    ],
)
def test_a_last_line_that_says_no_answer_is_none(line: str) -> None:
    assert after("3 + 4 = 7\n", line, ended=True) == Description(True, None, "")
    assert after("3 + 4 = 7\n" + line, ended=True).answer == ""
    task = TextTask(answers=line)
    assert after(line, ended=True, task=task).verdict is False


def test_the_end_of_the_text_ends_a_path() -> None:
    """A chat model that answers in a line and stops."""
    assert after("3 + 4 = 7.\nSo it is 7.", ended=True) == Description(True, None, "So it is 7.")
    assert after("think\n", "Answer: 8\nThat is all.", ended=True).answer == "8"
    assert after("think\n", "", ended=True).answer == "think"  # an empty step may end a text
    assert after("think\n", "\n", ended=True).answer == "think"
    assert after("So:\n**It is 7.**\n$$\n", ended=True).answer == "It is 7."


def test_the_end_of_a_text_is_part_of_the_key() -> None:
    task = TextTask()
    state = task.initial_state("q")
    assert task.key(apply(task, state, "seven")) != task.key(apply(task, state, "seven", "end"))
    assert task.key(apply(task, state, "seven", "end")) == task.key(apply(task, state, "seven", "end"))


def test_a_chat_model_s_answer_is_found_by_a_search() -> None:
    class Chat:
        def propose(self, states: Any, counts: Any, limits: Any) -> list[list[Step]]:
            return [[Step("It is 7.", 4, "end")] for _ in states]

    result = bavt.search("What is 3 + 4?", generator=Chat(), budget=bavt.Budget(tokens=40))
    assert (result.answer, result.path) == ("It is 7.", ("It is 7.",))


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_depth": 0},
        {"max_depth": -1},
        {"max_depth": 1.5},
        {"max_depth": True},
        {"end": ""},
        {"end": None},
        {"end": []},
        {"end": ["Answer:", " "]},
        {"end": {"Answer:"}},
        {"answers": ""},
        {"answers": 7},
        {"answers": {"q": 7}},
        {"answers": ["7"]},
        {"prompt": "Question: {}"},
    ],
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(arguments)) + ": expected"):
        TextTask(**arguments)


@pytest.mark.parametrize("question", ["", " \n", None, 7, b"text"])
def test_bad_questions(question: Any) -> None:
    with pytest.raises(ValueError, match="question: expected a non-empty str"):
        TextTask().initial_state(question)


def test_a_prompt_that_is_no_text_is_the_functions_fault() -> None:
    with pytest.raises(TypeError, match="prompt: expected a str from the function, got None"):
        TextTask(prompt=lambda question: None).initial_state("q")  # type: ignore[arg-type, return-value]


def test_a_search_stays_within_max_depth() -> None:
    task = TextTask(max_depth=3)
    result = bavt.search("q", generator=lambda text, n: [str(len(text))], task=task, budget=bavt.Budget(tokens=60))
    assert result.tree.depths.max() == 3
    assert len(result.path) == 3
    assert result.answer == result.path[-1]


# ---- With the right answer at hand


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Answer: Paris", True),
        ("Answer: **paris**.", True),
        ("Answer: the Paris!", True),
        (r"\boxed{\text{Paris}}", True),
        ("Answer: London", False),
        ("Answer: Paris, Texas", False),
    ],
)
def test_an_answer_is_verified_where_the_right_one_is_known(text: str, verdict: bool) -> None:
    assert after(text, task=TextTask(answers="Paris")).verdict is verdict
    assert after(text, task=TextTask(answers={"q": "Paris", "other": "London"})).verdict is verdict
    assert after(text, task=TextTask(answers={"other": "London"})).verdict is None
    assert after(text).verdict is None


def test_without_an_answer_a_path_is_wrong() -> None:
    task = TextTask(answers="7")
    assert after("", ended=True, task=task) == Description(True, False, "")
    assert after("so\n", "7", ended=True, task=task).verdict is True  # the last line, as the last resort
    assert after("so\n", task=task).verdict is None


def test_the_question_is_no_answer_of_last_resort() -> None:
    """Its own last line would be the right one here."""
    task = TextTask(answers="q")
    assert after("```\n", "", ended=True, task=task) == Description(True, False, "")
    assert after("so\n", "```\n", "", ended=True, task=task) == Description(True, False, "so")


def test_a_search_ends_with_the_right_answer_and_drops_the_others() -> None:
    replies = iter(["Answer: 5", "Answer: 6", "Answer: 7.0 apples", "Answer: 8"])
    result = bavt.search(
        "q", generator=lambda text, n: [next(replies)], task=TextTask(answers="7"), budget=bavt.Budget(tokens=60)
    )
    assert (result.solved, result.answer, result.refuted_steps) == (True, "7.0 apples", 2)


@pytest.mark.parametrize(("reference", "solved"), [("5", False), ("5,000,000", True)])
def test_a_number_counts_with_the_words_that_change_it(reference: str, solved: bool) -> None:
    task = TextTask(answers=reference)
    result = bavt.search(
        "q", generator=lambda text, n: ["Answer: 5 million people"] * n, task=task, budget=bavt.Budget(tokens=20)
    )
    assert result.solved is solved


def test_the_right_answer_is_known_after_a_checkpoint_too(tmp_path: Any) -> None:
    task = TextTask(answers={"q": "7"})
    search = bavt.Search("q", task=task, budget=bavt.Budget(tokens=60))
    search.tell(search.ask(1)[0], ["Answer:"])
    search.save(tmp_path / "search")
    loaded = bavt.Search.load(tmp_path / "search", task)
    assert loaded.nodes[1].state == search.nodes[1].state
    ask = next(ask for ask in loaded.ask(8) if ask.node == 1)
    loaded.tell(ask, ["7"])
    assert (loaded.result().solved, loaded.result().answer) == (True, "7")
