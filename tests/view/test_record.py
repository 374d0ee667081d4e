"""The record that all views are made of."""

from __future__ import annotations

import contextlib
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import chain, evil, fan, picture_of, recorded

import bavt_fast as bavt
from bavt_fast.view import Picture, picture, pictures


def same(a: Picture, b: Picture) -> bool:
    """NaN equals itself here."""
    return a.to_json() == b.to_json()


def test_a_result_says_the_same_as_its_tree() -> None:
    search = recorded()
    result = search.result()
    made = picture(result)
    assert made.nodes.values == result.tree.values.tolist()
    assert made.nodes.visit_counts == result.tree.visit_counts.tolist()
    assert made.nodes.texts == list(result.texts)
    assert made.depths == result.tree.depths.tolist()
    assert made.children[0] == result.tree.children(0)
    assert made.nodes.residuals[0] is None
    first = made.nodes.parents.index(0)
    assert made.nodes.residuals[first] == made.nodes.values[first] - made.nodes.values[0]
    assert (made.question, made.budget, made.settings) == (
        "Where to?",
        {"tokens": 600, "tool_calls": None, "seconds": None, "cost": None, "prompt_tokens": None},
        bavt.view.picture(search).settings,
    )
    assert sum(sum(reasons.values()) for reasons in made.refusals.values()) == len(result.refused) > 0
    assert made.missing == ()
    assert made.to_dict() == result.to_dict()


def test_what_was_not_recorded_is_said() -> None:
    result = bavt.search("q", generator=lambda text, count: ["a"] * count, budget=bavt.Budget(tokens=5))
    made = picture(result)
    assert made.events is None
    assert made.missing == ("No replay: the search kept no events. Search with record=True.",)
    assert len(picture(bavt.Tree()).missing) == 3


def test_all_sources_give_the_same(tmp_path: Any) -> None:
    search = recorded()
    search.save(tmp_path / "a.bavt")
    result = search.result()
    (tmp_path / "b.json").write_text(result.to_json())
    wanted = picture(result, name="x")
    for source in (search, wanted, result.to_dict(), json.loads(result.to_json()), tmp_path / "a.bavt"):
        assert picture(source, name="x") == wanted
    assert picture(str(tmp_path / "b.json"), name="x") == wanted
    assert [one.name for one in pictures(tmp_path)] == ["a", "b"]
    assert [one.name for one in pictures({"one": result, "two": tmp_path / "b.json"})] == ["one", "two"]
    assert len(pictures([result, tmp_path])) == 3


def test_a_folder_is_searched_for_what_can_be_shown(tmp_path: Any) -> None:
    search = recorded()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    search.save(tmp_path / "deep" / "er" / "s.bavt")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "pretty.json").write_text(json.dumps(search.result().to_dict(), indent=2))
    assert [one.name for one in pictures(tmp_path)] == ["pretty", "deep/er/s"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="found none"):
        pictures(tmp_path / "empty")


def test_what_is_no_search_is_refused(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="source: expected a SearchResult"):
        picture(3)
    with pytest.raises(ValueError, match="got none"):
        pictures([])
    with pytest.raises(OSError, match="nowhere"):
        picture(tmp_path / "nowhere")
    (tmp_path / "words").write_text("words")
    with pytest.raises(ValueError, match=r"words: expected a file that Search\.save"):
        picture(tmp_path / "words")
    (tmp_path / "record.json").write_text('{"answer": "24"}')
    with pytest.raises(ValueError, match=r"record\.json: picture: expected what to_dict"):
        picture(tmp_path / "record.json")
    search = recorded()
    search.save(tmp_path / "s.bavt")
    whole = (tmp_path / "s.bavt").read_bytes()
    (tmp_path / "s.bavt").write_bytes(whole[:-20])
    with pytest.raises(bavt.SnapshotError, match=r"/s\.bavt: checkpoint: "):
        picture(tmp_path / "s.bavt")


def test_of_a_folder_what_is_damaged_is_named_and_left_out(tmp_path: Any) -> None:
    recorded().save(tmp_path / "good.bavt")
    (tmp_path / "cut.bavt").write_bytes((tmp_path / "good.bavt").read_bytes()[:-20])
    (tmp_path / "half.json").write_text(picture(tmp_path / "good.bavt").to_json()[:-20])
    with pytest.warns(UserWarning, match="left out") as said:
        assert [made.name for made in pictures(tmp_path)] == ["good"]
    assert [str(one.message).split(": ")[0] for one in said[:2]] == [f"{tmp_path}/cut.bavt", f"{tmp_path}/half.json"]
    (tmp_path / "good.bavt").unlink()
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match="found none"):
        pictures(tmp_path)


def test_searches_may_have_any_names() -> None:
    one, other = chain(3), fan(2)
    assert [made.name for made in pictures({"format": one, "nodes": other})] == ["format", "nodes"]
    assert pictures(one.to_dict()) == [one]


@pytest.mark.parametrize("made", [evil(), chain(5_000), fan(100), picture_of([-1])])
def test_json_and_back(made: Picture) -> None:
    text = made.to_json()
    assert text.isascii()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = Picture.from_json(text)
    assert same(again, made)
    assert math.isnan(again.value) == math.isnan(made.value)


def test_numbers_that_json_has_no_form_for() -> None:
    plain = json.loads(evil().to_json())
    assert plain["nodes"]["values"][1:4] == ["NaN", "Infinity", "-Infinity"]
    again = Picture.from_dict(plain)
    assert [str(value) for value in again.nodes.values[1:4]] == ["nan", "inf", "-inf"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "other"}, "expected what to_dict"),
        ({"version": 9}, "version 1, got 9"),
        ({"path": [99]}, "expected the id of one of 3 nodes, got 99"),
        ({"path": [True]}, "expected the id"),
        ({"question": 3}, "expected a text, got 3"),
        ({"events": [["ask", 0.0, 1]]}, "expected an event"),
        ({"events": [["jump", 0.0, 1, 1.0, 0]]}, "expected an event"),
        ({"events": [["grow", 0.0, 1, 1.0, 0, 5]]}, "tell of 6 nodes, expected at most 3"),
        ({"nodes": {}}, "damaged"),
        ({"nodes": 3}, "damaged"),
        ({"refused": None}, "damaged"),
        ({"spent": [1]}, "damaged"),
        ({"spent": {"tokens": 10**400}}, "expected a number, got 1000"),
        ({"budget": {"tokens": 10**400}}, "expected a number, got 1000"),
        ({"value": "half"}, "expected a number, got 'half'"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], problem: str) -> None:
    plain = {**picture_of([-1, 0, 0]).to_dict(), **change}
    with pytest.raises(ValueError, match=problem):
        Picture.from_dict(plain)


@pytest.mark.parametrize(
    ("column", "entries", "problem"),
    [
        ("parents", [-1, 2, 0], "parent of node 1 that is older"),
        ("parents", [0, 0, 0], "begin with -1"),
        ("parents", [], "begin with -1"),
        ("values", [1.0, 1.0], "a list of 3 as values, got 2"),
        ("values", [1.0, 1.0, None], "expected a number, got None"),
        ("texts", ["", "a", 3], "expected a text"),
        ("statuses", ["open", "open", "<b>"], "expected one of open"),
        ("tokens", [0, -1, 0], "whole number"),
    ],
)
def test_a_damaged_column_is_refused(column: str, entries: list[Any], problem: str) -> None:
    plain = picture_of([-1, 0, 0]).to_dict()
    plain["nodes"][column] = entries
    with pytest.raises(ValueError, match=problem):
        Picture.from_dict(plain)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5), st.data()
)
def test_anything_in_the_place_of_anything_is_a_picture_or_a_value_error(thing: Any, data: Any) -> None:
    plain = json.loads(picture_of([-1, 0, 1], refused=[(1, "invalid", "x")]).to_json())
    where = data.draw(st.sampled_from([plain, plain["nodes"], plain["refused"]]))
    where[data.draw(st.sampled_from(sorted(where)))] = thing
    with contextlib.suppress(ValueError):
        Picture.from_dict(plain)


@given(st.integers(1, 40), st.integers(0, 60), st.randoms(use_true_random=False))
def test_the_foremost_nodes_hang_together(size: int, count: int, rng: random.Random) -> None:
    parents = [-1] + [rng.randrange(node) for node in range(1, size)]
    made = picture_of(parents, path=(size - 1,) if size > 1 else ())
    kept = made.foremost(count)
    assert len(kept) == min(size, max(1, count))
    assert kept == sorted(set(kept))
    assert all(parents[node] in kept for node in kept if node)


def test_events_are_kept_only_where_they_are_asked_for() -> None:
    assert recorded().result().events is not None
    search = bavt.Search("q", task=bavt.Searcher(lambda t, n: []).task, budget=bavt.Budget(tokens=5))
    assert search.result().events is None
