"""What generators and critics are asked, checked: a caller by hand may pass texts."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from bavt_fast._checks import as_iterator, check_asks
from bavt_fast.protocols import Node, StepRequest

__all__ = ["check_nodes", "check_requests"]


def check_requests(out: Container[int], **columns: Any) -> None:
    """`check_asks` of the columns of a `propose` or `submit`. Raises TypeError for a state that is not a request."""
    for name, column in columns.items():
        if not hasattr(column, "__len__"):
            raise TypeError(f"{name}: expected a list, got {column!r:.80}")
    check_asks(out, **columns)
    for state in columns["states"]:
        if not isinstance(state, StepRequest):
            raise TypeError(f"states: expected StepRequest objects, got {state!r:.80}; make one: StepRequest(text)")


def check_nodes(name: str, nodes: Any) -> None:
    """Raises TypeError for anything but nodes, such as their texts."""
    for node in as_iterator(name, nodes, "a list of Node"):
        if not isinstance(node, Node):
            raise TypeError(f"{name}: expected Node objects, got {node!r:.80}; make one: StepRequest(text).node")
