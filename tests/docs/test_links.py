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


@pytest.mark.parametrize("page", NAMED)
def test_a_critic_is_used_with_the_task_that_it_is_trained_for(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        lines = [line for line in block.splitlines() if "train critic" in line or "--critic critic." in line]
        tasks = [re.findall(r"--task (\S+)", line) for line in lines]
        assert all(task == tasks[0] for task in tasks), block


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
