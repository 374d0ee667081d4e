"""The page in a real browser. Skipped where there is none; `make test-view` sees to one."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import until
from pictures import EVIL, chain, evil, fan, picture_of, recorded

import bavt_fast as bavt
from bavt_fast.tasks.text import TextTask
from bavt_fast.view import html

Show = Callable[[Any], Any]
VISITS = "bavt.pane.search.parents.map((_, node) => bavt.pane.replay.visits[node])"
TRIES = "bavt.pane.search.parents.map((_, node) => bavt.pane.replay.tries[node])"


def names(tab: Any) -> list[str]:
    """What the rows of the outline say."""
    return list(tab.locator("[role=treeitem] bdi").all_text_contents())


def drawn(tab: Any) -> int:
    """How many colours the canvas shows: one where nothing is drawn."""
    return int(
        tab.evaluate(
            """() => {
                bavt.pane.draw();
                const { canvas, context } = bavt.pane;
                const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
                return new Set(new Uint32Array(data.buffer)).size;
            }"""
        )
    )


def test_a_search_is_drawn_and_listed(show: Show) -> None:
    search = recorded()
    result = search.result()
    tab = show(result)
    assert tab.title() == "Where to?"
    assert drawn(tab) > 20
    assert "Where to?" in names(tab)[0]
    assert f"{result.tree.num_nodes} nodes" in tab.locator(".spent").text_content()
    assert f"{result.spent.tokens} of 600 tokens" in tab.locator(".spent").text_content()
    assert tab.locator("[role=progressbar]").get_attribute("aria-valuenow") == "100"
    assert tab.locator("#missing").text_content() == ""


def test_the_replay_comes_to_what_the_tree_says(show: Show) -> None:
    search = recorded(tokens=2000)
    result = search.result()
    tab = show(result)
    assert tab.evaluate("bavt.pane.replay.born") == result.tree.num_nodes
    assert tab.evaluate(VISITS) == result.tree.visit_counts.tolist()
    assert tab.evaluate(TRIES) == result.tree.tries.tolist()
    assert tab.evaluate("bavt.pane.replay.refused") == len(result.refused)
    assert tab.evaluate("bavt.pane.replay.flying.size") == 0
    statuses = tab.evaluate("bavt.pane.search.parents.map((_, n) => bavt.pane.replay.closed.has(n))")
    closed = [bool(flags & result.tree.CLOSED) for flags in result.tree.flags.tolist()]
    assert [had for had, is_closed in zip(statuses, closed, strict=True) if had and not is_closed] == []


def test_what_is_out_when_a_search_stops_may_still_be_answered(show: Show) -> None:
    search = bavt.Search("What?", task=TextTask(), budget=bavt.Budget(tokens=400), record=True)
    first, second = search.ask(2)
    search.stop()
    search.extend(bavt.Budget(tokens=10))
    [third] = search.ask()
    asked = search.tree
    search.tell(second, ["a"])
    search.cancel(third)
    result = search.result()
    assert [event[0] for event in result.events or ()] == ["ask", "ask", "stop", "ask", "admit", "grow", "cancel"]
    assert search.open_asks() == [first]
    tab = show(result)
    for at, tree in ((4, asked), (7, result.tree)):
        tab.evaluate(f"bavt.pane.replay.seek({at})")
        there = tree.num_nodes
        assert tab.evaluate(VISITS)[:there] == tree.visit_counts.tolist()
        assert tab.evaluate(TRIES)[:there] == tree.tries.tolist()


def test_the_slider_goes_back_in_time(show: Show) -> None:
    result = recorded().result()
    tab = show(result)
    slider = tab.locator("#moment")
    assert int(slider.get_attribute("max")) == len(result.events)
    for moment in (0, len(result.events) // 2, 1, len(result.events)):
        slider.fill(str(moment))
        event = result.events[moment - 1] if moment else ("ask", 0.0, 0, 1.0)
        grown = 1 + sum(row[5] for row in result.events[:moment] if row[0] == "grow")
        assert tab.evaluate("bavt.pane.replay.nodesThere") == grown
        assert f"{event[2]} of 600 tokens" in tab.locator(".spent").text_content()
    slider.fill("1")
    assert "node 0 was asked" in tab.locator("#event").text_content()
    assert tab.locator(".preferred li").count() == 1  # the root, with everything
    assert "100%" in tab.locator(".preferred li").text_content()
    tab.locator("#play").click()
    until(tab, "bavt.pane.replay.at > 2")
    tab.locator("#play").click()
    at = tab.evaluate("bavt.pane.replay.at")
    tab.wait_for_timeout(200)
    assert tab.evaluate("bavt.pane.replay.at") == at


def test_the_replay_weighs_as_the_search_did(show: Show) -> None:
    result = recorded(tokens=2000, tried_exponent=0.5, discount=0.97).result()
    tab = show(result)
    weights = "bavt.pane.search.parents.map((_, node) => bavt.pane.replay.weightOf(node))"
    assert tab.evaluate(weights) == pytest.approx(result.tree.weights.tolist(), rel=1e-5)
    tab.evaluate("Object.assign(bavt.pane.replay, { live: true, preferred: null })")  # as replayed, not as told
    assert tab.evaluate(weights) == pytest.approx(result.tree.weights.tolist(), rel=1e-4)
    tab.evaluate("bavt.pane.replay.seek(1)")
    assert tab.evaluate(f"{weights}[0]") == pytest.approx(0.97, rel=1e-5)
    assert result.tree.weights[0] < 0.9


def test_preferences_are_those_of_the_power_policy(show: Show) -> None:
    events = (("ask", 0.0, 0, 1.0, 0), ("admit", 0.1, 10, 0.5, 0, 2, 2), ("grow", 0.1, 10, 0.5, 0, 2))
    settings = {"policy": "power", "decay": 0.5, "patience": 3}
    made = picture_of([-1, 0, 0], values=[1.0, 0.2, 0.4], events=events, settings=settings, budget={"tokens": 20})
    tab = show(made)
    tab.evaluate("Object.assign(bavt.pane.replay, { live: true, preferred: null })")  # the end is not the search's
    shares = dict(tab.evaluate("[...bavt.pane.replay.preference().shares]"))
    weights = {0: 0.5**2, 1: 0.2**2, 2: 0.4**2}  # r = 1/2, the root was tried once
    assert shares == pytest.approx({node: weight / sum(weights.values()) for node, weight in weights.items()})


def test_nothing_in_a_text_is_ever_html(show: Show) -> None:
    tab = show([evil(), evil()])
    assert "owned" not in tab.title().replace(EVIL[0], "").replace(EVIL[1], "")
    assert tab.locator("img").count() == 0
    assert tab.locator("script").count() == 4  # the index, two searches, ours
    for node, text in enumerate(EVIL, start=1):
        tab.evaluate(f"bavt.pane.select({node}); bavt.refresh()")
        plain = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "\ufffd")
        shown = tab.locator("#details pre.step").evaluate("element => element.textContent.toWellFormed()")
        assert shown.replace("\x00", "\ufffd").replace("\ufffd", "") == plain.replace("\ufffd", "")
    tab.evaluate("bavt.pane.select(0); bavt.refresh()")
    assert tab.locator(".refused li").count() == len(EVIL)
    assert drawn(tab) > 10
    assert "owned" not in tab.evaluate("document.title").replace(EVIL[0], "").replace(EVIL[1], "")


def test_numbers_that_are_none(show: Show) -> None:
    tab = show(evil())
    seen = [tab.evaluate(f"String(bavt.pane.search.values[{node}])") for node in (1, 2, 3)]
    assert seen == ["NaN", "Infinity", "-Infinity"]
    tab.evaluate("bavt.pane.select(1); bavt.refresh()")
    assert "NaN" in tab.locator("#details dl").text_content()


def test_a_question_alone(show: Show) -> None:
    tab = show(picture_of([-1]))
    assert drawn(tab) > 5
    assert names(tab) == ["What?"]
    assert "No replay" in tab.locator("#missing").text_content()
    assert tab.locator("#moment").is_disabled()


def test_ten_thousand_children_come_a_few_at_a_time(show: Show) -> None:
    tab = show(fan(10_000))
    assert tab.evaluate("bavt.pane.layout.order.length") == 1 + 40 + 1
    tab.locator("#outline").focus()
    tab.keyboard.press("End")
    assert "9,960 more" in names(tab)[-1]
    tab.keyboard.press("Enter")
    assert tab.evaluate("bavt.pane.layout.order.length") == 1 + 160 + 1
    tab.get_by_role("button", name="Unfold all").click()
    assert tab.evaluate("bavt.pane.layout.order.length") == 10_001
    tab.get_by_role("button", name="Fit", exact=True).click()
    assert drawn(tab) > 2
    tab.evaluate("bavt.pane.toggle(0); bavt.refresh()")
    assert tab.evaluate("bavt.pane.layout.order.length") == 1


def test_a_chain_of_five_thousand(show: Show) -> None:
    tab = show(chain(5_000))
    tab.get_by_role("button", name="Unfold all").click()
    assert tab.evaluate("bavt.pane.layout.columns.length") == 5_001
    tab.evaluate("bavt.pane.select(5000); bavt.refresh()")
    assert drawn(tab) > 5
    assert "Steps to here (5000)" in tab.locator("#details").text_content()
    tab.get_by_role("button", name="Fit", exact=True).click()
    assert drawn(tab) > 1


def test_a_step_of_100_kb(show: Show) -> None:
    tab = show(picture_of([-1, 0], ["", "a word " * 15_000]))
    tab.evaluate("bavt.pane.select(1); bavt.refresh()")
    assert len(tab.locator("#details pre.step").text_content()) == 105_000
    assert len(names(tab)[1]) < 300


def test_finding_a_step(show: Show) -> None:
    parents = [-1] + [0] * 200 + [150]
    texts = ["", *[f"step {i}" for i in range(200)], "The Needle"]
    tab = show(picture_of(parents, texts))
    tab.keyboard.press("/")
    tab.keyboard.type("needle")
    assert tab.locator("#found").text_content() == "1 match"
    tab.keyboard.press("Enter")
    assert tab.evaluate("bavt.pane.selected") == 201
    assert tab.evaluate("bavt.pane.layout.of.has(201)")
    assert "The Needle" in tab.locator("#details pre.step").text_content()
    tab.locator("#query").fill("nowhere")
    assert tab.locator("#found").text_content() == "0 matches"


def test_the_outline_by_keyboard(show: Show) -> None:
    tab = show(picture_of([-1, 0, 0, 1, 1]))
    tree = tab.locator("[role=tree]")
    tree.focus()

    def active() -> Any:
        return tab.locator(f"#{tree.get_attribute('aria-activedescendant')}")

    assert active().get_attribute("aria-expanded") == "true"
    tab.keyboard.press("ArrowDown")
    assert "step 1" in active().text_content()
    assert active().get_attribute("aria-level") == "2"
    assert (active().get_attribute("aria-posinset"), active().get_attribute("aria-setsize")) == ("1", "2")
    tab.keyboard.press("ArrowLeft")
    assert active().get_attribute("aria-expanded") == "false"
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert "step 3" in active().text_content()
    assert "step 3" in tab.locator("#details pre.step").text_content()
    tab.keyboard.press("ArrowLeft")
    assert "step 1" in active().text_content()
    tab.keyboard.press("End")
    assert "step 2" in active().text_content()
    assert active().get_attribute("aria-selected") == "true"


def test_mouse_and_keys_on_the_tree(show: Show) -> None:
    tab = show(picture_of([-1, 0, 0, 1, 1]))
    box = tab.locator("canvas").bounding_box()
    place = tab.evaluate(
        "(() => { const p = bavt.pane.layout.of.get(2), { x, y, scale } = bavt.pane.view;"
        " return [x + (p.y + 20) * scale, y + p.x * scale]; })()"
    )
    tab.mouse.click(box["x"] + place[0], box["y"] + place[1])
    assert tab.evaluate("bavt.pane.selected") == 2
    before = tab.evaluate("({ ...bavt.pane.view })")
    tab.mouse.move(box["x"] + 30, box["y"] + 30)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 130, box["y"] + 80, steps=4)
    tab.mouse.up()
    after = tab.evaluate("({ ...bavt.pane.view })")
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((100, 50), abs=30)
    tab.mouse.wheel(0, -300)
    assert tab.evaluate("bavt.pane.view.scale") > before["scale"]
    tab.locator("canvas").focus()
    tab.keyboard.press("0")
    tab.keyboard.press("-")
    assert tab.evaluate("bavt.pane.view.scale") < before["scale"]


def test_two_searches_side_by_side(show: Show) -> None:
    first, second = recorded(300, seed=1).result(), recorded(600, seed=2).result()
    tab = show({"small": first, "large": second})
    assert tab.locator("section h2").all_text_contents() == ["small", "large"]
    slider = tab.locator("#moment")
    assert int(slider.get_attribute("max")) == second.spent.tokens
    slider.fill("100")
    spent = tab.locator(".spent").all_text_contents()
    assert [int(line.split()[0]) <= 100 for line in spent] == [True, True]
    tab.locator("#choice summary").click()
    tab.locator("#choices input").first.uncheck()
    assert tab.locator("section h2").all_text_contents() == ["large"]


def test_many_searches_are_unpacked_as_they_are_chosen(show: Show) -> None:
    tab = show([picture_of([-1, 0], name=f"search {i}") for i in range(30)])
    assert tab.locator("section").count() == 2
    assert tab.evaluate("bavt.searches.filter(Boolean).length") == 2
    tab.locator("#choice summary").click()
    for place in (5, 6, 7):
        tab.locator("#choices input").nth(place).check()
        until(tab, f"bavt.panes.some((pane) => pane.index === {place})")
    assert tab.locator("section").count() == 4


def test_dark_and_light(show: Show) -> None:
    tab = show(fan(3))
    light = tab.evaluate("bavt.theme.paper")
    tab.get_by_role("button", name="Dark / light").click()
    assert tab.evaluate("bavt.theme.paper") != light
    tab.emulate_media(color_scheme="dark")
    tab.get_by_role("button", name="Dark / light").click()
    assert tab.evaluate("bavt.theme.paper") == light


def test_svg_and_png_of_what_is_unfolded(show: Show) -> None:
    tab = show(evil())
    with tab.expect_download() as download:
        tab.get_by_role("button", name="SVG").click()
    root = ElementTree.fromstring(Path(download.value.path()).read_text(encoding="utf-8"))
    space = "{http://www.w3.org/2000/svg}"
    assert {element.tag.removeprefix(space) for element in root.iter()} == {"svg", "title", "rect", "path", "text"}
    assert len(list(root.iter(f"{space}rect"))) == 1 + 1 + len(EVIL)
    with tab.expect_download() as download:
        tab.get_by_role("button", name="PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
    assert download.value.suggested_filename.endswith(".png")


def test_large_searches_open_folded(show: Show) -> None:
    size = 200_000
    tab = show(picture_of([-1] + [i // 5 for i in range(size - 1)]))
    assert tab.evaluate("bavt.pane.search.count") == size
    assert tab.evaluate("bavt.pane.layout.order.length") < 1_000
    assert drawn(tab) > 20


def test_without_scripts_there_is_the_tree_as_text(browser: Any, tmp_path: Path) -> None:
    html(evil(), tmp_path / "tree.html")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "tree.html").as_uri())
    assert "└─" in page.locator("noscript").inner_text()
    assert page.locator("img").count() == 0
    context.close()


def test_a_notebook_frame_draws_too(tab: Any, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{recorded().result()._repr_html_()}</body>", encoding="utf-8")
    tab.goto(path.as_uri())
    inside = tab.frame_locator("iframe")
    inside.locator("[role=treeitem]").first.wait_for()
    assert "Where to?" in inside.locator("h1").text_content()


def test_the_page_says_what_is_wrong_with_it(browser: Any, tmp_path: Path) -> None:
    whole = html(fan(3))
    begin = whole.index('id="picture-0">') + len('id="picture-0">')
    path = tmp_path / "damaged.html"
    path.write_text(whole[:begin] + json.dumps("damaged") + whole[begin + 60 :], encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("#fault").wait_for()
    assert "cannot be shown" in page.locator("#fault").text_content()
    page.close()
