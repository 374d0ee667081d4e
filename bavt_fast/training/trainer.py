"""The joint training loop: imitates solution steps and learns solver-labelled values, on random and own states."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad

from bavt_fast._checks import as_amount, as_count, as_number, as_seed
from bavt_fast.training.calibration import calibrate
from bavt_fast.training.checkpoints import load_weights
from bavt_fast.training.course import Batch, Course, Sizes, concatenate
from bavt_fast.training.feed import Feed, ThreadFeed, WorkerFeed
from bavt_fast.training.model import JointModel
from bavt_fast.training.muon import StackedMuon
from bavt_fast.training.precision import mixed_precision
from bavt_fast.training.ring import Ring, moved

__all__ = ["TrainConfig", "Trainer", "prepare_out"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. ``minutes`` of wall time are split into warm-up, constant rate and linear decay to zero: the
    warm-up is a share of them, and the decay begins at one. With ``warmup=0`` or ``decay_from=1`` there is none.

    ``init`` is a checkpoint or a model folder to go on from; ``batch_sizes`` the sequences of an update by their kind,
    the course's own where None, and ``batch`` how many they are in all; ``value_weight`` and ``successor_weight`` what
    the values and the successors of a state count for beside the words, ``successor_alive`` what a living successor
    counts for beside a dead one; ``workers`` the processes that make batches, 0 for a thread of this one;
    ``rollout_problems`` the problems that the model visits after every ``rollout_every`` updates, and ``replay`` the
    visited sequences of a kind that are kept, both for an update of the course's own size.

    Raises:
        TypeError, ValueError: a time, seed, size, rate, share, device or number of threads that is none or not there.
    """

    out: str
    init: str | None = None
    minutes: float = 75.0
    seed: int = 0
    hidden_size: int = 256
    layers: int = 8
    mlp_size: int = 832
    heads: int = 4
    lr: float = 3e-3
    muon_lr: float = 0.02
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay_from: float = 0.3
    batch_sizes: dict[int, int] | None = None
    batch: int | None = None
    value_weight: float = 4.0
    successor_weight: float = 3.0
    successor_alive: float = 4.0
    rollouts_from: float = 0.05
    rollout_every: int = 200
    rollout_problems: int = 1024
    replay: int = 40_000
    self_share: float = 0.5
    evaluate_every_s: float = 300.0
    compile: bool = True
    threads: int = 2
    device: str = "cpu"
    workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "minutes", as_amount("minutes", self.minutes))
        object.__setattr__(self, "seed", as_seed("seed", self.seed))
        counts = (
            "hidden_size",
            "layers",
            "mlp_size",
            "heads",
            "threads",
            "rollout_every",
            "rollout_problems",
            "replay",
        )
        for name in counts:
            object.__setattr__(self, name, as_count(name, getattr(self, name), minimum=1))
        object.__setattr__(self, "workers", as_count("workers", self.workers))
        for name in ("lr", "muon_lr", "weight_decay", "value_weight", "successor_weight", "successor_alive"):
            object.__setattr__(self, name, as_amount(name, getattr(self, name), allow_zero=True))
        for name in ("warmup", "decay_from", "rollouts_from", "self_share"):
            object.__setattr__(self, name, as_part(name, getattr(self, name)))
        object.__setattr__(
            self, "evaluate_every_s", as_amount("evaluate_every_s", self.evaluate_every_s, allow_zero=True)
        )
        if self.batch is not None:
            object.__setattr__(self, "batch", as_count("batch", self.batch, minimum=1))
        object.__setattr__(self, "device", as_device("device", self.device))

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.hidden_size, self.layers, self.mlp_size, self.heads)


def as_part(name: str, value: object) -> float:
    """`value` as a ``float`` from 0 to 1. Raises TypeError or ValueError for anything else."""
    part = as_number(name, value)
    if not 0.0 <= part <= 1.0:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {part}")
    return part


def as_device(name: str, device: str) -> str:
    """Raises `ValueError` where torch cannot train on it here."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}: expected one that torch has here, got {device!r} ({reason:.120})") from error
    return device


def prepare_out(out: str | Path) -> Path:
    """Makes the folder of a run and tries a file in it, so that hours of training do not end where nothing is kept.

    Raises:
        ValueError: it cannot be written.
    """
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0")
    except OSError as error:
        raise ValueError(f"out: expected a folder that can be written, got {folder} ({error.strerror})") from error
    return folder


def joint_loss(
    model: JointModel,
    batches: Sequence[Batch],
    alive_weight: float = 1.0,
    losses_of: Callable[..., torch.Tensor] | None = None,
) -> torch.Tensor:
    """Four losses, float32 (4,), each summed over the sequences of batches of any kinds, which go through the layers
    together: as long as the longest of them, which costs the shorter ones some padding.

    They are the cross-entropy of the tokens that choose with their distribution, that of the tokens that follow from
    the choice, that of the two values, and the mean over the successors of each state of theirs. ``losses_of`` is
    `losses_from`, compiled.
    """
    longest = max(batch.layout.length for batch in batches)
    ids = torch.cat([pad(batch.ids, (0, longest - batch.layout.length)) for batch in batches])
    with mixed_precision(ids.device):
        return (losses_of or losses_from)(model, batches, model(ids), alive_weight)


def losses_from(model: JointModel, batches: Sequence[Batch], hidden: torch.Tensor, alive_weight: float) -> torch.Tensor:
    """`joint_loss` from the hidden states of all sequences."""
    parts = hidden.split([len(batch) for batch in batches])
    return torch.stack(
        [
            _losses_of(model, batch, states[:, : batch.layout.length], alive_weight)
            for batch, states in zip(batches, parts, strict=True)
        ]
    ).sum(0)


def _losses_of(model: JointModel, batch: Batch, hidden: torch.Tensor, alive_weight: float) -> torch.Tensor:
    layout = batch.layout
    logits, values, successors = model.read(hidden, layout.value_positions, layout.step_start, layout.successor_kinds)
    logits = logits.float()
    log_chances = logits[:, : layout.choice_length].log_softmax(-1)
    choice = -(batch.choice_weights * log_chances.gather(-1, batch.choice_ids.long())).sum()
    follows = batch.ids[:, layout.step_start + layout.choice_length :].long()
    rest = cross_entropy(logits[:, layout.choice_length :].flatten(0, 1), follows.flatten(), reduction="sum")
    value = binary_cross_entropy_with_logits(values.float(), batch.labels, reduction="sum")
    behind = torch.zeros((), device=hidden.device)
    for found, labels in zip(successors, batch.successors, strict=True):
        if labels is not None and found is not None:
            behind = behind + _successor_loss(found.float(), labels, alive_weight)
    return torch.stack([choice, rest, value, behind])


def _successor_loss(logits: torch.Tensor, labels: torch.Tensor, alive_weight: float) -> torch.Tensor:
    exists = labels >= 0
    each = binary_cross_entropy_with_logits(
        logits,
        (labels == 1).float(),
        weight=exists.float(),
        pos_weight=torch.full((), alive_weight, device=logits.device),
        reduction="none",
    )
    return (each.sum(1) / exists.sum(1).clamp(min=1)).sum()


def batch_sizes_of(config: TrainConfig, course: Course) -> dict[int, int]:
    """Sequences of an update by kind: the configuration's, or the course's, scaled to ``batch`` in all.

    Raises:
        TypeError, ValueError: the configuration's are not sizes of the course's kinds.
    """
    sizes = dict(course.batch_sizes if config.batch_sizes is None else config.batch_sizes)
    if not sizes or not sizes.keys() <= course.batch_sizes.keys():
        raise ValueError(f"batch_sizes: expected sizes of some of {list(course.batch_sizes)}, got {sizes!r:.80}")
    for size in sizes.values():
        as_count("batch_sizes", size, minimum=1)
    scale = 1.0 if config.batch is None else config.batch / sum(sizes.values())
    return {kind: max(1, round(size * scale)) for kind, size in sizes.items()}


def optimizers(model: JointModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers where ``muon_lr`` asks for it; AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name and config.muon_lr > 0]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True)
    ]
    if matrices:
        found.append(StackedMuon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    return found


def _in_json(figure: float) -> float | None:
    """Null for what JSON has no form for, such as the area of one class alone."""
    return figure if math.isfinite(figure) else None


class Trainer:
    """One run: ``run()`` trains for as long as the configuration says, calibrates, and writes log and checkpoints.

    Raises:
        FileNotFoundError, ValueError: weights that it cannot go on from (`load_weights`).
    """

    def __init__(self, config: TrainConfig, course: Course) -> None:
        self.config = config
        self.course = course
        self.batch_sizes = batch_sizes_of(config, course)
        scale = sum(self.batch_sizes.values()) / sum(course.batch_sizes.values())
        self.rollout_problems = max(1, round(config.rollout_problems * scale))
        self.device = torch.device(config.device)
        self.feed = self._make_feed()  # its processes start while the model is made
        try:
            self._make_model()
        except BaseException:
            self.feed.close()
            raise
        weights = [1.0, 1.0, config.value_weight, config.successor_weight]
        self.loss_weights = torch.tensor(weights, device=self.device)
        self.replay = Ring(max(1, round(config.replay * scale)), self.device)
        self.step = 0

    def _make_model(self) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.model = self.course.new_model(config.sizes)
        if config.init is not None:
            load_weights(self.model, config.init)
        self.model.to(self.device)
        self.losses_of = torch.compile(losses_from, dynamic=False) if config.compile else losses_from
        if config.compile:  # layer by layer: they are all alike, so one is compiled and the others take its code
            for layer in self.model.lm.model.layers:
                layer.compile(dynamic=False)
        self.optimizers = optimizers(self.model, config)
        self.base_rates = [group["lr"] for o in self.optimizers for group in o.param_groups]

    def _make_feed(self) -> Feed:
        c = self.config
        if not c.workers:
            return ThreadFeed(self.course, self.batch_sizes, c.seed + 1)
        problems = max(1, self.rollout_problems // c.rollout_every)
        return WorkerFeed(
            self.course, self.batch_sizes, c.seed + 1, workers=c.workers, device=self.device, problems=problems
        )

    def rate(self, progress: float) -> float:
        """The learning rate's factor: linear warm-up, constant, then linear decay to zero."""
        c = self.config
        warm = progress / c.warmup if progress < c.warmup else 1.0
        left = max(1.0 - progress, 0.0) / (1.0 - c.decay_from) if progress > c.decay_from < 1.0 else 1.0
        return min(warm, left)

    def mixed(self, fresh: dict[int, Batch], kind: int) -> Batch:
        size = self.batch_sizes[kind]
        own = self.replay.draw(kind, int(size * self.config.self_share))
        new = moved(fresh[kind], self.device)
        return concatenate([new] if own is None else [own, new], size)

    def train_step(self, fresh: dict[int, Batch], progress: float) -> torch.Tensor:
        """The losses of an update, float32 (4,). On a GPU nothing here waits for it."""
        sums, total = torch.zeros_like(self.loss_weights), sum(self.batch_sizes.values())
        for batches in self._together(fresh):
            losses = joint_loss(self.model, batches, self.config.successor_alive, self.losses_of) / total
            (losses @ self.loss_weights).backward()
            sums += losses.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = self.rate(progress)
        rates = iter(self.base_rates)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = next(rates) * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return sums

    def _together(self, fresh: dict[int, Batch]) -> Iterator[list[Batch]]:
        """The batches of an update, as they go through the layers: on a GPU, where launching takes long, at once."""
        if self.device.type == "cuda":
            yield [self.mixed(fresh, kind) for kind in self.batch_sizes]
        else:
            yield from ([self.mixed(fresh, kind)] for kind in self.batch_sizes)

    def visit(self) -> None:
        """Has the states labelled that the model visits now."""
        with self._evaluating():
            starts = self.feed.starts(self.rollout_problems)
            self.feed.label(self.course.visits(self.model, starts, self.step * 16))

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, and run as it is: sampling has shapes that are not worth compiling."""
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):
            yield
        self.model.train()

    def run(self) -> None:
        c = self.config
        try:
            out = prepare_out(c.out)
            (out / "config.json").write_text(json.dumps({"task": self.course.settings.task, **asdict(c)}, indent=1))
            means = self._train(out)
        finally:
            self.feed.close()
        self.save(out)  # what comes now takes a while, and may be cut off
        self.calibrate()
        self.report(out, 1.0, means)

    def _train(self, out: Path) -> torch.Tensor:
        c = self.config
        means = self.train_step(self.feed.fresh(), 0.0)  # at rate 0: compiles
        start = last_report = time.monotonic()
        while (progress := (time.monotonic() - start) / (60 * c.minutes)) < 1.0:
            means.lerp_(self.train_step(self.feed.fresh(), progress), 0.02)
            for batch in self.feed.labelled():
                self.replay.add(batch)
            if progress > c.rollouts_from and self.step % c.rollout_every == 0:
                self.visit()
            if time.monotonic() - last_report > c.evaluate_every_s:
                last_report = time.monotonic()
                self.report(out, progress, means)
        return means

    def calibrate(self) -> None:
        """Makes the values chances on the states that the model visits: training mixes good and bad ones evenly."""
        with self._evaluating():
            logits, labels = self.course.visited_values(self.model)
        last: Any = self.model.head[2]
        if len(logits):  # a model that has learnt nothing yet may come nowhere
            calibrate(last, torch.from_numpy(logits), torch.from_numpy(labels))

    def report(self, out: Path, progress: float, means: torch.Tensor) -> None:
        """Logs the losses and the held-out figures, and writes a checkpoint."""
        with self._evaluating():
            figures = self.course.figures(self.model)
        line = {
            "step": self.step,
            "progress": round(progress, 3),
            "losses": [_in_json(round(loss, 4)) for loss in means.tolist()],
            **{name: _in_json(figure) for name, figure in figures.items()},
        }
        log.info(json.dumps(line))
        with (out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        self.save(out)

    def save(self, out: Path) -> None:
        """Writes a checkpoint, whole or not at all."""
        torch.save(self.model.state_dict(), out / "checkpoint.pt.new")
        (out / "checkpoint.pt.new").replace(out / "checkpoint.pt")
