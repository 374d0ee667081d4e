"""Files that hold one search as it stands: its tree, account, steps and open asks, everything but states and models.

    magic 8 | version u32 | 0 u32 | bytes of the JSON u64 | bytes of the native part u64 | JSON | native part |
    blake2b-128 of all before it

The native part is a snapshot of the engine's question (`csrc/engine/question_snapshot.cpp`); the JSON holds what Python
keeps beside it. States are not stored: a load makes them again by replaying `Task.apply`, so nothing is ever unpickled,
and the task is not asked again what it said of them. Nothing read is trusted.

The JSON is UTF-8 that may hold lone surrogates, as texts may; an escape would make two of them one character. Numbers
may be NaN or infinite, as log-probabilities may.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

from bavt_fast._checks import message_of
from bavt_fast._core import SnapshotError
from bavt_fast._files import replaced
from bavt_fast.protocols import Node, Step
from bavt_fast.step_checks import checked_step

__all__ = [
    "VERSION",
    "checked",
    "dump_nodes",
    "dump_step",
    "is_checkpoint",
    "load_events",
    "load_nodes",
    "load_step",
    "read",
    "require_file",
    "write",
]

VERSION = 1
_MAGIC = b"BAVTSRCH"
_HEADER = struct.Struct("<8sIIQQ")
_DIGEST_BYTES = 16
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def write(path: str | os.PathLike[str], record: dict[str, Any], native: bytes) -> None:
    """Writes a checkpoint. It appears under its path when it is whole and on the disk.

    Raises:
        OSError: the file cannot be written, or what stands there is not a file; it stands there still.
        TypeError: the record holds what JSON has no form for.
    """
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    whole = _HEADER.pack(_MAGIC, VERSION, 0, len(text), len(native)) + text + native
    whole += hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).digest()
    target = Path(path)
    require_file(target)
    with replaced(target) as file:
        file.write(whole)


def require_file(target: Path) -> None:
    """Raises OSError for a folder, a device or a pipe: a rename would put a file in its place."""
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "expected a regular file, got a device or a pipe", str(target))


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a checkpoint does. Raises OSError where it cannot be read, or is not a file."""
    require_file(Path(path))
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """The record and the native part of a checkpoint.

    Raises:
        OSError: the file cannot be read, or is not a file.
        SnapshotError: it is not a checkpoint, is damaged, or of another version.
    """
    require_file(Path(path))
    whole = Path(path).read_bytes()
    if len(whole) < _HEADER.size + _DIGEST_BYTES or not whole.startswith(_MAGIC):
        raise SnapshotError("checkpoint: expected a file that Search.save wrote, got something else")
    _, version, reserved, text_bytes, native_bytes = _HEADER.unpack_from(whole)
    if version != VERSION:
        raise SnapshotError(
            f"checkpoint: expected version {VERSION}, got {version}; load it with the bavt_fast that saved it"
        )
    body, digest = whole[:-_DIGEST_BYTES], whole[-_DIGEST_BYTES:]
    if reserved or len(body) != _HEADER.size + text_bytes + native_bytes:
        raise SnapshotError("checkpoint: truncated, or with bytes left over")
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != digest:
        raise SnapshotError("checkpoint: damaged, its checksum does not match")
    end = _HEADER.size + text_bytes
    record = checked(lambda: json.loads(body[_HEADER.size : end].decode("utf-8", "surrogatepass")))
    if not isinstance(record, dict):
        raise SnapshotError(f"checkpoint: expected a record, got {type(record).__name__}")
    return record, body[end:]


def checked(make: Callable[[], Any]) -> Any:
    """What `make` makes of a record; whatever it trips over is a fault of the record."""
    try:
        return make()
    except SnapshotError:
        raise
    except _FAULTS as error:
        raise SnapshotError(f"checkpoint: damaged ({type(error).__name__}: {message_of(error)})") from error


Refused = tuple[int, str, Step, int]  # node, reason, step, number of its key or -1


def dump_nodes(
    nodes: Sequence[Node], refused: Sequence[Refused], numbers: dict[Hashable, int], task: Any
) -> dict[str, Any]:
    """The part of a record that `load_nodes` reads; `numbers` of the states' keys."""
    keys = [_number_of(numbers, task.key(node.state)) for node in nodes]
    used = {*keys, *[key for _, _, _, key in refused]}

    def dropped(node: Node, step: Step) -> list[Any]:  # of an answer that was cancelled after `admit`
        state = None if step.is_cut else task.apply(node.state, step)
        number = -1 if state is None else numbers.get(task.key(state), -1)
        used.add(number)
        return [number, dump_step(step)]

    places = {id(step): ~i for i, (_, _, step, _) in enumerate(refused)}
    places |= {id(node.step): number for number, node in enumerate(nodes) if number}
    return {
        "nodes": [
            [key, node.prompt, node.answer, None if node.step is None else dump_step(node.step)]
            for key, node in zip(keys, nodes, strict=True)
        ],
        "tried": [[places.get(id(step)) or dropped(node, step) for step in node.tried] for node in nodes],
        "refused": [[node, why, key, dump_step(step)] for node, why, step, key in refused],
        "unused_keys": [number for number in range(len(numbers)) if number not in used],
    }


def _number_of(numbers: dict[Hashable, int], key: Hashable) -> int:
    number = numbers.get(key)
    if number is None:
        raise ValueError(f"key: expected of each state the same key every time, got the new one {key!r:.80}")
    return number


def load_nodes(
    record: dict[str, Any], parents: Sequence[int], values: Sequence[float], task: Any
) -> tuple[list[Node], list[Refused], dict[Hashable, int]]:
    """The nodes, their states made again; the refused steps; and the numbers of the states' keys."""
    nodes: list[Node] = []
    keys: dict[int, Hashable] = {}
    for (key, prompt, answer, fields), parent, value in zip(record["nodes"], parents, values, strict=True):
        for name, text in (("prompt", prompt), ("answer", answer)):
            if text is not None and not isinstance(text, str):
                raise SnapshotError(f"checkpoint: expected a str or None as {name}, got {text!r:.80}")
        if parent >= 0:
            step = checked_step(load_step(fields))
            nodes.append(Node(_applied(task, nodes[parent].state, step), prompt, nodes[parent], step, value))
        elif prompt is None or nodes:
            raise SnapshotError("checkpoint: expected one root, and with a prompt")
        else:
            nodes.append(Node(task.initial_state(record["question"]), prompt, value=value))
        nodes[-1].answer = answer
        _number_key(keys, key, task.key(nodes[-1].state))
    refused = [(node, str(why), checked_step(load_step(step)), key) for node, why, key, step in record["refused"]]
    for node, _, step, key in refused:
        if type(node) is not int or not 0 <= node < len(nodes):
            raise SnapshotError(f"checkpoint: expected one of {len(nodes)} nodes, got {node!r:.40}")
        if key != -1:
            _number_key(keys, key, task.key(_applied(task, nodes[node].state, step)))
    for tries, of in zip(record["tried"], nodes, strict=True):
        for place in tries:
            if isinstance(place, list):
                number, step = place[0], checked_step(load_step(place[1]))
                if number != -1:
                    _number_key(keys, number, task.key(_applied(task, of.state, step)))
                of.add_try(step)
            else:
                of.add_try(_step_at(place, nodes, refused))
    for number in record["unused_keys"]:  # of states that belong to no node any more
        _number_key(keys, number, object())
    numbered = {keys[number]: number for number in range(len(keys))}
    if len(numbered) != len(keys):
        raise SnapshotError("checkpoint: states that differed are equal now; was it saved with another task?")
    return nodes, refused, numbered


def load_events(rows: Any, count: int) -> list[tuple[Any, ...]] | None:
    """The events of a search of so many nodes, where it kept any; checked as those that a view reads."""
    if rows is None:
        return None
    from bavt_fast.view.record import checked_events

    seeds = [tuple(row[5:]) if row[0] == "ask" else () for row in rows]
    if not all(type(seed) is int for some in seeds for seed in some):
        raise SnapshotError("checkpoint: damaged (seeds of asks are not integers)")
    events = checked_events([row[:5] if row[0] == "ask" else row for row in rows], count)
    return [(*event, *some) for event, some in zip(events, seeds, strict=True)]


def _number_key(keys: dict[int, Hashable], number: Any, key: Hashable) -> None:
    """Gives a state's key its number, the same as before where it has one."""
    if type(number) is int:
        known = keys.setdefault(number, key)
        if known is key or known == key:  # NaN is not equal to itself
            return
    raise SnapshotError(f"checkpoint: expected another number of a key than {number!r:.40}")


def _step_at(place: int, nodes: Sequence[Node], refused: Sequence[Refused]) -> Step:
    step = nodes[place].step if place >= 0 else refused[~place][2]
    if step is None:
        raise SnapshotError("checkpoint: the root is not a step that was tried")
    return step


def _applied(task: Any, state: Any, step: Step) -> Any:
    after = task.apply(state, step)
    if after is None:
        raise SnapshotError(
            f"checkpoint: the task takes no step {step.text[-60:]!r} here; was it saved with another task?"
        )
    return after


def dump_step(step: Step) -> list[Any]:
    """A step as JSON, without its hidden state.

    Raises:
        TypeError: its tokens' ids are no integers, or its probabilities no numbers, which nothing but a file reads.
    """
    logarithm = step.log_probability
    return [
        step.text,
        step.tokens,
        step.finish_reason,
        step.prompt_tokens,
        step.tool_calls,
        step.cost,
        step.seconds,
        _numbers("token_ids", step.token_ids, int),
        _numbers("token_probabilities", step.token_probabilities, float),
        None if logarithm is None else _numbers("log_probability", (logarithm,), float)[0],
        step.cached_tokens,
    ]


def _numbers(name: str, values: Any, kind: Callable[[Any], Any]) -> list[Any]:
    try:
        return [] if values is None else [kind(value) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"Step.{name}: expected numbers, got {values!r:.80} ({error})") from error


def load_step(fields: Sequence[Any]) -> Step:
    """The step of `dump_step`, not yet checked."""
    text, tokens, finish_reason, prompt_tokens, tool_calls, cost, seconds, *rest = fields
    ids, probabilities, log_probability, cached_tokens = rest
    numbers = [*probabilities, 0.0 if log_probability is None else log_probability]
    if not all(type(i) is int for i in ids) or not all(type(p) is float for p in numbers):
        raise SnapshotError("checkpoint: damaged (token ids or probabilities of a step are not numbers)")
    return Step(
        text,
        tokens,
        finish_reason,
        prompt_tokens,
        tool_calls,
        cost,
        seconds,
        None,
        tuple(ids),
        tuple(probabilities),
        log_probability,
        cached_tokens,
    )
