"""A search as one plain record. Every view of it is a function of this record.

    SearchResult, Search, checkpoint, JSON --sources--> Picture --> terminal, page, diagrams, tables

A picture holds columns: entry i of each column is about node i, and node 0 is the root. It has no states, no models and
no native objects, so it can be written as JSON and read again anywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

__all__ = ["FORMAT", "REASONS", "STATUSES", "NodeColumns", "Picture", "RefusedColumns", "checked_events"]

FORMAT = "bavt_fast.picture"
VERSION = 1
STATUSES = ("open", "closed", "pruned", "answer", "verified")
"""Of a node: may be expanded; will not be expanded again; cut off; ends a path; ends it with the verified answer."""
REASONS = ("invalid", "duplicate", "refuted", "limit", "deadline")
EVENTS = {"ask": 1, "admit": 3, "grow": 2, "cancel": 1, "stop": 1}
"""Kinds of events, and how many entries follow (kind, seconds, tokens spent, r)."""


@dataclass(frozen=True)
class NodeColumns:
    """What is known of each node, by its id.

    Attributes:
        parents: ids; -1 for the root.
        texts: what the model wrote to get there; "" for the root.
        values: V.
        residuals: V minus V of the parent; None for the root.
        weights: what "power" and "best_first" choose by, before the decay; what was tried is in it.
        visit_counts: asks and nodes that were counted at the node and below it.
        tries: how often it was asked for a step, up to 255.
        tokens, prompt_tokens: generated for the step; read for it. 0 for the root.
        log_probabilities: of the step; None where nobody said.
        answers: what a state commits to; None for no answer.
        statuses: one of `STATUSES`.
    """

    parents: list[int]
    texts: list[str]
    values: list[float]
    residuals: list[float | None]
    weights: list[float]
    visit_counts: list[int]
    tries: list[int]
    tokens: list[int]
    prompt_tokens: list[int]
    log_probabilities: list[float | None]
    answers: list[str | None]
    statuses: list[str]

    @property
    def count(self) -> int:
        return len(self.parents)


@dataclass(frozen=True)
class RefusedColumns:
    """Steps that were paid for and became no node, in order of time.

    Attributes:
        nodes: the id of the node that each was proposed from.
        reasons: one of `REASONS`.
        texts, tokens, log_probabilities: of the step.
    """

    nodes: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float | None] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True)
class Picture:
    """A search to look at.

    Attributes:
        name: what it is called beside others.
        question: the question; "" where it is not known.
        answer, solved, value, path, stop_reason: as of `SearchResult`; ``path`` are node ids, without the root.
        error: what failed, as text.
        seed: of the search.
        spent, overrun: amounts by resource.
        budget: limits by resource; None where it is not known.
        settings: the fields of `Settings`; None where they are not known.
        nodes, refused: columns.
        events: (kind, seconds, tokens spent, r, ...) in order of time, from a search with ``record=True``; else None.
            After "ask": the node. "admit": the node, steps, new ones. "grow": the node, children. "cancel": the number
            of the ask. "stop": the reason.
    """

    nodes: NodeColumns
    refused: RefusedColumns = field(default_factory=RefusedColumns)
    name: str = ""
    question: str = ""
    answer: str | None = None
    solved: bool = False
    value: float = math.nan
    path: tuple[int, ...] = ()
    stop_reason: str | None = None
    error: str | None = None
    seed: int | None = None
    spent: dict[str, float] = field(default_factory=dict)
    overrun: dict[str, float] = field(default_factory=dict)
    budget: dict[str, float | None] | None = None
    settings: dict[str, Any] | None = None
    events: tuple[tuple[Any, ...], ...] | None = None

    @property
    def count(self) -> int:
        """Nodes, the root included."""
        return self.nodes.count

    @cached_property
    def children(self) -> list[list[int]]:
        """Ids of each node's children, oldest first."""
        found: list[list[int]] = [[] for _ in range(self.count)]
        for node, parent in enumerate(self.nodes.parents):
            if parent >= 0:
                found[parent].append(node)
        return found

    @cached_property
    def depths(self) -> list[int]:
        """Steps from the root."""
        depths: list[int] = []
        for parent in self.nodes.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    @cached_property
    def refusals(self) -> dict[int, dict[str, int]]:
        """By node: how many steps from it were refused, by reason."""
        found: dict[int, dict[str, int]] = {}
        for node, reason in zip(self.refused.nodes, self.refused.reasons, strict=True):
            reasons = found.setdefault(node, {})
            reasons[reason] = reasons.get(reason, 0) + 1
        return found

    @property
    def missing(self) -> tuple[str, ...]:
        """What a view cannot show, and why; one sentence each."""
        lacks = []
        if self.events is None:
            lacks.append("No replay: the search kept no events. Search with record=True.")
        if self.settings is None:
            lacks.append("No policy: the settings of the search are not known.")
        if self.budget is None:
            lacks.append("No budget: its limits are not known.")
        return tuple(lacks)

    def foremost(self, count: int) -> list[int]:
        """At most ``count`` ids (but always the root), the path first and then by visits; parents come with their
        children. In order of their ids."""
        nodes = self.nodes
        kept = {0}
        order = sorted(range(1, self.count), key=lambda node: (-nodes.visit_counts[node], node))
        for node in (*self.path, *order):
            if len(kept) >= count:
                break
            line = []
            while node not in kept:
                line.append(node)
                node = nodes.parents[node]
            kept.update(line[::-1][: count - len(kept)])
        return sorted(kept)

    # ---- plain data

    def to_dict(self) -> dict[str, Any]:
        """All of it as dictionaries, lists, texts and numbers. `from_dict` reads it."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        plain["path"] = list(self.path)
        for name in ("nodes", "refused"):
            plain[name] = {column.name: list(getattr(plain[name], column.name)) for column in fields(plain[name])}
        plain["events"] = None if self.events is None else [list(event) for event in self.events]
        return {"format": FORMAT, "version": VERSION, **plain}

    def to_json(self) -> str:
        """`to_dict` as JSON in ASCII. Numbers that JSON has no form for are "NaN", "Infinity" and "-Infinity".

        A half of a character is an escape; two halves that follow each other are read again as the character.
        """
        return json.dumps(finite(self.to_dict()), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Picture:
        """The picture of `to_dict` or of what `to_json` wrote. Nothing in it is trusted.

        Raises:
            ValueError: it is not a picture; says where.
        """
        if plain.get("format") != FORMAT:
            raise ValueError(f"picture: expected what to_dict() or to_json() of a result gave, got {_kind(plain)}")
        if plain.get("version") != VERSION:
            raise ValueError(f"picture: expected version {VERSION}, got {plain.get('version')!r:.40}")
        try:
            return _checked(plain)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"picture: damaged ({type(error).__name__}: {error})") from error

    @classmethod
    def from_json(cls, text: str) -> Picture:
        """The picture of `to_json`. Raises as `from_dict`."""
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            expected = "one JSON object, as to_json() of a result gave"
            raise ValueError(f"picture: expected {expected}, got {text[:40]!r} ({error})") from error
        if not isinstance(plain, dict):
            raise ValueError(f"picture: expected what to_json() of a result gave, got a {type(plain).__name__}")
        return cls.from_dict(plain)


def finite(value: Any) -> Any:
    """The same with a text in the place of each number that is not finite; tuples become lists."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


# ---- Checks


def _kind(plain: Mapping[str, Any]) -> str:
    return f"a record with {', '.join(map(repr, list(plain)[:3]))}" if plain else "an empty record"


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"picture: expected a whole number of zero or above, got {value!r:.40}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"picture: expected a number, got {value!r:.40}")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"picture: expected a number, got {value!r:.40}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"picture: expected a text, got {value!r:.40}")
    return value


def _one_of(names: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(f"picture: expected one of {', '.join(names)}, got {value!r:.40}")
        return str(value)

    return check


def _one_of_nodes(count: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not 0 <= value < count:
            raise ValueError(f"picture: expected the id of one of {count} nodes, got {value!r:.40}")
        return value

    return check


def _or_none(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else check(value)


def _column(record: Mapping[str, Any], name: str, check: Callable[[Any], Any], size: int | None = None) -> list[Any]:
    column = record[name]
    if not isinstance(column, (list, tuple)) or (size is not None and len(column) != size):
        wanted = "a list" if size is None else f"a list of {size}"
        got = f"{len(column)}" if isinstance(column, (list, tuple)) else f"{column!r:.40}"
        raise ValueError(f"picture: expected {wanted} as {name}, got {got}")
    return [check(value) for value in column]


def _amount(value: Any) -> float:
    """A count stays one; it has to be one that a float can hold."""
    number = _number(value)
    return value if type(value) is int else number


def _amounts(record: Any, check: Callable[[Any], Any] = _amount) -> dict[str, Any]:
    return {_text(name): check(amount) for name, amount in dict(record).items()}


def _checked(plain: Mapping[str, Any]) -> Picture:
    nodes = _checked_nodes(plain["nodes"])
    node = _one_of_nodes(nodes.count)
    refused, size = plain["refused"], len(plain["refused"]["nodes"])
    return Picture(
        nodes=nodes,
        refused=RefusedColumns(
            _column(refused, "nodes", node),
            _column(refused, "reasons", _one_of(REASONS), size),
            _column(refused, "texts", _text, size),
            _column(refused, "tokens", _count, size),
            _column(refused, "log_probabilities", _or_none(_number), size),
        ),
        name=_text(plain["name"]),
        question=_text(plain["question"]),
        answer=_or_none(_text)(plain["answer"]),
        solved=bool(plain["solved"]),
        value=_number(plain["value"]),
        path=tuple(_column(plain, "path", node)),
        stop_reason=_or_none(_text)(plain["stop_reason"]),
        error=_or_none(_text)(plain["error"]),
        seed=_or_none(_count)(plain["seed"]),
        spent=_amounts(plain["spent"]),
        overrun=_amounts(plain["overrun"]),
        budget=None if plain["budget"] is None else _amounts(plain["budget"], _or_none(_amount)),
        settings=None if plain["settings"] is None else dict(plain["settings"]),
        events=None if plain["events"] is None else checked_events(plain["events"], nodes.count),
    )


def _checked_nodes(record: Mapping[str, Any]) -> NodeColumns:
    parents = record["parents"]
    if not isinstance(parents, (list, tuple)) or not parents or parents[0] != -1:
        raise ValueError("picture: expected parents that begin with -1, the root's")
    for child, parent in enumerate(parents[1:], start=1):
        if type(parent) is not int or not 0 <= parent < child:
            raise ValueError(f"picture: expected a parent of node {child} that is older, got {parent!r:.40}")
    size = len(parents)
    values = _column(record, "values", _number, size)
    return NodeColumns(
        list(parents),
        _column(record, "texts", _text, size),
        values,
        residuals_of(parents, values),
        _column(record, "weights", _number, size),
        _column(record, "visit_counts", _count, size),
        _column(record, "tries", _count, size),
        _column(record, "tokens", _count, size),
        _column(record, "prompt_tokens", _count, size),
        _column(record, "log_probabilities", _or_none(_number), size),
        _column(record, "answers", _or_none(_text), size),
        _column(record, "statuses", _one_of(STATUSES), size),
    )


def residuals_of(parents: Sequence[int], values: Sequence[float]) -> list[float | None]:
    """V minus V of the parent."""
    return [None if parent < 0 else value - values[parent] for parent, value in zip(parents, values, strict=True)]


def checked_events(rows: Any, count: int) -> tuple[tuple[Any, ...], ...]:
    """The events; they may tell of no more nodes than there are.

    Raises:
        TypeError, ValueError: they are none.
    """
    node, events, born = _one_of_nodes(count), [], 1
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) < 4 or len(row) != 4 + EVENTS.get(row[0], -5):
            raise ValueError(f"picture: expected an event such as ('ask', 0.1, 20, 0.9, 3), got {row!r:.60}")
        kind, seconds, tokens, left, *about = row
        about = [_text(about[0])] if kind == "stop" else [_count(entry) for entry in about]
        if kind in ("ask", "admit", "grow"):
            node(about[0])
        born += about[1] if kind == "grow" else 0
        events.append((kind, _number(seconds), _count(tokens), _number(left), *about))
    if born > count:
        raise ValueError(f"picture: its events tell of {born} nodes, expected at most {count}")
    return tuple(events)
