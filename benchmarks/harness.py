"""What a benchmark row is worth nothing without: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def describe_machine(*packages: str) -> dict[str, str]:
    """CPU, cores, Python, the versions of ``packages`` and the commit (with "+" where the tree has changes)."""
    described = {"cpu": _cpu(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in packages:
        described[package] = metadata.version(package)
    changed = "+" if _git("status", "--porcelain", "--untracked-files=no") else ""
    described["commit"] = _git("rev-parse", "--short", "HEAD") + changed
    return described


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine: the commit is not known
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
