"""What the commands search with: a model folder, or any language model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bavt_fast.cli.options import VoteRule
from bavt_fast.cli.process import loading
from bavt_fast.cli.prompts import generator_and_prompts
from bavt_fast.searcher import Searcher
from bavt_fast.tasks import task_module
from bavt_fast.tasks.text import ENDS
from bavt_fast.votes import Vote, vote

if TYPE_CHECKING:
    from bavt_fast.generators.torch_model import TorchGenerator
    from bavt_fast.language_model import TorchModel
    from bavt_fast.protocols import Task
    from bavt_fast.result import SearchResult

__all__ = ["ENDS", "MAX_DEPTH", "check_critic", "folder_searcher", "loaded_model", "model_searcher", "voted"]

MAX_DEPTH = 16


def folder_searcher(
    folder: Path,
    task: Task[Any],
    temperature: float | None,
    trust_remote_code: bool,
    threads: int | None = None,
    **options: Any,
) -> Searcher:
    """A search by a model folder; `options` win over the folder's own."""
    with loading():
        from bavt_fast.model_folder import load_folder

        loaded = load_folder(folder, temperature=temperature, threads=threads, trust_remote_code=trust_remote_code)
    return Searcher(loaded.generator, loaded.critic, task, **{**loaded.settings.search, **options})


def model_searcher(
    name: str,
    task: str,
    critic: str,
    *,
    system: str | None,
    chat: bool | None,
    loads: Mapping[str, Any],
    **options: Any,
) -> tuple[Searcher, Callable[[str], str]]:
    """A search by a language model, and what makes a question into the prompt that it begins with.

    Args:
        task: name of a module of tasks in words.
        critic: as of `check_critic`.
        loads: arguments of `bavt_fast.language_model.load`.
    """
    with loading():
        model = loaded_model(name, **loads)
        generator, prompt_of = generator_and_prompts(model, system, chat)
        made = task_module(task).make_task(end=ENDS, max_depth=MAX_DEPTH)
        return Searcher(generator, _critic(model, critic, task, generator), made, **options), prompt_of


def loaded_model(name: str, **loads: Any) -> TorchModel:
    """`bavt_fast.language_model.load`; its errors call the name by the option that it is given with."""
    from bavt_fast.language_model import load

    try:
        return load(name, **loads)
    except (ImportError, OSError, TypeError, ValueError) as error:
        if not str(error).startswith("name: "):
            raise
        raise type(error)(f"model: {str(error).removeprefix('name: ')}") from error


def check_critic(name: str) -> None:
    """Raises ValueError for what ``--critic`` does not take."""
    if name not in ("none", "prompted") and not Path(name).is_file():
        raise ValueError(f"critic: expected none, prompted, or a file that `train critic` wrote, got {name!r:.80}")


def _critic(model: TorchModel, name: str, task: str, generator: TorchGenerator) -> Any:
    if name == "none":
        return None
    if name == "prompted":
        return model.prompted_critic()
    from bavt_fast.critics.critic_file import load_critic

    return load_critic(name, model, task=task, reader=generator)


def voted(result: SearchResult, task: Task[Any], rule: VoteRule) -> tuple[str | None, tuple[str, ...], Vote | None]:
    """(answer, the steps to it, the vote) by a rule; no vote where there is none."""
    if rule is VoteRule.NONE:
        return result.answer, result.path, None
    outcome = vote(result, task, rule.value)
    return outcome.answer, _path_to(result, outcome), outcome


def _path_to(result: SearchResult, outcome: Vote) -> tuple[str, ...]:
    """The steps to the best state that has the answer of a vote; of the best path where there is none."""
    values, parents = result.tree.values, result.tree.parents
    nodes = [node for node, answer in enumerate(result.answers) if answer is not None and answer == outcome.answer]
    if not nodes:
        return result.path
    node = max(nodes, key=lambda node: values[node])
    path = []
    while node > 0:
        path.append(result.texts[node].strip("\n"))
        node = int(parents[node])
    return tuple(path[::-1])
