"""The joint training loop: imitates solution steps and learns solver-labelled values, on random and own states."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from bavt_fast._checks import as_amount, as_count, as_seed
from bavt_fast.training.calibration import calibrate
from bavt_fast.training.checkpoints import load_weights
from bavt_fast.training.course import Batch, Course, Sizes, concatenate
from bavt_fast.training.model import JointModel

__all__ = ["TrainConfig", "Trainer", "prepare_out"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. ``minutes`` of wall time are split into warm-up, constant rate and linear decay to zero.

    ``init`` is a checkpoint or a model folder to go on from; ``batch_sizes`` the sequences of an update by their kind,
    the course's own where None; ``value_weight`` and ``successor_weight`` what the values and the successors of a state
    count for beside the words, ``successor_alive`` what a living successor counts for beside a dead one.

    Raises:
        TypeError, ValueError: minutes, seed, a size or a number of threads that is none.
    """

    out: str
    init: str | None = None
    minutes: float = 75.0
    seed: int = 0
    hidden_size: int = 256
    layers: int = 6
    mlp_size: int = 640
    heads: int = 4
    lr: float = 3e-3
    muon_lr: float = 0.02
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay_from: float = 0.3
    batch_sizes: dict[int, int] | None = None
    value_weight: float = 1.5
    successor_weight: float = 3.0
    successor_alive: float = 4.0
    rollouts_from: float = 0.05
    rollout_every: int = 100
    rollout_problems: int = 384
    self_share: float = 0.4
    evaluate_every_s: float = 300.0
    compile: bool = True
    threads: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "minutes", as_amount("minutes", self.minutes))
        object.__setattr__(self, "seed", as_seed("seed", self.seed))
        for name in ("hidden_size", "layers", "mlp_size", "heads", "threads"):
            object.__setattr__(self, name, as_count(name, getattr(self, name), minimum=1))

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.hidden_size, self.layers, self.mlp_size, self.heads)


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


class Replay:
    """Labelled sequences by kind from the model's latest rollouts."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._batches: dict[int, Batch] = {}

    def add(self, batch: Batch) -> None:
        old = self._batches.get(batch.kind)
        self._batches[batch.kind] = batch if old is None else concatenate([batch, old], self._capacity)

    def draw(self, rng: np.random.Generator, kind: int, count: int) -> Batch | None:
        """``count`` sequences of one kind at random, or None while there are too few."""
        stored = self._batches.get(kind)
        if stored is None or len(stored.ids) < 4 * count:
            return None
        return stored.rows(torch.from_numpy(rng.integers(0, len(stored.ids), count)))


def joint_loss(model: Callable[..., Any], batch: Batch, alive_weight: float = 1.0) -> torch.Tensor:
    """Four losses, float32 (4,), each summed over the sequences.

    They are the cross-entropy of the tokens that choose with their distribution, that of the tokens that follow from
    the choice, that of the two values, and the mean over the successors of each state of theirs.
    """
    layout = batch.layout
    with torch.autocast("cpu", torch.bfloat16):
        logits, values, successors = model(batch.ids, layout.value_positions, layout.step_start, layout.successor_kinds)
    logits = logits.float()
    log_chances = logits[:, : layout.choice_length].log_softmax(-1)
    choice = -(batch.choice_weights * log_chances.gather(-1, batch.choice_ids)).sum()
    follows = batch.ids[:, layout.step_start + layout.choice_length :]
    rest = cross_entropy(logits[:, layout.choice_length :].flatten(0, 1), follows.flatten(), reduction="sum")
    value = binary_cross_entropy_with_logits(values.float(), batch.labels, reduction="sum")
    behind = torch.zeros(())
    for found, labels in zip(successors, batch.successors, strict=True):
        if labels is not None:
            behind = behind + _successor_loss(found.float(), labels, alive_weight)
    return torch.stack([choice, rest, value, behind])


def _successor_loss(logits: torch.Tensor, labels: torch.Tensor, alive_weight: float) -> torch.Tensor:
    exists = labels >= 0
    each = binary_cross_entropy_with_logits(
        logits, (labels == 1).float(), weight=exists.float(), pos_weight=torch.tensor(alive_weight), reduction="none"
    )
    return (each.sum(1) / exists.sum(1).clamp(min=1)).sum()


def optimizers(model: JointModel, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers where ``muon_lr`` asks for it; AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name and config.muon_lr > 0]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True)
    ]
    if matrices:
        found.append(torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
    return found


class Trainer:
    """One run: ``run()`` trains for as long as the configuration says, calibrates, and writes log and checkpoints."""

    def __init__(self, config: TrainConfig, course: Course) -> None:
        self.config = config
        self.course = course
        self.batch_sizes = dict(course.batch_sizes if config.batch_sizes is None else config.batch_sizes)
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.rng = np.random.default_rng(config.seed)
        self.data_rng = np.random.default_rng(config.seed + 1)
        self.model = course.new_model(config.sizes)
        if config.init is not None:
            load_weights(self.model, config.init)
        self.step_model = torch.compile(self.model, dynamic=False) if config.compile else self.model
        self.optimizers = optimizers(self.model, config)
        self.base_rates = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.loss_weights = torch.tensor([1.0, 1.0, config.value_weight, config.successor_weight])
        self.replay = Replay(capacity=40_000)
        self.step = 0

    def rate(self, progress: float) -> float:
        """The learning rate's factor: linear warm-up, constant, then linear decay to zero."""
        c = self.config
        return min(progress / c.warmup, 1.0, max(1.0 - progress, 0.0) / (1.0 - c.decay_from))

    def fresh_batches(self) -> dict[int, Batch]:
        return self.course.fresh_batches(self.data_rng, self.batch_sizes)

    def mixed(self, fresh: dict[int, Batch], kind: int) -> Batch:
        size = self.batch_sizes[kind]
        own = self.replay.draw(self.rng, kind, int(size * self.config.self_share))
        parts = [fresh[kind]] if own is None else [own, fresh[kind]]
        return concatenate(parts, size)

    def train_step(self, fresh: dict[int, Batch], progress: float) -> np.ndarray:
        sums, total = np.zeros(len(self.loss_weights)), sum(self.batch_sizes.values())
        for kind in self.batch_sizes:
            losses = joint_loss(self.step_model, self.mixed(fresh, kind), self.config.successor_alive) / total
            (losses @ self.loss_weights).backward()
            sums += losses.detach().numpy()
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

    def visit(self) -> None:
        """Adds the states that the model visits now to the replay."""
        self.model.eval()
        for batch in self.course.visited_batches(self.model, self.rng, self.config.rollout_problems, self.step * 16):
            self.replay.add(batch)
        self.model.train()

    def run(self) -> None:
        c = self.config
        out = prepare_out(c.out)
        (out / "config.json").write_text(json.dumps({"task": self.course.settings.task, **asdict(c)}, indent=1))
        start = last_report = time.monotonic()
        means = np.zeros(len(self.loss_weights))
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self.fresh_batches)
            while (progress := (time.monotonic() - start) / (60 * c.minutes)) < 1.0:
                fresh = pending.result()
                pending = pool.submit(self.fresh_batches)
                means = 0.98 * means + 0.02 * self.train_step(fresh, progress)
                if progress > c.rollouts_from and self.step % c.rollout_every == 0:
                    self.visit()
                if time.monotonic() - last_report > c.evaluate_every_s:
                    last_report = time.monotonic()
                    self.report(out, progress, means)
        self.calibrate()
        self.report(out, 1.0, means)

    def calibrate(self) -> None:
        """Makes the values chances on the states that the model visits: training mixes good and bad ones evenly."""
        self.model.eval()
        logits, labels = self.course.visited_values(self.model)
        last: Any = self.model.head[2]
        if len(logits):  # a model that has learnt nothing yet may come nowhere
            calibrate(last, torch.from_numpy(logits), torch.from_numpy(labels))
        self.model.train()

    def report(self, out: Path, progress: float, means: np.ndarray) -> None:
        """Logs the losses and the held-out figures, and writes a checkpoint."""
        self.model.eval()
        figures = self.course.figures(self.model)
        self.model.train()
        line = {"step": self.step, "progress": round(progress, 3), "losses": means.round(4).tolist(), **figures}
        log.info(json.dumps(line))
        with (out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        torch.save(self.model.state_dict(), out / "checkpoint.pt.new")
        (out / "checkpoint.pt.new").replace(out / "checkpoint.pt")
