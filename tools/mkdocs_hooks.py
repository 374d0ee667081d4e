"""Hooks of mkdocs: the results of benchmarks are part of the site, and pages link to them as they do in the repository.

A page says ``../benchmarks/results/x.md``, which leads out of ``docs/``. In the site they lie in ``benchmarks/results``
below its root.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path("benchmarks/results")
ROOT = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\(([^)\s:#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the results that a page can show or link to."""
    for path in sorted((ROOT / RESULTS).iterdir()):
        if path.suffix in (".md", ".svg", ".csv", ".json"):
            name = (RESULTS / path.name).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to results, from where they lie in the repository to where they lie in the site."""
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        if not target.startswith(f"{RESULTS.as_posix()}/"):
            return link[0]
        return f"]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')}"

    return _LINK.sub(moved, markdown)
