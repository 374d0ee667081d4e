"""What the documentation points to is there. Links between the pages of the site are checked as it is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:bavt_fast|benchmarks|csrc|docs|examples|tests|tools)/[\w./-]+\.\w+)`")


def prose(page: Path) -> str:
    """The text without its code blocks."""
    return re.sub(r"^( *)(```+).*?^ *\2$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", NAMED)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if not re.match(r"\w+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", NAMED)
def test_the_files_it_names_are_there(page: Path) -> None:
    missing = [name for name in FILE.findall(prose(page)) if not (ROOT / name).exists()]
    assert missing == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
