"""The half of the training that knows no task, on a task made up for these tests."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_course import CountingCourse  # noqa: E402

from bavt_fast.model_folder import load_folder  # noqa: E402
from bavt_fast.training import feed as feed_module  # noqa: E402
from bavt_fast.training.calibration import platt  # noqa: E402
from bavt_fast.training.checkpoints import export, load_checkpoint, sizes_of  # noqa: E402
from bavt_fast.training.course import Batch, Layout, Sizes  # noqa: E402
from bavt_fast.training.feed import WorkerFeed  # noqa: E402
from bavt_fast.training.figures import auc  # noqa: E402
from bavt_fast.training.growth import take_weights  # noqa: E402
from bavt_fast.training.model import JointModel  # noqa: E402
from bavt_fast.training.ring import Ring, packed, unpacked  # noqa: E402
from bavt_fast.training.trainer import TrainConfig, Trainer, joint_loss, prepare_out  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny_config(out: Path | str, **changes: Any) -> TrainConfig:
    sizes = {"hidden_size": 32, "layers": 1, "mlp_size": 64, "heads": 2}
    return replace(TrainConfig(out=str(out), **sizes, rollout_problems=64, compile=False, threads=1), **changes)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trainer]:
    out = tmp_path_factory.mktemp("run") / "made" / "by the run"
    trainer = Trainer(tiny_config(out, minutes=0.03, rollouts_from=0.0, rollout_every=2), CountingCourse())
    trainer.run()
    return out, trainer


def test_the_generic_half_imports_no_task() -> None:
    code = (
        "import sys, bavt_fast.training.trainer, bavt_fast.training.checkpoints\n"
        "text = [f'bavt_fast.tasks.{name}' for name in ('text', 'announced', 'units', 'values')]\n"
        "print([m for m in sys.modules if m.startswith('bavt_fast.tasks.') and m not in text])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_learns_reports_and_writes_a_checkpoint(short_run: tuple[Path, Trainer]) -> None:
    out, trainer = short_run
    written = json.loads((out / "config.json").read_text())
    assert written.pop("task") == "text"
    assert written == asdict(trainer.config)
    figures = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert figures["step"] == trainer.step >= 1
    assert figures["progress"] == 1.0
    assert 0.0 <= figures["right"] <= 1.0
    assert all(math.isfinite(loss) for loss in figures["losses"])
    assert trainer.course.visited >= 1  # type: ignore[attr-defined]
    assert not (out / "checkpoint.pt.new").exists()


def test_what_was_learnt_is_kept_where_the_end_of_a_run_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_config(tmp_path, minutes=0.005), CountingCourse())
    monkeypatch.setattr(trainer, "calibrate", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    kept = load_checkpoint(tmp_path / "checkpoint.pt", trainer.course, trainer.config.sizes).state_dict()
    assert trainer.step > 1
    assert all(torch.equal(kept[name], weight) for name, weight in trainer.model.state_dict().items())


def test_updates_bring_the_losses_down() -> None:
    trainer = Trainer(tiny_config(""), CountingCourse())
    losses = np.array([trainer.train_step(trainer.feed.fresh(), 0.2).numpy() for _ in range(60)])
    assert (losses[-10:].mean(axis=0) < 0.7 * losses[:5].mean(axis=0)).all()


def tiny_model_and_batch(kind: int) -> tuple[JointModel, Batch]:
    course = CountingCourse()
    return course.new_model(tiny_config("").sizes), course.batch(np.random.default_rng(0), kind, 5)


@pytest.mark.parametrize("kind", [1, 2])
def test_the_losses_of_a_batch_are_the_sums_of_its_sequences(kind: int) -> None:
    model, batch = tiny_model_and_batch(kind)
    whole = joint_loss(model, [batch])
    parts = [joint_loss(model, [batch.rows(rows)]) for rows in (torch.tensor([0]), torch.arange(1, 5))]
    torch.testing.assert_close(parts[0] + parts[1], whole, rtol=0.02, atol=1e-3)
    assert (whole > 0).all()


def test_the_choice_is_learnt_as_a_distribution() -> None:
    model, batch = tiny_model_and_batch(2)
    choice, *others = joint_loss(model, [batch])
    nothing = replace(batch, choice_weights=torch.zeros(5, 1, 1))
    assert joint_loss(model, [nothing])[0] == 0.0
    assert joint_loss(model, [nothing])[1:].tolist() == pytest.approx([loss.item() for loss in others])
    other = replace(batch, choice_ids=batch.choice_ids + 1)
    half = replace(
        batch,
        choice_ids=torch.cat([batch.choice_ids, other.choice_ids], 2),
        choice_weights=torch.full((5, 1, 2), 0.5),
    )
    assert joint_loss(model, [half])[0].item() == pytest.approx((choice + joint_loss(model, [other])[0]).item() / 2)


def test_successors_that_do_not_exist_do_not_count() -> None:
    model, batch = tiny_model_and_batch(1)
    none = torch.full((5, 2), -1, dtype=torch.int8)
    assert joint_loss(model, [replace(batch, successors=(none, none))])[3] == 0.0
    there = batch.successors[0]
    assert there is not None
    first = joint_loss(model, [replace(batch, successors=(there, none))])[3]
    both = joint_loss(model, [replace(batch, successors=(torch.cat([there[:, :1]] * 2, 1), none))])[3]
    assert not torch.isclose(first, both)
    alive = int((there[:, 0] == 1).sum())
    assert 0 < alive < 5
    assert joint_loss(model, [replace(batch, successors=(there, none))], 4.0)[3] > first


def test_values_are_chances_at_the_end(short_run: tuple[Path, Trainer]) -> None:
    """The mean of the values is the share of the living, also after a run too short to learn much."""
    _, trainer = short_run
    logits, labels = trainer.course.visited_values(trainer.model.eval())
    assert np.mean(1 / (1 + np.exp(-logits))) == pytest.approx(labels.mean(), abs=0.02)


def test_a_calibrated_line_is_found_again() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=4000) * 2)
    labels = torch.from_numpy((rng.random(4000) < 1 / (1 + np.exp(-(0.5 * logits.numpy() - 2)))).astype(np.float32))
    slope, offset = platt(logits, labels)
    assert slope == pytest.approx(0.5, abs=0.08)
    assert offset == pytest.approx(-2.0, abs=0.15)
    assert platt(-logits, labels) == (1.0, 0.0)  # never the other way round
    slope, offset = platt(logits[:3], torch.zeros(3))  # one class has no least
    assert math.isfinite(slope)
    assert math.isfinite(offset)


def test_the_checkpoint_exports_to_a_folder_that_loads(short_run: tuple[Path, Trainer], tmp_path: Path) -> None:
    out, trainer = short_run
    export(out / "checkpoint.pt", tmp_path, trainer.course, trainer.config.sizes)
    folder = load_folder(tmp_path)
    assert folder.settings == trainer.course.settings
    assert folder.task.max_depth == 3  # type: ignore[attr-defined]
    trained = load_checkpoint(out / "checkpoint.pt", trainer.course, trainer.config.sizes)
    assert sizes_of(out / "checkpoint.pt") == sizes_of(tmp_path) == {"layers": 1, "mlp_size": 64}
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(folder.critic.head(hidden), trained.head(hidden), rtol=1e-2, atol=1e-2)


def test_what_training_cannot_go_on_from_is_refused(short_run: tuple[Path, Trainer], tmp_path: Path) -> None:
    _, trainer = short_run
    (tmp_path / "text").write_text("not a model")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({1: torch.zeros(2), "mlp.gate_proj.weight": 3}, tmp_path / "names.pt")
    (tmp_path / "hello").write_text("hello world")  # of which torch makes a KeyError
    (tmp_path / "empty").write_bytes(b"")
    for source, error, match in (
        (tmp_path / "nowhere.pt", FileNotFoundError, "nowhere.pt"),
        (tmp_path, FileNotFoundError, "has no config.json"),
        (tmp_path / "text", ValueError, "is neither a checkpoint nor a model folder"),
        (tmp_path / "hello", ValueError, r"is neither a checkpoint nor a model folder \(KeyError"),
        (tmp_path / "empty", ValueError, r"is neither a checkpoint nor a model folder \(EOFError"),
        (tmp_path / "list.pt", ValueError, "does not fit the model to train"),
        (tmp_path / "names.pt", ValueError, "does not fit the model to train"),
    ):
        with pytest.raises(error, match=match):
            Trainer(replace(trainer.config, init=str(source)), trainer.course)
    assert sizes_of(tmp_path / "names.pt") == {}


def test_a_trainer_that_cannot_be_made_leaves_no_process(tmp_path: Path) -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(FileNotFoundError):
        Trainer(tiny_config(tmp_path, workers=1, init=str(tmp_path / "nowhere.pt")), CountingCourse())
    assert set(multiprocessing.active_children()) == before


def test_batches_of_a_thread_go_where_the_model_is() -> None:
    trainer = Trainer(tiny_config(""), CountingCourse())
    trainer.device = torch.device("meta")
    mixed = trainer.mixed(trainer.feed.fresh(), 1)
    assert {mixed.ids.device.type, mixed.labels.device.type, mixed.choice_ids.device.type} == {"meta"}


def test_a_checkpoint_of_a_gpu_is_read_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_config(""), CountingCourse())
    checkpoint = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(trainer.model.state_dict(), checkpoint)
    read = load_checkpoint(checkpoint, trainer.course, trainer.config.sizes)
    gone_on = Trainer(tiny_config("", seed=1, init=str(checkpoint)), CountingCourse())
    for name, weight in trainer.model.state_dict().items():
        assert weight.equal(read.state_dict()[name])
        assert weight.equal(gone_on.model.state_dict()[name])


def test_an_update_of_few_sequences_takes_none_of_its_own() -> None:
    trainer = Trainer(tiny_config("", batch=2), CountingCourse())
    assert trainer.batch_sizes == {1: 1, 2: 1}
    assert trainer.train_step(trainer.feed.fresh(), 0.5).isfinite().all()


def test_a_ring_keeps_the_latest() -> None:
    ring, rng = Ring(10, torch.device("cpu")), np.random.default_rng(0)
    old, new = CountingCourse.batch(rng, 1, 8), CountingCourse.batch(rng, 1, 8)
    ring.add(old)
    assert ring.draw(1, 3) is None
    assert ring.draw(2, 1) is None
    ring.add(new)
    kept = torch.cat([new.ids, old.ids[6:]]).tolist()
    drawn = [ring.draw(1, 2) for _ in range(100)]
    found = [row for batch in drawn if batch is not None for row in batch.ids.tolist()]
    assert len(found) == 200
    assert {tuple(row) for row in found} == {tuple(row) for row in kept}
    assert ring.draw(1, 3) is None
    ring.add(CountingCourse.batch(rng, 1, 25))  # more than it holds
    assert ring.draw(1, 2) is not None


def test_a_batch_goes_to_a_gpu_as_one_piece() -> None:
    parts = torch.arange(21, dtype=torch.int32).reshape(7, 3), torch.rand(7, 2)[::1], torch.rand(14, 2)[::2]
    alive = torch.arange(7, dtype=torch.int8).reshape(7, 1)
    batch = Batch(1, Layout(3, 2, 1, (0, 2)), *parts, torch.rand(7, 1), (None, alive))
    for one in (batch, batch.rows(slice(0))):
        again = unpacked(packed(one), one)
        for name in ("ids", "labels", "choice_ids", "choice_weights"):
            assert getattr(again, name).equal(getattr(one, name)), name
        assert again.successors[0] is None
        assert again.successors[1].equal(one.successors[1])  # type: ignore[union-attr, arg-type]
        assert (again.kind, again.layout) == (one.kind, one.layout)


def test_workers_make_batches_and_label_visits() -> None:
    course = CountingCourse()
    feed = WorkerFeed(course, {1: 8, 2: 4}, 0, workers=2, device=torch.device("cpu"), problems=6)
    try:
        fresh = feed.fresh()
        assert {kind: len(batch) for kind, batch in fresh.items()} == {1: 8, 2: 4}
        for kind, batch in fresh.items():
            first = batch.ids[:, 0].numpy()
            expected = course.sequences(first, kind)
            assert batch.layout == expected.layout
            assert batch.ids.equal(expected.ids)
            assert batch.labels.equal(expected.labels)
        starts = feed.starts(6)
        assert starts
        assert feed.starts(6) == []
        feed.label(course.visits(course.new_model(tiny_config("").sizes).eval(), starts, 0))
        labelled: list[Batch] = []
        while len(labelled) < len(starts):
            feed.fresh()
            labelled += feed.labelled()
        assert sorted(batch.ids[0, 0].item() for batch in labelled) == sorted(int(start[0]) for start in starts)
        while len(feed._starts) < 4:
            feed.fresh()
        made = sum(map(len, feed._starts[0]))  # of one answer
        assert sum(map(len, feed.starts(2 * made))) == 2 * made, "no more than was asked for, though more are there"
    finally:
        feed.close()
    assert not any(worker.is_alive() for worker in feed._workers.values())


def test_batches_that_come_slowly_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience ends where nothing comes, not where what comes is not enough yet."""
    clock = itertools.count(step=60)
    monkeypatch.setattr(feed_module.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(feed_module, "_CHUNK", 1)  # a sequence an answer: 32 answers for the first batch
    feed = WorkerFeed(CountingCourse(), {1: 8}, 0, workers=1, device=torch.device("cpu"), problems=1)
    monkeypatch.setattr(feed_module, "wait", lambda workers, _: wait(workers))
    try:
        assert len(feed.fresh()[1]) == 8
        monkeypatch.setattr(feed_module, "wait", lambda *_: [])
        feed._ring = Ring(64, torch.device("cpu"))
        with pytest.raises(RuntimeError, match="expected batches, got none in 300 s"):
            feed.fresh()
    finally:
        feed.close()


def test_a_worker_that_is_killed_ends_the_run() -> None:
    feed = WorkerFeed(CountingCourse(), {1: 8}, 0, workers=2, device=torch.device("cpu"), problems=1)
    try:
        feed.fresh()
        worker = next(iter(feed._workers.values()))
        worker.kill()
        worker.join()
        with pytest.raises(RuntimeError, match=r"workers: .* got one that ended \(-9\)"):
            feed.fresh()
    finally:
        feed.close()


def test_workers_end_with_their_parent() -> None:
    code = (
        "import os, signal, torch\n"
        "from tiny_course import CountingCourse\n"
        "from bavt_fast.training.feed import WorkerFeed\n"
        "if __name__ == '__main__':\n"
        "    feed = WorkerFeed(CountingCourse(), {1: 8}, 0, workers=2, device=torch.device('cpu'), problems=1)\n"
        "    feed.fresh()\n"
        "    print(*(worker.pid for worker in feed._workers.values()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=with_support())
    workers = [int(number) for number in done.stdout.split()]
    assert len(workers) == 2, done.stderr
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def with_support() -> dict[str, str]:
    """The environment of a process that finds what the tests share."""
    support = Path(__file__).parent.parent / "support"
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(support), *filter(None, sys.path)])}


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class BrokenCourse(CountingCourse):
    def fresh_batches(self, rng: np.random.Generator, wanted: Any) -> dict[int, Batch]:
        raise ArithmeticError("none today")


def test_a_worker_that_fails_ends_the_run() -> None:
    feed = WorkerFeed(BrokenCourse(), {1: 8}, 0, workers=1, device=torch.device("cpu"), problems=1)
    try:
        with pytest.raises(RuntimeError, match=r"workers: a batch could not be made \(ArithmeticError: none today\)"):
            feed.fresh()
    finally:
        feed.close()


def test_kinds_go_through_the_layers_together() -> None:
    """Padding the shorter sequences changes nothing, and compiled code gives the same."""
    course = CountingCourse()
    model = course.new_model(tiny_config("").sizes)
    batches = [course.batch(np.random.default_rng(kind), kind, 5) for kind in (1, 2)]
    together = joint_loss(model, batches, 2.0)
    alone = sum(joint_loss(model, [batch], 2.0) for batch in batches)
    torch.testing.assert_close(together, alone, rtol=0.02, atol=1e-3)
    assert torch.equal(together, joint_loss(model, batches, 2.0))


def test_a_grown_model_computes_the_same() -> None:
    course = CountingCourse()
    small = course.new_model(Sizes(32, 1, 64, 2)).eval()
    large = course.new_model(Sizes(32, 3, 96, 2)).eval()
    take_weights(large, small.state_dict())
    ids = torch.arange(12).reshape(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(large(ids), small(ids))
    for source, name in ((course.new_model(Sizes(64, 1, 64, 2)), "embed_tokens"), (large, "layers.1")):
        with pytest.raises(RuntimeError, match=name):
            take_weights(small, source.state_dict())


def test_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, labels = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
        pairs = [(p > n) + 0.5 * (p == n) for p in scores[labels] for n in scores[~labels]]
        assert auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert math.isnan(auc(np.ones(3), np.array([True, True, True])))


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    trainer: Any = Trainer.__new__(Trainer)
    trainer.config = TrainConfig(out="", warmup=0.1, decay_from=0.5)
    assert [round(trainer.rate(p), 6) for p in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)] == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    for warmup, decay_from, rates in ((0, 0, [1, 0.5, 0]), (0, 1, [1, 1, 1]), (1, 1, [0, 0.5, 1]), (1, 0, [0, 0.5, 0])):
        trainer.config = TrainConfig(out="", warmup=warmup, decay_from=decay_from)
        assert [trainer.rate(p) for p in (0.0, 0.5, 1.0)] == rates


def test_a_log_is_json_where_a_figure_is_not_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_config(tmp_path), CountingCourse())
    monkeypatch.setattr(trainer.course, "figures", lambda model: {"auc": math.nan, "right": 0.5})
    trainer.report(tmp_path, 1.0, torch.tensor([math.nan, math.inf, 1.0, 2.0]))
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["losses"], line["auc"], line["right"]) == ([None, None, 1.0, 2.0], None, 0.5)
    trainer.feed.close()


@pytest.mark.parametrize("sizes", [{}, {5: 3}, {1: 8, "2": 4}, {1: 0}])
def test_batch_sizes_of_other_kinds_are_refused(tmp_path: Path, sizes: Any) -> None:
    with pytest.raises(ValueError, match="batch_sizes: expected"):
        Trainer(tiny_config(tmp_path, batch_sizes=sizes), CountingCourse())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        *[("minutes", value, ValueError) for value in (-1.0, 0.0, math.nan, math.inf)],
        *[("minutes", "5", TypeError), ("seed", -1, ValueError), ("seed", 2**63, ValueError), ("seed", 1.5, TypeError)],
        *[("threads", 0, ValueError), ("threads", True, TypeError), ("layers", 0, ValueError)],
        *[("device", "nonsense", ValueError), ("device", "cuda:99", ValueError), ("batch", 0, ValueError)],
        *[("workers", -1, ValueError), ("lr", -1.0, ValueError), ("muon_lr", math.nan, ValueError)],
        *[("warmup", -0.1, ValueError), ("decay_from", 1.5, ValueError), ("rollouts_from", "x", TypeError)],
        *[("self_share", math.nan, ValueError), ("rollout_every", 0, ValueError), ("replay", -5, ValueError)],
        *[("weight_decay", -1, ValueError), ("value_weight", math.nan, ValueError)],
    ],
)
def test_a_bad_configuration_is_refused(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: expected .*, got "):
        TrainConfig(out="", **{name: value})  # type: ignore[arg-type]


def test_a_configuration_takes_numpy_scalars() -> None:
    config = TrainConfig(out="", minutes=np.float32(0.5), seed=np.int64(3), threads=np.uint8(2))  # type: ignore[arg-type]
    assert (config.minutes, config.seed, config.threads) == (0.5, 3, 2)
    assert {type(config.minutes), type(config.seed), type(config.threads)} == {float, int}


def test_a_folder_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/dev/full/below")):
        with pytest.raises(ValueError, match=r"^out: expected a folder that can be written, got .* \("):
            prepare_out(out)
    trainer = Trainer(tiny_config(tmp_path / "file"), CountingCourse())
    with pytest.raises(ValueError, match=r"^out: expected"):
        trainer.run()
    assert trainer.step == 0
    assert list(prepare_out(tmp_path / "new" / "folder").iterdir()) == []
