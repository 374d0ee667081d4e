"""What a result says: in one line, as a tree of lines, in a notebook."""

from __future__ import annotations

import re

import pytest
from pictures import EVIL, chain, evil, fan, picture_of, recorded

import bavt_fast as bavt
from bavt_fast.view.labels import cut, label, printable, width_of
from bavt_fast.view.terminal import text


def test_one_short_line() -> None:
    result = recorded().result()
    assert len(repr(result)) < 200
    assert "\n" not in repr(result)
    assert f"{result.tree.num_nodes} nodes" in repr(result)
    assert "stopped: budget" in repr(result)


def test_the_tree_of_a_small_search() -> None:
    made = picture_of(
        [-1, 0, 0, 1],
        ["", "first\n", "second\n", "third\n"],
        [1.0, 0.5, 0.25, 0.75],
        [(0, "duplicate", "x"), (0, "duplicate", "y"), (3, "refuted", "z")],
        path=(1, 3),
        spent={"tokens": 21, "seconds": 0.5},
        budget={"tokens": 30},
        stop_reason="budget",
    )
    assert text(made, width=80, encoding="utf-8").splitlines() == [
        "no answer  (value 0.500, 2 steps)",
        "4 nodes, 21 of 30 tokens, 0.5 s, stopped: budget",
        "  V      visits tokens",
        "* 1.000       4      0  What?  [refused 2 duplicate]",
        "* 0.500       2      7  ├─ first",
        "* 0.750       1      7  │  └─ third  [refused 1 refuted]",
        "  0.250       1      7  └─ second",
    ]


def test_print_shows_the_tree() -> None:
    result = recorded().result()
    lines = str(result).splitlines()
    assert "Where to?" in lines[3]
    assert len([line for line in lines if line.startswith("* ")]) == 1 + len(result.path)


@pytest.mark.parametrize("width", [1, 40, 60, 200])
@pytest.mark.parametrize("made", [evil(), chain(5_000), fan(10_000), recorded().result()._picture()])
def test_it_fits(made: bavt.view.Picture, width: int) -> None:
    shown = text(made, width=width, lines=20, encoding="utf-8")
    assert max(map(width_of, shown.splitlines())) <= max(width, 40)
    assert len(shown.splitlines()) < 3 + 20 + 25


def test_what_is_left_out_is_counted() -> None:
    shown = text(fan(10_000), lines=11, encoding="utf-8")
    assert "… 9,990 more" in shown
    whole = text(chain(9), depth=2, encoding="utf-8")
    assert "… 7 more" in whole
    assert len(whole.splitlines()) == 2 + 1 + 3 + 1


def test_terminals_that_show_little() -> None:
    shown = text(picture_of([-1, 0, 0], ["", "ä …", "日本"]), encoding="ascii")
    assert shown.isascii()
    assert "`- " in shown
    text(evil(), encoding="latin-1").encode("latin-1")


def test_nothing_moves_the_cursor_or_turns_the_writing() -> None:
    shown = text(evil(), width=200, encoding="utf-8")
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown) == []
    assert "\\x1b[31mred" in shown
    assert "日本語の手順" in shown


def test_color_is_only_where_it_is_asked_for() -> None:
    assert "\x1b" not in str(recorded().result())
    assert "\x1b[1;32m* " in text(picture_of([-1, 0], path=(1,)), color=True)


@pytest.mark.parametrize("line", [*EVIL, "a" * 100_000, "日" * 1000, "e\u0301" * 100])
def test_labels(line: str) -> None:
    for most in (1, 10, 60):
        made = label(line, most)
        assert width_of(made) <= most
        assert printable(made) == made
        assert "\n" not in made


def test_cutting_by_columns() -> None:
    assert cut("日本語", 6) == "日本語"
    assert cut("日本語", 5) == "日本…"
    assert cut("abc", 0) == ""


def test_a_notebook_gets_the_page_in_a_frame_of_its_own() -> None:
    shown = recorded().result()._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts allow-downloads"')
    assert shown.count("<") == 2  # all else is the value of an attribute
    large = bavt.view.picture(fan(20_001))
    from bavt_fast.view.page import frame

    assert frame(large).startswith("<p>")
    assert "<script" not in frame(evil()).replace("&lt;script", "")
