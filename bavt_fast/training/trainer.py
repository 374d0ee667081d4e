"""The joint training loop: imitates solution steps and learns solver-labelled values, on random and own states."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from bavt_fast.model_folder import load_folder
from bavt_fast.training.batches import Batch, Layout, make_batch, walk
from bavt_fast.training.evaluate import evaluate
from bavt_fast.training.model import JointModel, build_config
from bavt_fast.training.rollouts import rollout
from bavt_fast.training.states import random_problems

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. ``minutes`` of wall time are split into warm-up, constant rate and linear decay to zero.

    ``init`` is a checkpoint or a model folder to go on from; ``sizes`` the sequences of an update by numbers in their
    state; ``value_weight`` what the values count for beside the words.
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
    sizes: dict[int, int] = field(default_factory=lambda: {6: 8, 5: 80, 4: 144, 3: 128, 2: 96})
    value_weight: float = 1.5
    rollouts_from: float = 0.05
    rollout_every: int = 100
    rollout_problems: int = 384
    self_share: float = 0.4
    evaluate_every_s: float = 300.0
    compile: bool = True
    threads: int = 2


class Replay:
    """Labelled sequences by k from the model's latest rollouts."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._batches: dict[int, Batch] = {}

    def add(self, batch: Batch) -> None:
        old = self._batches.get(batch.k)
        self._batches[batch.k] = batch if old is None else concatenate([batch, old], self._capacity)

    def draw(self, rng: np.random.Generator, k: int, count: int) -> Batch | None:
        """``count`` sequences with k numbers at random, or None while there are too few."""
        stored = self._batches.get(k)
        if stored is None or len(stored.ids) < 4 * count:
            return None
        rows = torch.from_numpy(rng.integers(0, len(stored.ids), count))
        return Batch(k, stored.ids[rows], stored.labels[rows], stored.imitate[rows])


def concatenate(batches: list[Batch], limit: int) -> Batch:
    """One batch of the first ``limit`` sequences of several."""
    return Batch(
        batches[0].k,
        torch.cat([b.ids for b in batches])[:limit],
        torch.cat([b.labels for b in batches])[:limit],
        torch.cat([b.imitate for b in batches])[:limit],
    )


def joint_loss(model: Callable[..., Any], batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropy of the step that should be chosen, of what follows from the choice, and of the value labels."""
    layout = Layout(batch.k)
    with torch.autocast("cpu", torch.bfloat16):
        logits, values = model(batch.ids, layout.value_positions, layout.step_start)
    wanted = batch.ids[:, layout.step_start :]
    token_loss = cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    choice = token_loss[:, : layout.choice_length].sum(1) * batch.imitate
    value = binary_cross_entropy_with_logits(values.float(), batch.labels, reduction="none").sum(1)
    return choice.sum(), token_loss[:, layout.choice_length :].sum(), value.sum()


def load_weights(model: JointModel, source: str | Path) -> None:
    """Takes the weights of a checkpoint that `Trainer` wrote, or of a model folder such as the one that ships.

    Raises:
        FileNotFoundError: there is no such file or folder, or the folder lacks one of its files.
        ValueError: what is there is neither, or was made for other sizes.
    """
    parts: list[tuple[torch.nn.Module, dict[str, torch.Tensor]]]
    if Path(source).is_dir():
        generator, critic = load_folder(source)
        head = {name.removeprefix("predictor."): weight for name, weight in critic.head.state_dict().items()}
        parts = [(model.lm, generator.model.state_dict()), (model.head, head)]
    else:
        try:
            parts = [(model, torch.load(source, weights_only=True))]
        except (UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(f"init: {source} is neither a checkpoint nor a model folder ({error})") from error
    try:
        for module, state in parts:
            module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"init: {source} does not fit the model to train ({error})") from error


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
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        self.rng = np.random.default_rng(config.seed)
        self.data_rng = np.random.default_rng(config.seed + 1)
        self.model = JointModel(build_config(config.hidden_size, config.layers, config.mlp_size, config.heads))
        if config.init is not None:
            load_weights(self.model, config.init)
        self.step_model = torch.compile(self.model, dynamic=False) if config.compile else self.model
        self.optimizers = optimizers(self.model, config)
        self.base_rates = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.replay = Replay(capacity=40_000)
        self.step = 0

    def rate(self, progress: float) -> float:
        """The learning rate's factor: linear warm-up, constant, then linear decay to zero."""
        c = self.config
        return min(progress / c.warmup, 1.0, max(1.0 - progress, 0.0) / (1.0 - c.decay_from))

    def offline_batches(self) -> dict[int, Batch]:
        sizes = self.config.sizes
        starts, running = {}, 0
        for k in sorted(sizes, reverse=True):  # top up each level's walkers to what its batch needs
            need = int(sizes[k] * 1.25) + 8
            starts[k] = max(need - running, 8) if k > 2 else 0
            running += starts[k]
        return walk(self.data_rng, starts)

    def mixed(self, offline: dict[int, Batch], k: int) -> Batch:
        size = self.config.sizes[k]
        own = self.replay.draw(self.rng, k, int(size * self.config.self_share))
        parts = [offline[k]] if own is None else [own, offline[k]]
        return concatenate(parts, size)

    def train_step(self, offline: dict[int, Batch], progress: float) -> np.ndarray:
        sums, total = np.zeros(3), sum(self.config.sizes.values())
        for k in self.config.sizes:
            losses = joint_loss(self.step_model, self.mixed(offline, k))
            ((losses[0] + losses[1] + self.config.value_weight * losses[2]) / total).backward()
            sums += [float(x.detach()) / total for x in losses]
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
        for k, share in ((5, 0.7), (6, 0.15), (4, 0.4)):
            count = int(self.config.rollout_problems * share)
            numbers, targets = random_problems(self.rng, count, k, game24=0.6 if k == 4 else 0.0)
            for visit in rollout(self.model, numbers, targets, 1.0, seed=self.step * 16):
                legal = visit.legal
                if legal.any():
                    self.replay.add(make_batch(visit.numbers[legal], visit.targets[legal], visit.steps[legal]))
        self.model.train()

    def run(self) -> None:
        c = self.config
        out = Path(c.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(asdict(c), indent=1))
        start = last_report = time.monotonic()
        means = np.zeros(3)
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self.offline_batches)
            while (progress := (time.monotonic() - start) / (60 * c.minutes)) < 1.0:
                offline = pending.result()
                pending = pool.submit(self.offline_batches)
                means = 0.98 * means + 0.02 * self.train_step(offline, progress)
                if progress > c.rollouts_from and self.step % c.rollout_every == 0:
                    self.visit()
                if time.monotonic() - last_report > c.evaluate_every_s:
                    last_report = time.monotonic()
                    self.report(out, progress, means)
        self.report(out, 1.0, means)

    def report(self, out: Path, progress: float, means: np.ndarray) -> None:
        """Logs the losses and the held-out figures, and writes a checkpoint."""
        figures = evaluate(self.model, problems=600, seed=7)
        line = {"step": self.step, "progress": round(progress, 3), "losses": means.round(4).tolist(), **figures}
        log.info(json.dumps(line))
        with (out / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        torch.save(self.model.state_dict(), out / "checkpoint.pt.new")
        (out / "checkpoint.pt.new").replace(out / "checkpoint.pt")
