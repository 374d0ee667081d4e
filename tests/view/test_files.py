"""The page as a file, diagrams and tables; no browser is needed."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pictures import EVIL, chain, evil, fan, picture_of, recorded

import bavt_fast as bavt
from bavt_fast import view


class Elements(HTMLParser):
    """The elements of a page, and the text in them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.texts.setdefault(self.found[-1][0], []).append(data)


def elements(page: str) -> Elements:
    parser = Elements()
    parser.feed(page)
    return parser


def test_no_text_becomes_an_element() -> None:
    plain, careless = elements(view.html(picture_of([-1]))), elements(view.html(evil()))
    assert [tag for tag, _ in careless.found] == [tag for tag, _ in plain.found]


def test_only_our_script_and_style_may_run_and_nothing_is_loaded() -> None:
    page = view.html(evil())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy[1]
    assert policy[1].startswith("default-src 'none'")
    loading = {"src", "href", "srcset", "action", "data"}
    assert [attrs for _, attrs in elements(page).found if loading & attrs.keys()] == []


def test_a_title_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="title: expected a str, got 5"):
        view.html(picture_of([-1]), title=5)  # type: ignore[arg-type]


def test_scripts_have_no_end_tag_in_them_and_take_no_text_as_html() -> None:
    assets = Path(view.__file__).parent / "assets"
    for path in [*assets.glob("*.js"), *assets.glob("vendor/*.js")]:
        source = path.read_text(encoding="utf-8")
        assert "</script" not in source.lower(), path
        assert "<!--" not in source, path
        if path.parent == assets:
            assert (
                re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", source)
                == []
            )
    assert "ISC" in (assets / "vendor" / "README.md").read_text(encoding="utf-8")
    script = (Path(__file__).parents[2] / "tools" / "vendor_d3.sh").read_text(encoding="utf-8")
    library = (assets / "vendor" / "d3-hierarchy.min.js").read_bytes()
    assert f"sha256={hashlib.sha256(library).hexdigest()}" in script
    assert "Mike Bostock" in (assets / "vendor" / "d3-hierarchy.LICENSE").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("node") is None, reason="node checks the scripts' grammar; it is not installed")
def test_scripts_are_javascript() -> None:
    for path in (Path(view.__file__).parent / "assets").glob("*.js"):
        subprocess.run(["node", "--check", path], check=True)


def test_the_same_search_gives_the_same_file(tmp_path: Path) -> None:
    result = recorded().result()
    assert view.html(result) == view.html(result, tmp_path / "tree.html")
    assert (tmp_path / "tree.html").read_text(encoding="utf-8") == view.html(result)
    assert "<title>A &lt;b&gt;</title>" in view.html(result, title="A <b>")


def test_ten_thousand_nodes_are_a_small_file() -> None:
    made = picture_of([-1] + [i // 3 for i in range(9_999)], [f"{i * 7919 % 10**40:040d}" for i in range(10_000)])
    assert len(view.html(made)) < 3_000_000


# ---- diagrams


@pytest.mark.parametrize("made", [evil(), chain(5_000), fan(10_000), picture_of([-1])])
def test_svg_is_xml_without_scripts(made: view.Picture) -> None:
    root = ElementTree.fromstring(view.svg(made, most_nodes=50))
    space = "{http://www.w3.org/2000/svg}"
    assert {element.tag.removeprefix(space) for element in root.iter()} <= {"svg", "g", "title", "rect", "path", "text"}
    assert len(list(root.iter(f"{space}g"))) == min(50, made.count)
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on") or "href" in name]


@pytest.mark.parametrize("made", [evil(), chain(300), fan(300), picture_of([-1])])
def test_dot_quotes_what_it_holds(made: view.Picture) -> None:
    source = view.dot(made)
    assert source.count(" -> ") == min(200, made.count) - 1
    assert re.sub(r'"(?:[^"\\]|\\.)*"', '""', source).count('"') % 2 == 0
    if shutil.which("dot") is not None:
        subprocess.run(["dot", "-Tsvg"], input=source.encode("utf-8", "replace"), check=True, capture_output=True)


def test_mermaid_escapes_what_it_holds() -> None:
    source = view.mermaid(evil())
    labels = re.findall(r'^  n\d+\["(.*)"\]$', source, re.MULTILINE)
    assert len(labels) == 1 + len(EVIL)
    for made in labels:
        assert re.sub(r"<br/>|#\d+;", "", made).isprintable()
        assert re.findall(r'[<>"\[\]{}|`\\]', re.sub(r"<br/>|#\d+;", "", made)) == []


def test_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for made in (evil(), chain(300), picture_of([-1], question="$x^2 \\frac$")):
        view.png(made, tmp_path / "tree.png")
        assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")


# ---- tables


def test_a_graph() -> None:
    networkx = pytest.importorskip("networkx")
    result = recorded().result()
    graph = result.to_networkx()
    assert networkx.is_arborescence(graph)
    assert graph.number_of_nodes() == result.tree.num_nodes
    assert graph.nodes[1]["text"] == result.texts[1]
    assert graph.nodes[1]["value"] == result.tree.values[1]
    assert (graph.graph["question"], graph.graph["spent"]["tokens"]) == ("Where to?", result.spent.tokens)


def test_a_table() -> None:
    pytest.importorskip("pandas")
    result = recorded().result()
    frame = result.to_dataframe()
    assert len(frame) == result.tree.num_nodes
    assert frame.index.name == "node"
    assert frame["value"].tolist() == result.tree.values.tolist()
    assert frame["on_path"].sum() == len(result.path)
    assert frame["residual"].isna().tolist() == [True] + [False] * (len(frame) - 1)
    assert frame["refused"].sum() == len(result.refused)
    assert len(bavt.view.to_dataframe(evil())) == 1 + len(EVIL)


@pytest.mark.parametrize(
    ("draw", "options"),
    [
        *[(draw, {"most_nodes": most}) for draw in (view.dot, view.mermaid, view.svg) for most in (0, 2.5, "5", None)],
        *[(view.text, {name: value}) for name in ("width", "depth", "lines") for value in (-1, 80.0, "80")],
    ],
)
def test_a_bad_option_is_named(draw: Any, options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises((TypeError, ValueError), match=f"{name}: expected an integer of at least [01], got {value!r}"):
        draw(chain(3), **options)


def test_names_are_reached_from_the_face() -> None:
    missing: list[Any] = [name for name in view.__all__ if not hasattr(bavt.view, name)]
    assert missing == []
