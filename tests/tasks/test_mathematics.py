"""Answers compared as mathematics, in a process that may be ended at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.protocols import Description, Step
from bavt_fast.tasks import algebra, task_module

pytest.importorskip("math_verify")

from bavt_fast.tasks.mathematics import Mathematics


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    yield
    algebra._process.close()


def after(text: str, answers: str | None = None, ended: bool = False) -> Description:
    task = Mathematics(answers=answers)
    state = task.apply(task.initial_state("q"), Step(text, 1, "end" if ended else "delimiter"))
    assert state is not None
    return task.describe(state)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("(x+1)^2", "x^2 + 2x + 1"),
        ("2, 3", r"\{3, 2\}"),
        ("2, 3", "3 and 2"),
        ("1, 234", "234 and 1"),
        (r"\pm 3", "-3, 3"),
        ("(0, 1]", r"\left(0, \frac{2}{2}\right]"),
        ("x < 5", "(-∞, 5)"),
        ("(0,1] ∪ [2,3)", "(0,1] U [2,3)"),
        ("(0,1] ∪ [2,3)", r"(0,1] \cup [2,3)"),
        ("0.333333", "1/3"),
        ("√8", "2√2"),
        (r"2\sqrt{2}", "sqrt(8)"),
        (r"1 + \sqrt{2}", "1 + sqrt(2)"),
        (r"3\sqrt{2}", "3*sqrt(2)"),
        (r"3\sqrt{2}", "3 sqrt(2)"),
        (r"\frac{1+\sqrt{5}}{2}", "(1 + sqrt(5))/2"),
        (r"\sqrt{2+\sqrt{3}}", "sqrt(2 + sqrt(3))"),
        ("x = 5", "5"),
        ("5", "x = 5"),
        ("7", "3 + 4 = 7"),
        ("5040", "7!"),
        (r"\frac{\pi}{2}", "π/2"),
        ("log(100)", "2"),
        (r"2^{-30}", "0.000000000931322574615478515625"),
        (r"\sqrt{3} - \sqrt{2} - \sqrt{5 - 2\sqrt{6}}", "0"),
        (r"\sin^2(x) + \cos^2(x) - 1", "0"),
        (r"\frac{x+2}{2}", "x/2 + 1"),
        ("y = 2x + 3", "2x + 3 = y"),
        ("3 + 4i", "4i + 3"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("1" + "0" * 300, "10^{300}"),
        (r"\text{even}", "Even."),
        ("12", "It is 12."),
        ("0.5", r"The probability is $\frac{1}{2}$."),
        ("12", "So there are 12 apples left"),
        ("0.5", r"50\%"),
        (r"2\pi", "2 pi"),
        (r"12\pi", r"12\pi \text{ cm}^2"),
        (r"12\pi", "12 pi inches"),
        (r"2\sqrt{3}", "2√3 meters"),
        (r"4\pi r^2", "4 pi r^2"),
        (r"3\sin x", "3 sin x"),
        ("25", "5 squared"),
        ("3", "log₂8"),
        ("C", "(C) It is 18."),
        (r"\alpha + \frac{1}{2}", "1/2 + α"),
        (r"2\pi\theta", "2πθ"),
        ("x/3", r"0.\overline{3}x"),
        (r"\frac{4}{3}\pi r^3", "4/3 π r^3"),
        (r"\frac{\sqrt{2}}{2}", "1/2 √2"),
        ("0.001", "10^-3"),
        ("1/x", "x^-1"),
        (r"\pi e^{-x}", "π e^-x"),
        ("C", "(C) 18"),
        ("C", r"\text{(C) }\frac{1}{2}"),
        ("2x", "f'(x) = 2x"),
        (r"y^{\prime}", "y'"),
        ("x₁ + 1", "1 + x_1"),
        ("e^{-x}", "e⁻ˣ"),
        ("60", "5 dozen"),
        ("5,000,000", "The population is 5 million."),
    ],
)
def test_equal(reference: str, answer: str) -> None:
    assert Mathematics().same_answer(reference, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("(0, 1]", "[0, 1]"),
        ("(1, 2)", "(2, 1)"),
        ("(3, 1)", "(5, 2)"),
        ("0.33", "1/3"),
        ("x + y", "a + b"),
        ("(x+1)^2", "x^2 + 1"),
        ("listen", "silent"),
        (r"\text{odd}", r"\text{even}"),
        ("12", "There are 12 apples and 3 pears"),
        ("Apollo 11", "Soyuz 11"),
        ("x^2+", "x^2"),
        (r"\frac{1}{", "1"),
        ("((", "("),
        ("5", "!!!"),
        ("1, 234", "1,234"),
        ("1,234", "1, 234"),
        ("5", "5c"),
        ("5", "5 ab"),
        ("x + 5", "x + 5d"),
        ("3t", "3"),
        ("0.333", "0.333..."),
        ("11", "Apollo 11"),
        ("1/5", "the reciprocal of 5"),
        ("5", "the reciprocal of 5"),
        ("1234", "1, 234"),
        ("100", "0,100"),
        ("0,100", "100"),
        ("100", "It is 0,100."),
        (r"2\sqrt{3}", "sqrt(2) * 3"),
        ("2x", "2ˣ"),
        (r"\frac{1}{2x}", "1/2 x"),
        ("a", "(a)(b)"),
        ("a", "(a) + 1"),
        ("a", "(a)x"),
        ("B", "B) or C)"),
        ("B", "(B) and C"),
        ("D", "(C) 18"),
        ("10^{-7}", "0.0000002"),
        ("1/30000", "0.000033"),
        (r"\pi \cdot 10^{-9}", "0.0000000021"),
        ("f(x)", "f'(x)"),
        ("x'", "x''"),
        ("5", "5'6\""),
        ("log₂8", "log 28"),
        ("2", "2 pi"),
        ("3", "3 sin x"),
        ("5", "5 e^2"),
        ("4", "4 pi r^2"),
        (r"\frac{1}{2}", "1/2 pi"),
        ("5", "5 million"),
        ("5", "The population is 5 million."),
        ("5", "It is not 5."),
        ("5", "less than 5"),
        ("6", "6 or more"),
        ("18 cents", "She makes 18 dollars."),
    ],
)
def test_different(reference: str, answer: str) -> None:
    assert not Mathematics().same_answer(reference, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [("10^10^10", "10^{10^{10}}"), ("10^10^10", "5"), (r"\binom{10^9}{5*10^8}", "2"), ("100000!", "99999!")],
)
def test_what_takes_too_long_is_different(reference: str, answer: str) -> None:
    task = Mathematics(limit_s=0.5)
    started = time.monotonic()
    assert not task.same_answer(reference, answer)
    assert time.monotonic() - started < 60.0
    assert task.same_answer("(x+2)^2", "x^2 + 4x + 4")  # the next one is compared


def test_threads_share_the_process() -> None:
    found: list[bool] = []
    task = Mathematics()

    def compare(i: int) -> None:
        found.append(task.same_answer(f"(x+{i})^2", f"x^2 + {2 * i}x + {i * i}"))
        found.append(not task.same_answer(f"(x+{i})^2", f"x^2 + {2 * i}x"))

    threads = [threading.Thread(target=compare, args=(i,)) for i in range(3, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


@pytest.mark.parametrize("limit_s", [1e10, 1e300])
def test_a_limit_may_be_longer_than_a_timer_counts(limit_s: float) -> None:
    assert Mathematics(limit_s=limit_s).same_answer("(x+60)^2", "x^2 + 120x + 3600")


def test_a_process_that_was_killed_is_started_again() -> None:
    task = Mathematics()
    assert task.same_answer("(x+20)^2", "x^2 + 40x + 400")
    child = algebra._process._child
    assert child is not None
    child.kill()
    child.wait()
    assert task.same_answer("(x+21)^2", "x^2 + 42x + 441")


def test_no_reply_is_taken_for_the_next_one_after_ctrl_c() -> None:
    """The handler runs while the main thread waits for the reply."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell starts it behind, it is ignored
    task = Mathematics()
    assert task.same_answer("(x+30)^2", "x^2 + 60x + 900")
    child = algebra._process._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    timer = threading.Timer(0.3, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        task.same_answer("(x+31)^2", "x^2 + 62x + 961")
    timer.join()
    signal.signal(signal.SIGINT, before)
    assert not task.same_answer("(x+32)^2", "x^2 + 62x + 961")
    assert child.poll() is not None


def test_a_forked_process_has_one_of_its_own() -> None:
    task = Mathematics()
    assert task.same_answer("(x+40)^2", "x^2 + 80x + 1600")
    parents = algebra._process._child
    assert parents is not None
    pid = os.fork()
    if pid == 0:
        right = task.same_answer("(x+41)^2", "x^2 + 82x + 1681") and algebra._process._child is not parents
        algebra._process.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert task.same_answer("(x+42)^2", "x^2 + 84x + 1764")
    assert algebra._process._child is parents


def test_it_ends_with_its_parent() -> None:
    """Also one that is killed; and a script's folder lends it no modules."""
    code = (
        "import os, signal, sys\n"
        "from bavt_fast.tasks import algebra\n"
        "assert algebra.same_formula('(x+1)^2', 'x^2+2x+1', 2.0)\n"
        "print(algebra._process._child.pid, flush=True)\n"
        "if sys.argv[1] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for how in ("killed", "at its end"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, how], capture_output=True, text=True, env=os.environ
        )
        assert done.stderr == ""
        deadline = time.monotonic() + 20.0
        while _is_running(int(done.stdout)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_running(int(done.stdout))


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "_process", algebra._Process())
    monkeypatch.setattr(algebra, "MEMORY_BYTES", 2**20)
    with pytest.raises(RuntimeError, match="Mathematics: expected a process that compares answers, got"):
        Mathematics().same_answer("(x+50)^2", "x^2 + 100x + 2500")


def test_without_math_verify_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['math_verify'] = None\n"
        "from bavt_fast.tasks.mathematics import Mathematics\n"
        "try: Mathematics()\nexcept ModuleNotFoundError as error: print(error.name, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "math_verify Mathematics: needs math-verify; install it with: pip install 'bavt_fast[mathematics]'\n"
    )


def test_it_is_a_task_that_a_folder_may_name() -> None:
    assert isinstance(task_module("mathematics").make_task(**json.loads('{"max_depth": 4}')), Mathematics)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Answer: $\frac{1}{2}$.", r"\frac{1}{2}"),
        ("**Final Answer:** 42.", "42"),
        ("Final answer: 42", "42"),
        ("so 6 * 7 = 42\n#### 42", "42"),
        ("So the answer is 42.", "42"),
        ("The final answer is $42$.", "42"),
        (r"So \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("Answer: Washington D.C.", "Washington D.C."),
        ("Answer: $18", "$18"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert after(text) == Description(True, None, answer)


@pytest.mark.parametrize(
    "text", ["#### Step 1: add the numbers", "#### Solution", "What the answer is depends on you."]
)
def test_what_announces_no_answer(text: str) -> None:
    assert not after(text).terminal


def test_an_answer_is_verified_where_the_right_one_is_known() -> None:
    assert after("Answer: x^2 + 2x + 1", answers="(x+1)^2").verdict is True
    assert after("Answer: x^2 + 2x + 2", answers="(x+1)^2").verdict is False
    assert after("So it is 7.", answers="7", ended=True).verdict is True


def test_a_search_in_a_thread_verifies() -> None:
    replies = iter([r"\boxed{10^10^10}", r"\boxed{x^2}", r"\boxed{x(x+2)+1}", "Answer: 8"])
    task = Mathematics(answers="(x+1)^2", limit_s=0.5)
    found: list[Any] = []

    def search() -> None:
        found.append(bavt.search("q", generator=lambda t, n: [next(replies)], task=task, budget=bavt.Budget(tokens=60)))

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert (found[0].solved, found[0].answer, found[0].refuted_steps) == (True, "x(x+2)+1", 2)


@pytest.mark.parametrize("limit_s", [0, -1, float("nan"), "2", None])
def test_bad_limits(limit_s: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="limit_s: expected"):
        Mathematics(limit_s=limit_s)
