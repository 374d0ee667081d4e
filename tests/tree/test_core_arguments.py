"""Columns of numbers in every form: a list, an array of any type and a sequence of another kind mean the same."""

from __future__ import annotations

import array
import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bavt_fast import _core


class Plain(Sequence[Any]):
    """A sequence of its own kind."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]


class KnowsNumPy(Plain):
    """What it holds item by item is not what NumPy is told."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.items, dtype=dtype) / 2


FORMS: list[Callable[[list[Any]], Any]] = [
    list,
    tuple,
    Plain,
    collections.deque,
    np.array,
    lambda items: np.float64(items),
    lambda items: np.float32(items),
    lambda items: np.array(items).astype(">f8"),
    lambda items: np.array([items, items])[:, ::1][1],
    lambda items: np.repeat(np.array(items), 2)[::2],
    lambda items: np.array(items)[::-1].copy()[::-1],
    lambda items: [np.float64(item) for item in items],
    lambda items: [np.float32(item) for item in items],
    lambda items: array.array("d", items),
    lambda items: memoryview(array.array("d", items)),
    lambda items: np.array(items, dtype=object).tolist(),
]
LENGTHS = [1, 3, 32, 33, 1000]


def odd_layout(items: list[Any]) -> Any:
    """An array whose numbers begin at odd addresses."""
    raw = np.zeros(8 * len(items) + 1, dtype=np.uint8)
    unaligned = raw[1:].view(np.float64)
    unaligned[:] = items
    return unaligned


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("form", [*FORMS, odd_layout])
def test_numbers_in_every_form_are_the_same(form: Callable[[list[Any]], Any], length: int) -> None:
    numbers = [(i % 7) / 8 for i in range(length)]
    given, plain = _core.Tree(seed=1), _core.Tree(seed=1)
    assert given.expand(0, form(numbers), priors=form(numbers)) == 1
    plain.expand(0, np.array(numbers), priors=np.float32(numbers))
    assert given.to_bytes() == plain.to_bytes()
    assert given.values[1:].tolist() == numbers


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "q", "Q", "f2", "f4", "f8", "g"])
def test_arrays_of_every_type_of_number(kind: str) -> None:
    tree = _core.Tree()
    tree.expand(0, np.array([3, 0, 5]).astype(kind), priors=np.array([1, 0, 2]).astype(kind))
    assert tree.values.tolist() == [1, 3, 0, 5]
    if np.dtype(kind).kind != "f":
        tree.expand(0, [1, 1, 1], terminal=np.array([2, 0, 1]).astype(kind))
        assert (tree.flags[4:] == _core.Tree.TERMINAL).tolist() == [True, False, True]
        forest = _core.Forest(6)
        forest.expand(np.array([3, 0, 5]).astype(kind), np.array([0, 0, 0]).astype(kind), [1.0, 2.0], [1, 0, 1])
        assert forest.num_nodes.tolist() == [1, 1, 1, 2, 1, 2]


MASKED = np.ma.masked_array([0.5, 1.0, 0.25], mask=[False, True, False])
UNMASKED = np.ma.masked_array([0.5, 1.0, 0.25], mask=[False, False, False])


@pytest.mark.parametrize("name", ["values", "terminal", "priors", "weights"])
def test_masked_entries_are_no_numbers(name: str) -> None:
    def columns(column: Any) -> dict[str, Any]:
        return {"values": [0.5, 1.0, 0.25], name: column.astype(bool) if name == "terminal" else column}

    tree, plain = _core.Tree(), _core.Tree()
    with pytest.raises(ValueError, match=f"{name}: expected an array without masked entries, got masked_array"):
        tree.expand(0, **columns(MASKED))
    assert tree.num_nodes == 1
    tree.expand(0, **columns(UNMASKED))
    plain.expand(0, **columns(UNMASKED.data))
    assert tree.to_bytes() == plain.to_bytes()


def test_masked_entries_of_a_wave_are_no_numbers() -> None:
    forest, plain = _core.Forest(2), _core.Forest(2)
    before = forest.to_bytes()
    for values in (np.ma.stack([UNMASKED, MASKED]), [UNMASKED, MASKED], (UNMASKED.tolist(), MASKED)):
        with pytest.raises(ValueError, match="values: expected an array without masked entries"):
            forest.expand([0, 1], [0, 0], values)
    masked = np.ma.masked_array([0, 1], mask=[False, True])
    for name in ("trees", "nodes", "counts"):
        wave = {"trees": [0, 1], "nodes": [0, 0], "values": [1.0], "counts": [0, 1], name: masked}
        with pytest.raises(ValueError, match=f"{name}: expected an array without masked entries"):
            forest.expand(**wave)
    assert forest.to_bytes() == before
    forest.expand([0, 1], [0, 0], [UNMASKED, UNMASKED])
    plain.expand([0, 1], [0, 0], [UNMASKED.tolist()] * 2)
    assert forest.to_bytes() == plain.to_bytes()


def test_ints_and_floats_mix_and_are_rounded_as_numpy_does() -> None:
    tree = _core.Tree()
    big = 2**63 - 513  # between two float64
    tree.expand(0, [1, 0.5, big, 2**64 - 1, -(2**63)])
    assert tree.values[1:].tolist() == np.array([1, 0.5, big, 2**64 - 1, -(2**63)], dtype=np.float64).tolist()
    tree.expand(0, [0.1], priors=[0.1])
    assert tree.values[-1] == 0.1


@pytest.mark.parametrize("form", [list, tuple, Plain, np.array])
def test_ends_in_every_form(form: Callable[[list[Any]], Any]) -> None:
    for ends in ([True, False, True], [1, 0, 7]):
        tree = _core.Tree()
        tree.expand(0, [0.5, 0.5, 0.5], terminal=form(ends))
        assert tree.flags.tolist() == [0, 1, 0, 1]


def test_what_numpy_is_told_counts() -> None:
    tree = _core.Tree()
    tree.expand(0, KnowsNumPy([0.5, 1.0]))
    assert tree.values[1:].tolist() == [0.25, 0.5]


WAVES: list[Callable[[Any], Any]] = [
    lambda array: array,
    lambda array: array.tolist(),
    lambda array: tuple(array.tolist()),
    lambda array: Plain(array.tolist()),
    lambda array: array.astype(np.int64) if array.dtype.kind in "iu" else array,
    lambda array: np.repeat(array, 2, axis=0)[::2],
    lambda array: [tuple(row) for row in array.tolist()] if array.ndim == 2 else array.tolist(),
    lambda array: list(array),
    lambda array: np.asfortranarray(array),
]


@pytest.mark.parametrize("form", WAVES)
@pytest.mark.parametrize("size", [3, 200])
def test_waves_in_every_form_are_the_same(form: Callable[[Any], Any], size: int) -> None:
    rng = np.random.default_rng(2)
    values = rng.random((size, 3))
    given, plain = _core.Forest(size, seed=1, threads=2), _core.Forest(size, seed=1, threads=1)
    for forest, of in ((given, form), (plain, lambda array: array)):
        remaining = np.linspace(0.1, 1, size)
        for _ in range(3):
            trees, nodes = forest.select("power", of(remaining))
            ends = values > 0.9
            ends[:, 1] = False
            first = forest.expand(of(trees), of(nodes), of(values), terminal=of(ends), priors=of(values))
            forest.backup(of(trees), of(first), of(values[:, 0].copy()))
            forest.penalize(of(trees), of(nodes))
            counts = np.arange(size) % 3
            flat = np.arange(counts.sum()) / 1000.0
            forest.expand(of(trees), of(first + 1), of(flat), of(counts), priors=of(flat))
    assert given.to_bytes() == plain.to_bytes()


BAD: list[tuple[Any, type[Exception], str]] = [
    ([0.5, [0.5]], TypeError, "values: expected numbers of shape"),
    ([[0.5], [0.5, 0.5]], TypeError, "values: expected numbers of shape"),
    (((0.5,), (0.5,)), ValueError, r"values: expected numbers of shape \(m,\), got shape \(2, 1\)"),
    (Plain([0.5, "a"]), TypeError, "values: expected numbers"),
    ([2**70], TypeError, "values: expected numbers"),
    ([None], TypeError, "values: expected numbers"),
    ("0.5", TypeError, "values: expected numbers"),
    (b"01", TypeError, "values: expected numbers"),
    ({0.5: 1}, TypeError, "values: expected numbers"),
    (np.array([True]), TypeError, "values: expected numbers"),
    (np.array(["2020"], dtype="M8[Y]"), TypeError, "values: expected numbers"),
    ((float("nan"),), ValueError, "values: expected finite numbers, got nan at 0"),
    (np.float32([1, np.inf]), ValueError, "values: expected finite numbers, got inf at 1"),
    ([0.5] * 40 + [float("inf")], ValueError, "values: expected finite numbers, got inf at 40"),
    ((), ValueError, "values: expected at least one child"),
    (np.zeros(0), ValueError, "values: expected at least one child"),
]


@pytest.mark.parametrize(("values", "error", "message"), BAD)
def test_bad_numbers_are_told_in_every_form(values: Any, error: type[Exception], message: str) -> None:
    tree = _core.Tree()
    with pytest.raises(error, match=message):
        tree.expand(0, values)
    assert tree.num_nodes == 1


@pytest.mark.parametrize(
    ("trees", "error", "message"),
    [
        ((0, -1), IndexError, "trees: expected ids >= 0, got -1 at 1"),
        ([0, 2**32], IndexError, "trees: expected ids >= 0, got 4294967296 at 1"),
        (np.int8([0, -1]), IndexError, "trees: expected ids >= 0, got -1 at 1"),
        (np.uint64([0, 2**63]), IndexError, "trees: expected ids >= 0"),
        ([0, 1.0], TypeError, "trees: expected ints"),
        ([True, False], TypeError, "trees: expected ints"),
        (np.array([True, False]), TypeError, "trees: expected ints"),
        (range(3), ValueError, r"nodes: expected ints of shape \(3,\)"),
    ],
)
def test_bad_ids_are_told_in_every_form(trees: Any, error: type[Exception], message: str) -> None:
    forest = _core.Forest(2)
    with pytest.raises(error, match=message):
        forest.backup(trees, [0, 0], [1.0, 1.0])
    assert forest.visit_counts(0).tolist() == [0]


@pytest.mark.parametrize("remaining", ["1", [1.0], [1.0, -1.0], (1.0, float("nan")), [[1.0, 1.0]], {1.0: 2}])
def test_bad_numbers_of_what_remains(remaining: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="remaining: expected"):
        _core.Forest(2).select("uct", remaining)
