"""Threads of a forward pass: as many as the work is worth, and the caller's number afterwards."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import bavt_fast.threads as threads  # noqa: E402


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group of ours in the place of the machine's."""
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    (tmp_path / "cpu").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "300000\n"}, math.inf),
        ({"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_quotas_of_containers(
    groups: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: float
) -> None:
    for name, text in files.items():
        (groups / name).write_text(text)
    for allowed in (1, 2, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, allowed=allowed: set(range(allowed)))
        assert threads.usable_cores() == max(1, min(allowed, math.ceil(min(cores, 1000))))


def test_no_limits_are_known(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.usable_cores() == 1


# ---- how many


def of(weights: int, layers: int = 1, *, wanted: int | None = None, cores: int = 16, device: str = "cpu") -> Any:
    torch.set_num_threads(cores)
    return threads.ComputeThreads(torch.device(device), weights, layers, wanted)


def test_work_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model computes with one thread, a large one with all there are, and one between as there is to read."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 16)
    small, medium, large = of(4_700_000, 6), of(135_000_000, 30), of(8_000_000_000, 32)
    assert [small.count(tokens) for tokens in (1, 8, 64, 512, 4096)] == [1, 1, 1, 5, 16]
    assert [medium.count(tokens) for tokens in (1, 8, 29, 64, 512)] == [1, 1, 1, 4, 16]
    assert large.count(1) == 16
    assert of(10, layers=0).count(1) == 1


@pytest.mark.parametrize(("allowed", "set_by_caller", "expected"), [(4, 16, 4), (16, 3, 3), (2, 2, 2)])
def test_no_more_than_may_be_used(
    monkeypatch: pytest.MonkeyPatch, allowed: int, set_by_caller: int, expected: int
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: allowed)
    assert of(8_000_000_000, cores=set_by_caller).count(1) == expected


def test_the_users_number_goes_before() -> None:
    assert [of(4_700_000, wanted=3).count(tokens) for tokens in (1, 512)] == [3, 3]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=r"threads: expected an integer of at least 1, got"):
            of(1, wanted=wrong)


# ---- setting it


def test_the_callers_number_is_back_after_a_pass() -> None:
    one = of(10, wanted=1, cores=2)
    with one.of_pass(8):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError, match="fails"), one.of_pass(8):
        raise RuntimeError("it fails")
    assert torch.get_num_threads() == 2


def test_a_pass_inside_another() -> None:
    inner, outer = of(10, wanted=3), of(10, wanted=1, cores=4)
    with outer.of_pass(8):
        with inner.of_pass(8):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 4


def test_on_a_gpu_nothing_is_set() -> None:
    with of(10, wanted=1, cores=2, device="cuda").of_pass(8):
        assert torch.get_num_threads() == 2


def test_passes_that_overlap() -> None:
    """Two Python threads are inside at once; when both have left, the number is the caller's again."""
    first, second = of(10, wanted=1, cores=2), of(10, wanted=3, cores=2)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with first.of_pass(1):
            inside.set()
            leave.wait()

    worker = threading.Thread(target=other)
    worker.start()
    inside.wait()
    with second.of_pass(1):
        leave.set()
        worker.join()
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 2


FORKED = """
import functools, multiprocessing
import bavt_fast as bavt
from bavt_fast.model_folder import load_folder

model = load_folder()
searcher = bavt.Searcher(model.generator, model.critic, model.task)
solve = functools.partial(searcher.search, budget=bavt.Budget(tokens=60))
here = solve("2 3 4")
with multiprocessing.get_context("fork").Pool(1) as pool:
    there = pool.map_async(solve, ["2 3 4"]).get(timeout=60)[0]
assert there.answer == here.answer and there.tree.num_nodes == here.tree.num_nodes
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_searcher_works_in_a_process_that_was_forked() -> None:
    """Behind passes on several threads, which the new process does not have."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, "-c", FORKED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


HELD = """
import os, signal, threading
from bavt_fast.model_folder import load_folder
from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import StepRequest

model = load_folder().generator
inside, leave = threading.Event(), threading.Event()

def prompts(text):
    if text == "wait":
        inside.set()
        leave.wait()
    return model.prompts("2 3 4")

generator = TorchGenerator(model.model, model.tokenizer, delimiter=")", prompts=prompts)
other = threading.Thread(target=lambda: generator.propose([StepRequest("wait")], [1], [4]))
other.start()
inside.wait()
if (child := os.fork()) == 0:
    signal.alarm(60)
    try:
        generator.propose([StepRequest("go on")], [1], [4])
    except RuntimeError as error:
        expected = "generator: expected one that no other thread used as this process was forked, got one in use; make"
        os._exit(0 if str(error).startswith(expected) else 1)
    os._exit(2)
leave.set()
other.join()
assert len(generator.propose([StepRequest("go on")], [1], [4])[0]) == 1
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_generator_that_another_thread_used_as_the_process_forked() -> None:
    """Its lock is never given back in the new process, which hears so and does not wait."""
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_models_are_loaded_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is other in transformers meanwhile is put back as it was, in whatever order they are done."""
    pretrained = pytest.importorskip("bavt_fast.generators.pretrained")
    verbosity = pretrained.transformers_logging.get_verbosity()
    inside: list[int] = []

    def load(*_: Any, **__: Any) -> Any:
        inside.append(len(inside))
        time.sleep(0.1 if len(inside) == 1 else 0.3)
        raise OSError(f"number {inside.pop()}")

    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", load)
    said: list[str] = []

    def worker() -> None:
        with pytest.raises(ValueError, match="number") as error:
            pretrained.load_pretrained(pretrained.ModelSource(Path("/")), dtype="auto", spread=False)
        said.append(str(error.value))

    workers = [threading.Thread(target=worker) for _ in range(2)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert ["number 0" in text for text in said] == [True, True]
    assert pretrained.transformers_logging.get_verbosity() == verbosity
