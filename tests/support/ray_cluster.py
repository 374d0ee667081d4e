"""A Ray cluster on this machine, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["local_cluster"]

ROOT = Path(__file__).parents[2]


@contextmanager
def local_cluster(cpus: int) -> Iterator[None]:
    """Its workers find this work tree and what tests share. Ray has to be installed."""
    import ray

    from bavt_fast.runs.ray import connect

    folders = [ROOT, ROOT / "tests" / "support"]
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, folders), *([before] if before else [])])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    try:
        try:
            connect("local", cpus)
        except ConnectionError:  # Ray gives its processes half a minute, which is not enough on a machine that is busy
            connect("local", cpus)
        yield
    finally:
        ray.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
