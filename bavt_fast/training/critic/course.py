"""From questions to a critic's file: visit, label, fit, and again with the critic that came out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bavt_fast._checks import MAX_SEED, as_count, as_seed
from bavt_fast.budget import Budget
from bavt_fast.critics.critic_file import CriticManifest, check_model, check_out, save_critic
from bavt_fast.critics.value_head import HiddenStateCritic
from bavt_fast.language_model import TorchModel
from bavt_fast.protocols import Critic, Task
from bavt_fast.step_checks import checked_task
from bavt_fast.training.critic.fit import Fitted, fit_head
from bavt_fast.training.critic.labels import as_plain_critic, label_by_completions, labels_and_tokens
from bavt_fast.training.critic.visits import Visits, collect_visits, listed

__all__ = ["CriticConfig", "train_critic", "write_critic"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CriticConfig:
    """How a critic is trained.

    Args:
        budget_tokens: of each question's search, whose states are the ones to learn from.
        rounds: times that states are collected; from the second on the critic of the round before steers, so that what
            it takes for good by mistake becomes a state to learn from. Each round has the same questions.
        completions: of each state, where there is no oracle.
        max_step_tokens: tokens after which a step is cut short.
        predicts: "logit", the value; or "residual", what a step adds to the value of its parent.
        reads: "step", the state that a step leaves behind, or "context", the one at the end of what the model reads
            before the next step: for tasks that give every state a prompt of its own.
        seed: of everything random.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    budget_tokens: int = 300
    rounds: int = 2
    completions: int = 8
    max_step_tokens: int = 128
    predicts: Literal["logit", "residual"] = "logit"
    seed: int = 0
    reads: Literal["step", "context"] = "step"

    def __post_init__(self) -> None:
        for name in ("budget_tokens", "rounds", "completions", "max_step_tokens"):
            object.__setattr__(self, name, as_count(name, getattr(self, name), minimum=1))
        object.__setattr__(self, "seed", as_seed("seed", self.seed))
        if self.predicts not in ("logit", "residual"):
            raise ValueError(f"predicts: expected 'logit' or 'residual', got {self.predicts!r:.80}")
        if self.reads not in ("step", "context"):
            raise ValueError(f"reads: expected 'step' or 'context', got {self.reads!r:.80}")


def train_critic(
    generator: Any,
    task: Task[Any],
    questions: Sequence[str],
    *,
    config: CriticConfig | None = None,
    oracle: Critic | Callable[[str], Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    model_name: str | None = None,
    task_name: str | None = None,
    **search: Any,
) -> Fitted:
    """Trains a critic for a generator's model on the states that its own searches visit.

    Args:
        generator: a `TorchGenerator`; its model stays as it is.
        task: verifies answers, unless there is an oracle.
        questions: to learn from; a fifth of them is held out for the figures and the calibration.
        oracle: a critic that knows the values, or a function of a state's text that does; None for the share of
            completions that the task verifies.
        out: the file to write (`bavt_fast.critics.critic_file`); None for none.
        model_name, task_name: for the file; None for what model and task are called.
        **search: of `Searcher`, for the searches that visit, but for what `config` has.

    Returns:
        The head and its figures. ``HiddenStateCritic(fitted.head, fitted.predicts)`` is the critic; one that reads
        contexts takes ``reader=generator`` too.

    Raises:
        TypeError, ValueError: what is given does not fit together, or the labels are all the same.
        OSError: the file cannot be written; before anything is spent.
        What generator or task raised, if one of them failed.
    """
    config = _checked(config, search)
    questions = listed(questions)
    if len(set(questions)) < 2:
        raise ValueError(f"questions: expected two or more, so that some can be held out, got {questions!r:.80}")
    checked_task(task)
    oracle = None if oracle is None else as_plain_critic(oracle, "oracle")
    for name, value in (("model_name", model_name), ("task_name", task_name)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{name}: expected a str or None, got {value!r:.80}")
    if out is not None:
        check_out(out)
        check_model(_model_of(generator))
    search = {"max_step_tokens": config.max_step_tokens, **search}
    parts: list[tuple[Visits, Tensor]] = []
    tokens = {"visiting": 0, "labelling": 0}
    fitted, critic = None, None
    for number in range(config.rounds):
        budget = Budget(tokens=config.budget_tokens)
        options = {**search, "reads": config.reads, "seed": (config.seed + number) & MAX_SEED}
        visits = collect_visits(generator, task, questions, budget=budget, critic=critic, **options)
        tokens["visiting"] += visits.tokens
        labels, cost = _labels(visits, generator, task, oracle, config, number)
        tokens["labelling"] += cost
        parts.append((visits, labels))
        fitted = _fit(parts, config)
        critic = HiddenStateCritic(fitted.head, fitted.predicts, reader=_reader(generator, config))
        log.info(
            "round %d: %d states, mean label %.3f, AUC %.3f, within a depth %.3f, on %d held-out states",
            *(number + 1, len(visits), float(labels.nanmean())),
            *(fitted.figures.auc, fitted.figures.auc_within_depths, fitted.figures.states),
        )
    assert fitted is not None
    if out is not None:
        write_critic(
            out,
            fitted,
            generator,
            model_name,
            type(task).__name__ if task_name is None else task_name,
            {"questions": len(questions), "tokens": tokens},
            config.reads,
        )
    return fitted


def write_critic(
    out: str | os.PathLike[str],
    fitted: Fitted,
    generator: Any,
    model_name: str | None,
    task_name: str,
    figures: Mapping[str, Any] | None = None,
    reads: Literal["step", "context"] = "step",
) -> None:
    """Writes a fitted head as a critic's file for the generator's model, with its figures and these."""
    model = _model_of(generator)
    manifest = CriticManifest(
        model=repr(model) if model_name is None else model_name,
        hidden_size=model.hidden_size,
        task=task_name,
        predicts=fitted.predicts,
        reads=reads,
        figures={**asdict(fitted.figures), **(figures or {})},
    )
    save_critic(out, fitted.head, manifest, model)


def _checked(config: Any, search: Mapping[str, Any]) -> CriticConfig:
    """The settings. Raises TypeError for something else, or for one of them beside it."""
    if config is not None and not isinstance(config, CriticConfig):
        raise TypeError(f"config: expected a CriticConfig, got {config!r:.80}")
    for name in ("budget", "critic", "max_step_tokens", "reads", "seed"):
        if name in search:
            raise TypeError(f"{name}: expected no argument of this name, got {search[name]!r:.80}; see CriticConfig")
    return CriticConfig() if config is None else config


def _model_of(generator: Any) -> TorchModel:
    """The model that a critic's file is for."""
    if not (hasattr(generator, "model") and hasattr(generator, "tokenizer")):
        raise TypeError(
            f"generator: expected a TorchGenerator, whose model the file of a critic is for, got {generator!r:.80}"
        )
    return TorchModel(generator.model, generator.tokenizer)


def _reader(generator: Any, config: CriticConfig) -> Any:
    return generator if config.reads == "context" else None


def _labels(
    visits: Visits, generator: Any, task: Task[Any], oracle: Any, config: CriticConfig, number: int
) -> tuple[Tensor, int]:
    if oracle is not None:
        return labels_and_tokens(visits.nodes, oracle)
    found = label_by_completions(
        visits.nodes,
        generator,
        task,
        completions=config.completions,
        max_step_tokens=config.max_step_tokens,
        seed=(config.seed + number + 1) & MAX_SEED,
    )
    return found.labels, found.tokens


def _fit(parts: Sequence[tuple[Visits, Tensor]], config: CriticConfig) -> Fitted:
    """A head on the states of all rounds. A question is one in all of them: it is held out of all or of none."""

    def is_known(visits: Visits, known: Tensor) -> Tensor:
        """Which states have a label; and so have their parents, where it is asked for."""
        needs_parent = config.predicts == "residual"
        return (visits.parents >= 0) & ~known.isnan() & ~(needs_parent & known[visits.parents].isnan())

    def column(of: Callable[[Visits, Tensor], Tensor]) -> Tensor:
        return torch.cat([of(visits, known)[is_known(visits, known)] for visits, known in parts])

    labels = column(lambda visits, known: known)
    if len(labels.unique()) < 2:
        same = f"all have the label {float(labels[0])}" if len(labels) else "have a label"
        raise ValueError(
            "questions: expected states of which some lead to an answer and some do not, got "
            f"{len(labels)} that {same}; take easier or harder questions, or more completions"
        )
    return fit_head(
        column(lambda visits, known: visits.hidden),
        labels,
        column(lambda visits, known: visits.questions),
        parent_labels=column(lambda visits, known: known[visits.parents]) if config.predicts == "residual" else None,
        depths=column(lambda visits, known: visits.depths),
        predicts=config.predicts,
        seed=config.seed,
    )
