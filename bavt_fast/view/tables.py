"""A search as a graph of networkx and as a table of pandas. Both are optional."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from bavt_fast._optional import needs
from bavt_fast.view.record import Picture

__all__ = ["to_dataframe", "to_networkx"]

# In the singular: of one node. `parents` is an edge in a graph.
_NAMES = {
    "parents": "parent",
    "texts": "text",
    "values": "value",
    "residuals": "residual",
    "weights": "weight",
    "visit_counts": "visit_count",
    "tries": "tries",
    "tokens": "tokens",
    "prompt_tokens": "prompt_tokens",
    "log_probabilities": "log_probability",
    "answers": "answer",
    "statuses": "status",
}


def _columns(picture: Picture) -> dict[str, list[Any]]:
    columns = {_NAMES[column.name]: getattr(picture.nodes, column.name) for column in fields(picture.nodes)}
    path = set(picture.path)
    refused = [sum(picture.refusals.get(node, {}).values()) for node in range(picture.count)]
    return {
        **columns,
        "depth": picture.depths,
        "refused": refused,
        "on_path": [node in path for node in range(picture.count)],
    }


def to_networkx(picture: Picture) -> Any:
    """A ``DiGraph`` from parents to children. Attributes of the graph: the question, the answer and what was spent."""
    with needs("view", "to_networkx"):
        import networkx

    columns = _columns(picture)
    parents = columns.pop("parent")
    graph = networkx.DiGraph(
        question=picture.question,
        answer=picture.answer,
        solved=picture.solved,
        stop_reason=picture.stop_reason,
        spent=dict(picture.spent),
    )
    rows = zip(*columns.values(), strict=True)
    graph.add_nodes_from((node, dict(zip(columns, row, strict=True))) for node, row in enumerate(rows))
    graph.add_edges_from((parent, node) for node, parent in enumerate(parents) if parent >= 0)
    return graph


def to_dataframe(picture: Picture) -> Any:
    """A ``DataFrame`` with a row for each node; the index is its id."""
    with needs("view", "to_dataframe"):
        import pandas

    columns = _columns(picture)
    floats = ("value", "residual", "weight", "log_probability")
    series = {
        name: pandas.array(column, dtype="float64") if name in floats else column for name, column in columns.items()
    }
    return pandas.DataFrame(series).rename_axis("node")
