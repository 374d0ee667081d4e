"""Pictures from whatever holds a search: a result, a search under way, a tree, a checkpoint, JSON, a folder of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from bavt_fast._checks import message_of
from bavt_fast._core import Question, SnapshotError, Tree
from bavt_fast.budget import Spent
from bavt_fast.checkpoint import checked, is_checkpoint, load_step, read
from bavt_fast.protocols import Step
from bavt_fast.step_checks import log_probability_of
from bavt_fast.view.record import FORMAT, REASONS, NodeColumns, Picture, RefusedColumns

__all__ = ["part_of_search", "picture", "picture_of_result", "pictures"]

_RESULT = ("tree", "steps", "answers", "refused", "path_nodes")


def picture(source: Any, *, name: str | None = None) -> Picture:
    """The picture of one search.

    Args:
        source: a `SearchResult`, a `Search`, a `Tree`, a `Picture`, what ``to_dict()`` of a result gave, or the path of
            a file that ``Search.save`` or ``to_json()`` of a result wrote.
        name: what it is called beside others; a file's own name without it.

    Raises:
        TypeError: it is none of these.
        ValueError: a record or a file holds no search; `SnapshotError` for a damaged checkpoint.
        OSError: the file cannot be read.
    """
    if isinstance(source, Picture):
        made = source
    elif isinstance(source, (str, os.PathLike)):
        made = _of_file(Path(source))
    elif isinstance(source, Mapping):
        made = Picture.from_dict(source)
    elif isinstance(source, Tree):
        made = _of_tree(source)
    elif all(hasattr(source, part) for part in _RESULT):
        made = picture_of_result(source)
    elif callable(getattr(source, "result", None)) and hasattr(source, "stop_reason"):
        made = picture_of_result(source.result())
    else:
        raise TypeError(
            f"source: expected a SearchResult, a Search, a Tree, a Picture or the path of a file, got {source!r:.80}"
        )
    return made if name is None else replace(made, name=name)


def pictures(sources: Any) -> list[Picture]:
    """The pictures of one source, of several in a list or by name in a dictionary, or of all files of a folder.

    Of a folder, and those below it, the files that hold a search are taken, in the order of their names. One that is
    damaged or cannot be read is left out, with a warning.

    Raises:
        ValueError: nothing to show; or as `picture`.
    """
    if isinstance(sources, Mapping) and not {"format", "version"} <= sources.keys():
        made = [picture(source, name=str(name)) for name, source in sources.items()]
    elif isinstance(sources, (list, tuple)):
        made = [one for source in sources for one in pictures(source)]
    elif isinstance(sources, (str, os.PathLike)) and Path(sources).is_dir():
        made = list(_of_folder(Path(sources)))
        if not made:
            raise ValueError(f"{sources}: expected a folder with files of Search.save or result.to_json(), found none")
    else:
        made = [picture(sources)]
    if not made:
        raise ValueError("sources: expected at least one search to show, got none")
    return made


# ---- Files


def _of_file(path: Path) -> Picture:
    if is_checkpoint(path):
        try:
            return replace(_of_checkpoint(path), name=path.stem)
        except SnapshotError as error:
            raise SnapshotError(f"{path}: {error}") from error
    text = path.read_bytes()
    if text.lstrip()[:1] != b"{":
        raise ValueError(f"{path}: expected a file that Search.save or result.to_json() wrote, got something else")
    try:
        made = Picture.from_json(text.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return replace(made, name=made.name or path.stem)


def _of_folder(folder: Path) -> Iterable[Picture]:
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            try:
                if not path.is_file() or not (is_checkpoint(path) or _begins_as_picture(path)):
                    continue
                made = _of_file(path)
            except (ValueError, OSError) as error:
                text = str(error) if str(path) in str(error) else f"{path}: {error}"
                warnings.warn(f"{text}; left out", stacklevel=3)
                continue
            yield replace(made, name=path.relative_to(folder).with_suffix("").as_posix())


def _begins_as_picture(path: Path) -> bool:
    with open(path, "rb") as file:
        begin = file.read(200)
    return f'"format":"{FORMAT}"'.encode() in begin.replace(b" ", b"")


def _of_checkpoint(path: Path) -> Picture:
    """Without its task: nothing is replayed, and no code of the task runs."""
    record, native = read(path)
    return checked(lambda: _of_record(record, Question.from_bytes(native)))


def _of_record(record: Mapping[str, Any], native: Question) -> Picture:
    tree, account, best = native.tree, native.account, native.best_path()
    if len(record["nodes"]) != tree.num_nodes:
        raise ValueError("its two halves are not of the same search")
    steps = [None if fields is None else load_step(fields) for _, _, _, fields in record["nodes"]]
    refused = [(node, why, load_step(fields)) for node, why, _, fields in record["refused"]]
    answers = [answer for _, _, answer, _ in record["nodes"]]
    solved = native.stop_reason == "solved"
    made = Picture(
        nodes=_nodes(tree, steps, answers, best if solved else ()),
        refused=_refused(refused),
        question=record["question"],
        answer=answers[best[-1] if best else 0],
        solved=solved,
        value=float(tree.values[best[-1] if best else 0]),
        path=tuple(best),
        stop_reason=native.stop_reason,
        seed=native.seed,
        spent=_amounts(Spent.of(account.spent, account.elapsed_s)),
        overrun=_amounts(Spent.of(account.overrun)),
        budget=record["budget"],
        settings=record["settings"],
        events=events_of(record["events"]),
    )
    return Picture.from_dict(made.to_dict())  # the file is not trusted


# ---- Objects


def picture_of_result(result: Any) -> Picture:
    """The picture of a `SearchResult`."""
    settings, budget = result.settings, result.budget
    return Picture(
        nodes=_nodes(result.tree, result.steps, result.answers, result.path_nodes if result.solved else ()),
        refused=_refused(result.refused),
        question=result.question,
        answer=result.answer,
        solved=result.solved,
        value=float(result.value),
        path=tuple(result.path_nodes),
        stop_reason=result.stop_reason,
        error=None if result.error is None else f"{type(result.error).__name__}: {message_of(result.error)}",
        seed=result.seed,
        spent=_amounts(result.spent),
        overrun=_amounts(result.overrun),
        budget=None if budget is None else asdict(budget),
        settings=None if settings is None else asdict(settings),
        events=events_of(result.events),
    )


def _of_tree(tree: Tree) -> Picture:
    """A tree has no steps and no budget: its numbers alone."""
    best = tree.best_path()
    blank: list[None] = [None] * tree.num_nodes
    return Picture(
        nodes=_nodes(tree, blank, blank, ()), path=tuple(best), value=float(tree.values[best[-1] if best else 0])
    )


def part_of_search(search: Any, nodes: int, refused: int, events: int) -> tuple[Picture, tuple[int, int, int]]:
    """What a `Search` has beyond so many nodes, refused steps and events; and how many of each there are with it.

    For a search that another thread drives: takes none of its locks. Everything read only grows. Events are read
    first: what they tell of is there by then.
    """
    native = search._native
    new_events = search.events[events:]
    new_refused = search.refused[refused:]
    tree, account, best, stopped = native.tree, native.account, native.best_path(), native.stop_reason
    own = search.nodes[nodes : tree.num_nodes]
    path = [node for node in best if node < tree.num_nodes]
    solved, failure = stopped == "solved", search._failure
    part = Picture(
        nodes=_nodes(tree, [node.step for node in own], [node.answer for node in own], path if solved else (), nodes),
        refused=_refused([(node, why, step) for node, why, step, _ in new_refused]),
        question=search.question,
        answer=search.nodes[path[-1] if path else 0].answer,
        solved=solved,
        value=float(tree.values[path[-1] if path else 0]),
        path=tuple(path),
        stop_reason=stopped,
        error=None if failure is None else f"{type(failure).__name__}: {message_of(failure)}",
        spent=_amounts(Spent.of(account.spent, account.elapsed_s)),
        budget=asdict(search.budget),
        settings=asdict(search.settings),
        events=events_of(new_events),
    )
    return part, (nodes + len(own), refused + len(new_refused), events + len(new_events))


def events_of(events: Iterable[Sequence[Any]] | None) -> tuple[tuple[Any, ...], ...] | None:
    """A search's events without the seeds of its asks, which JSON readers cannot all hold."""
    if events is None:
        return None
    return tuple([tuple(event[:5]) if event[0] == "ask" else tuple(event) for event in events])


def _amounts(spent: Any) -> dict[str, float]:
    assert is_dataclass(spent)
    return asdict(spent)  # type: ignore[arg-type]


def _nodes(
    tree: Tree, steps: Sequence[Step | None], answers: Sequence[str | None], verified: Sequence[int], first: int = 0
) -> NodeColumns:
    """Columns of the nodes from the id `first` on, as many as there are steps."""
    some = slice(first, first + len(steps))
    parents, values = tree.parents[some], tree.values[some]
    residuals: list[float | None] = (values - tree.values[parents]).tolist()
    if first == 0:
        residuals[0] = None
    statuses = [_status(flags) for flags in tree.flags[some].tolist()]
    if verified and 0 <= verified[-1] - first < len(statuses):
        statuses[verified[-1] - first] = "verified"
    return NodeColumns(
        parents.tolist(),
        ["" if step is None else step.text for step in steps],
        values.tolist(),
        residuals,
        tree.weights[some].tolist(),
        tree.visit_counts[some].tolist(),
        tree.tries[some].tolist(),
        [0 if step is None else int(step.tokens) for step in steps],
        [0 if step is None else int(step.prompt_tokens) for step in steps],
        [None if step is None else log_probability_of(step) for step in steps],
        list(answers),
        statuses,
    )


def _status(flags: int) -> str:
    if flags & Tree.PRUNED:
        return "pruned"
    if flags & Tree.TERMINAL:
        return "answer"
    return "closed" if flags & Tree.CLOSED else "open"


def _refused(refused: Iterable[tuple[int, str, Step]]) -> RefusedColumns:
    rows = list(refused)
    return RefusedColumns(
        [node for node, _, _ in rows],
        [why if why in REASONS else "invalid" for _, why, _ in rows],
        [step.text for _, _, step in rows],
        [int(step.tokens) for _, _, step in rows],
        [log_probability_of(step) for _, _, step in rows],
    )
