"""The tree's surface: errors before anything changes, views that outlive everything, the stub against the module."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bavt_fast
from bavt_fast import _core

ARRAYS = ("parents", "visit_counts", "value_sums", "values", "depths", "flags", "tries")


def grown() -> _core.Tree:
    tree = _core.Tree(seed=1)
    tree.expand(0, [0.9, 0.5, 0.2], terminal=[False, True, False])
    tree.expand(1, [0.3])
    tree.prune(3)
    tree.backup(4, 0.25)
    return tree


NAN, INF = float("nan"), float("inf")
BAD_CALLS: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    ("expand", (5, [1.0]), IndexError, "node: expected an id from 0 to 4, got 5"),
    ("expand", (-1, [1.0]), IndexError, "node: expected an id"),
    ("expand", (2**70, [1.0]), IndexError, "node: expected an id"),
    ("expand", (True, [1.0]), TypeError, "node: expected a node id, got True"),
    ("expand", (1.0, [1.0]), TypeError, "node: expected a node id"),
    ("expand", ("1", [1.0]), TypeError, "node"),
    ("expand", (2, [1.0]), ValueError, "node: 2 is terminal or pruned"),
    ("expand", (3, [1.0]), ValueError, "node: 3 is terminal or pruned"),
    ("expand", (1, []), ValueError, "values: expected at least one child"),
    ("expand", (1, [NAN]), ValueError, "values: expected finite numbers, got nan at 0"),
    ("expand", (1, [0.5, -INF]), ValueError, "values: expected finite numbers, got -inf at 1"),
    ("expand", (1, [[0.5]]), ValueError, "values: expected numbers of shape"),
    ("expand", (1, 0.5), ValueError, "values: expected numbers of shape"),
    ("expand", (1, ["a"]), TypeError, "values: expected numbers"),
    ("expand", (1, [True]), TypeError, "values: expected numbers"),
    ("expand", (1, None), TypeError, "values: expected numbers"),
    ("expand", (1, [1j]), TypeError, "values: expected numbers"),
    ("expand", (1, [0.5], [True, False]), ValueError, r"terminal: expected bools of shape \(1,\)"),
    ("expand", (1, [0.5], [0.5]), TypeError, "terminal: expected bools"),
    ("expand", (1, [0.5, 0.5], None, [0.1]), ValueError, r"priors: expected numbers of shape \(2,\)"),
    ("expand", (1, [0.5], None, [-0.1]), ValueError, "priors: expected finite numbers >= 0"),
    ("expand", (1, [0.5], None, [NAN]), ValueError, "priors: expected finite numbers >= 0"),
    ("select", ("bfs",), ValueError, "policy: expected 'power', .* got 'bfs'"),
    ("select", (None,), TypeError, "policy: expected 'power'"),
    ("select", ("power", -1.0), ValueError, "remaining: expected a finite number >= 0"),
    ("select", ("power", NAN), ValueError, "remaining"),
    ("select", ("power", True), TypeError, "remaining"),
    ("select", ("power", np.bool_(True)), TypeError, "remaining"),
    ("select", ("power", "1"), TypeError, "remaining"),
    ("select", ("power", 1.0, 0.0), ValueError, "total: expected a finite number > 0"),
    ("select", ("power", 1.0, INF), ValueError, "total"),
    ("select", ("uct", 1.0, 1.0, NAN), ValueError, "exploration: expected a finite number"),
    ("select", ("uct", 1.0, 1.0, 1.0, -1), ValueError, "max_depth: expected an int >= 0"),
    ("select", ("uct", 1.0, 1.0, 1.0, 1.5), TypeError, "max_depth"),
    ("backup", (9, 1.0), IndexError, "node"),
    ("backup", (1, NAN), ValueError, "value: expected a finite number, got nan"),
    ("backup", (1, None), TypeError, "value"),
    ("backup", (1, 1.0, "sum"), ValueError, "reduce: expected 'mean' or 'max'"),
    ("mark_terminal", (1,), ValueError, "node: 1 has children"),
    ("penalize", (7,), IndexError, "node"),
    ("prune", (7,), IndexError, "node"),
    ("close", (7,), IndexError, "node"),
    ("mark_in_flight", (7,), IndexError, "node"),
    ("unmark_in_flight", (None,), TypeError, "node"),
    ("children", (7,), IndexError, "node"),
    ("reroot", (7,), IndexError, "node"),
]


@pytest.mark.parametrize(("method", "args", "error", "message"), BAD_CALLS)
def test_bad_calls_change_nothing(method: str, args: tuple[Any, ...], error: type[Exception], message: str) -> None:
    tree = grown()
    before = tree.to_bytes()
    with pytest.raises(error, match=message):
        getattr(tree, method)(*args)
    assert tree.to_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": 1.5}, TypeError, "seed: expected an int"),
        ({"seed": True}, TypeError, "seed"),
        ({"max_nodes": 0}, ValueError, "max_nodes: expected an int from 1 to 100,000,000"),
        ({"max_nodes": 2**40}, ValueError, "max_nodes"),
        ({"max_nodes": 5.0}, TypeError, "max_nodes"),
        ({"seed": np.array([1, 2])}, TypeError, r"seed: expected an int, got array\(\[1, 2\]\)"),
        ({"root_value": 10**5000}, TypeError, "root_value: expected a finite number, got something of type int that"),
        ({"root_value": NAN}, ValueError, "root_value: expected a finite number"),
        ({"decay": 0.0}, ValueError, r"decay: expected a number in \(0, 1\]"),
        ({"decay": 1.01}, ValueError, "decay"),
        ({"max_bytes": 45}, ValueError, "max_bytes"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _core.Tree(**options)


def test_integers_of_numpy_are_seeds() -> None:
    for seed in (np.int64(7), np.uint8(7), np.array(7)):
        assert _core.Tree(seed=seed).to_bytes() == _core.Tree(seed=7).to_bytes()
        assert _core.Forest(1, seed=seed).to_bytes() == _core.Forest(1, seed=7).to_bytes()


def test_what_was_wrong_is_shown_in_short() -> None:
    with pytest.raises(TypeError) as caught:
        _core.Tree().expand(0, ["a"] * 10**5)
    assert len(str(caught.value)) < 200
    with pytest.raises(TypeError, match=r"seed: expected an int, got something of type Shy that cannot be shown"):
        _core.Tree(seed=type("Shy", (), {"__repr__": lambda self: 1 / 0})())  # type: ignore[arg-type]


def test_the_limit_on_nodes_is_kept() -> None:
    tree = _core.Tree(max_nodes=3)
    tree.expand(0, [0.5])
    before = tree.to_bytes()
    with pytest.raises(
        bavt_fast.CapacityError, match="max_nodes: 2 more nodes do not fit a tree of 2 with max_nodes=3"
    ):
        tree.expand(0, [0.5, 0.5])
    assert tree.to_bytes() == before
    tree.expand(1, [0.5])
    assert _core.Tree(max_bytes=1000).max_nodes == 15


def test_views_are_live_read_only_and_outlive_the_tree() -> None:
    tree = grown()
    views = {name: getattr(tree, name) for name in ARRAYS}
    copies = {name: view.copy() for name, view in views.items()}
    for view in views.values():
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
    for _ in range(200):  # growth moves nothing
        tree.expand(1, np.full(1000, 0.5))
    for name, view in views.items():
        assert np.array_equal(view, copies[name])
    tree.backup(4, 1.0)
    assert views["visit_counts"][4] == 2
    del tree, view
    gc.collect()
    assert views["value_sums"][4] == 1.25


def test_a_view_keeps_the_tree_alive_alone() -> None:
    view = _core.Tree(root_value=0.625).values
    gc.collect()
    blocks = [_core.Tree(root_value=0.1) for _ in range(20)]
    assert view[0] == 0.625
    assert len(blocks) == 20


def test_arrays_of_any_layout_are_taken() -> None:
    tree = _core.Tree()
    wide = np.arange(12, dtype=np.float64).reshape(3, 4)
    tree.expand(0, wide[:, 1])
    tree.expand(0, np.float32([0.25, 0.5]), terminal=np.array([0, 1], dtype=np.int8))
    tree.expand(np.int64(1), (1, 2), priors=np.float64([0.1, 0.9]))
    assert tree.values.tolist() == [1.0, 1.0, 5.0, 9.0, 0.25, 0.5, 1.0, 2.0]
    assert tree.flags[5] == _core.Tree.TERMINAL


def test_two_threads_on_one_tree_take_turns() -> None:
    tree = _core.Tree()

    def work() -> None:
        for _ in range(2000):
            tree.backup(tree.expand(tree.select("uct"), [0.5, 0.5]), 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree.num_nodes == 1 + 2 * 8000
    assert tree.visit_counts[0] == tree.value_sums[0] == 8000


def test_the_same_seed_gives_the_same_bytes_in_two_processes() -> None:
    script = """
import hashlib, bavt_fast
tree = bavt_fast.Tree(seed=42)
for i in range(3000):
    node = tree.select(("power", "puct", "uct")[i % 3], remaining=1 - i / 3001)
    tree.backup(tree.expand(node, [0.9 / (1 + i % 7), 0.5], priors=[0.3, 0.7]), 0.5 + i % 2)
    tree.penalize(node)
print(hashlib.sha256(tree.to_bytes()).hexdigest())
"""
    digests = {
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def stub_signatures() -> dict[str, list[str]]:
    """Parameters (without annotations) of every public callable in the stub, by qualified name."""
    stub = ast.parse((Path(bavt_fast.__file__).parent / "_core.pyi").read_text())
    found: dict[str, list[str]] = {}
    for owner in [stub, *(node for node in stub.body if isinstance(node, ast.ClassDef))]:
        prefix = owner.name + "." if isinstance(owner, ast.ClassDef) else ""
        for item in owner.body:
            if isinstance(item, ast.FunctionDef):
                defaults = [ast.unparse(default) for default in item.args.defaults]
                names = [argument.arg for argument in (*item.args.posonlyargs, *item.args.args)]
                padded = [""] * (len(names) - len(defaults)) + defaults
                found[prefix + item.name] = [
                    name + (f"={default}" if default else "") for name, default in zip(names, padded, strict=True)
                ]
            elif isinstance(item, ast.AnnAssign):
                found[prefix + ast.unparse(item.target)] = []
    return found


def native_signatures() -> dict[str, list[str]]:
    """The same of the module, from the signatures that pybind11 writes into the docstrings."""
    found: dict[str, list[str]] = {}

    def add(name: str, item: Any) -> None:
        first_line = (item.__doc__ or "").split("\n")[0]
        if not callable(item) or "(" not in first_line:
            found[name] = ["self"] if isinstance(item, property) else []
            return
        arguments = ast.parse(f"def f({first_line.split('(', 1)[1].rsplit(' -> ', 1)[0]}: pass").body[0]
        assert isinstance(arguments, ast.FunctionDef)
        defaults = [ast.unparse(default) for default in arguments.args.defaults]
        names = [argument.arg for argument in (*arguments.args.posonlyargs, *arguments.args.args)]
        padded = [""] * (len(names) - len(defaults)) + defaults
        found[name] = [n + (f"={d}" if d else "") for n, d in zip(names, padded, strict=True)]

    for name, item in vars(_core).items():
        if isinstance(item, type) and not issubclass(item, Exception):
            for member, value in vars(item).items():
                if not member.startswith("_") or member in ("__init__", "__len__"):
                    add(f"{name}.{member}", getattr(item, member) if isinstance(value, staticmethod) else value)
        elif not name.startswith("_") and not isinstance(item, type):
            add(name, item)
    return found


def test_the_stub_describes_the_module() -> None:
    assert stub_signatures() == native_signatures()
